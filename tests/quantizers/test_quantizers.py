"""The contract that every quantizer of the table keeps; what those with a nearest code have in common; codebook.py.

A new quantizer joins by its line in QUANTIZERS.
"""

import dataclasses
import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxprs import EXACT, precisions
from small_quantizers import (
    CASES,
    assert_same,
    has_table,
    is_row_of,
    kinds,
    losses_of,
    map_sizes,
    nearest_by_hand,
    small,
    stepper,
    vectors,
)

from vqvae_jax.quantizers import QUANTIZERS
from vqvae_jax.quantizers import codebook as cb
from vqvae_jax.types import Codebook

ROOT = Path(__file__).resolve().parents[2]
EVERY = pytest.mark.parametrize("name", CASES)
WAYS = ("vq", "ema-kmeans", "cvq-random", "cvq-probabilistic", "cvq-cos", "cosine", "fsq", "residual-dropout")
WAYS += (
    "gumbel",
    "kl",
    "residual-cvq",
    "lfq-groups",
    "bsq",
    "simvq",
    "multiscale",
    "multiscale-shared",
)  # each kind, each way of moving codes: for tests that cost seconds
EACH_WAY = pytest.mark.parametrize("name", [name for name in WAYS if "multiscale" not in name])  # of any shape
NEAREST = pytest.mark.parametrize("name", ["vq", "ema", "cvq"])  # one table of codes, used by nearest distance
REVIVING = pytest.mark.parametrize("name", ["vq", "ema"])  # and drawn anew after a time


# --- every quantizer


def test_every_quantizer_of_the_table_is_here():
    assert {case.partition("-")[0] for case in CASES} == set(QUANTIZERS)


@EVERY
def test_a_quantizer_is_a_frozen_hashable_value(name):
    assert small(name) == small(name) and hash(small(name)) == hash(small(name))
    with pytest.raises(dataclasses.FrozenInstanceError):
        small(name).code_dim = 3


@EVERY
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_shapes_and_dtypes(name, train, dtype):
    """Codes and statistics stay float32 inside a bfloat16 network."""
    quantizer = small(name)
    book = jax.eval_shape(quantizer.init, jax.random.key(0))
    z_e = jax.ShapeDtypeStruct((2, 4, 6, quantizer.input_dim), dtype)
    out = jax.eval_shape(lambda b, z, k: quantizer(b, z, key=k, train=train), book, z_e, jax.random.key(0))
    assert kinds(out.z_q) == ((2, 4, 6, quantizer.output_dim), str(jnp.dtype(dtype)))
    maps = zip(quantizer.vocab_sizes, map_sizes(quantizer, 4, 6), strict=True)
    assert kinds(out.indices) == tuple(
        ((2, *side), "int32") if size else ((2, *side, quantizer.output_dim), "float32") for size, side in maps
    )
    assert out.losses or not book.codes.size  # without a table there is nothing to learn
    assert all(kinds(loss) == ((), "float32") for loss in out.losses.values())
    assert kinds(out.codebook) == kinds(book)  # a step changes no shape and no dtype
    assert book.codes.dtype == jnp.float32 and jnp.bfloat16 not in [leaf.dtype for leaf in jax.tree.leaves(book)]
    if not train:
        assert out.fresh is None
    elif out.fresh is not None:
        assert kinds(out.fresh) == (book.codes.shape[:-1], "bool")


@EVERY
def test_in_evaluation_lookup_of_the_indices_is_z_q_and_nothing_moves(name):
    quantizer = small(name)
    book = quantizer.init(jax.random.key(0))
    z_e = vectors(1, 2, 4, 6, quantizer.input_dim)
    out = jax.jit(lambda b, z: quantizer(b, z))(book, z_e)
    rounded = 1e-6 if "multiscale" in name else 0.0  # its convolutions, as they are fused
    np.testing.assert_allclose(quantizer.lookup(book, out.indices), out.z_q, rtol=0, atol=rounded)
    for indices, size in zip(out.indices, quantizer.vocab_sizes, strict=True):
        assert size is None or (indices.min() >= 0 and indices.max() < size)
    assert_same(out.codebook, book)
    assert_same(quantizer(book, z_e, key=jax.random.key(3)), quantizer(book, z_e, key=jax.random.key(4)))  # no noise


