"""What holds for every prior, of whatever kind: `types.Prior`, by two of the table and by toys of kinds to come."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import quick
from small_priors import CASES, CODES, HEARD, LABEL, TEXT, drawn, made
from toy_priors import GaussianPrior, MaskedPrior, NextScalePrior

from vqvae_jax.data.arrays import ArrayData
from vqvae_jax.data.token_arrays import TokenArrays
from vqvae_jax.networks.dit import DiT
from vqvae_jax.priors import PRIORS as TABLE
from vqvae_jax.priors.diffusion import DiffusionPrior
from vqvae_jax.priors.draw import draw
from vqvae_jax.tasks.optimize import make_optimizer
from vqvae_jax.tasks.prior import PriorTask
from vqvae_jax.types import Condition, Level, Model, Pick, UserError

SCALES = tuple(Level(f"codes.{i}", (side, side), CODES) for i, side in enumerate((1, 2, 4)))
COARSE = Level("top", (2, 2), 5)
PRIORS = {
    "pixelcnn": made("pixelcnn", CODES, **CASES["pixelcnn-depths, coarse"]),
    "transformer": made("transformer", CODES, **CASES["transformer"]),
    "maskgit": made("maskgit", CODES, (2, 3), (5,), depths=2, **LABEL, width=16, layers=1, heads=2, sample_steps=3),
    "var": made("var", CODES, ((1, 1), (2, 2), (2, 3)), (5,), **LABEL, width=16, layers=1, heads=2, phis=1),
    "diffusion": DiffusionPrior(
        (Level("bottom", (4, 4), None, 2),), DiT(2, 16, 1, 2, patch=2), (COARSE,), **LABEL, sample_steps=3
    ),
    "masked": MaskedPrior((Level("bottom", (4, 4), CODES),), (COARSE,)),
    "next scale": NextScalePrior(SCALES),
    "numbers": GaussianPrior((Level("codes", (3, 4), None, 2),)),
}
TERMS = {"numbers": ["mse"], "diffusion": ["mse_over_time"]}
LEARNED = TERMS | {"maskgit": ["masked"], "diffusion": ["denoising"]}  # in training
# Those that can be told texts, and are told a label as well.
SMALL = {"width": 16, "layers": 1, "heads": 2}
SPOKEN_TO = {
    "pixelcnn": made("pixelcnn", CODES, (2, 2), **LABEL, **TEXT, depth=8, layers=1),
    "transformer": made("transformer", CODES, (2, 2), **LABEL, **TEXT, **HEARD, **SMALL),
    "maskgit": made("maskgit", CODES, (2, 2), **LABEL, **TEXT, **SMALL, pooled_text=True, sample_steps=3),
    "var": made("var", CODES, ((1, 1), (2, 2)), **LABEL, **TEXT, **SMALL, phis=0, local=True),
    "diffusion": DiffusionPrior((Level("a", (2, 2), None, 2),), DiT(2, 16, 1, 2), **LABEL, **TEXT, sample_steps=3),
}
EVERY = pytest.mark.parametrize("kind", PRIORS)
OPTIMIZER = {"learning_rate": 0.02, "schedule": "constant", "warmup_steps": 0, "clip": 0.0, "weight_decay": 0.0}
OPTIMIZER |= {"b1": 0.9, "b2": 0.999, "eps": 1e-8}
COUNT = 24


def test_each_kind_of_the_table_is_here():
    """Presets are the kind that they are presets of."""
    of = lambda kind: next(one for one in kind.__mro__ if "loss" in vars(one))  # noqa: E731
    assert {of(kind) for kind in TABLE.values()} <= {type(prior) for prior in PRIORS.values()}


def drawn_maps(prior, count=COUNT, seed=0):
    """Maps of a few values, so that there is something to learn: of the levels above, then its own."""
    noise = np.random.default_rng(seed)

    def one(level):
        if level.vocab_size is None:
            return (noise.normal(size=(count, *level.form)) + 3).astype(np.float16)
        return noise.integers(0, 3, (count, *level.shape))

    return tuple(one(level) for level in (*prior.above, *prior.maps))


def task_of(prior, **fields):
    own = slice(len(prior.above), len(prior.above) + len(prior.maps))
    return PriorTask(prior, own, make_optimizer(OPTIMIZER, 100), **fields)


def arrays(prior):
    label = np.arange(COUNT, dtype=np.int32) % max(prior.num_labels, 1)
    return TokenArrays(drawn_maps(prior), label if prior.num_labels else None)


@functools.cache
def learned(kind):
    """(task, the loss before and after some steps, what it learned)."""
    prior = PRIORS[kind]
    task, data = task_of(prior), ArrayData(arrays(prior), 8, 0)
    state, step = quick(task.init)(jax.random.key(0), data.batch(0)), quick(task.train_step)
    losses = []
    for number in range(25):
        state, metrics = step(state, data.batch(number))
        losses.append(float(metrics["loss"]))
    assert {"loss", *LEARNED.get(kind, ["nll"]), "grad_norm"} <= set(metrics)
    return task, losses, task.model(state)


def given(prior, count):
    """(keys, condition, own maps) of so many examples."""
    levels = (*prior.above, *prior.maps)
    drawn = drawn_maps(prior, count)
    maps = tuple(jnp.asarray(one, level.dtype) for one, level in zip(drawn, levels, strict=True))
    label = jnp.zeros(count, jnp.int32) if prior.num_labels else None
    condition = Condition(label, maps[: len(prior.above)])
    return jax.random.split(jax.random.key(3), count), condition, maps[len(prior.above) :]


@EVERY
def test_it_learns(kind):
    _, losses, _ = learned(kind)
    assert np.mean(losses[-5:]) < 0.8 * losses[0]


@EVERY
def test_an_evaluation_depends_on_neither_batch_size_nor_order(kind):
    task, _, model = learned(kind)
    step = quick(task.eval_step)

    def measured(size):
        sums = [step(model, batch) for batch in ArrayData(arrays(task.prior), size, 0).evaluation()]
        return task.summary(jax.tree.map(lambda *one: sum(np.asarray(x) for x in one), *sums))

    one, other = measured(24), measured(7)
    assert set(one) == {"loss", *TERMS.get(kind, ["nll"])} and one == pytest.approx(other, rel=1e-5)


@EVERY
def test_an_examples_loss_is_its_own(kind):
    task, _, model = learned(kind)
    keys, condition, maps = given(task.prior, 6)
    run = quick(lambda *a: task.prior.apply({"params": model.params}, *a, method="loss"))
    (term,) = TERMS.get(kind, ["nll"])
    among = run(maps, condition, keys)[term]
    assert among.shape == (6,) and among.dtype == jnp.float32 and len(np.unique(among)) > 1
    alone = run(*jax.tree.map(lambda x: x[2:3], (maps, condition, keys)))[term]
    np.testing.assert_allclose(alone[0], among[2], rtol=1e-5)


@EVERY
def test_drawn_maps_are_codes_depend_on_their_key_and_copy_what_is_kept(kind):
    task, _, model = learned(kind)
    prior = task.prior
    keys, condition, known = given(prior, 6)
    new = draw(prior, Pick(), model, keys, condition)
    shapes = [(6, *level.shape) for level in prior.maps]
    assert [(one.shape, str(one.dtype)) for one in new] == [((6, *level.form), level.dtype) for level in prior.maps]
    for one, level in zip(new, prior.maps, strict=True):
        assert level.vocab_size is None or (int(one.min()) >= 0 and int(one.max()) < level.vocab_size)
    among = draw(prior, Pick(), model, *jax.tree.map(lambda x: x[1:4], (keys, condition)))
    for one, other in zip(among, new, strict=True):
        np.testing.assert_array_equal(one, other[1:4])
    other = draw(prior, Pick(), model, jax.random.split(jax.random.key(4), 6), condition)
    assert any((a != b).any() for a, b in zip(new, other, strict=True))
    keep = tuple(jnp.asarray(np.random.default_rng(1).random(shape) < 0.5) for shape in shapes)
    filled = draw(prior, Pick(), model, keys, condition, known, keep)
    for one, wanted, here in zip(filled, known, keep, strict=True):
        np.testing.assert_array_equal(one[here], wanted[here])
    assert any((a != b)[~k].any() for a, b, k in zip(filled, known, keep, strict=True))


def test_terms_are_weighted_by_name():
    """What is logged is unweighted; what is minimized and what decides the best checkpoint is the weighted sum."""

    class Two(MaskedPrior):
        def loss(self, *given, **how):
            nll = super().loss(*given, **how)["nll"]
            return {"nll": nll, "text": 0 * nll + 4}

    task = task_of(Two(PRIORS["masked"].maps, (COARSE,)), loss_weights={"text": 0.125})
    batch = next(ArrayData(arrays(task.prior), 8, 0).evaluation())
    state, metrics = quick(task.train_step)(quick(task.init)(jax.random.key(0), batch), batch)
    assert metrics["loss"] == pytest.approx(metrics["nll"] + 0.5) and metrics["text"] == 4
    said = task.summary(quick(task.eval_step)(Model(state.params, {}), batch))
    assert said["loss"] == pytest.approx(said["nll"] + 0.5) and said["text"] == 4


@EVERY
def test_any_order_says_whether_a_kept_place_behind_is_heard(kind):
    """All is kept but the first place; the last ones change."""
    prior = PRIORS[kind]
    keys, condition, known = given(prior, 64)
    # Not learned, but drawn: large and without biases, so that a token goes by what it hears.
    params = drawn(lambda key: prior.init(key, known, condition, keys, method="loss"))["params"]
    loud = lambda path, x: jnp.zeros_like(x) if path[-1].key == "bias" else 3 * x  # noqa: E731
    model = Model(jax.tree.map_with_path(loud, params), {})
    first = lambda level: np.arange(np.prod(level.shape)).reshape(level.shape) == 0  # noqa: E731
    keep = tuple(jnp.asarray(np.broadcast_to(~first(level), (64, *level.shape))) for level in prior.maps)
    other = (*known[:-1], jnp.roll(known[-1], 1, axis=0).at[:, 0, 0].set(known[-1][:, 0, 0]))
    assert (other[-1] != known[-1]).any()
    one, two = (draw(prior, Pick(), model, keys, condition, maps, keep)[-1][:, 0, 0] for maps in (known, other))
    assert bool((one != two).any()) == prior.any_order


# --- texts

TOLD = pytest.mark.parametrize("kind", SPOKEN_TO)


def test_each_kind_that_can_be_told_texts_is_here():
    assert {type(one) for one in SPOKEN_TO.values()} == {
        type(one) for one in PRIORS.values() if hasattr(one, "text") and type(one) in TABLE.values()
    }


@functools.cache
def spoken_to(kind, count=4):
    """(prior, parameters, maps, condition, keys): examples are alike but for their text."""
    prior = SPOKEN_TO[kind]
    keys, condition, maps = jax.tree.map(lambda x: jnp.repeat(x[:1], count, axis=0), given(prior, 1))
    text = jnp.asarray(np.add.outer(np.arange(count), [1, 3, 5]) % 6 + 1, jnp.int32).at[:, 2].set(0)
    condition = condition._replace(text=text)
    params = drawn(lambda key: prior.init(key, maps, condition, keys, method="loss"))
    return prior, params, maps, condition, keys


def image_loss(prior, *given, **how):
    """Of each example: the loss, of several terms the maps'."""
    terms = prior.apply(*given, **how, method="loss")
    return next(value for name, value in terms.items() if name != "text")


