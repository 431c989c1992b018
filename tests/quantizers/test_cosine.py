"""Codes on the sphere: look-up, losses and gradients beside numpy; revival."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_quantizers import is_row_of, losses_of, small, unit, vectors

CASES = pytest.mark.parametrize("name", ["cosine", "cvq-sphere"])


def to_raw(gradient, raw):
    """A gradient with respect to x / |x| as one with respect to x: what is along x falls away."""
    length, u = np.linalg.norm(raw, axis=-1, keepdims=True), unit(raw)
    return (gradient - u * (gradient * u).sum(-1, keepdims=True)) / length


@CASES
def test_the_code_is_the_one_at_the_smallest_angle_whatever_the_lengths(name):
    quantizer = small(name)
    book, z_e = quantizer.init(jax.random.key(0)), vectors(1, 2, 3, 5, 4)
    book = book.replace(codes=book.codes * jnp.arange(1.0, 13.0)[:, None])
    out = quantizer(book, z_e)
    z, codes = unit(z_e.reshape(-1, 4)), unit(book.codes)
    chosen = (z @ codes.T).argmax(-1)
    np.testing.assert_array_equal(np.ravel(out.indices[0]), chosen)
    np.testing.assert_allclose(out.z_q.reshape(-1, 4), codes[chosen], rtol=1e-5)
    for loss in out.losses.values():
        np.testing.assert_allclose(loss, ((z - codes[chosen]) ** 2).mean(), rtol=1e-5)


@CASES
def test_gradients_are_those_derived_by_hand(name):
    quantizer = small(name)
    book, z_e, weight = quantizer.init(jax.random.key(0)), vectors(1, 2, 3, 5, 4), vectors(2, 2, 3, 5, 4)
    book = book.replace(codes=book.codes * 3)
    raw, codes = z_e.reshape(-1, 4).astype(np.float64), np.asarray(book.codes, np.float64)
    chosen = (unit(raw) @ unit(codes).T).argmax(-1)
    pull = 2 * (unit(codes)[chosen] - unit(raw)) / raw.size
    on_codes = np.zeros_like(codes)
    np.add.at(on_codes, chosen, pull)
    near = lambda got, want: np.testing.assert_allclose(got.reshape(want.shape), want, rtol=1e-4, atol=1e-7)  # noqa: E731

    to_codes, to_encoder = jax.grad(losses_of(quantizer, "codebook"), (0, 2))(book.codes, book, z_e)
    near(to_codes, to_raw(on_codes, codes))
    assert np.abs(to_codes).max() > 1e-3 and not to_encoder.any()
    to_codes, to_encoder = jax.grad(losses_of(quantizer, "commitment"), (0, 2))(book.codes, book, z_e)
    near(to_encoder, to_raw(-pull, raw))
    assert not to_codes.any()
    onward = lambda codes, z_e: jnp.sum(quantizer(book.replace(codes=codes), z_e).z_q * weight)  # noqa: E731
    to_codes, to_encoder = jax.grad(onward, (0, 1))(book.codes, z_e)
    near(to_encoder, to_raw(weight.reshape(-1, 4), raw))
    assert not to_codes.any()


@CASES
def test_a_vector_of_zeros_stays_finite(name):
    quantizer = small(name)
    book, z_e = quantizer.init(jax.random.key(0)), jnp.zeros((1, 2, 2, 4))
    total = lambda codes, z_e: sum(quantizer(book.replace(codes=codes), z_e).losses.values())  # noqa: E731
    out = quantizer(book, z_e, key=jax.random.key(1), train=True)
    for leaf in jax.tree.leaves((out, jax.grad(total, (0, 1))(book.codes, z_e))):
        assert np.isfinite(leaf).all()


def test_a_revived_code_is_the_direction_of_a_vector_of_the_batch():
    quantizer = small("cosine")
    book, z_e = quantizer.init(jax.random.key(0)), vectors(1, 1, 1, 3, 4) * 20
    book = book.replace(stats={"idle": jnp.full(12, 4)})
    out = quantizer(book, z_e, key=jax.random.key(1), train=True)
    assert out.fresh.sum() >= 9
    assert is_row_of(out.codebook.codes[np.asarray(out.fresh)], unit(z_e.reshape(-1, 4)), atol=1e-6).all()
    np.testing.assert_array_equal(out.codebook.codes[~np.asarray(out.fresh)], book.codes[~np.asarray(out.fresh)])
