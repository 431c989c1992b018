"""CVQ-VAE's blend with anchors, computed another way; its cosine look-up; where its anchors come from."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_quantizers import is_row_of, losses_of, nearest_by_hand, small, stepper, unit, vectors

from vqvae_jax.quantizers import CVQuantizer
from vqvae_jax.quantizers import codebook as cb
from vqvae_jax.quantizers.cvq import contrast
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


def spread(quantizer):
    """A new codebook with codes as far apart as the vectors are."""
    book = quantizer.init(jax.random.key(0))
    return book.replace(codes=jax.random.normal(jax.random.key(0), book.codes.shape))


@pytest.mark.parametrize("distance", ["l2", "sphere"])
def test_steps_equal_a_loop(distance):
    quantizer = small("cvq", decay=0.5, distance=distance, codebook_size=30)
    seen = unit if distance == "sphere" else np.asarray
    book, step, middling = spread(quantizer), stepper(quantizer), 0
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


def test_losses_on_the_sphere_are_those_of_the_look_up():
    """The paper's code looks up by angle and compares raw vectors: then a loss may rise as the angle falls."""
    quantizer = small("cvq-sphere")
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
    with pytest.raises(UserError, match="There are: l2, cos, sphere"):
        CVQuantizer(distance="euclid")
    with pytest.raises(UserError, match="'cosine' is called 'sphere' now"):
        CVQuantizer(distance="cosine")
    with pytest.raises(UserError, match="decay"):
        CVQuantizer(decay=1.0)


# --- beside the authors' code


RECORDED = Path(__file__).parents[1] / "reference" / "cvq.npz"
RUNS = {"l2": {"distance": "l2"}, "cosine": {"distance": "cos"}}
RUNS["cosine_contrastive"] = {"distance": "cos", "contrastive": True}


def near(ours, recorded, tolerance=2e-5):
    np.testing.assert_allclose(ours, recorded, rtol=0, atol=tolerance * np.abs(recorded).max() + 1e-9)


def alone(codes):
    """Which codes have no near twin, bool [K]: dead ones blend into one anchor but for a thousandth of themselves, and
    which of them is found then is a matter of rounding."""
    codes = np.asarray(codes, np.float64)
    apart = np.linalg.norm(codes[:, None] - codes[None], axis=-1) + np.eye(len(codes)) * 1e9
    return apart.min(1) > 1e-2


def as_the_authors_have_it(to_codes, to_unit, codes, blended):
    """The contrastive term's gradient passes a division whose saved codes the blend has overwritten, lengths not."""
    length = np.linalg.norm(codes, axis=-1, keepdims=True)
    through = lambda w: to_unit / length - w * np.sum(w * to_unit, -1, keepdims=True) / length**3  # noqa: E731
    return to_codes - through(np.asarray(codes)) + through(np.asarray(blended))


@pytest.mark.parametrize("run", RUNS)
def test_the_authors_quantizer_step_by_step(run):
    """Twelve training steps and an evaluation of theirs: z_q, loss, gradients, blended codes, usage, Adam."""
    with np.load(RECORDED) as file:
        record = {name.removeprefix(f"{run}/"): file[name] for name in file if name.startswith((f"{run}/", "meta/"))}
    quantizer = CVQuantizer(32, 8, float(record["meta/decay"]), **RUNS[run])
    adam = optax.adam(float(record["meta/learning_rate"]))
    codes = jnp.asarray(record["codes/0"])
    book, moments = quantizer.init(jax.random.key(0)).replace(codes=codes), adam.init(codes)

    def loss(codes, book, z_e, weight, train):
        out = quantizer(book.replace(codes=codes), z_e, key=jax.random.key(0), train=train)
        beta = {"commitment": record["meta/beta"]}
        weighed = sum(beta.get(term, 1) * value for term, value in out.losses.items())
        return weighed + jnp.mean(out.z_q * weight), (out, weighed)

    step = jax.jit(jax.value_and_grad(loss, (0, 2), has_aux=True), static_argnums=4)
    to_unit = jax.jit(jax.grad(lambda unit, z: contrast(cb.normalised(z), unit, True)))
    for s in range(12):
        at = {name.removeprefix(f"step{s}/"): x for name, x in record.items() if name.startswith(f"step{s}/")}
        (_, (out, weighed)), (to_codes, to_z) = step(codes, book, at["z_e"], at["weight_on_z_q"], True)
        if quantizer.contrastive:
            of_unit = to_unit(cb.normalised(codes), at["z_e"].reshape(-1, 8))
            to_codes = as_the_authors_have_it(to_codes, of_unit, codes, at["codes_after_blend"])
        near(out.z_q, at["z_q"])
        near(weighed, at["loss"])
        near(to_z, at["grad_z_e"])
        apart = alone(codes)
        assert apart.sum() > 3
        near(to_codes[apart], at["grad_codes"][apart], 1e-4)
        near(out.codebook.stats["share"][apart], at["share"][apart])
        near(out.codebook.codes[apart], at["codes_after_blend"][apart])
        updates, moments = adam.update(jnp.asarray(at["grad_codes"]), moments)
        near((out.codebook.codes + updates)[apart], at["codes_after_adam"][apart])
        codes = jnp.asarray(at["codes_after_adam"])  # twins have been told apart
        book = out.codebook.replace(stats=out.codebook.stats | {"share": jnp.asarray(at["share"])})
    out = quantizer(book.replace(codes=codes), record["eval/z_e"])
    near(out.z_q, record["eval/z_q"])
