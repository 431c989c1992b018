"""Cross-entropy, and how a token is picked from logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqvae_jax.networks.likelihood import (
    cross_entropy,
    discretised_logistic,
    gumbel,
    keep_top_k,
    keep_top_p,
    pick_token,
)
from vqvae_jax.types import Pick

PROBABILITY = np.array([0.1, 0.4, 0.05, 0.3, 0.15], np.float32)
LOGITS = jnp.log(PROBABILITY)


def kept(logits):
    """The classes that can still be picked."""
    return np.flatnonzero(np.isfinite(np.asarray(logits))).tolist()


def picked(pick, logits=LOGITS, count=4096):
    """The share of each class among many picks."""
    rows = jnp.broadcast_to(logits, (count, logits.shape[-1]))
    tokens = pick_token(jax.random.gumbel(jax.random.key(0), rows.shape), rows, pick)
    assert tokens.dtype == jnp.int32
    return np.bincount(tokens, minlength=logits.shape[-1]) / count


def test_cross_entropy_is_minus_the_log_of_the_label_s_share():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 3, 7)).astype(np.float32) * 5, rng.integers(0, 7, (2, 3))
    share = np.exp(logits.astype(np.float64))
    share /= share.sum(-1, keepdims=True)
    want = -np.log(np.take_along_axis(share, labels[..., None], -1)[..., 0])
    np.testing.assert_allclose(cross_entropy(logits, labels), want, rtol=1e-5)


def test_cross_entropy_is_float32_and_finite_for_bfloat16_and_large_logits():
    logits = jnp.array([[1000.0, -1000.0]], jnp.bfloat16)
    got = cross_entropy(logits, jnp.array([1]))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, [2000.0], rtol=1e-2)


@pytest.mark.parametrize(("k", "want"), [(1, [1]), (2, [1, 3]), (4, [0, 1, 3, 4]), (5, range(5)), (9, range(5))])
def test_top_k_keeps_the_k_likeliest(k, want):
    got = keep_top_k(LOGITS, k)
    assert kept(got) == list(want)
    np.testing.assert_array_equal(got[jnp.array(want)], LOGITS[jnp.array(want)])


@pytest.mark.parametrize(
    ("p", "want"), [(0.39, [1]), (0.41, [1, 3]), (0.71, [1, 3, 4]), (0.96, [0, 1, 2, 3, 4]), (1.0, [0, 1, 2, 3, 4])]
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(p, want):
    assert kept(keep_top_p(LOGITS, p)) == want


@pytest.mark.parametrize("p", [0.0, 1e-30, 1e-6])
def test_top_p_never_leaves_nothing(p):
    assert kept(keep_top_p(LOGITS, p)) == [1]


@pytest.mark.parametrize("keep", [lambda x: keep_top_k(x, 2), lambda x: keep_top_p(x, 0.5)], ids=["top_k", "top_p"])
def test_rows_are_cut_apart(keep):
    rows = jnp.stack([LOGITS, LOGITS[::-1], LOGITS * 3])
    for row, got in zip(rows, keep(rows), strict=True):
        np.testing.assert_array_equal(got, keep(row))


def test_equal_logits_are_treated_alike():
    """A cut through a tie keeps all of the tie: no favour by position."""
    tie = jnp.log(jnp.array([0.1, 0.3, 0.3, 0.3]))
    assert kept(keep_top_k(tie, 2)) == [1, 2, 3]
    assert kept(keep_top_p(tie, 0.4)) == [1, 2, 3]


def test_temperature_0_takes_the_likeliest_and_the_first_of_equals():
    logits = jnp.array([[0.0, 2.0, 1.0], [3.0, 3.0, 0.0]])
    tokens = pick_token(jnp.zeros(3), logits, Pick(temperature=0.0, top_k=2, top_p=0.5))
    assert tokens.dtype == jnp.int32
    np.testing.assert_array_equal(tokens, [1, 0])


@pytest.mark.parametrize(
    ("pick", "want"),
    [
        (Pick(), PROBABILITY),
        (Pick(temperature=0.5), PROBABILITY**2),
        (Pick(temperature=2.0), PROBABILITY**0.5),
        (Pick(top_k=2), PROBABILITY * [0, 1, 0, 1, 0]),
        (Pick(top_p=0.71), PROBABILITY * [0, 1, 0, 1, 1]),  # top_p works though top_k is not set
        (Pick(top_k=3, top_p=0.5), PROBABILITY * [0, 1, 0, 1, 0]),  # 0.4 of the 0.85 that top_k left is too little
        (Pick(temperature=0.5, top_p=0.85), PROBABILITY**2 * [0, 1, 0, 1, 0]),  # temperature first
    ],
    ids=str,
)
def test_classes_are_picked_as_often_as_they_are_likely(pick, want):
    want = want / want.sum()
    got = picked(pick)
    assert (got[want == 0] == 0).all()
    np.testing.assert_allclose(got, want, atol=4 * 0.5 / 64)  # four standard deviations of 4096 picks


def test_each_key_decides_of_its_own_row():
    rows = jnp.broadcast_to(LOGITS, (64, 5))
    keys = [jax.random.split(jax.random.key(seed), 64) for seed in (0, 0, 1)]
    one, again, other = (pick_token(gumbel(k, (5,)), rows, Pick()) for k in keys)
    np.testing.assert_array_equal(pick_token(gumbel(keys[0][7:9], (5,)), rows[7:9], Pick()), one[7:9])
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


@pytest.mark.parametrize("scale", [0.05, 1.0, 40.0])
def test_the_logistic_over_256_values_is_what_its_distribution_function_says(scale):
    values, mean = np.arange(256), 17.3
    cdf = lambda x: 0.5 * (1 + np.tanh((x - mean) / scale / 2))  # noqa: E731, float64
    mass = np.diff([0.0, *cdf(values[:-1] + 0.5), 1.0])
    nll = np.asarray(discretised_logistic(jnp.uint8(values), jnp.float32(mean), jnp.float32(scale)), np.float64)
    np.testing.assert_allclose(np.exp(-nll), mass, rtol=2e-4, atol=1e-12)
    np.testing.assert_allclose(np.exp(-nll).sum(), 1, rtol=1e-4)
    assert np.isfinite(nll).all()  # also 240 / 0.05 scales away, where float64 has no mass left


def test_the_logistic_of_a_mean_far_outside_is_finite():
    nll = discretised_logistic(jnp.uint8([0, 255]), jnp.float32([400.0, -300.0]), jnp.float32(0.1))
    assert np.isfinite(nll).all() and (np.asarray(nll) > 1000).all()
