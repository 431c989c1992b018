"""k-means and the start from it: beside a loop in numpy; once, in training, and remembered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_quantizers import assert_same, is_row_of, nearest_by_hand, small, stepper, unit, vectors

from vqvae_jax.quantizers import codebook as cb

STARTING = pytest.mark.parametrize("name", ["vq-kmeans", "ema-kmeans", "cosine-kmeans"])


def lloyd_by_hand(centres, z, iterations):
    centres = np.asarray(centres, np.float64).copy()
    for _ in range(iterations):
        index = nearest_by_hand(z, centres)
        for k in np.unique(index):
            centres[k] = z[index == k].mean(0)
    return centres


@pytest.mark.parametrize("blocks", ["one", "many"])
def test_equals_a_loop(blocks, monkeypatch):
    if blocks == "many":
        for name, value in {"ROWS": 8, "CODES": 4, "DISTANCES": 16}.items():
            monkeypatch.setattr(cb, name, value)
    z = vectors(0, 60, 3)
    first = cb.kmeans(jax.random.key(0), z, 7, 0)
    assert is_row_of(first, z).all() and len(np.unique(first, axis=0)) == 7
    np.testing.assert_allclose(cb.kmeans(jax.random.key(0), z, 7, 5), lloyd_by_hand(first, z, 5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [1, 3, 6])
def test_with_fewer_vectors_than_codes_each_is_a_code(count):
    z = vectors(0, count, 3)
    codes = cb.kmeans(jax.random.key(0), jnp.asarray(z), 7, 4)
    assert np.isfinite(codes).all() and is_row_of(z, codes, atol=1e-6).all()


@STARTING
def test_the_first_training_step_looks_up_in_k_means_of_its_batch(name):
    quantizer = small(name)
    book, z_e, key = quantizer.init(jax.random.key(0)), vectors(1, 4, 8, 8, 4) * 0.3 + 1, jax.random.key(5)
    z = unit(z_e).reshape(-1, 4) if "cosine" in name else z_e.reshape(-1, 4)
    out = quantizer(book, z_e, key=key, train=True)
    first = cb.kmeans(jax.random.fold_in(key, 0), jnp.asarray(z, jnp.float32), 12, 0)
    codes = lloyd_by_hand(first, z, 3)
    codes = unit(codes) if "cosine" in name else codes
    index = nearest_by_hand(z, codes)
    np.testing.assert_allclose(out.losses["commitment"], ((z - codes[index]) ** 2).mean(), rtol=2e-2)
    assert np.mean(np.ravel(out.indices[0]) == index) > 0.98 and len(np.unique(index)) > 6  # rounding of close calls
    assert out.codebook.stats["started"] and not book.stats["started"]
    if name == "ema-kmeans":
        smoothed = out.codebook.stats["sum"] / out.codebook.stats["count"][:, None]
        np.testing.assert_allclose(smoothed, out.codebook.codes, rtol=1e-3)


@STARTING
def test_it_happens_once_and_a_run_that_goes_on_remembers(name):
    quantizer = small(name, revive_after=0)
    step, batches = stepper(quantizer), [vectors(i, 2, 4, 4, 4) + 10 * i for i in range(3)]
    book = step(quantizer.init(jax.random.key(0)), batches[0], jax.random.key(0)).codebook
    restored = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), book)
    for i in (1, 2):
        out = step(book, batches[i], jax.random.key(i))
        again = step(restored, batches[i], jax.random.key(i))
        assert_same(out, again)
        if name != "ema-kmeans":
            np.testing.assert_array_equal(out.codebook.codes, book.codes)
        book, restored = out.codebook, again.codebook


@STARTING
def test_neither_init_nor_evaluation_starts_it(name):
    """Statistics of a dummy forward pass would poison the codebook."""
    quantizer = small(name)
    book = quantizer.init(jax.random.key(0))
    assert_same(book.codes, small(name.removesuffix("-kmeans")).init(jax.random.key(0)).codes)
    assert_same(quantizer(book, vectors(1, 1, 2, 2, 4), key=jax.random.key(1)).codebook, book)


def test_codes_that_start_have_the_gradient_of_where_they_start():
    quantizer = small("vq-kmeans", revive_after=0)
    book, z_e, key = quantizer.init(jax.random.key(0)), vectors(1, 2, 4, 4, 4) + 5, jax.random.key(2)

    def loss(codes):
        out = quantizer(book.replace(codes=codes), z_e, key=key, train=True)
        return out.losses["codebook"], out

    got, out = jax.grad(loss, has_aux=True)(book.codes)
    codes, index, want = np.asarray(out.codebook.codes), np.ravel(out.indices[0]), np.zeros((12, 4))
    np.add.at(want, index, 2 * (codes[index] - z_e.reshape(-1, 4)) / z_e.size)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_every_depth_starts_from_its_own_residuals():
    quantizer = small("residual-kmeans", depth=3)
    book, z_e = quantizer.init(jax.random.key(0)), vectors(1, 4, 8, 8, 4) * 0.01 + 3
    out = quantizer(book, z_e, key=jax.random.key(1), train=True)
    assert out.codebook.stats["started"].all()
    indices = quantizer(out.codebook, z_e).indices
    left = [np.mean((z_e - quantizer.lookup(out.codebook, indices[: d + 1])) ** 2) for d in range(3)]
    assert left[0] < 1e-3 and left[2] < 0.7 * left[1] < 0.5 * left[0]
