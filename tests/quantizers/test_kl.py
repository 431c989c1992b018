"""The continuous bottleneck: its scale, its noise, its pull; what it does beside codes is in the contract."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_quantizers import stepper, vectors

from vqvae_jax.quantizers.kl import KLBottleneck, divergence, mean_and_deviation, moments, noisy, statistics
from vqvae_jax.types import UserError

SHAPE = (8, 4, 4)
WHERE, WIDE = np.array([3.0, -1.0], np.float32), np.array([0.2, 5.0], np.float32)


def encoded(seed, log_variance=-4.0):
    """Means around WHERE, as far apart as WIDE, each with the same log-variance."""
    mean = WHERE + WIDE * vectors(seed, *SHAPE, 2)
    return np.concatenate([mean, np.full_like(mean, log_variance)], -1)


def after(steps, **fields):
    quantizer = KLBottleneck(2, **fields)
    book, step = quantizer.init(jax.random.key(0)), stepper(quantizer)
    for i in range(steps):
        book = step(book, encoded(i), jax.random.key(i)).codebook
    return quantizer, book


@pytest.mark.parametrize("steps", [1, 60])
def test_maps_have_mean_0_and_deviation_1_from_the_first_step(steps):
    """An average that began at 0 and 1 would lag behind; lookup is the inverse, at the encoder's own scale."""
    quantizer, book = after(steps)
    out = quantizer(book, encoded(1000))
    flat = np.asarray(out.indices[0]).reshape(-1, 2)
    np.testing.assert_allclose(flat.mean(0), 0, atol=0.25)
    np.testing.assert_allclose(flat.std(0), 1, atol=0.15)
    np.testing.assert_allclose(quantizer.lookup(book, out.indices), encoded(1000)[..., :2], rtol=1e-4, atol=1e-4)


def test_the_running_statistics_are_those_of_a_loop():
    _, book = after(5, decay=0.8)
    weight = 0.8 ** np.arange(5)[::-1]
    mean, square = (
        np.average([encoded(i)[..., :2].astype(float).__pow__(n).mean((0, 1, 2)) for i in range(5)], 0, weight)
        for n in (1, 2)
    )
    got = mean_and_deviation(book)
    np.testing.assert_allclose(got[0], mean, rtol=1e-4)
    np.testing.assert_allclose(got[1], np.sqrt(square - mean**2), rtol=1e-3)


def test_a_fresh_one_changes_no_scale():
    quantizer, book = after(0)
    np.testing.assert_allclose(quantizer(book, encoded(0)).indices[0], encoded(0)[..., :2], rtol=1e-6)


def test_the_noise_is_as_large_as_the_encoder_says_and_drawn_by_its_key():
    quantizer, book = after(1)
    z_e = np.concatenate([np.zeros((64, 16, 16, 2)), np.full((64, 16, 16, 2), 2 * np.log(0.3))], -1).astype(np.float32)
    step = stepper(quantizer)
    one, other = (np.asarray(step(book, z_e, jax.random.key(i)).z_q) for i in (0, 1))
    assert one.std() == pytest.approx(0.3, rel=0.02) and abs(one.mean()) < 0.01 and (one != other).mean() > 0.99
    assert not np.asarray(quantizer(book, z_e).z_q).any()  # evaluation: the mean


def test_kl_is_that_of_two_normals_and_0_at_the_prior():
    """Against an integral."""
    quantizer, book = after(0)
    assert float(quantizer(book, np.zeros((1, 1, 1, 4), np.float32)).losses["kl"]) == 0
    mean, deviation = 0.7, 0.4
    x = np.linspace(-9, 9, 20001)
    log_p = -0.5 * ((x - mean) / deviation) ** 2 - np.log(deviation)
    wanted = np.trapezoid(np.exp(log_p) * (log_p + 0.5 * x**2), x) / np.sqrt(2 * np.pi)
    z_e = np.full((1, 1, 1, 4), mean, np.float32)
    z_e[..., 2:] = 2 * np.log(deviation)
    assert float(quantizer(book, z_e).losses["kl"]) == pytest.approx(wanted, rel=1e-5)


def test_log_variances_are_clipped_as_the_authors_do():
    """And what follows is of the clipped ones: no overflow, no noise to speak of."""
    z_e = np.array([[1.0, 1.0, 50.0, -50.0]], np.float32)
    mean, log_variance = moments(z_e)
    np.testing.assert_array_equal(log_variance, [[20, -30]])
    np.testing.assert_allclose(divergence(mean, log_variance), [[0.5 * (np.exp(20) - 20), 15]], rtol=1e-6)
    np.testing.assert_allclose(noisy(mean, log_variance, np.ones((1, 2))), [[1 + np.exp(10), 1]], rtol=1e-6)


def test_statistics_of_a_known_scale_are_given_back():
    mean, deviation = np.array([3.0, 0.0], np.float32), np.array([2.0, 1 / 0.18215], np.float32)
    book = KLBottleneck(2).init(jax.random.key(0)).replace(stats=statistics(mean, deviation))
    for found, wanted in zip(mean_and_deviation(book), (mean, deviation), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_gradients_reach_mean_and_log_variance():
    quantizer, book = after(1)
    moved = jax.grad(lambda z_e: jnp.sum(quantizer(book, z_e, key=jax.random.key(0), train=True).z_q ** 2))(encoded(0))
    assert (np.abs(moved).reshape(-1, 4).max(0) > 0).all()


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="decay is a share.*got 1.0"):
        KLBottleneck(decay=1.0)
