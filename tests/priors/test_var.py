"""VAR as a prior: which maps it takes, what a place is told of, its cached sampler, guidance, noise of training."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import quick
from small_priors import CODES, LABEL, LABELS, TEXT, drawn, made, texts

from vqvae_jax.networks.likelihood import gumbel, pick_token
from vqvae_jax.priors import var
from vqvae_jax.priors.next_scale import LARGEST_SHARPNESS, Block
from vqvae_jax.priors.var import VARPrior
from vqvae_jax.types import Condition, Level, Pick, UserError

GROWING = ((1, 1), (2, 2), (2, 3), (4, 5))
SMALL = {"width": 16, "layers": 2, "heads": 2, "code_dim": 4, "phis": 2}
CASES = {
    "plain": {},
    "label, coarse": {**LABEL, "shared": True, "coarse_sizes": (5, 4), "coarse_shapes": ((2, 2), (4, 5))},
    "text, label, a table a scale": {**LABEL, **TEXT, "l2_norm": False, "local": True},
}
EVERY = pytest.mark.parametrize("case", [case for case in CASES if case != "plain"])
KEYS = jax.random.split(jax.random.key(5), 3)


def given(prior, count, seed=0):
    """Maps and a condition."""
    rng = np.random.default_rng(seed)
    one = lambda level: jnp.asarray(rng.integers(0, level.vocab_size, (count, *level.shape)), jnp.int32)  # noqa: E731
    label = jnp.arange(count, dtype=jnp.int32) % (LABELS + 1) if prior.label_condition else None
    return tuple(map(one, prior.maps)), Condition(label, tuple(map(one, prior.above)), texts(prior, count))


@functools.cache
def built(case):
    prior = made("var", CODES, GROWING, **SMALL, **CASES[case])
    return prior, drawn(lambda key: prior.init(key, *given(prior, 1), key[None], method="loss"))


def all_logits(prior):
    """A compiled (parameters, maps, condition) → [B, T, K], in one pass over all maps."""
    heard = lambda p, maps: jnp.concatenate(prior.apply(p, maps[:-1], method="heard"), axis=1)  # noqa: E731
    return quick(lambda p, maps, told: prior.apply(p, heard(p, maps), told, method="logits"))


# --- maps


def levels(*maps):
    return tuple(Level(f"codes.{i}", shape, size) for i, (shape, size) in enumerate(maps))


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ([((1, 1), 4), ((2, 2), 4), ((2, 1), 4)], "codes.2 2x1 of 4 codes is smaller than codes.1 2x2 .*=multiscale"),
        ([((2, 2), 4), ((3, 3), 5)], "of one vocabulary; these are codes.0 2x2 of 4 codes, codes.1 3x3 of 5 codes"),
        ([((2, 2), None)], "VAR reads codes, and 'codes.0' is a map of 0 numbers"),
    ],
)
def test_maps_that_it_cannot_model_are_refused(maps, message):
    with pytest.raises(UserError, match=message):
        VARPrior.fits(levels(*maps), ())
    VARPrior.fits(levels(((1, 1), 4), ((1, 1), 4), ((1, 3), 4)), levels(((8, 8), 7)))


def test_the_others_name_it_for_growing_maps():
    with pytest.raises(UserError, match=r"MaskGIT models maps of one size .*--config.priors.codes.name=var"):
        made("maskgit", CODES, GROWING).fits(levels(*((one, 4) for one in GROWING)), ())


# --- what is seen


@EVERY
def test_a_place_sees_all_maps_before_its_own_and_nothing_of_its_own(case):
    """No leak and no blind spot: each token in turn is another one, and the logits of every place are looked at."""
    prior, params = built(case)
    maps, told = jax.tree.map(lambda x: jnp.repeat(x[1:2], prior.length + 1, axis=0), given(prior, 2))
    flat = jnp.concatenate([one.reshape(len(one), -1) for one in maps], axis=1)
    flat = (flat + jnp.eye(prior.length + 1, prior.length, -1, dtype=jnp.int32)) % CODES  # example i + 1: token i
    ends = np.cumsum(prior.sizes)
    other = [x.reshape(-1, *level.shape) for x, level in zip(jnp.split(flat, ends[:-1], 1), prior.maps, strict=True)]
    logits = np.asarray(all_logits(prior)(params, tuple(other), told))
    changed = np.abs(logits[1:] - logits[:1]).max(-1) > 0  # [the token, the place]
    scale = np.repeat(np.arange(len(ends)), prior.sizes)
    np.testing.assert_array_equal(changed, scale[:, None] < scale[None])


def test_a_place_is_told_the_mean_of_the_coarser_codes_over_it():
    prior, params = built("label, coarse")
    _, told = given(prior, 2)
    beside = prior.apply(params, told, method="_beside")
    blank = {name: jax.tree.map(jnp.zeros_like, x) if "above" in name else x for name, x in params["params"].items()}
    added = beside - prior.apply({"params": blank}, told, method="_beside")
    few, many = (
        np.asarray(params["params"][f"embed_above_{i}"]["embedding"])[told.coarse[i]] for i in range(2)
    )  # [B, 2, 2, W], [B, 4, 5, W]
    np.testing.assert_allclose(added[:, 0], few.mean((1, 2)) + many.mean((1, 2)), atol=1e-5)  # 1x1: of all
    np.testing.assert_allclose(added[:, 1], few[:, 0, 0] + many[:, :2, :3].mean((1, 2)), atol=1e-5)  # of 2x2 the first
    np.testing.assert_allclose(added[:, -1], few[:, 1, 1] + many[:, 3, 4], atol=1e-5)
    assert prior.length == added.shape[1]


@EVERY
def test_every_parameter_learns(case):
    prior, params = built(case)
    maps, told = given(prior, 16)
    run = quick(
        jax.grad(lambda p: jnp.mean(prior.apply(p, maps, told, jax.random.split(KEYS[0], 16), method="loss")["nll"]))
    )
    for path, gradient in jax.tree.leaves_with_path(run(params)):
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0, jax.tree_util.keystr(path)


def test_heads_are_only_so_sharp():
    """One that is sharper gives what one at the limit gives, and learns no more."""
    prior, params = built("plain")
    maps, told = given(prior, 4)

    def loss(sharpness):
        block = {**params["params"]["blocks_1"], "sharpness": sharpness}
        own = {"params": {**params["params"], "blocks_1": block}}
        return jnp.mean(prior.apply(own, maps, told, jax.random.split(KEYS[0], 4), method="loss")["nll"])

    run, sharp = quick(loss), jnp.array([LARGEST_SHARPNESS + 0.1, 1.0])
    assert run(sharp) == run(sharp.at[0].add(3.0)) != run(sharp.at[1].add(0.3))
    gradient = quick(jax.grad(loss))(sharp)
    assert gradient[0] == 0 != gradient[1]


# --- sampling


@EVERY
def test_cached_sampling_equals_one_pass_over_all_maps(case, monkeypatch):
    """The same logits at every place, the tokens that the same keys pick from them; what is kept is heard."""
    prior, params = built(case)
    (known, told), overheard, run = given(prior, 3), [], all_logits(prior)
    monkeypatch.setattr(var, "pick_token", lambda *given: overheard.append(given[:2]) or pick_token(*given))
    keep = tuple(jnp.asarray(np.random.default_rng(2).random(one.shape) < 0.5) for one in known)

    @quick
    def draw(params, keys, told, known, keep):
        overheard.clear()
        maps = prior.apply(params, keys, told, Pick(), known, keep, method="sample")
        return maps, *(jnp.concatenate(column, axis=1) for column in zip(*overheard, strict=True))

    for kept in (jax.tree.map(jnp.zeros_like, keep), keep):
        maps, noise, logits = draw(params, KEYS, told, known, kept)
        want = run(params, maps, told)
        np.testing.assert_allclose(logits, want, atol=1e-5 * np.abs(want).max())
        for scale, (new, old, here) in enumerate(zip(maps, known, kept, strict=True)):
            begin = sum(prior.sizes[:scale])
            place = slice(begin, begin + prior.sizes[scale])
            wanted = gumbel(jnp.stack([jax.random.fold_in(key, scale) for key in KEYS]), (prior.sizes[scale], CODES))
            np.testing.assert_allclose(noise[:, place], wanted, atol=1e-5)
            picked = pick_token(wanted, want[:, place], Pick()).reshape(new.shape)
            np.testing.assert_array_equal(new, np.where(here, old, picked))


def test_phi_is_applied_once_a_scale():
    """In the compiled sampler: a scale's part of f̂ is computed once, though all are asked for before each scale."""
    prior, params = built("plain")
    draw = lambda p, keys: prior.apply(p, keys, Condition(), Pick(), method="sample")  # noqa: E731
    text = jax.jit(draw).lower(params, KEYS).compile().as_text()
    assert len(re.findall(r"= f32\S* convolution\(", text)) == len(GROWING) - 1


