"""MaskGIT beyond what holds for every prior: what is hidden, the order in which tokens are decided, what it is told."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import quick
from small_priors import CODES, LABEL, LABELS, TEXT, drawn, made

from vqvae_jax.priors.condition import unstacked
from vqvae_jax.priors.maskgit import STRATA
from vqvae_jax.priors.reveal import Drawn, Reveal, halton_order, noises, share_hidden, stay_hidden
from vqvae_jax.types import Condition, Level, Pick, UserError

SMALL = {"width": 16, "layers": 2, "heads": 2}
TOLD = {"shape": (2, 4), "coarse_sizes": (5,), "depths": 2, **LABEL, **TEXT, **SMALL}
COUNT = 4
KEYS = jax.random.split(jax.random.key(3), COUNT)


def built(**fields):
    """(prior, parameters, its condition)."""
    prior = made("maskgit", CODES, **fields)
    label = jnp.arange(COUNT) % LABELS if prior.label_condition else None
    above = tuple(jnp.arange(COUNT * math.prod(one.shape)).reshape(COUNT, *one.shape) % 5 for one in prior.above)
    text = jnp.ones((COUNT, prior.text.length), jnp.int32) if prior.text else None
    told = Condition(label, above, text)
    maps = tuple(jnp.zeros((COUNT, *level.shape), jnp.int32) for level in prior.maps)
    return prior, drawn(lambda key: prior.init(key, maps, told, KEYS, method="loss")), told


def logits(prior, params, tokens, told):
    return quick(lambda *a: prior.apply(*a, method="logits"))(params, tokens, told)


# --- sampling


def test_a_step_a_token_without_noise_on_the_choice_is_the_surest_token_after_another():
    """The sampler beside a plain loop: a token is drawn for all that is hidden, the surest one of them is decided."""
    prior, params, told = built(shape=(3, 4), **LABEL, **SMALL, sample_steps=12, sample_choice_temperature=0.0)
    (got,) = quick(lambda p, told: prior.apply(p, KEYS, told, Pick(), method="sample"))(params, told)
    tokens = np.full((COUNT, 12), prior.mask)
    for step in range(12):
        said = np.asarray(jax.nn.log_softmax(logits(prior, params, jnp.asarray(tokens), told)))
        guess = np.argmax(said + noises(KEYS, step, (12, CODES))[0], axis=-1)
        sure = np.where(tokens == prior.mask, np.take_along_axis(said, guess[..., None], -1)[..., 0], -np.inf)
        for row, place in enumerate(sure.argmax(-1)):
            tokens[row, place] = guess[row, place]
    np.testing.assert_array_equal(np.reshape(got, (COUNT, 12)), tokens)
    assert len(np.unique(tokens)) > 2


@pytest.mark.parametrize("order", ["confidence", "halton"])
@pytest.mark.parametrize("steps", [1, 3, 8, 50])
def test_what_is_kept_stays_and_all_else_is_drawn(order, steps):
    """Any number of steps, more of them than tokens too; any places kept: all, one, none."""
    prior, params, told = built(**{**TOLD, "layers": 1}, sample_steps=steps, sample_order=order)
    rng = np.random.default_rng(0)
    known = jnp.asarray(rng.integers(0, CODES, (COUNT, 2, 4, 2)))
    keep = rng.random((COUNT, 2, 4, 2)) < 0.5
    keep[0], keep[1] = True, False
    keep[2], keep[2, 0, 0, 0] = True, False
    draw = quick(lambda p, *given: prior.apply(p, KEYS, told, Pick(guidance=2.0), *given, method="sample"))
    got = np.stack(draw(params, unstacked(known), unstacked(jnp.asarray(keep))), axis=-1)
    np.testing.assert_array_equal(got[keep], known[keep])
    assert got.min() >= 0 and got.max() < CODES and (got != known)[~keep].any()


@pytest.mark.parametrize("order", ["confidence", "halton"])
@pytest.mark.parametrize("schedule", ["cosine", "arccos", "linear"])
@pytest.mark.parametrize("steps", [1, 2, 5, 16])
def test_each_step_decides_some_of_the_hidden_for_good(order, schedule, steps):
    """Of 16 tokens, of which 16, 7 and 1 are hidden: what was decided stays so, as many are left as is scheduled."""
    rng = np.random.default_rng(0)
    at_first = np.array([[True] * 16, [True] * 7 + [False] * 9, [False] * 15 + [True]])
    left, begun = at_first, at_first.sum(1)
    for step in range(steps):
        found = Drawn(rng.integers(0, 9, (3, 16)), rng.normal(size=(3, 16, 9)), at_first, left)
        noise = jnp.asarray(rng.gumbel(size=(3, 16)), jnp.float32)
        how = Reveal((2, 4, 2), order, schedule, 4.5)
        after = np.asarray(stay_hidden(how, Drawn(*map(jnp.asarray, found)), noise, step, steps))
        assert not (after & ~left).any()
        share = float(share_hidden(schedule, (step + 1) / steps))
        wanted = np.maximum(1, np.minimum(left.sum(1) - 1, np.floor(begun * share + 1e-6)))
        assert (np.abs(after.sum(1) - wanted) <= (0 if schedule == "linear" else 1)).all()
        assert ((after.sum(1) < left.sum(1)) | (left.sum(1) == 1)).all()
        left = after
    assert (left.sum(1) == 1).all()


def test_a_halton_sequence_meets_every_place_once_and_spreads_them():
    order = halton_order((8, 8, 2))
    assert sorted(order) == list(range(128)) and (order[:64] % 2 == 0).all() and (order[64:] % 2 == 1).all()
    first = order[:4] // 2
    # 1/2, 1/4, 3/4, 1/8 of the rows; 1/3, 2/3, 1/9, 4/9 of the columns
    assert [divmod(int(place), 8) for place in first] == [(4, 2), (2, 5), (6, 0), (1, 3)]
    assert {(place // 8 // 4, place % 8 // 4) for place in first} == {(0, 0), (0, 1), (1, 0)}


def test_guidance_may_grow():
    """In a single step it is all there; in several it begins with less."""
    for steps, same in ((1, True), (6, False)):
        prior, params, told = built(shape=(3, 4), **LABEL, **SMALL, sample_steps=steps)
        maps = []
        for how in ("constant", "linear"):
            one = prior.clone(sample_guidance=how)
            draw = quick(lambda p, told, one=one: one.apply(p, KEYS, told, Pick(guidance=8.0), method="sample"))
            maps.append(draw(params, told))
        assert (np.asarray(maps[0][0]) == np.asarray(maps[1][0])).all() == same


# --- training and evaluation


@pytest.mark.parametrize(("schedule", "mean"), [("cosine", 2 / math.pi), ("arccos", 2 / math.pi), ("linear", 0.5)])
def test_a_share_of_its_own_is_hidden_from_each_image(schedule, mean):
    prior = made("maskgit", CODES, (4, 4), schedule=schedule)
    hidden = np.asarray(jax.jit(jax.vmap(prior._hidden_in_training))(jax.random.split(jax.random.key(0), 4000)))
    counts = hidden.sum(1)
    assert counts.min() >= 1 and counts.max() == 16 and len(np.unique(counts)) == 16
    assert counts.mean() / 16 == pytest.approx(mean, abs=0.02)
    np.testing.assert_allclose(hidden.mean(0), counts.mean() / 16, atol=0.04)  # any place as often


def test_in_evaluation_each_number_of_hidden_tokens_is_as_likely():
    prior = made("maskgit", CODES, (2, 3))
    hidden = np.asarray(jax.jit(jax.vmap(prior._hidden_in_evaluation))(jax.random.split(jax.random.key(0), 3000)))
    counts = hidden.sum(2)
    shares = np.bincount(counts.ravel(), minlength=7)[1:] / counts.size
    np.testing.assert_allclose(shares, 1 / 6, atol=0.015)
    assert hidden.shape[1] == STRATA and (np.diff(counts, axis=1) >= 0).all()  # strata, in order


def test_the_loss_is_the_mean_over_what_is_hidden_with_smooth_labels():
    prior, params, told = built(shape=(3, 4), **SMALL, smoothing=0.1)
    rng = np.random.default_rng(1)
    tokens, hidden = rng.integers(0, CODES, (COUNT, 12)), rng.random((COUNT, 12)) < 0.4
    hidden[:, 0] = True
    run = lambda train: prior.apply(params, tokens, hidden, told, train=train, method="masked")  # noqa: E731
    said = logits(prior, params, jnp.where(hidden, prior.mask, tokens), told)
    said = np.asarray(jax.nn.log_softmax(said), np.float64)
    for train, smoothing in ((True, 0.1), (False, 0.0)):
        target = (1 - smoothing) * np.eye(CODES)[tokens] + smoothing / CODES
        each = -np.sum(target * said, -1)
        want = [one[here].mean() for one, here in zip(each, hidden, strict=True)]
        np.testing.assert_allclose(run(train), want, rtol=1e-5)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_every_parameter_learns(norm):
    """Labels, texts, coarser maps, "no label" and the mask among them."""
    prior, params, told = built(**{**TOLD, "layers": 1}, norm=norm)
    told = told._replace(label=jnp.array([0, 1, LABELS, LABELS]), text=jnp.arange(COUNT * 3).reshape(COUNT, 3) % 7)
    tokens = jnp.where(jnp.arange(16)[None] % 3 == 0, prior.mask, jnp.arange(64).reshape(COUNT, 16) % CODES)
    loss = lambda p: jnp.sum(jax.nn.log_softmax(prior.apply(p, tokens, told, method="logits"))[..., 0])  # noqa: E731
    for path, gradient in jax.tree.leaves_with_path(quick(jax.grad(loss))(params)):
        where = jax.tree_util.keystr(path)
        assert np.isfinite(gradient).all()
        if not where.endswith("['key']['bias']"):  # moves all scores of a position alike
            assert np.abs(gradient).max() > 0, where
    words = quick(jax.grad(loss))(params)["params"]["words"]["embedding"]
    used = [*range(CODES), prior.vocab_size, prior.vocab_size + 1, prior.mask, prior.mask + 1]
    assert (np.abs(words[jnp.array(used)]).max(1) > 0).all()


def test_each_place_sees_every_token_that_is_shown():
    """The neighbours of its own 3x3 and all others; what lies under a mask it cannot see."""
    prior, params, _ = built(shape=(3, 4), **SMALL)
    base = np.random.default_rng(0).integers(0, CODES, (1, 12))
    others = np.repeat(base, 13, 0)
    others[np.arange(12), np.arange(12)] = (base[0] + 1) % CODES
    said = np.asarray(logits(prior, params, jnp.asarray(others), Condition()))
    assert (np.abs(said[:12] - said[12]).max(-1) > 0).all()


def test_in_bfloat16_logits_are_float32():
    prior = made("maskgit", CODES, **TOLD, dtype=jnp.bfloat16)
    told = Condition(jnp.zeros(2, jnp.int32), (jnp.zeros((2, 1, 2), jnp.int32),), jnp.ones((2, 3), jnp.int32))
    maps = tuple(jnp.zeros((2, 2, 4), jnp.int32) for _ in range(2))
    params = jax.eval_shape(lambda key: prior.init(key, maps, told, KEYS[:2], method="loss"), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    tokens = jnp.zeros((2, 16), jnp.int32)
    said = jax.eval_shape(lambda p: prior.apply(p, tokens, told, method="logits"), params)
    assert (said.shape, said.dtype) == ((2, 16, CODES), jnp.float32)
    new = jax.eval_shape(lambda p: prior.apply(p, KEYS[:2], told, Pick(guidance=2.0), method="sample"), params)
    assert [(one.shape, one.dtype) for one in new] == [((2, 2, 4), jnp.int32)] * 2


# --- what is refused


def test_maps_it_cannot_model_are_refused():
    numbers = (Level("codes", (4, 4), None, 2),)
    with pytest.raises(UserError, match="MaskGIT reads codes"):
        made("maskgit", CODES, (4, 4)).fits(numbers, ())
    with pytest.raises(UserError, match="cannot be told of the larger above 8x8 of 5 codes"):
        made("maskgit", CODES, (4, 4)).fits((Level("own", (4, 4), 9),), (Level("above", (8, 8), 5),))
    with pytest.raises(UserError, match="width=16 does not divide among heads=3"):
        built(shape=(2, 2), width=16, heads=3)


def test_without_hidden_labels_it_never_does_without_one():
    prior, params, told = built(shape=(2, 2), **{**LABEL, "label_dropout": 0.0}, **SMALL)
    assert params["params"]["words"]["embedding"].shape[0] == CODES + LABELS + 1  # no word for "no label"
    with pytest.raises(UserError, match="guidance=2 weighs the label against none"):
        prior.apply(params, KEYS, told, Pick(guidance=2.0), method="sample")
    with pytest.raises(UserError, match="no label is told"):
        prior.apply(params, KEYS, Condition(), Pick(), method="sample")
