"""Group norm is Linen's with the exact variance, in value and gradient, and keeps its digits far from 0."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import quick

from vqvae_jax.networks.norm import EPSILON, GroupNorm

# channels, groups asked for, groups that there are
CASES = {
    "a channel each": (8, 32, 8),
    "several channels": (12, 3, 3),
    "no common number": (9, 32, 1),
    "64": (64, 32, 32),
}


def noise(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def both(layer, params, x, weight):
    """Value, and gradients of Σ value · weight."""

    def total(params, x):
        out = layer.apply({"params": params}, x)
        return jnp.sum(out * weight), out

    (_, out), gradients = quick(jax.value_and_grad(total, (0, 1), has_aux=True))(params, x)
    return out, gradients


@pytest.mark.parametrize("mean", [0.0, 300.0])
@pytest.mark.parametrize("case", CASES)
def test_it_is_linen_s_in_value_and_gradient(case, mean):
    channels, asked, groups = CASES[case]
    x, weight = noise(0, 2, 3, 5, channels) + np.float32(mean), noise(1, 2, 3, 5, channels)
    params = {"scale": noise(2, channels), "bias": noise(3, channels)}
    epsilon = EPSILON if mean else 1e-2
    got = both(GroupNorm(asked, epsilon=epsilon), params, x, weight)
    want = both(nn.GroupNorm(groups, epsilon=epsilon, use_fast_variance=False), params, x, weight)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max()), got, want)


def test_a_large_mean_costs_no_digits():
    """Against float64: x itself is rounded, and no more is lost."""
    x = noise(0, 1, 4, 4, 8) + np.float32(1e4)
    params = {"scale": np.ones(8, np.float32), "bias": np.zeros(8, np.float32)}
    whole = np.asarray(x, np.float64).reshape(1, 16, 2, 4)
    mean, variance = whole.mean((1, 3), keepdims=True), whole.var((1, 3), keepdims=True)
    want = ((whole - mean) / np.sqrt(variance + EPSILON)).reshape(x.shape)
    np.testing.assert_allclose(quick(GroupNorm(2).apply)({"params": params}, x), want, atol=2e-3)


def test_statistics_of_bfloat16_are_float32():
    x = jnp.asarray(noise(0, 1, 8, 8, 4) + 30, jnp.bfloat16)
    params = {"scale": np.ones(4, np.float32), "bias": np.zeros(4, np.float32)}
    low = quick(GroupNorm(2, jnp.bfloat16).apply)({"params": params}, x)
    assert low.dtype == jnp.bfloat16
    want = quick(GroupNorm(2).apply)({"params": params}, x.astype(jnp.float32))
    np.testing.assert_allclose(low.astype(np.float32), want, atol=0.02)
