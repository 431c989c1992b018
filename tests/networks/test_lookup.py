"""Rows of a table and sums of rows: both forms meet a loop, and Flax's own layer."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqvae_jax import backend
from vqvae_jax.networks import lookup
from vqvae_jax.networks.embed import Embed

PLATFORMS = ("cpu", "gpu")
TABLE = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
INDICES = np.random.default_rng(1).integers(0, 6, (4, 5))  # none is 6: a row without gradient
WEIGHT = np.random.default_rng(2).normal(size=(4, 5, 3)).astype(np.float32)


@pytest.fixture(params=PLATFORMS, autouse=True)
def computed_for(request, monkeypatch):
    monkeypatch.setattr(backend, "platform", lambda: request.param)
    return request.param


def looped(weight):
    """The gradient of Σ weight · table[indices], one by one."""
    total = np.zeros_like(TABLE, dtype=np.float64)
    for at in np.ndindex(INDICES.shape):
        total[INDICES[at]] += weight[at]
    return total


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradient_of_rows_is_their_sum_in_float32(dtype):
    """In 16 bits each vector is rounded, not their sum."""
    weight = jnp.asarray(WEIGHT, dtype)

    def loss(table):
        return jnp.sum((lookup.rows(table, INDICES, dtype) * weight).astype(jnp.float32))

    found = jax.jit(jax.grad(loss))(jnp.asarray(TABLE))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, looped(np.asarray(weight, np.float64)), rtol=1e-6, atol=1e-6)


def test_a_large_one_hot_matrix_is_not_made(monkeypatch):
    monkeypatch.setattr(lookup, "ONE_HOT", 0)
    jaxpr = jax.make_jaxpr(jax.grad(lambda table: jnp.sum(lookup.rows(table, INDICES) * WEIGHT)))(TABLE)
    assert "dot_general" not in str(jaxpr)


def test_on_a_gpu_nothing_is_added_by_atomics(computed_for):
    jaxpr = jax.make_jaxpr(jax.grad(lambda table: jnp.sum(lookup.rows(table, INDICES) * WEIGHT)))(TABLE)
    assert ("scatter" in str(jaxpr)) == (computed_for == "cpu")


def test_sums_equal_a_loop():
    found = lookup.sums(jnp.asarray(WEIGHT.reshape(-1, 3)), jnp.asarray(INDICES.reshape(-1)), 7)
    np.testing.assert_allclose(found, looped(WEIGHT), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_layer_is_flax_own_with_the_same_parameters(dtype):
    ours, theirs = Embed(7, 3, 0.5, dtype), nn.Embed(7, 3, dtype=dtype, embedding_init=nn.initializers.normal(0.5))
    params = ours.init(jax.random.key(0), INDICES)
    jax.tree.map(np.testing.assert_array_equal, params, theirs.init(jax.random.key(0), INDICES))
    np.testing.assert_array_equal(ours.apply(params, INDICES), theirs.apply(params, INDICES))


def test_a_number_beyond_the_table_is_no_vector():
    assert np.isnan(lookup.rows(jnp.asarray(TABLE), jnp.asarray([0, 7]))[1]).all()
