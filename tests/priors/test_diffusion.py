"""The diffusion prior: the authors' DiT by its recording, losses by hand, samplers by what they must not change."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import quick
from small_priors import LABEL, LABELS, TEXT, drawn

from vqvae_jax.networks.dit import DiT, patches, unpatched, waves
from vqvae_jax.networks.embed_time import time_embedding
from vqvae_jax.networks.unet import UNet
from vqvae_jax.priors import noise as mixing
from vqvae_jax.priors.diffusion import BINS, DiffusionPrior
from vqvae_jax.types import Condition, Level, Pick, UserError

FORM, COUNT = (4, 6, 3), 5
MAP = Level("codes", FORM[:2], None, FORM[2])
CODES, NUMBERS = Level("top", (2, 3), 5), Level("middle", (2, 6), None, 2)


def prior(network=None, **fields):
    fields = {"maps": (MAP,), "network": network or DiT(FORM[2], 16, 1, 2, patch=2), **fields}
    return DiffusionPrior(**{"sample_steps": 4, **fields})


def given(which, seed=0):
    """(keys, condition, maps)"""
    rng = np.random.default_rng(seed)
    label = jnp.asarray(rng.integers(0, LABELS, COUNT)) if which.label_condition else None
    text = jnp.asarray(rng.integers(1, 7, (COUNT, 3))) if which.text else None
    one = lambda level: (  # noqa: E731
        rng.normal(size=(COUNT, *level.form)) if level.vocab_size is None else rng.integers(0, 5, (COUNT, *level.form))
    )
    coarse = tuple(jnp.asarray(one(level), level.dtype) for level in which.above)
    maps = (jnp.asarray(rng.normal(size=(COUNT, *FORM)), jnp.float32),)
    return jax.random.split(jax.random.key(1), COUNT), Condition(label, coarse, text), maps


def variables(which):
    keys, condition, maps = given(which)
    return drawn(lambda key: which.init(key, maps, condition, keys, method="loss"))


def run(which, weights, *arguments, method="sample"):
    """A method, compiled; picks are static."""
    static = {i: one for i, one in enumerate(arguments) if isinstance(one, Pick)}

    def call(*moving):
        rest = iter(moving)
        every = [static.get(i) or next(rest) for i in range(len(arguments))]
        return which.apply(weights, *every, method=method)

    return quick(call)(*(one for i, one in enumerate(arguments) if i not in static))


# --- the network


def test_dit_is_the_authors():
    """Outputs and all gradients of the recording, to 2e-5 of the largest."""
    file = np.load(Path(__file__).parents[1] / "reference" / "dit.npz")
    there = {name.partition("/")[2]: file[name] for name in file.files if name.startswith("learn_sigma_false/")}
    net = DiT(4, int(file["meta/hidden_size"]), int(file["meta/depth"]), int(file["meta/num_heads"]), patch=2)

    def of(kind):
        array = lambda name: jnp.asarray(there[f"{kind}/{name}"])  # noqa: E731
        dense = lambda name: {"kernel": array(f"{name}.weight").T, "bias": array(f"{name}.bias")}  # noqa: E731
        ours = {"time1": "t_embedder.mlp.0", "time2": "t_embedder.mlp.2", "write": "final_layer.linear"}
        found = {name: dense(other) for name, other in ours.items()}
        found["modulate"] = dense("final_layer.adaLN_modulation.1")
        kernel = array("x_embedder.proj.weight").transpose(2, 3, 1, 0).reshape(16, -1)
        found["read"] = {"kernel": kernel, "bias": array("x_embedder.proj.bias")}
        parts = {"modulate": "adaLN_modulation.1", "qkv": "attn.qkv", "mix_heads": "attn.proj"}
        parts |= {"up": "mlp.fc1", "down": "mlp.fc2"}
        for i in range(net.layers):
            found[f"blocks_{i}"] = {name: dense(f"blocks.{i}.{other}") for name, other in parts.items()}
        return found, array("y_embedder.embedding_table.weight")

    nhwc = lambda name: jnp.asarray(there[name]).transpose(0, 2, 3, 1)  # noqa: E731

    def out(params, table, x):
        return net.apply({"params": params}, x, jnp.asarray(there["input/t"]), table[there["input/y"]])

    def loss(*moving):
        return jnp.mean(out(*moving) * nhwc("cotangent/0"))

    moving = (*of("param"), nhwc("input/x"))
    wanted = nhwc("output/0")
    np.testing.assert_allclose(quick(out)(*moving), wanted, atol=1e-5 * np.abs(wanted).max())
    grads = quick(jax.grad(loss, argnums=(0, 1, 2)))(*moving)
    for ours, theirs in zip(jax.tree.leaves(grads), jax.tree.leaves((*of("grad"), nhwc("grad_input/x"))), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())


def test_recomputing_changes_nothing_but_what_is_kept():
    """Same numbers, gradients and names, with dropout and a context; of a block only its input is kept."""
    net = DiT(FORM[2], 8, 1, 2, mlp=16, dropout=0.3)
    again = net.clone(remat=True)
    rng = np.random.default_rng(0)
    x, context = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((2, *FORM), (2, 3, 8)))
    given = (x, jnp.asarray([3.0, 700.0]), None, context)
    shapes = lambda net: jax.eval_shape(net.init, jax.random.key(0), *given)  # noqa: E731
    assert shapes(again) == shapes(net)
    params = drawn(lambda key: net.init(key, *given))
    lost = {"rngs": {"dropout": jax.random.key(1)}, "train": True}
    total = lambda net: lambda params: jnp.sum(jnp.square(net.apply(params, *given, **lost)))  # noqa: E731
    want, got = (quick(jax.value_and_grad(total(one)))(params) for one in (net, again))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max()), got, want)
    kept = lambda net: jax.eval_shape(lambda params: jax.vjp(total(net), params)[1], params)  # noqa: E731
    wide = lambda net: [one for one in jax.tree.leaves(kept(net)) if one.shape[-1:] == (128,)]  # noqa: E731
    assert len(wide(net)) > len(wide(again))


def test_patches_come_back_and_lie_as_said():
    x = jnp.arange(2 * 4 * 6 * 3, dtype=jnp.float32).reshape(2, 4, 6, 3)
    cut = patches(x, 2)
    np.testing.assert_array_equal(cut[1, 4].reshape(2, 2, 3), x[1, 2:4, 2:4])  # place 4: second row, second of three
    np.testing.assert_array_equal(unpatched(cut, (2, 3), 2), x)


def test_places_and_times_are_told_apart():
    assert len(np.unique(waves((5, 7), 16).round(6), axis=0)) == 35
    told = time_embedding(jnp.asarray([0.0, 0.5, 1000.0]), 8)
    np.testing.assert_allclose(told[0], [1] * 4 + [0] * 4, atol=1e-7)
    np.testing.assert_allclose(told[1, [0, 4]], [np.cos(0.5), np.sin(0.5)], rtol=1e-6)


# --- the loss


@pytest.mark.parametrize("path", ["flow", "cosine", "linear"])
@pytest.mark.parametrize("foretold", ["velocity", "noise", "data"])
def test_a_fresh_network_that_says_nothing_loses_what_is_wanted(path, foretold):
    """DiT's answer begins as 0: the loss is the mean square of the target, over times in bins, noise by key."""
    which = prior(path=path, foretold=foretold)
    keys, condition, maps = given(which)
    weights = which.init(jax.random.key(0), maps, condition, keys, method="loss")
    found = which.apply(weights, maps, condition, keys, method="by_time")
    assert found.shape == (COUNT, BINS)
    for row, key, data in zip(found, keys, maps[0], strict=True):
        when, what = jax.random.split(key)
        time = (np.arange(BINS) + float(jax.random.uniform(when))) / BINS
        noise = np.asarray(jax.random.normal(what, (BINS, *FORM)))
        a, s = (share[:, None, None, None] for share in mixing.mixed(path, time))
        data = np.broadcast_to(data, noise.shape)
        target = {"noise": noise, "data": data}
        target["velocity"] = noise - data if path == "flow" else a * noise - s * data
        np.testing.assert_allclose(row, np.mean(np.square(target[foretold]), (1, 2, 3)), rtol=1e-5)
    mean = which.apply(weights, maps, condition, keys, method="loss")["mse_over_time"]
    np.testing.assert_allclose(mean, found.mean(axis=1), rtol=1e-6)


