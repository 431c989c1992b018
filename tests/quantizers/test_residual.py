"""Residuals, their losses and gradients beside numpy; one table or many; dropout of depths; clearing of moments."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_quantizers import assert_same, losses_of, nearest_by_hand, small, stepper, vectors

from vqvae_jax.quantizers import CosineQuantizer, CVQuantizer, FiniteScalarQuantizer, ResidualQuantizer, VectorQuantizer
from vqvae_jax.tasks.optimize import apply_gradients, new_state
from vqvae_jax.types import UserError

SHARED = pytest.mark.parametrize("shared", [False, True], ids=["tables", "one table"])
DEPTH = 3


def tables(book):
    """The table of each depth: [depth] of [K, D]."""
    codes = np.asarray(book.codes, np.float64)
    return [codes] * DEPTH if codes.ndim == 2 else list(codes)


def code_by_hand(z, tables):
    """[N, D] → residuals before each depth and after the last, chosen codes, indices; each a list over depths."""
    residuals, chosen, indices = [np.asarray(z, np.float64)], [], []
    for codes in tables:
        indices.append(nearest_by_hand(residuals[-1], codes))
        chosen.append(codes[indices[-1]])
        residuals.append(residuals[-1] - chosen[-1])
    return residuals, chosen, indices


@SHARED
def test_codes_sum_up_and_losses_are_means_over_depths(shared):
    quantizer = small("residual", shared=shared)
    book, z_e = quantizer.init(jax.random.key(0)), vectors(1, 2, 3, 5, 4) * 2
    out = quantizer(book, z_e)
    assert book.codes.shape == ((12, 4) if shared else (DEPTH, 12, 4)) and quantizer.vocab_sizes == (12,) * DEPTH
    z = z_e.reshape(-1, 4)
    _, chosen, indices = code_by_hand(z, tables(book))
    np.testing.assert_array_equal([np.ravel(one) for one in out.indices], indices)
    np.testing.assert_allclose(out.z_q.reshape(-1, 4), sum(chosen), rtol=1e-5, atol=1e-6)
    running = np.cumsum(chosen, axis=0)  # RQ-VAE: z_e beside the sum of codes so far
    for term in ("commitment", "codebook"):
        np.testing.assert_allclose(out.losses[term], np.mean([(z - so_far) ** 2 for so_far in running]), rtol=1e-5)


@SHARED
def test_any_first_depths_can_be_looked_up(shared):
    quantizer = small("residual", shared=shared)
    book, z_e = quantizer.init(jax.random.key(0)), vectors(1, 2, 3, 5, 4) * 2
    indices = quantizer(book, z_e).indices
    running = np.cumsum(code_by_hand(z_e.reshape(-1, 4), tables(book))[1], axis=0)
    for d in range(DEPTH):
        got = quantizer.lookup(book, indices[: d + 1])
        np.testing.assert_allclose(got.reshape(-1, 4), running[d], rtol=1e-5, atol=1e-6)


@SHARED
def test_gradients_at_every_depth_are_those_derived_by_hand(shared):
    """Residuals that are not detached leave the depths below the first without commitment."""
    quantizer = small("residual", shared=shared)
    book, z_e = quantizer.init(jax.random.key(0)), vectors(1, 2, 3, 5, 4) * 2
    residuals, _, indices = code_by_hand(z_e.reshape(-1, 4), tables(book))
    want = np.zeros((DEPTH, 12, 4))
    for d in range(DEPTH):
        np.add.at(want[d], indices[d], -2 * residuals[d + 1] / z_e.size / DEPTH)
    to_codes, to_encoder = jax.grad(losses_of(quantizer, "codebook"), (0, 2))(book.codes, book, z_e)
    np.testing.assert_allclose(to_codes, want.sum(0) if shared else want, rtol=1e-4, atol=1e-6)
    assert (np.abs(want).max((1, 2)) > 1e-3).all() and not to_encoder.any()
    to_codes, to_encoder = jax.grad(losses_of(quantizer, "commitment"), (0, 2))(book.codes, book, z_e)
    pull = 2 * sum(residuals[1:]) / z_e.size / DEPTH
    np.testing.assert_allclose(to_encoder.reshape(-1, 4), pull, rtol=1e-4, atol=1e-6)
    assert not to_codes.any()
    onward = jax.grad(lambda z_e: jnp.sum(quantizer(book, z_e).z_q * z_e.shape[-1]))(z_e)
    np.testing.assert_array_equal(onward, 4.0)  # straight through


@SHARED
def test_averages_move_once_by_the_residuals(shared):
    """One table by those of all depths together, tables of their own each by its own."""
    quantizer = small("residual", inner="ema", shared=shared, revive_after=0, decay=0.8)
    inner, book, z_e = quantizer.inner, quantizer.init(jax.random.key(0)), vectors(1, 2, 3, 5, 4) * 2
    got = quantizer(book, z_e, key=jax.random.key(1), train=True).codebook
    residuals = code_by_hand(z_e.reshape(-1, 4), tables(book))[0][:DEPTH]
    step = lambda book, r: inner(book, np.float32(r).reshape(-1, 3, 5, 4), key=jax.random.key(2), train=True).codebook  # noqa: E731
    if shared:
        want = step(book, np.concatenate(residuals))
    else:
        each = [step(jax.tree.map(lambda x, d=d: x[d], book), r) for d, r in enumerate(residuals)]
        want = jax.tree.map(lambda *x: jnp.stack(x), *each)
    assert np.abs(want.codes - book.codes).max() > 0.01
    jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-5), got, want)


@pytest.mark.parametrize("inner", ["vq", "ema", "cvq"])
def test_one_depth_is_the_inner_quantizer(inner):
    one = small("residual", inner=inner, depth=1)
    book, z_e = one.inner.init(jax.random.key(0)), vectors(1, 2, 3, 5, 4)
    tables = jax.tree.map(lambda x: x[None], book)
    got, want = one(tables, z_e), one.inner(book, z_e)
    assert_same((got.z_q, got.indices, got.losses), (want.z_q, want.indices, want.losses))
    moved = one(tables, z_e, key=jax.random.key(1), train=True)
    assert moved.fresh.shape == (1, 12)


# --- dropout


def with_dropout(shared, batch=8):
    quantizer = small("residual", inner="ema", shared=shared, dropout=1.0, revive_after=0, decay=0.8)
    return quantizer, quantizer.init(jax.random.key(0)), vectors(1, batch, 2, 2, 4) * 2


def depths_used(out, z_e, book):
    """How many codes were summed up for each example: which partial sum z_q is."""
    chosen = code_by_hand(z_e.reshape(-1, 4), tables(book))[1]
    running = np.cumsum(chosen, axis=0).reshape(DEPTH, *z_e.shape)
    return np.abs(running - np.asarray(out.z_q)).max((2, 3, 4)).argmin(0) + 1


@SHARED
def test_depths_that_an_example_does_not_use_neither_learn_nor_count(shared):
    quantizer, book, z_e = with_dropout(shared)
    out = quantizer(book, z_e, key=jax.random.key(1), train=True)
    last = depths_used(out, z_e, book)
    assert set(last) == {1, 2, 3}
    residuals, chosen, indices = code_by_hand(z_e.reshape(-1, 4), tables(book))
    running = np.cumsum(chosen, axis=0).reshape(DEPTH, *z_e.shape)
    np.testing.assert_allclose(out.z_q, running[last - 1, np.arange(8)], rtol=1e-4, atol=1e-5)
    # What counts as used: the codes of examples that go as deep.
    goes_on = [np.repeat(last > d, 4) for d in range(DEPTH)]
    used = np.stack([np.bincount(indices[d][goes_on[d]], minlength=12) > 0 for d in range(DEPTH)])
    np.testing.assert_array_equal(np.asarray(out.codebook.stats["idle"]) == 0, used.any(0) if shared else used)
    # What learns: an example feels the losses of its own depths alone.
    loss = lambda z_e: quantizer(book, z_e, key=jax.random.key(1), train=True).losses["commitment"]  # noqa: E731
    gradient = np.asarray(jax.grad(loss)(z_e)).reshape(8, -1) * z_e.size * DEPTH / 2
    for b, depths in enumerate(last):
        own = np.stack([residuals[d + 1].reshape(8, -1)[b] for d in range(depths)], axis=1)
        weights = np.linalg.lstsq(own, gradient[b])[0]
        np.testing.assert_allclose(own @ weights, gradient[b], atol=1e-4)
        assert (weights > 0.1).all()
        if not shared:  # everyone is at depth 0, so nobody stands at two places there
            np.testing.assert_allclose(weights[0], 1, rtol=1e-4)


def test_a_mean_over_examples_in_turn_is_that_of_the_examples_that_go_on():
    """4 of 8 go on: everyone stands at two places, so nothing is approximate."""
    quantizer, book, z_e = with_dropout(shared=False)
    for i in range(200):
        last = depths_used(quantizer(book, z_e, key=jax.random.key(i), train=True), z_e, book)
        if (last > 1).sum() == 4 and (last > 2).sum() == 2:
            break
    out = quantizer(book, z_e, key=jax.random.key(i), train=True)
    residuals = code_by_hand(z_e.reshape(-1, 4), tables(book))[0]
    each = [(residuals[d + 1][np.repeat(last > d, 4)] ** 2).sum() / z_e.size for d in range(DEPTH)]
    np.testing.assert_allclose(out.losses["commitment"], np.mean(each), rtol=1e-5)


def test_the_depths_are_alike_likely_and_dropout_is_of_so_many_examples():
    for share in (1.0, 0.5):
        last = small("residual", dropout=share)._used(jax.random.key(0), 9000).sum(0)
        want = np.array([1, 1, 1]) * share / 3 + np.array([0, 0, 1 - share])
        np.testing.assert_allclose(np.bincount(last, minlength=4)[1:] / 9000, want, atol=0.02)


def test_a_depth_that_nobody_reaches_stays_as_it_was():
    quantizer, book, z_e = with_dropout(shared=False, batch=1)
    step, seen = stepper(quantizer), set()
    for i in range(12):
        out = step(book, z_e, jax.random.key(i))
        last = int(depths_used(out, z_e, book)[0])
        for d in range(DEPTH):
            now, before = (jax.tree.map(lambda x, d=d: x[d], b) for b in (out.codebook, book))
            assert (np.asarray(now.stats["idle"]) != np.asarray(before.stats["idle"])).any() == (d < last)
            assert (d < last) or not out.fresh[d].any()
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out))
        seen.add(last)
    assert len(seen) > 1


@SHARED
def test_evaluation_uses_all_depths(shared):
    quantizer, book, z_e = with_dropout(shared)
    assert (depths_used(quantizer(book, z_e, key=jax.random.key(1)), z_e, book) == DEPTH).all()


# --- the rest


def test_moments_of_revived_codes_are_cleared_depth_by_depth():
    quantizer = small("residual", depth=2, codebook_size=3)
    books = {"codes": quantizer.init(jax.random.key(0))}
    tx = optax.adam(0.1)
    state = new_state(jax.random.key(1), {}, books, tx, 0.0)
    grads = {"network": {}, "codes": {"codes": (jnp.ones((2, 3, 4)), {})}}
    state = apply_gradients(state, grads, tx, state.codebooks)
    fresh = jnp.array([[True, False, False], [False, False, True]])
    none = jax.tree.map(jnp.zeros_like, grads)
    state = apply_gradients(state, none, tx, state.codebooks, {"codes": fresh})
    mean = state.opt_state[0].mu["codes"]["codes"][0]
    np.testing.assert_allclose(mean[..., 0], np.where(fresh, 0, 0.09), rtol=1e-5)


def test_what_cannot_be_inside_is_refused():
    inside = (CosineQuantizer(), FiniteScalarQuantizer(), CVQuantizer(distance="sphere"), small("residual"))
    for inner in inside:
        with pytest.raises(UserError, match="inner may be vq, ema, simvq, or cvq"):
            ResidualQuantizer(inner)
    with pytest.raises(UserError, match="kmeans_iterations=0"):
        ResidualQuantizer(VectorQuantizer(kmeans_iterations=2), shared=True)
    with pytest.raises(UserError, match="dropout from 0 to 1"):
        ResidualQuantizer(VectorQuantizer(), dropout=2.0)


def test_without_a_key_training_says_what_to_type():
    with pytest.raises(ValueError, match="key=key, train=True"):
        small("residual")(small("residual").init(jax.random.key(0)), jnp.zeros((1, 2, 2, 4)), train=True)
