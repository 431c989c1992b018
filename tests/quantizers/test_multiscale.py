"""Codes scale by scale: beside VAR's recorded quantizer, and what is ours alone."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_quantizers import small, stepper, vectors

from vqvae_jax.networks.resize import shrunk
from vqvae_jax.networks.scales import running
from vqvae_jax.quantizers.multiscale import MultiscaleQuantizer
from vqvae_jax.quantizers.vq import VectorQuantizer
from vqvae_jax.types import Codebook, UserError

RECORDED = Path(__file__).resolve().parents[1] / "reference" / "var_quantizer.npz"


def recorded(size):
    """Arrays, a quantizer like the authors' and its codebook."""
    with np.load(RECORDED) as file:
        arrays = {name.partition("/")[2]: file[name] for name in file if name.startswith(size)}
    return arrays, MultiscaleQuantizer(
        VectorQuantizer(32, 8, revive_after=0), tuple(arrays["meta/patch_nums"].tolist()), shared=True
    )


def codebook_of(arrays, kind="param"):
    """codes and φ, as we keep them."""
    phis = [f"{kind}/quant_resi.qresi_ls.{i}." for i in range(4)]
    kernel = jnp.stack([arrays[name + "weight"].transpose(2, 3, 1, 0) for name in phis])
    return jnp.asarray(arrays[f"{kind}/embedding.weight"]), {
        "kernel": kernel,
        "bias": jnp.stack([arrays[name + "bias"] for name in phis]),
    }


def last(array):
    """[B, D, h, w] → [B, h, w, D]."""
    return jnp.asarray(array.transpose(0, 2, 3, 1))


def started(arrays, quantizer):
    codes, params = codebook_of(arrays)
    return Codebook(codes, params, quantizer.init(jax.random.key(0)).stats)


@pytest.mark.parametrize("size", ["small", "wide"])
def test_codes_and_sums_are_the_authors(size):
    arrays, quantizer = recorded(size)
    book, f = started(arrays, quantizer), last(arrays["input/f"])
    out = quantizer(book, f)
    for scale, indices in enumerate(out.indices):
        np.testing.assert_array_equal(indices, arrays[f"output/indices/{scale}"])
        sums = quantizer.lookup(book, out.indices[: scale + 1])
        np.testing.assert_allclose(sums, last(arrays[f"output/f_hat/{scale}"]), atol=3e-6)
    np.testing.assert_allclose(out.z_q, last(arrays["train/f_hat"]), atol=3e-6)


@pytest.mark.parametrize("size", ["small", "wide"])
def test_what_a_prior_is_told_is_the_authors(size):
    """f̂ after each scale, at the size of the next."""
    arrays, quantizer = recorded(size)
    book = started(arrays, quantizer)
    indices = tuple(jnp.asarray(arrays[f"output/indices/{i}"]) for i in range(len(quantizer.scales)))
    sums = running([book.codes[one] for one in indices], book.params, indices[-1].shape[1:])
    told = [shrunk(one, (side, side)) for one, side in zip(sums, quantizer.scales[1:], strict=False)]
    told = jnp.concatenate([one.reshape(len(one), -1, one.shape[-1]) for one in told], axis=1)
    np.testing.assert_allclose(told, arrays["output/var_input"], atol=3e-6)


@pytest.mark.parametrize("size", ["small", "wide"])
def test_losses_and_gradients_are_the_authors(size):
    arrays, quantizer = recorded(size)
    book, f, weight = started(arrays, quantizer), last(arrays["input/f"]), last(arrays["input/weight_on_f_hat"])

    def total(codes, params, f):
        out = quantizer(book.replace(codes=codes, params=params), f, key=jax.random.key(0), train=True)
        loss = 0.25 * out.losses["commitment"] + out.losses["codebook"]
        return loss + jnp.mean(out.z_q * weight), loss

    (value, loss), (to_codes, to_phi, to_f) = jax.value_and_grad(total, (0, 1, 2), has_aux=True)(
        book.codes, book.params, f
    )
    np.testing.assert_allclose(loss, arrays["train/loss"], rtol=1e-5)
    np.testing.assert_allclose(value, arrays["train/total"], rtol=1e-5)
    codes, phis = codebook_of(arrays, "grad")
    close = lambda got, want: np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())  # noqa: E731
    close(to_codes, codes)
    close(to_phi["kernel"], phis["kernel"])
    close(to_phi["bias"], phis["bias"])
    close(to_f, last(arrays["grad/f"]))