@EACH_WAY
@pytest.mark.parametrize("shape", [(6,), (2, 7), (2, 2, 3, 2)], ids=str)
def test_whatever_lies_before_the_channels_stays(name, shape):
    """[B, D], [B, N, D], [B, h, w, D], [B, t, h, w, D]: the same codes as of the vectors one after the other."""
    quantizer = small(name)
    book, z_e = quantizer.init(jax.random.key(0)), vectors(1, *shape, quantizer.input_dim)
    out = quantizer(book, z_e)
    assert out.z_q.shape == (*shape, quantizer.output_dim)
    assert [indices.shape[: len(shape)] for indices in out.indices] == [shape] * len(quantizer.vocab_sizes)
    np.testing.assert_array_equal(quantizer.lookup(book, out.indices), out.z_q)
    flat = quantizer(book, z_e.reshape(-1, quantizer.input_dim))
    np.testing.assert_array_equal([np.ravel(one) for one in out.indices], [np.ravel(one) for one in flat.indices])
    learn = lambda z_e: jnp.sum(quantizer(book, z_e, key=jax.random.key(2), train=True).z_q ** 2)  # noqa: E731
    moved = quantizer(book, z_e, key=jax.random.key(2), train=True)
    assert moved.z_q.shape == out.z_q.shape and kinds(moved.codebook) == kinds(book)
    gradient = jax.grad(learn)(z_e)
    assert gradient.shape == z_e.shape and np.isfinite(gradient).all() and gradient.any()


@EVERY
def test_indices_in_a_bfloat16_network_are_those_of_float32(name):
    """In bfloat16 distances the nearest code is often another one."""
    quantizer = small(name, codebook_size=200)
    book = quantizer.init(jax.random.key(0))
    z_e = jnp.asarray(vectors(1, 4, 8, 8, quantizer.input_dim), jnp.bfloat16)
    low, high = quantizer(book, z_e), quantizer(book, z_e.astype(jnp.float32))
    assert_same(low.indices, high.indices)
    assert_same(low.z_q, high.z_q.astype(jnp.bfloat16))


@EVERY
def test_a_step_is_a_function_of_its_key_and_the_same_without_jit(name):
    quantizer = small(name)
    book, z_e = quantizer.init(jax.random.key(0)), vectors(1, 2, 4, 6, quantizer.input_dim)
    step = stepper(quantizer)
    one, again = step(book, z_e, jax.random.key(7)), step(book, z_e, jax.random.key(7))
    assert_same(one, again)
    plain = quantizer(book, z_e, key=jax.random.key(7), train=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), one, plain)


@EVERY
def test_fewer_vectors_than_codes(name):
    quantizer = small(name)
    book = quantizer.init(jax.random.key(0))
    step = stepper(quantizer)
    for i in range(7):  # beyond revive_after
        few = (1, 2, 2) if "multiscale" in name else (1, 1, 2) if "kmeans" in name else (1, 1, 1)
        out = step(book, vectors(i, *few, quantizer.input_dim), jax.random.key(i))
        assert kinds(out.codebook) == kinds(book)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((out.codebook, out.losses, out.z_q)))
        book = out.codebook


def test_eight_devices_equal_one():
    """Codes, statistics, revivals: statistics that are not summed over devices let the codebooks drift apart."""
    if jax.device_count() >= 8:
        eight_devices_equal_one()
        return
    environment = dict(
        os.environ, JAX_NUM_CPU_DEVICES="8", JAX_PLATFORMS="cpu", PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    )
    code = f"import runpy; runpy.run_path({__file__!r})['eight_devices_equal_one']()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr


def eight_devices_equal_one():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:8])
    split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    for name in WAYS:
        quantizer = small(name, revive_after=2)
        step, revived = stepper(quantizer), 0
        one = jax.device_put(quantizer.init(jax.random.key(0)), jax.devices()[0])
        many = jax.device_put(one, whole)
        for i in range(5):
            z_e, key = vectors(i, 8, 2, 2, quantizer.input_dim) + 2, jax.random.key(i)
            want = step(one, jax.device_put(z_e, jax.devices()[0]), key)
            got = step(many, jax.device_put(z_e, split), key)
            assert len(got.z_q.sharding.device_set) == 8, name
            close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6, err_msg=name)
            jax.tree.map(close, (got.codebook, got.losses), (want.codebook, want.losses))
            codes = None not in quantizer.vocab_sizes  # numbers differ as the statistics do
            (assert_same if codes else functools.partial(jax.tree.map, functools.partial(close, atol=1e-5)))(
                *jax.device_get(((got.indices, got.fresh), (want.indices, want.fresh)))
            )
            revived += 0 if got.fresh is None else int(got.fresh.sum())
            one, many = want.codebook, got.codebook
        assert revived or got.fresh is None, name


