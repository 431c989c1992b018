"""Codes that are signs, LFQ and BSQ: beside others' code, beside all 2^D codes written out, and what is refused.

The recordings are lucidrains' vector-quantize-pytorch 1.32 and Open-MAGVIT2, by scripts/record_signs.py. Where a
softmax is nearly sure, the first takes log(max(p, 1e-5)), of places and of the batch alike: up to 2e-4 off in
`entropy`, and since small shares then have another gradient, 1e-3 in the gradient of a loss, 9e-3 where all places
are sure. So the tests compute the formula over all 2^D codes: with the cut it is theirs, without it ours.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_quantizers import below, near, recorded, small, vectors

from vqvae_jax.quantizers import signs
from vqvae_jax.quantizers.bsq import BinarySphericalQuantizer
from vqvae_jax.quantizers.lfq import LookupFreeQuantizer
from vqvae_jax.types import UserError

CUT = 1e-5
LUCIDRAINS = ["lfq", "lfq_saturated", "lfq_10", "bsq"]
EITHER = pytest.mark.parametrize("name", ["lfq", "bsq"])


@functools.cache
def made(name):
    """The recording; our quantizer, its codebook, and what it makes of x."""
    at = below(recorded(name if "magvit" in name else name.partition("_")[0]), name)
    if name == "lfq_open_magvit2":  # channels come second there
        at |= {key: np.moveaxis(at[key], 1, -1) for key in ("x", "weight_on_z_q", "z_q", "grad_x")}
    kind = BinarySphericalQuantizer if name == "bsq" else LookupFreeQuantizer
    quantizer = kind(at["x"].shape[-1])
    book = quantizer.init(jax.random.key(0))
    return at, quantizer, book, jax.jit(functools.partial(quantizer, train=True))(book, at["x"])


def all_codes(count):
    """±1, by index with the first channel's bit the highest: [2^D, D]."""
    return 2.0 * (np.arange(2**count)[:, None] >> np.arange(count)[::-1] & 1) - 1


def written_out(quantizer, x, cut, least=0.0):
    """Both entropies over all 2^D codes as others compute them; `cut`: the smallest share in a logarithm."""
    codes = jnp.asarray(all_codes(x.shape[-1]), x.dtype)
    if isinstance(quantizer, BinarySphericalQuantizer):
        x, codes = x / jnp.linalg.norm(x, axis=-1, keepdims=True), codes / x.shape[-1] ** 0.5
    share = jax.nn.softmax(2 * (x @ codes.T) / quantizer.temperature, axis=-1).reshape(-1, len(codes))
    entropy = lambda p: -jnp.sum(p * jnp.log(jnp.maximum(p, cut) + least), axis=-1)  # noqa: E731
    return jnp.mean(entropy(share)), entropy(jnp.mean(share, axis=0))


@pytest.mark.parametrize("name", [*LUCIDRAINS, "lfq_open_magvit2"])
def test_values_and_indices_are_theirs(name):
    """Both count 0 as -1; the bits of Open-MAGVIT2's indices are in the other order."""
    at, quantizer, book, out = made(name)
    near(out.z_q, at["z_q"], 1e-7)
    (indices,) = out.indices
    if name == "lfq_open_magvit2":
        indices = np.sum((np.asarray(out.z_q) > 0) << np.arange(8), axis=-1)
        assert (np.asarray(out.indices[0]) != indices).any()
    np.testing.assert_array_equal(indices, at["indices"])
    near(out.losses["commitment"], at["commitment"])
    if name in LUCIDRAINS:
        assert at["x"][0, 0, 0] == 0 and out.z_q[0, 0, 0] < 0
        near(quantizer(book, at["x"]).z_q, at["eval_z_q"], 1e-7)
        near(quantizer.lookup(book, (np.arange(4)[None],)), at["codes_of_first_indices"], 1e-7)