def test_ema_codes_have_no_gradient_and_phi_has():
    quantizer = small("multiscale")
    book, z_e = quantizer.init(jax.random.key(0)), vectors(1, 2, 4, 6, quantizer.input_dim)

    def everything(codes, params, z_e):
        out = quantizer(book.replace(codes=codes, params=params), z_e, key=jax.random.key(1), train=True)
        return jnp.sum(out.z_q) + sum(out.losses.values()) + jnp.sum(out.codebook.codes)

    to_codes, to_phi, to_z = jax.grad(everything, (0, 1, 2))(book.codes, book.params, z_e)
    assert not to_codes.any() and to_z.any()
    moved = [np.any(one) for one in to_phi["kernel"]]
    assert moved == [True, False, False, True]  # two scales have the first and the last
    plain = small("multiscale", phis=0)
    assert set(plain(plain.init(jax.random.key(0)), z_e).losses) == {"commitment"}  # nothing else would move


def test_each_scale_revives_its_own_codes():
    """A table that is used at the last scale alone leaves the first one's codes idle, each by its own count."""
    quantizer = small("multiscale", revive_after=2)
    book, step = quantizer.init(jax.random.key(0)), stepper(quantizer)
    for i in range(6):
        out = step(book, vectors(i, 2, 4, 4, quantizer.input_dim), jax.random.key(i))
        for scale, indices in enumerate(out.indices):
            used = np.bincount(np.ravel(indices), minlength=12) > 0
            before = np.asarray(book.stats["idle"][scale])
            np.testing.assert_array_equal(out.fresh[scale], ~used & (before + 1 >= 2))
        book = out.codebook


def test_with_dropout_an_example_is_decoded_from_fewer_scales_and_all_scales_learn():
    quantizer, whole = (small("multiscale-vq", dropout=share) for share in (1.0, 0.0))
    book, z_e = quantizer.init(jax.random.key(0)), jnp.asarray(vectors(1, 64, 2, 2, quantizer.input_dim))
    out, full = (one(book, z_e, key=jax.random.key(2), train=True) for one in (quantizer, whole))
    sums = [quantizer.lookup(book, out.indices[:n]) for n in (1, 2)]
    ended = [np.isclose(out.z_q, one, atol=1e-5).all((1, 2, 3)) for one in sums]
    assert 20 < ended[0].sum() < 44 and (ended[0] ^ ended[1]).all()
    np.testing.assert_allclose(out.losses["codebook"], full.losses["codebook"], rtol=1e-6)


def test_larger_maps_are_coded_in_the_same_way():
    """Of four equal quarters each says the same, where nothing looks beyond an edge."""
    quantizer = small("multiscale", phis=0, scales=(1, 1))
    book, z_e = quantizer.init(jax.random.key(0)), vectors(1, 2, 1, 1, quantizer.input_dim)
    one, four = quantizer(book, z_e), quantizer(book, np.tile(z_e, (1, 2, 2, 1)))
    for small_map, large in zip(one.indices, four.indices, strict=True):
        np.testing.assert_array_equal(np.tile(small_map, (1, 2, 2)), large)
    assert quantizer.lookup(book, four.indices[:1]).shape == four.z_q.shape


@pytest.mark.parametrize(
    "fields,says",
    [
        ({"scales": (1, 4, 2)}, "grow, as scales=1,2,4,8"),
        ({"scales": ()}, "grow, as scales=1,2,4,8"),
        ({"scales": (0, 2)}, "grow, as scales=1,2,4,8"),
        ({"scales": (1,) * 2000 + (4,)}, "at most 100 scales, as scales=1,2,4,8; got 2001"),
        ({"dropout": 1.5}, "dropout must be from 0 to 1"),
        ({"inner": "fsq"}, "inner may be vq, ema, simvq, or cvq"),
        ({"inner": "vq-kmeans", "shared": True}, "inner.kmeans_iterations=0"),
    ],
    ids=str,
)
def test_bad_fields_are_refused(fields, says):
    with pytest.raises(UserError, match=says):
        inner = small(fields.pop("inner", "vq"))
        MultiscaleQuantizer(inner, **fields)


def test_maps_that_the_scales_do_not_divide_are_refused():
    quantizer = small("multiscale")
    book = quantizer.init(jax.random.key(0))
    with pytest.raises(UserError, match="scales=1,2 end at 2, which does not divide a code map of 4x5"):
        quantizer(book, vectors(0, 1, 4, 5, quantizer.input_dim))
    with pytest.raises(UserError, match=r"codes maps \[B, h, w, D\]; got \[4, 4\]"):
        quantizer(book, vectors(0, 4, quantizer.input_dim))