# --- quantizers with a nearest code: gradients


@NEAREST
def test_straight_through_passes_the_gradient_as_it_is_to_the_encoder_only(name):
    quantizer = small(name)
    book, z_e = quantizer.init(jax.random.key(0)), vectors(1, 2, 3, 5, 4)
    weight = vectors(2, 2, 3, 5, 4)
    onward = lambda codes, z_e: jnp.sum(quantizer(book.replace(codes=codes), z_e).z_q * weight)  # noqa: E731
    to_codes, to_encoder = jax.grad(onward, (0, 1))(book.codes, z_e)
    np.testing.assert_array_equal(to_encoder, weight)
    assert not to_codes.any()


@NEAREST
def test_commitment_moves_the_encoder_only(name):
    """β on the wrong term is impossible: commitment has no gradient to the codes, and is the mean over all elements."""
    quantizer = small(name)
    book, z_e = quantizer.init(jax.random.key(0)), vectors(1, 2, 3, 5, 4)
    loss, (to_codes, to_encoder) = jax.value_and_grad(losses_of(quantizer, "commitment"), (0, 2))(book.codes, book, z_e)
    z, codes = z_e.reshape(-1, 4), np.asarray(book.codes)
    difference = z - codes[nearest_by_hand(z, codes)]
    np.testing.assert_allclose(loss, (difference**2).mean(), rtol=1e-5)
    np.testing.assert_allclose(to_encoder.reshape(-1, 4), 2 * difference / difference.size, rtol=1e-4, atol=1e-7)
    assert not to_codes.any()


def test_codebook_loss_has_the_gradient_derived_by_hand():
    """Computed after straight-through it would have none."""
    quantizer = small("vq")
    book, z_e = quantizer.init(jax.random.key(0)), vectors(1, 2, 3, 5, 4)
    to_codes, to_encoder = jax.grad(losses_of(quantizer, "codebook"), (0, 2))(book.codes, book, z_e)
    z, codes = z_e.reshape(-1, 4), np.asarray(book.codes)
    want = np.zeros_like(codes)
    for vector, index in zip(z, nearest_by_hand(z, codes), strict=True):
        want[index] += 2 * (codes[index] - vector) / z.size
    assert np.abs(to_codes).max() > 0.01
    np.testing.assert_allclose(to_codes, want, rtol=1e-4, atol=1e-7)
    assert not to_encoder.any()


def test_ema_codes_have_no_gradient():
    quantizer = small("ema")
    book, z_e = quantizer.init(jax.random.key(0)), vectors(1, 2, 3, 5, 4)

    def everything(codes):
        out = quantizer(book.replace(codes=codes), z_e, key=jax.random.key(1), train=True)
        return jnp.sum(out.z_q) + sum(out.losses.values())

    assert not jax.grad(everything)(book.codes).any()


def test_ema_training_has_no_gradient_through_the_new_codebook():
    """What moves a codebook is statistics; nothing of it may reach the encoder."""
    quantizer = small("ema")
    book = quantizer.init(jax.random.key(0))

    def moved(z_e):
        out = quantizer(book, z_e, key=jax.random.key(1), train=True)
        return jnp.sum(out.codebook.codes) + jnp.sum(out.codebook.stats["sum"])

    assert not jax.grad(moved)(vectors(1, 2, 3, 5, 4)).any()


# --- EMA


def ema_by_hand(codes, count, total, z, decay):
    """One step as the paper and the Laplace formula say, code by code; revival apart."""
    indices, size = nearest_by_hand(z, codes), len(codes)
    count, total = count * decay, total * decay
    for vector, index in zip(z, indices, strict=True):
        count[index] += 1 - decay
        total[index] += (1 - decay) * vector
    whole = count.sum()
    return total / ((count + 1e-5) / (whole + size * 1e-5) * whole)[:, None], count, total


