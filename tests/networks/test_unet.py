"""The U-Net beside numbers of its authors' code (CompVis/stable-diffusion 21f890f), and what holds for any."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import drawn, quick

from vqvae_jax.interop.places import from_torch, of_params, shapes, to_torch
from vqvae_jax.interop.unet_names import original_renames
from vqvae_jax.networks.embed_time import time_embedding
from vqvae_jax.networks.unet import UNet
from vqvae_jax.types import Model, UserError

FILE = Path(__file__).parents[1] / "reference" / "unet.npz"
SMALL = UNet(3, width=8, factors=(1, 2), heads=2, dropout=0.5, groups=2)


@pytest.fixture(scope="module")
def recorded():
    with np.load(FILE) as file:
        return dict(file)


def of(recorded, kind):
    return {name.removeprefix(kind): array for name, array in recorded.items() if name.startswith(kind)}


def abstract(module, context=None, channels=4, side=8):
    """Shapes of its parameters."""
    x, time, seen = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, side, side, channels), (1,), (1, 2, 1)))
    told = None if context is None else jax.ShapeDtypeStruct((*seen.shape[:2], context), jnp.float32)
    init = lambda x, time, told: module.init(jax.random.key(0), x, time, None, told)  # noqa: E731
    return Model(jax.eval_shape(init, x, time, told)["params"], {})


def last(x):
    """NCHW → NHWC."""
    return jnp.asarray(x.transpose(0, 2, 3, 1))


def near(got, want, share, name=""):
    np.testing.assert_allclose(got, want, rtol=0, atol=share * np.abs(want).max(), err_msg=name)


def test_time_embedding_is_the_authors(recorded):
    got = time_embedding(jnp.asarray(recorded["time_embedding/t"]), 32)
    np.testing.assert_allclose(got, recorded["time_embedding/output"], rtol=0, atol=1e-5)


def test_output_and_gradients_are_the_authors(recorded):
    tensors = of(recorded, "param/")
    module = UNet(4, 32, (1, 2), 1, (0, 1), 4)
    like = abstract(module, 24)
    places = of_params(like.params, original_renames(module))
    assert shapes(places, like) == {name: array.shape for name, array in tensors.items()}
    params = from_torch(tensors, places, like).params
    cotangent = last(recorded["cotangent/0"])

    def mean(params, x, context):
        out = module.apply({"params": params}, x, recorded["input/t"], None, context)
        return jnp.mean(out * cotangent), out

    inputs = last(recorded["input/x"]), recorded["input/context"]
    (_, out), (of_weights, of_x, of_context) = quick(jax.value_and_grad(mean, (0, 1, 2), has_aux=True))(params, *inputs)
    near(out, last(recorded["output/0"]), 1e-5)
    near(of_x, last(recorded["grad_input/x"]), 3e-5)
    near(of_context, recorded["grad_input/context"], 3e-5)
    gradients = to_torch(Model(of_weights, {}), places)
    for name, want in of(recorded, "grad/").items():
        near(gradients[name], want, 3e-5, name)


def test_stable_diffusion_s_has_as_many_parameters():
    leaves = jax.tree.leaves(abstract(UNet(4, 320, (1, 2, 4, 4), 2, (0, 1, 2), 8), 768))
    assert (len(leaves), sum(leaf.size for leaf in leaves)) == (686, 859_520_964)


@pytest.fixture(scope="module")
def small():
    """Parameters with and without a context, and inputs: x of as many numbers a place as none that it gives."""
    noise = lambda seed, *shape: np.random.default_rng(seed).normal(size=shape).astype(np.float32)  # noqa: E731
    params = {told: drawn(abstract(SMALL, told, channels=5).params) for told in (None, 6)}
    inputs = noise(0, 2, 4, 8, 5), np.float32([3, 400.5]), noise(1, 2, SMALL.vector_size), noise(2, 2, 7, 6)
    return params, inputs


@quick
def run(params, *inputs):
    return SMALL.apply({"params": params}, *inputs)


def test_it_is_told_of_all_that_is_told(small):
    params, (x, time, vector, context) = small
    out = run(params[6], x, time, vector, context)
    assert out.shape == (2, 4, 8, 3) and out.dtype == jnp.float32
    for other in ((2 * x, time, vector, context), (x, time + 1, vector, context), (x, time, vector + 1, context)):
        assert np.abs(run(params[6], *other) - out).max() > 1e-3
    changed = context.copy()
    changed[0] += 1
    again = run(params[6], x, time, vector, changed)
    assert np.abs(again[0] - out[0]).max() > 1e-3
    near(again[1], out[1], 1e-6)  # each example is on its own
    near(run(params[6], x, time, 0 * vector, context), run(params[6], x, time, None, context), 1e-6)


def test_without_a_context_nothing_looks_for_one(small):
    params, (x, time, vector, _) = small
    named = lambda tree: {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}  # noqa: E731
    more = named(params[6]) - named(params[None])
    assert named(params[None]) < named(params[6]) and all("other" in name or "norm2" in name for name in more)
    assert np.abs(run(params[None], x, time + 1, vector) - run(params[None], x, time, vector)).max() > 1e-3


def test_every_parameter_learns(small):
    params, inputs = small
    gradient = quick(jax.grad(lambda params: jnp.sum(jnp.sin(SMALL.apply({"params": params}, *inputs)))))(params[6])
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.abs(leaf).max() > 1e-5, jax.tree_util.keystr(path)


def test_fresh_parameters_give_nothing_and_blocks_are_the_identity():
    module, inputs = UNet(2, width=8, factors=(1,), attention=(), heads=2), (jnp.ones((1, 2, 2, 2)), jnp.ones(1))
    params = quick(module.init)(jax.random.key(0), *inputs)["params"]
    assert not np.any(quick(module.apply)({"params": params}, *inputs))
    silent = [params["middle_block0"]["conv2"], params["up0_block1"]["conv2"], params["middle_attention"]["leave"]]
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(silent))
    kernel = params["middle_attention"]["up"]["kernel"]
    assert np.std(kernel) == pytest.approx((3 * 8) ** -0.5, rel=0.1)  # PyTorch's


def test_bfloat16_is_float32_with_fewer_digits(small):
    params, inputs = small
    low = quick(lambda params: SMALL.clone(dtype=jnp.bfloat16).apply({"params": params}, *inputs))(params[6])
    want = run(params[6], *inputs)
    assert low.dtype == jnp.float32
    assert np.sqrt(np.mean((low - want) ** 2)) < 0.02 * np.sqrt(np.mean(want**2))


def test_dropout_is_of_training_alone(small):
    """It is on in `SMALL`, whose other runs are the same each time."""
    params, inputs = small
    train = quick(lambda key: SMALL.apply({"params": params[6]}, *inputs, train=True, rngs={"dropout": key}))
    assert np.abs(train(jax.random.key(0)) - train(jax.random.key(1))).max() > 1e-3


WRONG = {
    r"3 factors halve a map to 1 / 4: one of 8x6 does not come out even; give fewer factors": ({}, (8, 6)),
    r"attention=\[3\]: there are levels 0 to 2, -1 is the coarsest": ({"attention": (0, 3)}, (8, 8)),
    r"width=8 wants to be even, and to divide among heads=3 in each level": ({"heads": 3}, (8, 8)),
    r"width=9 wants to be even": ({"width": 9, "heads": 3}, (8, 8)),
    r"factors wants 1 to 20 widths of 1 or more": ({"factors": ()}, (8, 8)),
}


@pytest.mark.parametrize("said", WRONG)
def test_what_does_not_come_out_even_is_refused(said):
    fields, sides = WRONG[said]
    module = UNet(3, **{"width": 8, "factors": (1, 1, 2), **fields})
    with pytest.raises(UserError, match=said):
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *sides, 3)), jnp.zeros(1))


def test_strides_and_widths():
    assert (UNet(1).stride, UNet(1, factors=(1,)).stride, UNet(1, factors=(1, 2, 4)).stride) == (2, 1, 4)
    assert UNet(1, width=24).vector_size == 96
    like = abstract(UNet(4, 48))  # 32 groups do not divide 48: there are 16
    assert like.params["norm_out"]["scale"].shape == (48,)
