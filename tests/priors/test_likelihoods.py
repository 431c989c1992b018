"""A prior's nll is that of what its sampler draws: over all maps of a few binary tokens probabilities sum to 1, and
4,096 samples follow them. Of MaskGIT, which draws in a random order, these are means over all orders."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import quick
from small_priors import LABEL, drawn, made

from vqvae_jax.priors import PRIORS
from vqvae_jax.priors.condition import unstacked
from vqvae_jax.types import Condition, Pick

COUNT = 4096
SMALL = {"width": 8, "layers": 1, "heads": 2}
LAYERS = {"depth": 8, "layers": 1, "heads": 2}
PLACES, DEPTHS = {"shape": (2, 2)}, {"shape": (1, 2), "depths": 2}
IN_ORDER = {
    "pixelcnn": {**PLACES, **LABEL, **LAYERS},
    "pixelcnn-depths": {**DEPTHS, **LAYERS},
    "mnist_generator": {**PLACES, **LAYERS},
    "top_prior": {**PLACES, **LAYERS, "attention_after": (1,), "output_blocks": 1},
    "bottom_prior": {**PLACES, **LAYERS, "coarse_sizes": (3,), "condition_blocks": 1},
    "transformer": {**PLACES, **SMALL, **LABEL, "coarse_sizes": (3,)},
    "transformer-depths": {**DEPTHS, **SMALL},
    "var": {
        "shape": ((1, 1), (1, 3)),
        "shared": True,
        **SMALL,
        **LABEL,
        "coarse_sizes": (3,),
        "coarse_shapes": ((2, 2),),
    },
    "var-places": {**PLACES, **SMALL, "phis": 0, "l2_norm": False, "local": True},
}
ONE_A_STEP = {"sample_steps": 4, "sample_choice_temperature": 1e6}  # in an order that is all noise
AT_RANDOM = {
    "maskgit": {**PLACES, **SMALL, **LABEL, "coarse_sizes": (3,), **ONE_A_STEP},
    "maskgit-depths": {**DEPTHS, **SMALL, **ONE_A_STEP, "norm": "post", "local": False},
}
CASES = IN_ORDER | AT_RANDOM
EVERY = pytest.mark.parametrize("case", CASES)


NO_LIKELIHOOD = {"diffusion"}  # of numbers, whose loss bounds none here


def test_every_prior_of_the_table_is_here():
    assert {case.partition("-")[0] for case in CASES} == set(PRIORS) - NO_LIKELIHOOD


@functools.cache
def built(case):
    """(prior, its parameters, what it is told, all 16 maps as rows of four tokens)."""
    prior = made(case.partition("-")[0], 2, **CASES[case])
    every = np.array(list(itertools.product((0, 1), repeat=4)), np.int32)
    told = condition(prior, 1)
    init = lambda key: prior.init(key, maps_of(prior, every[:1]), told, key[None], method="loss")  # noqa: E731
    return prior, drawn(init), every


def condition(prior, count):
    label = jnp.ones(count, jnp.int32) if prior.label_condition else None
    return Condition(label, tuple(jnp.ones((count, *level.shape), jnp.int32) for level in prior.above))


def maps_of(prior, rows):
    """Rows of tokens, place by place and depth by depth, or map by map where these grow, as the prior takes them."""
    if len({level.shape for level in prior.maps}) > 1:
        parts = np.split(np.asarray(rows), np.cumsum([np.prod(level.shape) for level in prior.maps])[:-1], axis=1)
        return tuple(jnp.asarray(x).reshape(-1, *level.shape) for x, level in zip(parts, prior.maps, strict=True))
    shape = (*prior.maps[0].shape, len(prior.maps))
    tokens = jnp.asarray(rows).reshape(-1, *shape)
    return unstacked(tokens) if shape[2] > 1 else (tokens[..., 0],)


def probabilities(case):
    """Of each of the 16 maps."""
    prior, params, every = built(case)
    if case in AT_RANDOM:
        return np.mean([in_one_order(case, order) for order in itertools.permutations(range(4))], axis=0)
    run = quick(lambda p, maps, told, keys: prior.apply(p, maps, told, keys, method="loss")["nll"])
    nll = run(params, maps_of(prior, every), condition(prior, 16), jax.random.split(jax.random.key(0), 16))
    return np.exp(-4 * np.float64(nll))


@functools.cache
def seen_through(case):
    """log p of every token of every map, by what is hidden: {bits of the hidden: [16, 4]}."""
    prior, params, every = built(case)
    run = quick(lambda p, tokens, told: jax.nn.log_softmax(prior.apply(p, tokens, told, method="logits")))
    found = {}
    for hidden in itertools.product((False, True), repeat=4):
        said = np.asarray(run(params, jnp.where(np.array(hidden), prior.mask, every), condition(prior, 16)))
        found[hidden] = np.take_along_axis(np.float64(said), every[..., None], -1)[..., 0]
    return found


def in_one_order(case, order):
    """Probabilities of the 16 maps, token after token."""
    hidden, total = [True] * 4, 0.0
    for place in order:
        total = total + seen_through(case)[tuple(hidden)][:, place]
        hidden[place] = False
    return np.exp(total)


@EVERY
def test_probabilities_of_all_maps_sum_to_one(case):
    p = probabilities(case)
    assert p.sum() == pytest.approx(1, abs=1e-5)
    assert p.max() > 1.5 / 16  # and they say something


@EVERY
def test_samples_follow_them(case):
    """Chi-square of 15 degrees of freedom: above 44 in one of ten thousand."""
    prior, params, _ = built(case)
    draw = quick(lambda p, keys, told: prior.apply(p, keys, told, Pick(), method="sample"))
    maps = draw(params, jax.random.split(jax.random.key(1), COUNT), condition(prior, COUNT))
    apart = [np.reshape(one, (COUNT, -1)) for one in maps]
    rows = np.concatenate(apart, 1) if len({x.shape for x in apart}) > 1 else np.stack(apart, -1).reshape(COUNT, 4)
    seen = np.bincount(rows @ (8, 4, 2, 1), minlength=16)
    expected = COUNT * probabilities(case)
    assert np.sum((seen - expected) ** 2 / expected) < 44


@pytest.mark.parametrize("case", AT_RANDOM)
def test_the_nll_of_a_random_order_is_a_bound(case):
    """Its mean over keys is the mean over orders of what one order costs, and never below -log p of their mixture."""
    prior, params, every = built(case)
    run = quick(lambda p, maps, told, keys: prior.apply(p, maps, told, keys, method="loss")["nll"])
    orders = [-np.log(in_one_order(case, order)) / 4 for order in itertools.permutations(range(4))]
    exact, again = np.mean(orders, axis=0), 256
    maps = maps_of(prior, np.repeat(every, again, axis=0))
    keys = jax.random.split(jax.random.key(2), 16 * again)
    got = np.asarray(run(params, maps, condition(prior, 16 * again), keys)).reshape(16, again)
    np.testing.assert_allclose(got.mean(1), exact, atol=5 * got.std(1).max() / again**0.5)
    assert (exact >= -np.log(probabilities(case)) / 4 - 1e-9).all()
