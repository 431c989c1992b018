"""CVQ-VAE's blend with anchors, computed another way; its cosine look-up; where its anchors come from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_quantizers import is_row_of, losses_of, nearest_by_hand, small, stepper, unit, vectors

from vqvae_jax.quantizers import CVQuantizer
from vqvae_jax.quantizers import codebook as cb
from vqvae_jax.types import UserError


def blend_by_hand(codes, share, z, decay):
    """One step as the paper says, code by code, with the closest anchors. → codes, share, alpha"""
    chosen, size = nearest_by_hand(z, codes), len(codes)
    new, alphas = codes.copy(), np.zeros(size)
    for k in range(size):
        share[k] = decay * share[k] + (1 - decay) * np.mean(chosen == k)
        alphas[k] = np.exp(-share[k] * size * 10 / (1 - decay) - 1e-3)
        anchor = z[((z - codes[k]) ** 2).sum(-1).argmin()]
        new[k] = (1 - alphas[k]) * codes[k] + alphas[k] * anchor
    return new, share, alphas


@pytest.mark.parametrize("distance", ["l2", "cosine"])
def test_steps_equal_a_loop(distance):
    quantizer = small("cvq", decay=0.5, distance=distance, codebook_size=30)
    seen = unit if distance == "cosine" else np.asarray
    book, step, middling = quantizer.init(jax.random.key(0)), stepper(quantizer), 0
    codes, share = np.asarray(book.codes, np.float64), np.zeros(30)
    for i in range(6):
        z_e = vectors(i, 2, 10, 10, 4) * 3
        codes, share, alpha = blend_by_hand(seen(codes), share, seen(z_e.reshape(-1, 4)), 0.5)
        out = step(book, z_e, jax.random.key(i))
        book = out.codebook
        np.testing.assert_allclose(book.stats["share"], share, rtol=1e-5, atol=1e-8)
        np.testing.assert_allclose(book.codes, codes, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(out.fresh, alpha > 0.5)
        middling += ((alpha > 0.01) & (alpha < 0.9)).sum()
    assert middling > 5  # neither all old nor all anchor


def test_an_unused_code_becomes_its_anchor_in_one_step_and_a_used_one_stays():
    quantizer = small("cvq")
    book = quantizer.init(jax.random.key(0))
    book = book.replace(codes=book.codes.at[6:].add(100.0))
    z_e = vectors(1, 2, 9, 9, 4)
    out = quantizer(book, z_e, key=jax.random.key(1), train=True)
    np.testing.assert_array_equal(out.fresh, np.arange(12) >= 6)
    assert is_row_of(out.codebook.codes[6:], z_e.reshape(-1, 4), atol=0.2).all()  # 0.1 % of 100 is left
    np.testing.assert_allclose(out.codebook.codes[:6], book.codes[:6], atol=0.1)


@pytest.mark.parametrize("anchor", ["closest", "random", "probabilistic"])
def test_anchors_are_vectors_of_the_batch(anchor):
    quantizer = small("cvq", anchor=anchor)
    book = quantizer.init(jax.random.key(0))
    z_e = vectors(1, 2, 3, 3, 4) * 0.1
    book = book.replace(codes=(jnp.arange(12.0) * 0.3 + 5 * (jnp.arange(12) > 0))[:, None] * jnp.ones((1, 4)))
    assert not quantizer(book, z_e).indices[0].any()  # all but the first are unused
    drawn = [quantizer(book, z_e, key=jax.random.key(i), train=True).codebook.codes[1:] for i in (0, 1)]
    for codes in drawn:
        assert is_row_of((codes - 0.0009995 * book.codes[1:]) / 0.9990005, z_e.reshape(-1, 4), atol=1e-3).all()
    assert (drawn[0] == drawn[1]).all() == (anchor == "closest")


def test_anchors_that_are_drawn_need_a_key():
    for anchor in ("random", "probabilistic"):
        with pytest.raises(ValueError, match="needs a key in training"):
            small("cvq", anchor=anchor)(
                small("cvq").init(jax.random.key(0)), jnp.asarray(vectors(1, 1, 1, 3, 4)), train=True
            )


@pytest.mark.parametrize("blocks", ["one", "many"])
def test_probabilistic_anchors_have_the_probabilities_of_the_softmax(blocks, monkeypatch):
    """In blocks, the last of which overlaps the one before, as well."""
    if blocks == "many":
        for name, value in {"ROWS": 256, "CODES": 2, "DISTANCES": 8}.items():
            monkeypatch.setattr(cb, name, value)
    batch, code = vectors(0, 5, 3) * 0.7, vectors(1, 3) * 0.7
    drawn = cb.nearest(np.tile(code, (20000, 1)), batch, jax.random.key(0))
    weight = np.exp(-((batch - code) ** 2).sum(-1))
    np.testing.assert_allclose(np.bincount(drawn, minlength=5) / 20000, weight / weight.sum(), atol=0.012)


def test_cosine_losses_are_those_of_the_look_up():
    """The paper's code looks up by angle and compares raw vectors: then a loss may rise as the angle falls."""
    quantizer = small("cvq-cosine")
    book, z_e = quantizer.init(jax.random.key(0)), vectors(1, 2, 3, 5, 4)
    out, longer = quantizer(book, z_e), quantizer(book.replace(codes=book.codes * 7), z_e * 50)
    z, codes = unit(z_e.reshape(-1, 4)), unit(book.codes)
    chosen = (z @ codes.T).argmax(-1)
    np.testing.assert_array_equal(np.ravel(out.indices[0]), chosen)
    np.testing.assert_array_equal(longer.indices[0], out.indices[0])
    for term in ("codebook", "commitment"):
        np.testing.assert_allclose(out.losses[term], ((z - codes[chosen]) ** 2).mean(), rtol=1e-5)
        np.testing.assert_allclose(longer.losses[term], out.losses[term], rtol=1e-5)
    np.testing.assert_allclose(out.z_q.reshape(-1, 4), codes[chosen], rtol=1e-5)


def test_codebook_loss_has_the_gradient_derived_by_hand():
    quantizer = small("cvq")
    book, z_e = quantizer.init(jax.random.key(0)), vectors(1, 2, 3, 5, 4)
    to_codes, to_encoder = jax.grad(losses_of(quantizer, "codebook"), (0, 2))(book.codes, book, z_e)
    z, codes = z_e.reshape(-1, 4), np.asarray(book.codes)
    want = np.zeros_like(codes)
    for vector, index in zip(z, nearest_by_hand(z, codes), strict=True):
        want[index] += 2 * (codes[index] - vector) / z.size
    assert np.abs(to_codes).max() > 0.01 and not to_encoder.any()
    np.testing.assert_allclose(to_codes, want, rtol=1e-4, atol=1e-7)


def test_the_blend_has_no_gradient_to_the_encoder():
    quantizer = small("cvq")
    book = quantizer.init(jax.random.key(0))
    moved = lambda z_e: jnp.sum(quantizer(book, z_e, key=jax.random.key(1), train=True).codebook.codes)  # noqa: E731
    assert not jax.grad(moved)(vectors(1, 2, 3, 5, 4)).any()


def test_words_and_numbers_that_cannot_be():
    with pytest.raises(UserError, match="did you mean 'closest'"):
        CVQuantizer(anchor="closets")
    with pytest.raises(UserError, match="There are: l2, cosine"):
        CVQuantizer(distance="euclid")
    with pytest.raises(UserError, match="decay"):
        CVQuantizer(decay=1.0)