def test_training_weighs_and_draws_times_as_said():
    keys = jax.random.split(jax.random.key(5), 4000)
    drawn_at = lambda which: np.asarray(  # noqa: E731
        jax.vmap(lambda key: which.apply({}, key, method="_drawn_in_training")[0])(keys)
    )
    even, middle = drawn_at(prior()), drawn_at(prior(times="logit_normal"))
    np.testing.assert_allclose(np.quantile(even, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.03)
    wanted = 1 / (1 + np.exp([1.2816, 0.0, -1.2816]))  # the normal's tenths
    np.testing.assert_allclose(np.quantile(middle, [0.1, 0.5, 0.9]), wanted, atol=0.03)
    which, weighed = prior(), prior(min_snr=5.0)
    keys, condition, maps = given(which)
    weights = variables(which)
    losses = [
        one.apply(weights, maps, condition, keys, train=True, method="loss", rngs={"dropout": keys[0]})["denoising"]
        for one in (which, weighed)
    ]
    time = jax.vmap(lambda key: which.apply({}, key, method="_drawn_in_training")[0])(keys)
    a, s = 1 - time, time
    np.testing.assert_allclose(losses[1], losses[0] * np.minimum((a / s) ** 2, 5) * s**2, rtol=1e-4)


# --- what it is told

TOLD = {
    "label": LABEL,
    "text": TEXT,
    "both, codes and numbers above": {**LABEL, **TEXT, "above": (CODES, NUMBERS)},
}


@pytest.mark.parametrize("name", TOLD)
def test_all_that_it_is_told_is_heard(name):
    which = prior(**TOLD[name])
    weights = variables(which)
    _, condition, maps = given(which)
    time = jnp.full(COUNT, 0.5)
    plain = which.apply(weights, maps[0], time, condition, method="foretell")
    for word in [word for word in ("label", "text") if getattr(condition, word) is not None]:
        changed = which.apply(weights, maps[0], time, condition._replace(**{word: None}), method="foretell")
        assert np.abs(changed - plain).max() > 1e-3
    for i, coarse in enumerate(condition.coarse):
        others = (*condition.coarse[:i], coarse[::-1], *condition.coarse[i + 1 :])
        changed = which.apply(weights, maps[0], time, condition._replace(coarse=others), method="foretell")
        assert np.abs(changed - plain).max() > 1e-3
    changed = which.apply(weights, maps[0], time + 0.1, condition, method="foretell")
    assert np.abs(changed - plain).max() > 1e-3


# --- samplers


def test_guidance_is_twice_the_network_and_one_is_plain():
    """Of one step of order 1 by hand: from noise, what is said with the label and without."""
    which = prior(**LABEL, sample_steps=1, sample_order=1)
    weights = variables(which)
    keys, condition, _ = given(which)
    (guided,) = run(which, weights, keys, condition, Pick(guidance=3.0))
    noise = jnp.stack([jax.random.normal(jax.random.split(key)[0], FORM) for key in keys])
    time = jnp.ones(COUNT)
    told = which.apply(weights, noise, time, condition, method="foretell")
    blind = which.apply(weights, noise, time, Condition(), method="foretell")
    np.testing.assert_allclose(guided, noise - (blind + 3 * (told - blind)), atol=2e-5)
    (plain,) = run(which, weights, keys, condition, Pick())
    np.testing.assert_allclose(plain, noise - told, atol=2e-5)
    elsewhere = which.clone(sample_guided=(0.0, 0.5))
    np.testing.assert_allclose(run(elsewhere, weights, keys, condition, Pick(guidance=3.0))[0], plain, atol=2e-5)


def test_kept_places_are_copied_and_heard():
    which = prior()
    weights = variables(which)
    keys, condition, known = given(which)
    keep = (jnp.asarray(np.random.default_rng(1).random((COUNT, *FORM[:2])) < 0.5),)
    one = run(which, weights, keys, condition, Pick(), known, keep)[0]
    np.testing.assert_array_equal(one[keep[0]], known[0][keep[0]])
    other = jnp.where(keep[0][..., None], known[0] + 1, known[0])
    assert np.abs(run(which, weights, keys, condition, Pick(), (other,), keep)[0] - one)[~keep[0]].max() > 1e-3
    hidden = jnp.where(keep[0][..., None], known[0], 7.0)  # what is not kept plays no part
    np.testing.assert_array_equal(run(which, weights, keys, condition, Pick(), (hidden,), keep)[0], one)


@pytest.mark.parametrize(("order", "eta"), [(1, 0.0), (1, 1.0), (2, 0.0)])
def test_what_is_watched_is_what_is_sampled(order, eta):
    which = prior(sample_order=order, sample_eta=eta)
    weights = variables(which)
    keys, condition, _ = given(which)
    (new,) = run(which, weights, keys, condition, Pick())
    every = run(which, weights, keys, condition, Pick(), method="watched")
    assert every.shape == (4, COUNT, *FORM)
    np.testing.assert_allclose(every[-1], new, atol=1e-5)
    cold = run(which, weights, keys, condition, Pick(temperature=0.0))[0]
    np.testing.assert_allclose(cold, cold[:1].repeat(COUNT, 0), atol=1e-5)  # no noise: one answer


def test_fresh_noise_is_an_images_own():
    which = prior(sample_order=1, sample_eta=1.0)
    weights = variables(which)
    keys, condition, _ = given(which)
    among = run(which, weights, keys, condition, Pick())[0]
    alone = run(which, weights, keys[2:4], condition, Pick())[0]
    np.testing.assert_allclose(alone, among[2:4], atol=1e-5)
    assert np.abs(among - run(which.clone(sample_eta=0.0), weights, keys, condition, Pick())[0]).max() > 1e-3


def test_a_unet_goes_the_same_way():
    which = prior(UNet(FORM[2], width=8, factors=(1, 2), groups=4, heads=2), **LABEL, above=(CODES,))
    weights = variables(which)
    keys, condition, maps = given(which)
    assert np.isfinite(run(which, weights, maps, condition, keys, method="loss")["mse_over_time"]).all()
    (new,) = run(which, weights, keys, condition, Pick(guidance=2.0))
    few = jax.tree.map(lambda x: x[1:3], (keys, condition))
    np.testing.assert_allclose(run(which, weights, *few, Pick(guidance=2.0))[0], new[1:3], atol=1e-4)


# --- bad input


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"maps": (CODES,)}, "maskgit"),
        ({"maps": (MAP, MAP)}, "one map"),
        ({"above": (Level("top", (8, 8), 5),)}, "larger"),
        ({"network": DiT(3, 16, 1, 2, patch=4)}, "multiples of 4"),
        ({"network": DiT(3, 18, 1, 3)}, "width=18"),
        ({"sample_eta": 0.5}, "first order"),
        ({"sample_spacing": "leading", "sample_steps": 600}, "trailing"),
        ({"sample_spacing": "leading", "sample_steps": 2000}, "2000 steps by the spacing 'leading' go beyond"),
    ],
)
def test_what_does_not_fit_is_said(change, words):
    keys, condition, maps = given(prior())
    with pytest.raises(UserError, match=words):
        prior(**change).init(jax.random.key(0), maps, condition, keys, method="loss")


def test_numbers_have_no_likeliest():
    which = prior()
    keys, condition, _ = given(which)
    with pytest.raises(UserError, match="top_p"):
        which.apply(variables(which), keys, condition, Pick(top_p=0.5), method="sample")
