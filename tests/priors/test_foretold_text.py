"""A transformer that foretells texts as well, as in https://arxiv.org/abs/2102.12092: what the term "text" is, and that
neither texts nor maps are foretold from themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import quick
from small_priors import CODES, LABELS, drawn, made

from vqvae_jax.priors.condition import stacked
from vqvae_jax.types import Caption, Condition, UserError

WORDS, PLACES = 7, 4
FIELDS = {"width": 16, "layers": 2, "heads": 2, "foretell_text": True, "text_condition": True}
KINDS = {
    "coarse, pooled": {"coarse_sizes": (5,), "shape": (2, 4), "num_labels": 3, "label_condition": True}
    | {"pooled_text": True},
    "tied, depths": {"tied": True, "shape": (2, 2), "depths": 2},
}
EVERY = pytest.mark.parametrize("kind", KINDS)


def built(kind, count=6):
    """(prior, parameters, maps, condition); the second text ends early, the last says nothing."""
    prior = made("transformer", CODES, text=Caption(WORDS, PLACES), **FIELDS, **KINDS[kind])
    noise = np.random.default_rng(0)
    draw = lambda most, *shape: jnp.asarray(noise.integers(0, most, (count, *shape)), jnp.int32)  # noqa: E731
    text = (draw(WORDS - 1, PLACES) + 1).at[1, 2:].set(0).at[-1].set(0)
    label = draw(LABELS) if prior.label_condition else None
    condition = Condition(label, tuple(draw(5, *level.shape) for level in prior.above), text)
    maps = tuple(draw(CODES, *level.shape) for level in prior.maps)
    params = drawn(lambda key: prior.init(key, maps, condition, None, method="loss"))
    return prior, params, maps, condition


def text_logits(module, maps, condition):
    """[B, S, V]."""
    _, said, _ = module._forward(stacked(maps), condition, False)
    return module.prefix.logits(module.norm(said))


def losses(prior, **how):
    return quick(lambda *given: prior.apply(*given, None, **how, method="loss"))


@EVERY
def test_a_text_costs_what_each_word_does_after_those_before_it(kind):
    """Each word's probability is read from a pass of its own, over the words before it and nonsense from there on."""
    prior, params, maps, condition = built(kind)
    run = quick(lambda maps, condition: prior.apply(params, maps, condition, method=text_logits))
    other = Condition(*jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), (condition.label, condition.coarse)))
    other_maps = jax.tree.map(lambda x: (x + 1) % CODES, maps)
    cost, rows = np.zeros(6), np.arange(6)
    for place in range(PLACES):
        cut = condition.text.at[:, place:].set(jnp.roll(condition.text, 2, axis=0)[:, place:])
        said = np.float64(run(other_maps, other._replace(text=cut)))[:, place]
        probability = np.exp(said) / np.exp(said).sum(-1, keepdims=True)
        cost -= np.log(probability[rows, condition.text[:, place]])
    got = losses(prior)(params, maps, condition)["text"]
    np.testing.assert_allclose(got[:-1], cost[:-1] / PLACES, rtol=1e-4)
    assert got[-1] == 0 and got.dtype == jnp.float32  # a text that says nothing costs nothing
    assert said.shape == (6, WORDS)


@EVERY
def test_a_word_is_told_those_before_it_and_nothing_else(kind):
    """Another word changes what is said of all places behind its own, and of all of the map; codes change no word."""
    prior, params, maps, condition = built(kind)
    run = quick(lambda maps, condition: prior.apply(params, maps, condition, method=text_logits))
    image = quick(lambda condition: prior.apply(params, stacked(maps), condition))
    before, codes = run(maps, condition), image(condition)
    for place in range(PLACES):
        turned = condition._replace(text=condition.text.at[:, place].set(condition.text[:, place] % (WORDS - 1) + 1))
        moved = (run(maps, turned) != before).any(-1)
        np.testing.assert_array_equal(moved, np.broadcast_to(np.arange(PLACES) > place, moved.shape))
        assert (image(turned) != codes).any(-1).all()
    turned = jax.tree.map(lambda x: (x + 1) % CODES, maps)
    np.testing.assert_array_equal(run(turned, condition), before)


def test_who_says_its_own_input_again_is_right_by_chance():
    """Silent blocks and words like unit vectors: each position foretells what stands at it. Were a target there, every
    one would be right; and the first code would be the last word, were the start token not what foretells it."""
    count = 300
    prior, params, maps, condition = built("tied, depths", count)
    params = jax.tree.map(jnp.zeros_like, params)["params"]
    unit = lambda rows, size: 5 * jnp.eye(size, prior.width)[:rows]  # noqa: E731
    params["embed"]["embedding"] = params["embed"]["embedding"].at[:CODES].set(unit(CODES, CODES))
    params["prefix"]["words"]["embedding"] = unit(WORDS, WORDS)
    params["norm"]["norm"]["scale"] = jnp.ones(prior.width)
    condition = condition._replace(text=jnp.asarray(np.random.default_rng(1).integers(1, WORDS, (count, PLACES))))
    run = quick(lambda maps, condition: prior.apply({"params": params}, maps, condition, method=text_logits))
    said = run(maps, condition)
    np.testing.assert_array_equal(said[:, 1:].argmax(-1), condition.text[:, :-1])
    assert not said[:, 0].any()
    codes = stacked(maps)
    logits = quick(prior.apply)({"params": params}, codes, condition).reshape(count, -1, CODES)
    codes = codes.reshape(count, -1)
    np.testing.assert_array_equal(logits[:, 1:].argmax(-1), codes[:, :-1])
    assert not logits[:, 0].any()
    found = losses(prior)({"params": params}, maps, condition)
    assert found["nll"].mean() > np.log(CODES) and found["text"].mean() > np.log(WORDS - 1)
    pairs = (said[:, 1:], condition.text[:, 1:]), (logits[:, 1:], codes[:, 1:])
    right = [(one.argmax(-1) == wanted).mean() for one, wanted in pairs]
    np.testing.assert_allclose(right, [1 / (WORDS - 1), 1 / CODES], atol=0.06)


def test_a_text_that_is_hidden_is_not_foretold():
    """In training: the share of examples that cost nothing is that of the hidden ones, and all others cost the same."""
    prior, params, maps, condition = built("coarse, pooled", 200)
    condition = condition._replace(text=jnp.broadcast_to(condition.text[:1], condition.text.shape))
    hiding = prior.clone(text_dropout=0.5)
    got = losses(hiding, train=True, rngs={"dropout": jax.random.key(0)})(params, maps, condition)["text"]
    assert 0.35 < np.mean(got == 0) < 0.65
    plain = losses(prior)(params, maps, condition)["text"]
    np.testing.assert_allclose(got[got != 0], plain[0], rtol=1e-5)


def test_without_texts_there_is_none_to_foretell():
    for name, kind in (("foretell_text", "transformer"), ("pooled_text", "transformer"), ("pooled_text", "maskgit")):
        prior = made(kind, CODES, (2, 2), width=8, layers=1, heads=2, **{name: True})
        with pytest.raises(UserError, match=rf"{name}.* of texts: text_condition=true"):
            prior.init(jax.random.key(0), (jnp.zeros((1, 2, 2), jnp.int32),), Condition(), None, method="loss")
