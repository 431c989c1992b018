"""What every prior of the table does that draws code after code, each from its logits.

What holds for priors of any kind is in test_any_prior.py.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import quick
from small_priors import CASES, CODES, LABELS, built, listening_sampler, maps, replayed, token_shape

from vqvae_jax.priors import PRIORS
from vqvae_jax.priors.draw import draw
from vqvae_jax.types import Condition, Model, Pick, UserError

EVERY = pytest.mark.parametrize("case", CASES)
COUNT = 3
KEYS = jax.random.split(jax.random.key(5), COUNT)


def test_every_prior_of_the_table_is_here():
    step_by_step = {name for name, kind in PRIORS.items() if "__call__" in dir(kind)}  # gives logits
    assert {case.partition("-")[0] for case in CASES} == step_by_step


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@EVERY
def test_logits_are_float32_and_samples_are_maps_of_integers(case, dtype):
    """Traced only: the loop of sampling refuses any dtype that changes on the way."""
    prior = built(case)[0].clone(dtype=dtype)
    tokens, condition = maps(prior, COUNT)
    params = jax.eval_shape(lambda key: prior.init(key, tokens, condition), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    logits = jax.eval_shape(prior.apply, params, tokens, condition)
    assert (logits.shape, logits.dtype) == ((*tokens.shape, CODES), jnp.float32)
    pick = Pick(guidance=2.0, top_p=0.5)
    run = lambda p, keys: prior.apply(p, keys, condition, pick, method="sample")  # noqa: E731
    sampled = jax.eval_shape(run, params, KEYS)
    assert [(one.shape, one.dtype) for one in sampled] == [((COUNT, *prior.shape), jnp.int32)] * prior.depths


@EVERY
def test_every_parameter_learns(case):
    prior, params = built(case)
    tokens, condition = maps(prior, 16)
    if condition.label is not None:
        condition = condition._replace(label=jnp.arange(16) % (LABELS + 1))
    loss = quick(jax.grad(lambda p: jnp.sum(nn.log_softmax(prior.apply(p, tokens, condition))[..., 0])))
    for path, gradient in jax.tree.leaves_with_path(loss(params)):
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0, jax.tree_util.keystr(path)


# --- causality


def adding(delta):
    """To the embeddings of a prior's own tokens, wherever it computes them."""

    def intercept(call, args, kwargs, context):
        out = call(*args, **kwargs)
        own = context.module.name == "embed" and context.method_name == "__call__" and out.size == delta.size
        return out + delta.reshape(out.shape) if own else out

    return nn.intercept_methods(intercept)


def influence(case):
    """d logits[i] / d embedding[j] at every pair of positions, as the size of a random projection: [i, j]."""
    prior, params = built(case)
    positions = int(np.prod(token_shape(prior)))
    given = jax.tree.map(lambda a: jnp.repeat(a, positions, 0), maps(prior, 1))
    weight = jnp.asarray(np.random.default_rng(9).normal(size=CODES), jnp.float32)

    def own(delta):  # example i of the batch looks at its position i
        with adding(delta):
            out = prior.apply(params, *given).reshape(positions, positions, CODES)
        return jnp.sum(jnp.einsum("iik,k->i", out, weight))

    width = params["params"]["embed"]["embedding"].shape[1]
    return np.abs(quick(jax.grad(own))(jnp.zeros((positions, positions, width)))).max(-1)


@EVERY
def test_each_position_sees_all_before_it_and_neither_itself_nor_any_later_one(case):
    """No leak and no blind spot, by gradient at every position and depth, with conditions and attention."""
    got = influence(case)
    before = np.tri(len(got), k=-1, dtype=bool)
    assert not got[~before].any(), np.argwhere((got > 0) & ~before)
    assert got[before].all(), np.argwhere((got == 0) & before)


# --- sampling


def nothing_kept(prior):
    """Known and keep, as `listening_sampler` takes them."""
    shape = (COUNT, *token_shape(prior))
    return jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool)


@functools.cache
def forward(case):
    return quick(built(case)[0].apply)


@EVERY
def test_cached_sampling_equals_the_full_forward(case, monkeypatch):
    """The same logits at every position, and the very tokens that the same keys pick from them."""
    prior, params = built(case)
    known, condition = maps(prior, COUNT)
    sample = listening_sampler(prior, COUNT, Pick(), monkeypatch)

    got, logits = sample(params, KEYS, condition, *nothing_kept(prior))
    want = forward(case)(params, jnp.asarray(got), condition)
    np.testing.assert_allclose(logits, want, atol=1e-5 * np.abs(want).max())
    np.testing.assert_array_equal(got, replayed(prior, KEYS, want, Pick()))
    assert len(np.unique(got)) > 2

    again, _ = sample(params, KEYS, condition, *nothing_kept(prior))
    other, _ = sample(params, jax.random.split(jax.random.key(6), COUNT), condition, *nothing_kept(prior))
    np.testing.assert_array_equal(got, again)
    assert (got != other).any()

    # Told every token, it sees what the full forward sees.
    got, logits = sample(params, KEYS, condition, known, jnp.ones(known.shape, bool))
    np.testing.assert_array_equal(got, known)
    want = forward(case)(params, known, condition)
    np.testing.assert_allclose(logits, want, atol=1e-5 * np.abs(want).max())

    # Places here and there: kept ones are the known ones, the others are drawn from what the kept ones say.
    keep = np.random.default_rng(4).random(known.shape) < 0.5
    got, logits = sample(params, KEYS, condition, known, jnp.asarray(keep))
    np.testing.assert_array_equal(got[keep], np.asarray(known)[keep])
    want = forward(case)(params, jnp.asarray(got), condition)
    np.testing.assert_array_equal(got[~keep], replayed(prior, KEYS, want, Pick())[~keep])