def test_guidance_grows_with_the_scales():
    """Of 3 at weight 2: 1, then 4/3, 5/3, 2; a single map is told plainly."""
    prior, _ = built("label, coarse")
    weights = lambda prior: [prior._guidance(Pick(guidance=2.0), scale) for scale in range(len(prior.maps))]  # noqa: E731
    assert weights(prior) == [2.0] * 4
    growing = prior.clone(sample_growing_guidance=True)
    assert weights(growing) == pytest.approx([1, 4 / 3, 5 / 3, 2])
    assert weights(growing.clone(maps=prior.maps[-1:])) == [1.0]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
def test_parameters_sums_and_logits_are_float32(dtype):
    prior = built("text, label, a table a scale")[0].clone(dtype=dtype, remat=True)
    maps, told = given(prior, 3)
    params = jax.eval_shape(lambda key: prior.init(key, maps, told, KEYS, method="loss"), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    logits = jax.eval_shape(all_logits(prior), params, maps, told)
    assert (logits.shape, logits.dtype) == ((3, prior.length, CODES), jnp.float32)
    run = lambda p: prior.apply(p, KEYS, told, Pick(guidance=2.0, top_p=0.5), method="sample")  # noqa: E731
    assert [(one.shape, one.dtype) for one in jax.eval_shape(run, params)] == [((3, *s), jnp.int32) for s in GROWING]


def test_bfloat16_is_near_float32():
    prior, params = built("plain")
    maps, told = given(prior, 3)
    want, got = (all_logits(one)(params, maps, told) for one in (prior, prior.clone(dtype=jnp.bfloat16)))
    assert 0 < np.abs(got - want).max() < 0.05 * np.abs(want).max()


# --- training


def test_drop_path_leaves_branches_out_by_a_coin_each():
    """400 like examples: with and without attention, with and without MLP, a quarter each; those left stand double."""
    block = Block(8, 2, 16, 0.0, 0.5, True, 0.3, 0.3, 0, ((1, 1), (1, 3)))
    x, vector = (jnp.asarray(np.random.default_rng(0).normal(size=s), jnp.float32) for s in ((1, 4, 8), (1, 8)))
    params = drawn(lambda key: block.init(key, x, vector))
    many = lambda one: jnp.broadcast_to(one, (400, *one.shape[1:]))  # noqa: E731
    train = functools.partial(block.apply, train=True, rngs={"dropout": jax.random.key(0)})
    got = quick(train)(params, many(x), many(vector))
    kinds, counts = np.unique(np.round(np.asarray(got), 4), axis=0, return_counts=True)
    assert len(kinds) == 4 and (np.abs(counts - 100) < 40).all()
    assert (np.abs(kinds - np.asarray(x)).max((1, 2)) < 1e-4).sum() == 1  # all left out
    no_mlp = {"params": {**params["params"], "down": jax.tree.map(jnp.zeros_like, params["params"]["down"])}}
    once = quick(block.apply)(no_mlp, x, vector)  # attention alone, and not doubled
    assert (np.abs(kinds - np.asarray(x + 2 * (once - x))).max((1, 2)) < 1e-3).sum() == 1


def test_drop_path_grows_with_depth_and_evaluation_has_none():
    prior = made("var", CODES, GROWING, **{**SMALL, "layers": 3}, drop_path=0.2)
    assert [block.drop_path for block in prior.bind({"params": {}}).blocks] == pytest.approx([0, 0.1, 0.2])
    plain, params = built("plain")
    losing = plain.clone(drop_path=0.9, dropout=0.9)
    run = quick(lambda p, *a: [one.apply(p, *a, KEYS, method="loss")["nll"] for one in (plain, losing)])
    np.testing.assert_array_equal(*run(params, *given(plain, 3)))


def test_fresh_parameters_are_the_papers():
    """Kernels and tables of deviation √(1/3W); gates begin near 0, modulations at a half, logits at a fiftieth."""
    prior = made("var", 64, ((1, 1), (4, 8)), width=48, heads=2, layers=2, num_labels=40, label_condition=True, phis=0)
    init = lambda key: prior.init(key, *given(prior, 1), key[None], method="loss")  # noqa: E731
    params = quick(init)(jax.random.key(0))["params"]
    std, block = (3 * 48) ** -0.5, params["blocks_1"]
    measured = {
        "label": params["embed_label"]["embedding"] / std,
        "place": params["places"]["embedding"] / std,
        "queries": block["qkv"]["kernel"] / std,
        "residual": block["down"]["kernel"] / std * 2,  # 2 · layers is 4
        "gates": block["modulate"]["kernel"][:, :96] / std / 1e-5,
        "modulations": block["modulate"]["kernel"][:, 96:] / std * 2,
        "end": params["modulate"]["kernel"] / std * 2,
        "logits": params["to_logits"]["kernel"] / std * 50,
    }
    assert {name: float(x.std()) for name, x in measured.items()} == pytest.approx(
        dict.fromkeys(measured, 1.0), rel=0.1
    )
    np.testing.assert_allclose(np.exp(block["sharpness"]), 4, rtol=1e-6)


def test_features_are_held_by_name():
    prior, _ = built("plain")
    assert prior.held == () and prior.clone(held_features=True).held == ("features",)
