"""The gated PixelCNN: nothing sees itself or what comes later, everything before is seen, cached sampling is exact."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import quick
from small_priors import CODES, LABELS, drawn, levels, listening_sampler, made, maps, replayed

from vqvae_jax.networks.likelihood import cross_entropy, guide
from vqvae_jax.priors import PRIORS, pixelcnn
from vqvae_jax.priors.pixelcnn import PixelCNNPrior
from vqvae_jax.types import Condition, Pick, UserError

# Maps are not square, so that rows and columns cannot be mistaken for each other.
CASES: dict[str, dict[str, Any]] = {
    "plain": {"shape": (3, 4), "layers": 3, "output_blocks": 1},
    "near": {"shape": (3, 4), "layers": 4, "horizontal": 1, "vertical": 1, "merge": "sum", "norm": False, "depth": 10},
    "a single row": {"shape": (1, 6), "layers": 2, "depth": 10},
    "wide, label": {
        "shape": (3, 4),
        "layers": 2,
        "horizontal": 3,
        "vertical": 1,
        "num_labels": LABELS,
        "label_condition": True,
        "attention_after": (1, 2),
    },
    "high, coarse": {
        "shape": (4, 2),
        "layers": 2,
        "horizontal": 2,
        "vertical": 3,
        "merge": "sum",
        "coarse_sizes": (5,),
        "condition_blocks": 1,
        "attention_after": (1,),
    },
    "label, two coarse": {
        "shape": (4, 8),
        "layers": 3,
        "coarse_sizes": (4, 5),
        "condition_blocks": 1,
        "num_labels": LABELS,
        "label_condition": True,
        "attention_after": (2,),
    },
}
EVERY = pytest.mark.parametrize("case", CASES)


def prior_of(**fields):
    return made("pixelcnn", CODES, **{"depth": 8, "heads": 2} | fields)


@functools.cache
def built(case):
    prior = prior_of(**CASES[case])
    return prior, drawn(lambda key: prior.init(key, *maps(prior, 2)))


def test_the_reference_s_priors_have_its_sizes():
    def layers(prior):
        shape = prior.shape
        coarse = tuple(jnp.zeros((1, shape[0] // 2, shape[1] // 2), jnp.int32) for _ in prior.above)
        tokens = jnp.zeros((1, *shape), jnp.int32)
        return jax.eval_shape(lambda k: prior.init(k, tokens, Condition(None, coarse)), jax.random.key(0))["params"]

    top = layers(made("top_prior", 512, (4, 4)))
    names = list(top["pixel_cnn"])
    assert sum("kqv_projection" in top["pixel_cnn"][name] for name in names) == 4
    assert sum("horiz_residual" in top["pixel_cnn"][name] for name in names) == 19
    assert len(names) == 24 and sum(name.startswith("blocks_") for name in top) == 10
    bottom = layers(made("bottom_prior", 512, (4, 4), coarse_sizes=(512,)))
    assert len(bottom["pixel_cnn"]) == 20 and sum(name.startswith("block") for name in bottom["coarse_stack"]) == 9
    assert len(layers(made("mnist_generator", 32, (7, 7)))["pixel_cnn"]) == 8


# --- causality


def influence(case):
    """d logits[i] / d embedding[j] at every pair of raster positions, as the size of a random projection: [i, j]."""
    prior, params = built(case)
    height, width = prior.shape
    positions = height * width
    tokens, condition = maps(prior, 1)
    tokens, condition = jax.tree.map(lambda a: jnp.repeat(a, positions, 0), (tokens, condition))
    weight = jnp.asarray(np.random.default_rng(9).normal(size=CODES), jnp.float32)

    def own(x):  # example i of the batch looks at its position i
        def logits(m):
            return m.to_logits(m._merged(*m.pixel_cnn(x, m._condition(condition, positions, False))))

        out = prior.apply(params, method=logits).reshape(positions, positions, CODES)
        return jnp.sum(jnp.einsum("iik,k->i", out, weight))

    x = prior.apply(params, method=lambda m: m.embed(tokens))
    return np.abs(quick(jax.grad(own))(x)).max(-1).reshape(positions, positions)


@EVERY
def test_each_position_sees_all_before_it_and_neither_itself_nor_any_later_one(case):
    """No leak and no blind spot, by gradient at every position, with conditions and attention."""
    got = influence(case)
    before = np.tri(len(got), k=-1, dtype=bool)
    assert not got[~before].any(), np.argwhere((got > 0) & ~before)
    assert got[before].all(), np.argwhere((got == 0) & before)


@pytest.mark.parametrize(("horizontal", "vertical"), [(1, 1), (3, 1), (2, 3)])
def test_layer_a_looks_back_as_far_as_it_says(horizontal, vertical):
    """The reference's A ignores these numbers; ours obeys them."""
    layer = pixelcnn.PixelConvA(3, 4, horizontal=horizontal, vertical=vertical)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 7, 3)), jnp.float32)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
    params = jax.tree.map(lambda a: jnp.asarray(np.random.default_rng(1).normal(size=a.shape), a.dtype), shapes)

    def seen(x):
        outs = layer.apply(params, x)
        return jnp.stack([jnp.sum(out[0, 4, 3] * jnp.arange(1, 5)) for out in outs])

    gradient = np.abs(quick(jax.jacrev(seen))(x))[:, 0].max(-1) > 0  # [stack, row, column]
    rows, columns = np.indices((5, 7))
    above = (rows < 4) & (rows >= 4 - vertical) & (abs(columns - 3) <= horizontal)
    left = (rows == 4) & (columns < 3) & (columns >= 3 - horizontal)
    np.testing.assert_array_equal(gradient[0], above)
    np.testing.assert_array_equal(gradient[1], above | left)


