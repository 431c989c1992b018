"""Attention against a loop over positions, in each of its forms."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqvae_jax.networks import attention
from vqvae_jax.networks.fast import plain


@pytest.fixture
def qkv(monkeypatch):
    """Eleven positions in row blocks of four: two whole blocks and a part of one."""
    monkeypatch.setattr(attention, "BLOCK", 4)
    return tuple(jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 11, 3, 5)), jnp.float32))


def slow_attention(q, k, v, seen):
    """Position by position and head by head, softmax written out."""
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    out = np.zeros(q.shape)
    for b, t, n in np.ndindex(*q.shape[:3]):
        allowed = np.flatnonzero(seen[t])
        weight = np.exp(k[b, allowed, n] @ q[b, t, n] / np.sqrt(q.shape[-1]))
        out[b, t, n] = weight / weight.sum() @ v[b, allowed, n]
    return out


def test_row_blocks_and_plain_attention_equal_a_loop(qkv):
    want = slow_attention(*qkv, np.tri(11))
    np.testing.assert_allclose(jax.jit(lambda *a: attention.causal_attention(*a))(*qkv), want, atol=1e-5)
    with plain():
        np.testing.assert_allclose(jax.jit(lambda *a: attention.causal_attention(*a))(*qkv), want, atol=1e-5)


def test_row_blocks_and_plain_attention_have_the_same_gradients(qkv):
    def gradients(*qkv):
        return jax.grad(lambda *a: jnp.sum(jnp.sin(attention.causal_attention(*a))), (0, 1, 2))(*qkv)

    got = jax.jit(lambda *a: gradients(*a))(*qkv)
    with plain():
        want = jax.jit(lambda *a: gradients(*a))(*qkv)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, atol=1e-5)


def test_attention_over_all_positions_equals_a_loop_with_its_gradients(qkv, monkeypatch):
    """Three examples, one at a time."""
    monkeypatch.setattr(attention, "SCORES", 1)
    pieces = tuple(jnp.concatenate([x[:2], x[1:]]) for x in qkv)
    both = jax.value_and_grad(lambda *a: jnp.sum(jnp.sin(attention.attention(*a))), (0, 1, 2))
    got = jax.jit(lambda *a: (attention.attention(*a), both(*a)))(*pieces)
    np.testing.assert_allclose(got[0], slow_attention(*pieces, np.ones((11, 11))), atol=1e-5)
    with plain():
        want = jax.jit(lambda *a: (attention.attention(*a), both(*a)))(*pieces)
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, atol=1e-5), got, want)
    large = attention.attention(*(50 * x for x in qkv))  # scores whose exponentials are beyond float32
    assert np.isfinite(large).all()


def test_attention_to_another_sequence_equals_a_loop(qkv, monkeypatch):
    """Of another length, one example at a time, and plain."""
    monkeypatch.setattr(attention, "SCORES", 1)
    q, k, v = qkv
    want = slow_attention(q[:, :4], k, v, np.ones((4, 11)))
    np.testing.assert_allclose(jax.jit(lambda *a: attention.attention(*a))(q[:, :4], k, v), want, atol=1e-5)
    with plain():
        np.testing.assert_allclose(jax.jit(lambda *a: attention.attention(*a))(q[:, :4], k, v), want, atol=1e-5)


def test_masked_attention_sees_what_it_is_shown(qkv):
    q, k, v = qkv
    seen = np.random.default_rng(0).random((4, 11)) < 0.5
    seen[:, 0] = True  # nobody may be left with nothing to see
    got = jax.jit(attention.masked_attention)(q[:, :4], k, v, seen)
    np.testing.assert_allclose(got, slow_attention(q[:, :4], k, v, seen), atol=1e-5)


@pytest.mark.parametrize("sizes", [(1, 2, 8), (1, 1, 2, 3, 4), (6, 5), (11,)], ids=str)
def test_groups_see_themselves_and_those_before(qkv, sizes):
    """With a mask up to four positions, or the first group, and without one beyond; with the gradients of one mask."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    seen = group[:, None] >= group[None]
    both = lambda attend: jax.value_and_grad(lambda *a: jnp.sum(jnp.sin(attend(*a))), (0, 1, 2))  # noqa: E731
    grouped = lambda *a: attention.attention_by_groups(*a, sizes)  # noqa: E731
    np.testing.assert_allclose(jax.jit(grouped)(*qkv), slow_attention(*qkv, seen), atol=1e-5)
    got, want = jax.jit(both(grouped))(*qkv), both(lambda *a: attention.masked_attention(*a, seen))(*qkv)
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, atol=1e-5), got, want)