@EVERY
def test_the_lower_half_goes_on_from_the_upper_as_the_full_forward_would(case, monkeypatch):
    """Greedy, position by position; every token of the lower half is told of the upper."""
    prior, params = built(case)
    known, condition = maps(prior, COUNT)
    half = (np.arange(prior.shape[0]) < prior.shape[0] // 2).reshape(-1, *[1] * (known.ndim - 2))
    upper = np.broadcast_to(half, known.shape)
    sample = listening_sampler(prior, COUNT, Pick(temperature=0.0), monkeypatch)
    got, logits = sample(params, KEYS, condition, known, jnp.asarray(upper))

    want = np.asarray(known).copy()
    want[~upper] = 0
    flat = want.reshape(COUNT, -1)  # a view
    for i in range(flat.shape[1] // prior.shape[0] * (prior.shape[0] // 2), flat.shape[1]):
        full = forward(case)(params, jnp.asarray(want), condition).reshape(COUNT, -1, CODES)
        flat[:, i] = full[:, i].argmax(-1)
    np.testing.assert_array_equal(got, want)

    _, others = sample(params, KEYS, condition, (known + 1) % CODES, jnp.asarray(upper))
    assert (np.abs(logits - others)[~upper].max(-1) > 0).all()


@pytest.mark.parametrize("case", ["mnist_generator", "transformer"])
def test_without_kept_tokens_samples_are_those_with_none_kept(case):
    prior, params = built(case)
    model = Model(params["params"], {})
    plain = draw(prior, Pick(), model, KEYS, Condition())
    given = draw(prior, Pick(), model, KEYS, Condition(), *((one,) for one in nothing_kept(prior)))
    np.testing.assert_array_equal(*plain, *given)


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case].get("label_condition")])
def test_what_was_never_learned_is_not_asked_for(case):
    """With label_dropout=0 the row "no label" has no gradient: guidance and images without labels would be nonsense."""
    hiding, params = built(case)
    tokens, condition = maps(hiding, COUNT)
    never, blind = hiding.clone(label_dropout=0.0), condition._replace(label=None)

    def shape(prior, given, pick):
        new = jax.eval_shape(lambda p: prior.apply(p, KEYS, given, pick, method="sample"), params)
        return [one.shape for one in new]

    every = [(COUNT, *hiding.shape)] * hiding.depths
    assert shape(never, condition, Pick()) == every
    assert shape(hiding, condition, Pick(guidance=3.0)) == shape(hiding, blind, Pick()) == every
    for guidance in (3.0, 0.0):
        with pytest.raises(
            UserError, match=f"guidance={guidance:g} .*--config.priors.LEVEL.label_dropout=0.1, or leave"
        ):
            shape(never, condition, Pick(guidance=guidance))
    with pytest.raises(UserError, match="no label is told.*label_dropout=0.1, or tell a label"):
        shape(never, blind, Pick())
    with pytest.raises(UserError, match="no label is told"):  # secret labels, in evaluation
        jax.eval_shape(never.apply, params, tokens, blind)
    assert jax.eval_shape(hiding.apply, params, tokens, blind).shape[:-1] == tokens.shape


@pytest.mark.parametrize("case", ["mnist_generator", "transformer"])
def test_known_and_keep_belong_together(case):
    prior, params = built(case)
    known, keep = ((one,) for one in nothing_kept(prior))
    ask = functools.partial(draw, prior, Pick(), Model(params["params"], {}), KEYS, Condition())
    for given in ((known, None), (None, keep)):
        with pytest.raises(UserError, match="known and keep go together"):
            ask(*given)
    for name, given in {"known": ((known[0][:1],), keep), "keep": (known, (keep[0][:, :1],))}.items():
        with pytest.raises(UserError, match=rf"{name} is a map for each, \[\(3, "):
            ask(*given)


def test_a_map_is_the_same_alone_and_among_others():
    """So that neither the number of images nor how the cores share them changes what a seed gives."""
    prior, params = built("bottom_prior")
    model, keys = Model(params["params"], {}), jax.random.split(jax.random.key(1), 32)
    _, condition = maps(prior, 32)
    (among,) = draw(prior, Pick(), model, keys, condition)
    assert len(np.unique(among, axis=0)) > 16
    for i in (0, 17, 31):
        (alone,) = draw(prior, Pick(), model, keys[i : i + 1], jax.tree.map(lambda x, i=i: x[i : i + 1], condition))
        np.testing.assert_array_equal(alone[0], among[i])


def test_maps_are_drawn_inside_of_another_jit_too():
    prior, params = built("mnist_generator")
    model, keys = Model(params["params"], {}), jax.random.split(jax.random.key(1), 16)
    within = jax.jit(lambda model, keys: draw(prior, Pick(), model, keys, Condition()))(model, keys)
    np.testing.assert_array_equal(*within, *draw(prior, Pick(), model, keys, Condition()))