@pytest.mark.parametrize("case", ["wide, label", "high, coarse", "label, two coarse"])
def test_conditions_reach_every_position(case):
    prior, params = built(case)
    tokens, condition = maps(prior, 1)
    others = [
        Condition(condition.label, (*condition.coarse[:i], (c + 1) % level.vocab_size, *condition.coarse[i + 1 :]))
        for i, (c, level) in enumerate(zip(condition.coarse, prior.above, strict=True))
    ]
    if prior.label_condition:
        others.append(condition._replace(label=condition.label + 1))
    run = quick(prior.apply)
    one = run(params, tokens, condition)
    for other in others:
        assert (np.abs(run(params, tokens, other) - one).max(-1) > 0).all()


def test_a_coarse_cell_speaks_of_its_own_place():
    prior, params = built("high, coarse")
    _, condition = maps(prior, 2)
    changed = condition.coarse[0].at[:, 1, 0].add(1) % 5
    cond = quick(lambda c: prior.apply(params, method=lambda m: m._condition(Condition(None, (c,)), 2, False)))
    moved = np.abs(cond(changed) - cond(condition.coarse[0])).max((0, 3))
    assert moved.shape == (4, 2) and moved[2:4].min() > moved[0].max()  # rows 2 and 3 lie under it


def test_beyond_the_border_is_no_code():
    """There is no start token; a first pixel sees zeros, which no code's embedding is."""
    prior, params = built("plain")
    assert params["params"]["embed"]["embedding"].shape == (CODES, 8)
    fresh = jax.eval_shape(lambda key: prior.init(key, *maps(prior, 1)), jax.random.key(0))["params"]
    assert fresh["to_logits"]["kernel"].shape[-1] == CODES  # nor can one be sampled
    tokens = jnp.zeros((CODES, 3, 4), jnp.int32).at[:, 0, 0].set(jnp.arange(CODES))
    second = quick(prior.apply)(params, tokens, Condition())[:, 0, 1]
    first = quick(prior.apply)(params, tokens, Condition())[:, 0, 0]
    np.testing.assert_allclose(first, first[:1].repeat(CODES, 0), atol=1e-6)
    every = np.concatenate([first[:1], second])
    assert all(np.abs(every[i] - every[j]).max() > 1e-3 for i in range(len(every)) for j in range(i))


# --- sampling