@pytest.mark.parametrize(
    ("platform", "dtype", "head_size", "capability", "how"),
    [
        ("cpu", jnp.float32, 64, None, "blocks"),
        ("cpu", jnp.bfloat16, 64, None, "blocks"),
        ("gpu", jnp.bfloat16, 64, (9, 0), "cudnn"),
        ("gpu", jnp.float16, 64, (9, 0), "cudnn"),
        ("gpu", jnp.bfloat16, 128, (8, 0), "cudnn"),
        ("gpu", jnp.bfloat16, 8, (12, 0), "cudnn"),
        ("gpu", jnp.float32, 64, (9, 0), "xla"),
        ("gpu", jnp.bfloat16, 136, (9, 0), "xla"),
        ("gpu", jnp.bfloat16, 12, (9, 0), "xla"),
        ("gpu", jnp.bfloat16, 64, (7, 5), "xla"),  # Turing
        ("gpu", jnp.bfloat16, 64, None, "xla"),  # not of NVIDIA
        ("tpu", jnp.bfloat16, 64, None, "xla"),
        ("neuron", jnp.bfloat16, 64, None, "xla"),
    ],
)
def test_where_cudnn_computes_attention(platform, dtype, head_size, capability, how):
    assert attention.attention_implementation(platform, dtype, head_size, capability) == how


@pytest.fixture
def on_an_h100(monkeypatch):
    monkeypatch.setattr(attention, "platform", lambda: "gpu")
    monkeypatch.setattr(attention, "compute_capability", lambda: (9, 0))


def asked_for(monkeypatch, dtype):
    """The implementations that causal attention asks JAX for."""
    asked = []

    def spy(q, k, v, is_causal, implementation):
        asked.append(implementation)
        return q

    monkeypatch.setattr(jax.nn, "dot_product_attention", spy)
    attention.causal_attention(*(jnp.zeros((1, 7, 2, 16), dtype),) * 3)
    return asked


def test_sixteen_bits_on_nvidia_are_cudnns(on_an_h100, monkeypatch):
    assert asked_for(monkeypatch, jnp.bfloat16) == ["cudnn"]
    assert asked_for(monkeypatch, jnp.float32) == ["xla"]


def test_plain_attention_is_xlas_everywhere(on_an_h100, monkeypatch):
    with plain():
        assert asked_for(monkeypatch, jnp.bfloat16) == ["xla"]


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="here cuDNN is missing")
def test_without_cudnn_attention_is_xlas(on_an_h100):
    q, k, v = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 11, 3, 8)), jnp.bfloat16)
    got = jax.jit(lambda *a: attention.causal_attention(*a))(q, k, v).astype(jnp.float32)
    np.testing.assert_allclose(got, slow_attention(q, k, v, np.tri(11)), atol=0.02)


@pytest.mark.parametrize("what", ["k", "v"])
def test_no_position_sees_a_later_one_and_each_sees_all_before(qkv, what):
    q, k, v = qkv
    weight = np.random.default_rng(1).normal(size=(11, *q.shape[2:])).astype(np.float32)

    def influence(position, x):  # of position's output, on each entry of x
        k_, v_ = (x, v[:1]) if what == "k" else (k[:1], x)
        return jnp.sum((attention.causal_attention(q[:1], k_, v_)[0] * weight)[position])

    gradient = jax.jit(jax.vmap(jax.grad(influence, 1), (0, None)))(jnp.arange(11), k[:1] if what == "k" else v[:1])
    depends = np.abs(gradient[:, 0]).sum((2, 3)) > 0  # [output, input]
    want = np.tri(11, dtype=bool)
    if what == "k":
        want[0, 0] = depends[0, 0]  # alone, a key's score does not matter, rounding apart
    np.testing.assert_array_equal(depends, want)


def test_bfloat16_attention_weighs_in_float32(qkv):
    low = tuple(a.astype(jnp.bfloat16) for a in qkv)
    got = jax.jit(lambda *a: attention.causal_attention(*a))(*low)
    assert got.dtype == jnp.bfloat16
    want = slow_attention(*(a.astype(jnp.float32) for a in low), np.tri(11))
    np.testing.assert_allclose(got.astype(jnp.float32), want, atol=0.02)


@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("there", [0, 4])
def test_cached_attention_step_by_step_equals_all_at_once(qkv, monkeypatch, step, there):
    """Several blocks, the last one partly filled; some positions read beforehand; later places hold rubbish."""
    monkeypatch.setattr(attention, "CACHE_BLOCK", 4)
    q, k, v = (a.swapaxes(1, 2) for a in qkv)
    length = there + (11 - there) // step * step
    want = slow_attention(*(a[:, :length] for a in qkv), np.tri(length))
    for plainly in (False, True):
        with plain() if plainly else contextlib.nullcontext():
            filled = 0 if step > 1 else there  # a row never falls into two blocks
            keys, values = (attention.new_cache(a[:, :, :filled], 11, step) for a in (k, v))
            assert (keys.shape[0] > 1) != (plainly or not attention.fast())
            if not filled:
                keys, values = keys + 1e3, values - 1e3
            run = jax.jit(lambda *a: attention.cached_attention(*a))
            for start in range(filled, length - step + 1, step):
                here = slice(start, start + step)
                keys, values = (attention.cached(c, a[:, :, here], start) for c, a in ((keys, k), (values, v)))
                got = run(q[:, :, here], keys, values, start).swapaxes(1, 2)
                np.testing.assert_allclose(got, want[:, here], atol=1e-5)