@TOLD
def test_a_text_is_heard_and_zeros_are_none(kind):
    """Examples that are alike but for their text differ in loss; each loss goes by its own text alone."""
    prior, params, maps, condition, keys = spoken_to(kind)
    run = quick(functools.partial(image_loss, prior))
    among = run(params, maps, condition, keys)
    assert among.shape == (4,) and len(np.unique(np.round(among, 4))) == 4
    turned = run(params, maps, condition._replace(text=jnp.roll(condition.text, 1, axis=0)), keys)
    np.testing.assert_allclose(turned, np.roll(among, 1), rtol=1e-5)
    none = run(params, maps, condition._replace(text=jnp.zeros_like(condition.text)), keys)
    np.testing.assert_allclose(none, run(params, maps, condition._replace(text=None), keys), rtol=1e-6)
    assert (np.abs(none - among) > 1e-4).all()


@TOLD
def test_label_and_text_are_hidden_in_training_by_a_coin_each(kind):
    """The losses of 200 like examples are those of four conditions, a quarter each."""
    prior, params, maps, condition, keys = spoken_to(kind, 200)
    condition = condition._replace(text=jnp.broadcast_to(condition.text[:1], condition.text.shape))
    prior, never = (prior.clone(label_dropout=share, text_dropout=share) for share in (0.5, 1e-9))
    train = {"train": True, "rngs": {"dropout": jax.random.key(1)}}
    got = quick(functools.partial(image_loss, prior, **train))(params, maps, condition, keys)
    blind = {"label": jnp.full(200, prior.num_labels, jnp.int32), "text": jnp.zeros_like(condition.text)}
    all_told = quick(functools.partial(image_loss, never, **train))
    ways = [{}, {"label": blind["label"]}, {"text": blind["text"]}, blind]
    wanted = np.array([all_told(params, maps, condition._replace(**way), keys)[0] for way in ways])
    away = np.abs(np.subtract.outer(np.asarray(got), wanted))
    assert away.min(1).max() < 1e-4 * np.abs(wanted).max() and np.diff(np.sort(wanted)).min() > 1e-3
    np.testing.assert_allclose(np.bincount(away.argmin(1), minlength=4) / 200, 0.25, atol=0.1)


@TOLD
def test_guidance_weighs_what_is_told_against_nothing(kind):
    """Guided by 0 nothing is heard, by more another picture comes; untaught it is refused by name."""
    prior, params, _, condition, _ = spoken_to(kind, 32)
    keys = jax.random.split(jax.random.key(2), 32)

    def drawn_by(told, weight, prior=prior, run=quick):
        sample = functools.partial(prior.apply, pick=Pick(guidance=weight), method="sample")
        return run(sample)(params, keys, told)[0]

    mute = drawn_by(Condition(), 1.0)
    np.testing.assert_allclose(drawn_by(condition, 0.0), mute, atol=1e-5)
    assert (np.abs(drawn_by(condition, 4.0) - mute) > 0).any()
    untaught = {"prior": prior.clone(text_dropout=0.0), "run": lambda sample: functools.partial(jax.eval_shape, sample)}
    assert drawn_by(condition, 1.0, **untaught).shape == mute.shape
    with pytest.raises(UserError, match="guidance=4 weighs the text against none, but with text_dropout=0"):
        drawn_by(condition, 4.0, **untaught)
    with pytest.raises(UserError, match="no text is told, but with text_dropout=0"):
        drawn_by(condition._replace(text=None), 1.0, **untaught)