class Sampled(NamedTuple):
    tokens: np.ndarray  # [B, h, w]
    logits: np.ndarray  # [B, h, w, K], as the cached path saw them when it picked


def sample(prior, params, key, count, condition, pick, monkeypatch):
    """Cached sampling, with the logits overheard at each pick."""
    return Sampled(*listening_sampler(prior, count, pick, monkeypatch)(params, key, condition))


@EVERY
def test_cached_sampling_equals_the_full_forward(case, monkeypatch):
    """The same logits at every position, and the very tokens that the same keys pick from them."""
    prior, params = built(case)
    _, condition = maps(prior, 3)
    key = jax.random.split(jax.random.key(5), 3)
    got = sample(prior, params, key, 3, condition, Pick(), monkeypatch)
    want = quick(prior.apply)(params, jnp.asarray(got.tokens), condition)
    np.testing.assert_allclose(got.logits, want, atol=1e-5 * np.abs(want).max())
    np.testing.assert_array_equal(got.tokens, replayed(prior, key, want, Pick()))
    assert len(np.unique(got.tokens)) > 2


def test_greedy_sampling_takes_the_likeliest_token_of_the_full_forward(monkeypatch):
    prior, params = built("wide, label")
    _, condition = maps(prior, 3)
    got = sample(
        prior, params, jax.random.split(jax.random.key(5), 3), 3, condition, Pick(temperature=0.0), monkeypatch
    )
    want = quick(prior.apply)(params, jnp.asarray(got.tokens), condition)
    np.testing.assert_array_equal(got.tokens, want.argmax(-1))


def test_guidance_moves_away_from_what_is_said_without_the_label(monkeypatch):
    prior, params = built("label, two coarse")
    _, condition = maps(prior, 2)
    key, pick = jax.random.split(jax.random.key(5)), Pick(guidance=2.5, top_k=3)
    got = sample(prior, params, key, 2, condition, pick, monkeypatch)
    run = quick(prior.apply)
    given = run(params, jnp.asarray(got.tokens), condition)
    blind = run(params, jnp.asarray(got.tokens), condition._replace(label=jnp.full(2, LABELS, jnp.int32)))
    want = blind + 2.5 * (given - blind)
    np.testing.assert_allclose(got.logits, want, atol=2e-5 * np.abs(want).max())
    np.testing.assert_array_equal(got.tokens, replayed(prior, key, want, pick))


def test_guide_of_weight_1_and_0_is_with_and_without_the_label():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5)), jnp.float32)
    np.testing.assert_allclose(guide(logits, True, 1.0), logits[:3], atol=1e-6)
    np.testing.assert_allclose(guide(logits, True, 0.0), logits[3:], atol=1e-6)
    np.testing.assert_array_equal(guide(logits, False, 3.0), logits)