def test_ema_steps_equal_a_loop():
    quantizer = small("ema", decay=0.9, revive_after=0)
    book = quantizer.init(jax.random.key(0))
    codes, count, total = (np.asarray(a, np.float64) for a in (book.codes, book.stats["count"], book.stats["sum"]))
    np.testing.assert_array_equal(count, 1)  # from 0, codes unused in the first step would fly off
    np.testing.assert_array_equal(total, codes)
    step = stepper(quantizer)
    for i in range(6):
        z_e = vectors(i, 2, 3, 3, 4) + 0.5
        codes, count, total = ema_by_hand(codes, count.copy(), total.copy(), z_e.reshape(-1, 4), 0.9)
        book = step(book, z_e, jax.random.key(i)).codebook
        for got, want in ((book.codes, codes), (book.stats["count"], count), (book.stats["sum"], total)):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decay", [0.99, 0.5])
def test_ema_codes_that_nobody_uses_do_not_fly_off(decay):
    quantizer = small("ema", decay=decay, revive_after=0)
    book = quantizer.init(jax.random.key(0))
    z_e = vectors(1, 2, 3, 3, 4) * 0.01 + 3  # all of it goes to one code or two

    def step(book, i):
        book = quantizer(book, z_e, key=jax.random.key(0), train=True).codebook
        return book, jnp.max(jnp.linalg.norm(book.codes, axis=-1))

    book, norms = jax.jit(lambda book: jax.lax.scan(step, book, jnp.arange(200)))(book)
    assert np.isfinite(book.codes).all()
    assert norms.max() <= 1.001 * max(np.linalg.norm(z_e, axis=-1).max(), norms[0])


def test_ema_from_counts_of_zero_stays_finite():
    """So does an imported state begin in other people's code: what is used takes the mean of its vectors."""
    quantizer = small("ema", revive_after=0)
    book = quantizer.init(jax.random.key(0))
    zeros = {"count": jnp.zeros(12), "sum": jnp.zeros((12, 4)), "idle": book.stats["idle"]}
    z_e = vectors(1, 2, 3, 3, 4)
    out = quantizer(book.replace(stats=zeros), z_e, key=jax.random.key(1), train=True)
    indices = np.asarray(out.indices[0]).reshape(-1)
    means = [z_e.reshape(-1, 4)[indices == k].mean(0) for k in np.unique(indices)]
    np.testing.assert_allclose(out.codebook.codes[np.unique(indices)], means, rtol=2e-3, atol=1e-4)
    assert np.isfinite(out.codebook.codes).all()


def test_a_new_ema_codebook_comes_alive_in_its_first_step():
    """Whatever the scale of the encoder: the codes start overdue."""
    quantizer = small("ema")
    z_e = vectors(1, 2, 3, 3, 4) * 0.001 + 50
    out = quantizer(quantizer.init(jax.random.key(0)), z_e, key=jax.random.key(1), train=True)
    assert out.fresh.sum() >= 11
    assert len(np.unique(quantizer(out.codebook, z_e).indices[0])) > 5


def test_init_draws_from_its_key_alone():
    """No statistics of a dummy forward pass poison the codebook: `init` sees no data."""
    for name in filter(has_table, CASES):
        assert_same(small(name).init(jax.random.key(0)), small(name).init(jax.random.key(0)))
        assert (small(name).init(jax.random.key(0)).codes != small(name).init(jax.random.key(1)).codes).any()


# --- revival


@REVIVING
def test_a_code_is_revived_after_as_many_steps_unused_as_it_says(name):
    """The reference counts down from its dead_rate: used → dead_rate, else one less; at 0 revived → dead_rate."""
    quantizer = small(name, revive_after=4)
    book = quantizer.init(jax.random.key(0))
    step, revived = stepper(quantizer), 0
    left = 4 - np.asarray(book.stats["idle"])
    for i in range(20):
        z_e = vectors(i, 1, 1, 6, 4) * 2
        out = step(book, z_e, jax.random.key(i))
        used = np.bincount(np.asarray(out.indices[0]).reshape(-1), minlength=12) > 0
        left = np.where(used, 4, np.maximum(left - 1, 0))
        np.testing.assert_array_equal(out.fresh, left == 0)
        left = np.where(left == 0, 4, left)
        np.testing.assert_array_equal(out.codebook.stats["idle"], 4 - left)
        revived += int(out.fresh.sum())
        book = out.codebook
    assert revived > 5