@pytest.mark.parametrize("name", LUCIDRAINS)
def test_entropies_and_gradients_are_lucidrains(name):
    """With their cut; and ours beside theirs, as far as the cut lets it.

    Where all places are sure, what a softmax of float32 passes back is not quite 0: 3e-5 of the largest gradient.
    """
    at, quantizer, book, out = made(name)

    def theirs(x):
        places, batch = written_out(quantizer, x, CUT)
        out = quantizer(book, x)
        loss = 0.1 * (places - batch) + 0.25 * out.losses["commitment"]
        return jnp.mean(out.z_q * at["weight_on_z_q"]) + loss, (places, batch, loss)

    grad, (places, batch, loss) = jax.jit(jax.grad(theirs, has_aux=True))(at["x"])
    near(places, at["per_sample_entropy"])
    near(batch, at["batch_entropy"])
    near(loss, at["loss"])
    near(grad, at["grad_x"], 5e-5)
    alone = jax.jit(jax.grad(lambda x: theirs(x)[1][2]))(at["x"])
    near(alone, at["grad_x_of_loss_alone"], 5e-5)
    near(out.losses["entropy"], at["per_sample_entropy"] - at["batch_entropy"], 2e-4)


def test_entropies_and_gradients_are_open_magvit2_s():
    """Exact at each place; for the batch log(p + 1e-5)."""
    at, quantizer, book, _ = made("lfq_open_magvit2")

    def theirs(x):
        places, batch = written_out(quantizer, x, 1e-30)[0], written_out(quantizer, x, 0.0, 1e-5)[1]
        loss = 0.1 * (places - batch) + 0.25 * quantizer(book, x).losses["commitment"]
        return jnp.mean(quantizer(book, x).z_q * at["weight_on_z_q"]) + loss, (places, batch, loss)

    grad, (places, batch, loss) = jax.jit(jax.grad(theirs, has_aux=True))(at["x"])
    near(places, at["per_sample_entropy"])
    near(batch, at["batch_entropy"])
    near(loss, at["loss"], 1e-5)
    near(grad, at["grad_x"], 1e-5)
    logit = 4.0 * at["x"] / quantizer.temperature
    near(jnp.mean(signs.place_entropy(logit)), at["per_sample_entropy"])  # ours, as it is
    near(signs.batch_entropy(logit, 8), at["batch_entropy"], 2e-3)  # less the 1e-5


@pytest.mark.parametrize("name", [*LUCIDRAINS, "lfq_open_magvit2"])
def test_entropy_is_that_of_all_codes_written_out(name):
    """Value and gradient, by bits and by halves of the bits, on what was recorded; the truth is of float64."""
    at, quantizer, book, out = made(name)
    exact = lambda x: jnp.subtract(*written_out(quantizer, x, 1e-30))  # noqa: E731
    with jax.enable_x64(True):
        wanted, to_x = jax.device_get(jax.jit(jax.value_and_grad(exact))(jnp.asarray(at["x"], jnp.float64)))
    assert wanted.dtype == np.float64
    near(out.losses["entropy"], wanted)
    gradient = jax.jit(jax.grad(lambda x: quantizer(book, x).losses["entropy"]))
    near(gradient(at["x"]), to_x, 3e-5)
    assert np.isfinite(gradient(1e6 * at["x"])).all()


def test_groups_are_added():
    """Of independent bits nothing is lost; of bits that know of each other it is more than the entropy of all."""
    logit = 3 * vectors(1, 500, 6)
    alone = np.split(logit, 3, axis=-1)
    apart = sum(float(signs.batch_entropy(one, 2)) for one in alone)
    assert float(signs.batch_entropy(logit, 2)) == pytest.approx(apart, rel=1e-5)
    twins = np.repeat(logit[:, :3], 2, axis=-1) * 50
    assert float(signs.batch_entropy(twins, 6)) < 0.6 * float(signs.batch_entropy(twins, 1))
    share = signs.mean_share(logit)
    each = np.asarray(signs.shares(logit)).mean(0)
    np.testing.assert_allclose(share, each, rtol=1e-4, atol=1e-7)
    assert float(share.sum()) == pytest.approx(1, abs=1e-5)