def test_samples_are_drawn_by_their_key_and_as_often_as_they_are_likely():
    """All 16 maps of 2 x 2 binary tokens: their probabilities add up to 1, and samples follow them."""
    prior = made("pixelcnn", 2, (2, 2), depth=4, layers=1)
    every = jnp.asarray(np.indices((2,) * 4).reshape(4, 16).T.reshape(16, 2, 2), jnp.int32)
    params = drawn(lambda key: prior.init(key, every, Condition()))
    params["params"]["to_logits"]["kernel"] *= 3.0  # some maps much likelier than others
    nll = cross_entropy(quick(prior.apply)(params, every, Condition()), every)
    likely = np.exp(-np.asarray(nll, np.float64).sum((1, 2)))
    assert likely.sum() == pytest.approx(1, abs=1e-5)
    assert likely.max() > 2 * likely.min()

    count = 4096
    run = quick(lambda keys: prior.apply(params, keys, Condition(), Pick(), method="sample")[0])
    one, again, other = (np.asarray(run(jax.random.split(jax.random.key(seed), count))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    seen = np.bincount(one.reshape(count, 4) @ [8, 4, 2, 1], minlength=16)
    surprise = ((seen - count * likely) ** 2 / (count * likely)).sum()
    assert surprise < 37.7  # chi-square of 15 degrees of freedom, exceeded once in a thousand


# --- labels and dropout


def test_no_label_is_the_label_after_the_last():
    prior, params = built("wide, label")
    tokens, condition = maps(prior, 2)
    run = quick(prior.apply)
    none, null = run(params, tokens, Condition()), run(params, tokens, Condition(jnp.full(2, LABELS, jnp.int32)))
    np.testing.assert_array_equal(none, null)
    assert (none != run(params, tokens, condition)).any()


def test_labels_are_hidden_in_training_only():
    prior, params = built("wide, label")
    tokens, condition = maps(prior, 3)
    hide = prior.clone(label_dropout=1.0)
    run = quick(lambda p, c, key: hide.apply(p, tokens, c, train=True, rngs={"dropout": key}))
    hidden = run(params, condition, jax.random.key(0))
    plain = quick(hide.apply)
    np.testing.assert_allclose(hidden, plain(params, tokens, Condition()), atol=1e-5)
    assert (np.abs(hidden - plain(params, tokens, condition)).max((1, 2, 3)) > 1e-3).all()  # evaluation hides none


def test_a_share_of_the_labels_is_hidden():
    prior, params = built("wide, label")
    half = prior.clone(label_dropout=0.5)
    labels = Condition(jnp.arange(400, dtype=jnp.int32) % LABELS)

    def embedded(key):
        return half.apply(params, method=lambda m: m._condition(labels, 400, True), rngs={"dropout": key})

    table = params["params"]["embed_label"]["embedding"]
    hidden = (np.asarray(embedded(jax.random.key(0))) == table[LABELS][None]).all(-1)
    assert 150 < hidden.sum() < 250
    np.testing.assert_array_equal(embedded(jax.random.key(0))[~hidden], table[labels.label[~hidden]])


def test_dropout_acts_in_training_only_and_by_its_key():
    prior, params = built("plain")
    dropping = prior.clone(dropout=0.5)
    tokens, condition = maps(prior, 2)
    run = quick(lambda key: dropping.apply(params, tokens, condition, train=True, rngs={"dropout": key}))
    one, again, other = (run(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    still = quick(dropping.apply)(params, tokens, condition)
    np.testing.assert_array_equal(still, quick(prior.apply)(params, tokens, condition))
    assert (still != one).any()


def test_bfloat16_logits_are_near_those_of_float32():
    prior, params = built("label, two coarse")
    tokens, condition = maps(prior, 2)
    want = quick(prior.apply)(params, tokens, condition)
    got = quick(prior.clone(dtype=jnp.bfloat16).apply)(params, tokens, condition)
    np.testing.assert_allclose(got, want, atol=0.05 * np.abs(want).max())
    assert got.dtype == jnp.float32 and (got != got.astype(jnp.bfloat16)).any()  # not rounded: else many classes tie


@pytest.mark.parametrize(
    ("shape", "sizes", "shapes"),
    [
        ((7, 7), (5,), ()),
        ((7, 7), (5,), ((3, 3),)),
        ((8, 8), (5, 5), ((4, 4), (1, 1))),
        ((8, 8), (5, 5), ((4, 4), (2, 2))),
    ],
)
def test_coarser_maps_that_it_cannot_bring_to_size_are_refused(shape, sizes, shapes):
    fields = levels(CODES, shape, sizes, shapes)
    with pytest.raises(UserError, match="each size must be half of the next; the prior 'transformer'"):
        PixelCNNPrior.fits(**fields)
    PRIORS["transformer"].fits(**fields)


def test_attention_follows_layers_that_are_there():
    with pytest.raises(UserError, match=r"attention_after=\[4\]: there are layers 1 to 3"):
        made("pixelcnn", 6, (3, 4), depth=8, heads=2, layers=3, attention_after=(2, 4)).init(
            jax.random.key(0), jnp.zeros((1, 3, 4), jnp.int32)
        )


def test_a_layer_looks_back_at_all():
    with pytest.raises(UserError, match="at least one column and one row; got horizontal=2, vertical=0"):
        made("pixelcnn", 6, (3, 4), vertical=0).init(jax.random.key(0), jnp.zeros((1, 3, 4), jnp.int32))