def about_to_die(name, which, **fields):
    """A quantizer and a codebook whose codes `which` lack one more unused step."""
    quantizer = small(name, **fields)
    book = quantizer.init(jax.random.key(0))
    idle = jnp.where(jnp.asarray(which), quantizer.revive_after - 1, 0)
    return quantizer, book.replace(stats=book.stats | {"idle": idle})


@REVIVING
def test_a_revived_code_is_a_vector_of_the_batch_with_statistics_to_match(name):
    """Setting the code without its count and sum would be undone by the next step."""
    quantizer, book = about_to_die(name, np.arange(12) >= 6)
    codes = book.codes.at[6:].add(100.0)  # far off: unused
    book = book.replace(codes=codes)
    z_e = vectors(1, 2, 3, 3, 4)
    step = stepper(quantizer)
    out = step(book, z_e, jax.random.key(5))
    np.testing.assert_array_equal(out.fresh, np.arange(12) >= 6)
    assert is_row_of(out.codebook.codes[6:], z_e.reshape(-1, 4)).all()
    assert not out.codebook.stats["idle"][6:].any()
    if name == "ema":
        np.testing.assert_array_equal(out.codebook.stats["count"][6:], 1)
        np.testing.assert_array_equal(out.codebook.stats["sum"][6:], out.codebook.codes[6:])
    else:
        np.testing.assert_array_equal(out.codebook.codes[:6], codes[:6])  # the others stay where they are
    later = step(out.codebook, z_e + 50, jax.random.key(6))  # nearest to one code or another, most are unused
    stay = np.setdiff1d(np.arange(6, 12), np.asarray(later.indices[0]))
    assert len(stay) >= 3
    np.testing.assert_allclose(later.codebook.codes[stay], out.codebook.codes[stay], rtol=1e-3)


@REVIVING
def test_revival_draws_by_its_key(name):
    quantizer, book = about_to_die(name, np.arange(12) >= 6)
    book = book.replace(codes=book.codes.at[6:].add(100.0))
    z_e = vectors(1, 2, 3, 3, 4)
    step = stepper(quantizer)
    one, other = step(book, z_e, jax.random.key(0)), step(book, z_e, jax.random.key(1))
    assert (one.codebook.codes[6:] != other.codebook.codes[6:]).any()
    assert len(np.unique(np.asarray(one.codebook.codes[6:]), axis=0)) > 1  # not all the same vector


@REVIVING
def test_all_dead_none_dead_and_never(name):
    z_e = np.full((1, 1, 2, 4), 9.0, np.float32)
    quantizer, book = about_to_die(name, np.ones(12, bool))
    out = quantizer(book, z_e, key=jax.random.key(0), train=True)
    assert out.fresh.sum() == 11  # all but the one that is used
    np.testing.assert_array_equal(out.codebook.codes[np.asarray(out.fresh)], 9.0)
    quantizer, book = about_to_die(name, np.zeros(12, bool))
    assert not quantizer(book, z_e, key=jax.random.key(0), train=True).fresh.any()
    quantizer = small(name, revive_after=0)
    book = book.replace(stats=book.stats | {"idle": jnp.full(12, 10_000, jnp.int32)})
    assert not quantizer(book, z_e, key=jax.random.key(0), train=True).fresh.any()


# --- the nearest code


@pytest.fixture
def tiny_blocks(monkeypatch):
    """Blocks so small that a few vectors and codes need several."""
    monkeypatch.setattr(cb, "ROWS", 8)
    monkeypatch.setattr(cb, "CODES", 16)
    monkeypatch.setattr(cb, "DISTANCES", 128)


SIZES = [(1, 1), (37, 5), (5, 50), (37, 50), (16, 32)]  # vectors, codes: in tiny blocks one block, many, uneven, even


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_nearest_equals_brute_force(size):
    z, codes = vectors(0, size[0], 4), vectors(1, size[1], 4)
    np.testing.assert_array_equal(cb.nearest(z, codes), nearest_by_hand(z, codes))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_nearest_in_blocks_equals_brute_force(size, tiny_blocks):
    z, codes = vectors(0, size[0], 4), vectors(1, size[1], 4)
    np.testing.assert_array_equal(cb.nearest(z, codes), nearest_by_hand(z, codes))