@EITHER
def test_every_code_goes_there_and_back(name):
    quantizer = small(name, bits=5)
    book, length = quantizer.init(jax.random.key(0)), 5**-0.5 if name == "bsq" else 1.0
    codes = np.asarray(quantizer.lookup(book, (jnp.arange(32),)))
    np.testing.assert_allclose(codes, all_codes(5) * length, rtol=1e-6)
    np.testing.assert_array_equal(quantizer(book, 3 * codes).indices[0], np.arange(32))
    assert quantizer.vocab_sizes == (32,) and book.codes.shape == (0, 5) and not book.stats


@EITHER
def test_the_gradient_of_z_q(name):
    """As it is; on the sphere through the division by the length, by differences."""
    quantizer = small(name, bits=5)
    book, z, weight = quantizer.init(jax.random.key(0)), vectors(1, 4, 5), vectors(2, 4, 5)
    got = jax.grad(lambda z: jnp.sum(quantizer(book, z).z_q * weight))(z)
    if name == "lfq":
        np.testing.assert_array_equal(got, weight)
        return
    seen = lambda z: np.sum(z / np.linalg.norm(z, axis=-1, keepdims=True) * weight, -1)  # noqa: E731
    for channel in range(5):
        step = 1e-6 * np.eye(5)[channel]
        np.testing.assert_allclose(got[:, channel], (seen(z + step) - seen(z - step)) / 2e-6, rtol=1e-3, atol=1e-6)


@EITHER
def test_eighteen_bits_without_a_table_of_distances(name):
    """16,384 places: distances to 2^18 codes would be 17 GB. Encoding holds as good as nothing, training little."""
    quantizer = small(name, bits=18, group=9)
    book = quantizer.init(jax.random.key(0))
    z_e = jax.ShapeDtypeStruct((16, 32, 32, 18), jnp.float32)
    held = lambda f: jax.jit(f).lower(z_e).compile().memory_analysis().temp_size_in_bytes  # noqa: E731
    assert held(lambda z: quantizer(book, z).indices) <= 4 * 2**20
    train = lambda quantizer: held(jax.grad(lambda z: sum(quantizer(book, z, train=True).losses.values())))  # noqa: E731
    assert train(quantizer) <= 64 * 2**20
    assert train(dataclasses.replace(quantizer, group=0)) <= 512 * 2**20  # exact over all 2^18


def test_at_the_published_temperature_only_channels_near_0_are_moved():
    """As the docstring says: beyond 0.02 a channel is sure."""
    place = lambda z: jnp.sum(signs.place_entropy(4.0 * z / 0.01))  # noqa: E731
    z = jnp.array([[0.005, 0.02, 0.05, 1.0]])
    near_0, at_border, beyond, far = np.abs(jax.grad(place)(z))[0]
    assert at_border < near_0 / 30 and beyond < 1e-4 * near_0 and far == 0


@EITHER
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"bits": 25}, "bits of an index are from 1 to 24, as every code is counted; got 25: set bits=18"),
        ({"bits": 0}, "bits of an index are from"),
        ({"bits": 10, "group": 4}, "divides bits=10, at most 18; got 4: set group=10, one of 10, 5, 2, 1"),
        ({"bits": 24, "group": 24}, "got 24: set group=12, one of 12, 8, 6, 4, 3, 2, 1"),
        ({"bits": 24}, "are too many to weigh together: set group=12, bits of a group"),
    ],
)
def test_bits_that_cannot_be(name, fields, said):
    with pytest.raises(UserError) as error:
        small(name, **fields)
    assert said in str(error.value) and "\n" not in str(error.value)