@pytest.mark.parametrize("blocks", ["one", "many"])
def test_of_equally_near_codes_the_first_is_taken(blocks, request):
    if blocks == "many":
        request.getfixturevalue("tiny_blocks")
    rng = np.random.default_rng(0)
    codes = np.tile(rng.integers(-2, 3, (10, 3)), (5, 1)).astype(np.float32)  # each five times, exact in float32
    z = rng.integers(-2, 3, (37, 3)).astype(np.float32)
    np.testing.assert_array_equal(cb.nearest(z, codes), nearest_by_hand(z, codes))


FAR = [0, 100, 1000, 20_000]


@pytest.mark.parametrize("blocks", ["one", "many"])
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("far", FAR)
def test_far_from_the_origin_the_nearest_is_still_the_nearest(far, platform, blocks, monkeypatch, request):
    """|e|² - 2 z·e is the difference of large numbers there: at 1,000 every third code was another one."""
    if blocks == "many":
        request.getfixturevalue("tiny_blocks")
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    z, codes = vectors(0, 500, 16) + np.float32(far), vectors(1, 64, 16) + np.float32(far)
    np.testing.assert_array_equal(cb.nearest(z, codes), nearest_by_hand(z, codes))


@pytest.mark.parametrize("blocks", ["one", "many"])
def test_what_is_drawn_does_not_depend_on_the_origin(blocks, request):
    """Whole numbers, exact in float32 with or without the 4096: the same key draws the same."""
    if blocks == "many":
        request.getfixturevalue("tiny_blocks")
    rng = np.random.default_rng(0)
    codes, z = (rng.integers(-2, 3, (count, 8)).astype(np.float32) for count in (50, 200))
    here, far = (cb.nearest(z + shift, codes + shift, jax.random.key(0)) for shift in (0, np.float32(4096)))
    np.testing.assert_array_equal(here, far)
    assert (here != nearest_by_hand(z, codes)).any()


@pytest.mark.parametrize("blocks", ["one", "many"])
def test_codes_that_flew_off_do_not_disturb_the_look_up(blocks, request):
    """Nor do vectors. One code at 1e6 would draw the mean of all far away from those that matter."""
    if blocks == "many":
        request.getfixturevalue("tiny_blocks")
    z, codes = vectors(0, 500, 16) + 1000, vectors(1, 64, 16) + 1000
    codes[5] = z[7] = 1e6
    z[9] = np.nan
    fine = np.delete(np.arange(500), 9)
    np.testing.assert_array_equal(np.asarray(cb.nearest(z, codes))[fine], nearest_by_hand(z, codes)[fine])


def test_small_codes_among_those_not_used_yet():
    """Around 0 the origin is 0: measured from elsewhere, what is small would be the difference of larger numbers."""
    codes, z = vectors(0, 512, 16), vectors(1, 500, 16) * 1e-3
    codes[::16] *= 1e-3
    assert not np.any(cb._origin(codes))
    np.testing.assert_array_equal(cb.nearest(z, codes), nearest_by_hand(z, codes))


def test_what_is_not_finite_is_as_ever():
    """A code that is not finite takes all vectors; where all are, the first."""
    z, codes = vectors(0, 20, 4), vectors(1, 30, 4)
    codes[11] = np.nan
    np.testing.assert_array_equal(cb.nearest(z, codes), 11)
    np.testing.assert_array_equal(cb.nearest(z * np.nan, vectors(1, 30, 4)), 0)
    np.testing.assert_array_equal(cb.nearest(z, codes * np.nan), 0)


def test_residuals_and_angles_of_far_vectors():
    """The first residual far off; directions that are nearly the same."""
    z = vectors(0, 500, 16) + 1000
    quantizer = small("residual", codebook_size=64, code_dim=16, depth=2)
    book = quantizer.init(jax.random.key(0))
    book = book.replace(codes=book.codes.at[0].add(1000.0))
    first, second = quantizer(book, z).indices
    np.testing.assert_array_equal(first, nearest_by_hand(z, book.codes[0]))
    left = z - np.asarray(book.codes[0])[np.asarray(first)]
    np.testing.assert_array_equal(second, nearest_by_hand(left, book.codes[1]))
    quantizer = small("cosine", codebook_size=64, code_dim=16)
    book = quantizer.init(jax.random.key(0)).replace(codes=jnp.asarray(vectors(1, 64, 16) + 1000))
    seen, codes = cb.normalised(jnp.asarray(z)), cb.normalised(book.codes)
    np.testing.assert_array_equal(quantizer(book, z).indices[0], nearest_by_hand(seen, codes))


@pytest.mark.parametrize("train", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("blocks", ["one", "many"])
@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("name", CASES)
def test_every_product_has_all_bits_of_float32(name, platform, blocks, train, monkeypatch, request):
    """On accelerators a product is TF32 or bfloat16 unless told otherwise: other codes, other sums."""
    if blocks == "many":
        request.getfixturevalue("tiny_blocks")
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    quantizer = small(name)
    book = jax.eval_shape(quantizer.init, jax.random.key(0))

    def step(codes, z_e, book, key):
        out = quantizer(book.replace(codes=codes), z_e, key=key, train=train)
        return sum(out.losses.values()) + jnp.sum(out.z_q), out

    z_e = jax.ShapeDtypeStruct((2, 4, 6, quantizer.input_dim), jnp.float32)
    found = precisions(jax.grad(step, (0, 1), has_aux=True), book.codes, z_e, book, jax.random.key(0))
    multiplied = has_table(name) or any(kind in name for kind in ("lfq", "bsq", "simvq"))
    multiplied &= train or name not in ("gumbel", "gumbel-straight")  # a look-up is no product
    assert set(found) <= {(EXACT, EXACT)}  # a quantizer may have none
    assert bool(found) == multiplied or name not in WAYS  # but those that are known to multiply are seen to


@pytest.mark.parametrize("name", [name for name in WAYS if name not in ("fsq", "gumbel", "kl")])
def test_a_step_with_262144_codes_fits_in_256_megabytes(name):
    """A one-hot or distance matrix of 16,384 vectors would take 17 GB."""
    quantizer = small(name, codebook_size=2**18, code_dim=8)
    book = jax.eval_shape(quantizer.init, jax.random.key(0))
    z_e = jax.ShapeDtypeStruct((16, 32, 32, 8), jnp.float32)

    def step(book, z_e, key):
        def loss(codes, z_e):
            out = quantizer(book.replace(codes=codes), z_e, key=key, train=True)
            return sum(out.losses.values()) + jnp.sum(out.z_q), out.codebook

        return jax.grad(loss, (0, 1), has_aux=True)(book.codes, z_e)

    memory = jax.jit(step).lower(book, z_e, jax.random.key(0)).compile().memory_analysis()
    assert memory.temp_size_in_bytes <= 256 * 2**20


def test_sums_and_counts_equal_a_loop(monkeypatch):
    z, indices = vectors(0, 40, 3), np.random.default_rng(1).integers(0, 6, 40)
    want = np.stack([z[indices == k].sum(0) for k in range(7)])
    np.testing.assert_allclose(cb.sums(z, jnp.asarray(indices), 7), want, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(cb.counts(jnp.asarray(indices), 7), np.bincount(indices, minlength=7))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # the product with a one-hot matrix
    np.testing.assert_allclose(cb.sums(z, jnp.asarray(indices), 7), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("counts", "perplexity", "usage"),
    [([5, 5, 5, 5], 4, 1), ([7, 0, 0, 0], 1, 0.25), ([3, 1, 0, 0], 4 / 3**0.75, 0.5), ([0, 0, 0, 0], 1, 0)],
)
def test_perplexity_and_usage(counts, perplexity, usage):
    counts = jnp.asarray(counts, jnp.float32)
    assert float(cb.perplexity(counts)) == pytest.approx(perplexity, rel=1e-5)
    assert float(cb.usage(counts)) == usage


def test_a_codebook_is_a_tree_of_arrays():
    """All that a quantizer remembers goes into the train state and the checkpoint."""
    book = Codebook(jnp.zeros((2, 3)), {"matrix": jnp.zeros(2)}, {"idle": jnp.zeros(2, jnp.int32)})
    assert len(jax.tree.leaves(book)) == 3


def test_the_smallest_distance_is_the_first_of_equals():
    """Found group by group, on whole numbers so that many are equal."""
    rows = np.random.default_rng(0).integers(0, 9, (50, 3 * cb.GROUP)).astype(np.float32)
    rows[0] = 5.0
    distance, index = jax.jit(cb._smallest)(rows)
    np.testing.assert_array_equal(index, rows.argmin(-1))
    np.testing.assert_array_equal(distance, rows[np.arange(50), rows.argmin(-1)])
