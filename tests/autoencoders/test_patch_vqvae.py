"""The VQ-VAE of patches, beyond the contract: its layers against plain lax, its norm against numpy, its sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import build_case, drawn, quick

from vqvae_jax.autoencoders import PatchVQVAE
from vqvae_jax.autoencoders.patch_vqvae import NormedResidual, PatchConv, PatchTranspose
from vqvae_jax.quantizers import VectorQuantizer
from vqvae_jax.types import UserError

NHWC = ("NHWC", "HWIO", "NHWC")


def fresh(layer, x):
    return drawn(jax.eval_shape(layer.init, jax.random.key(0), x))


def noise(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def test_the_published_sizes():
    """28 x 28 grey pixels to 7 x 7 features of 32, as many as a code has: no projection."""
    model = PatchVQVAE((VectorQuantizer(100, 32),), channels=1)
    images = jax.ShapeDtypeStruct((2, 28, 28, 1), jnp.float32)
    book = VectorQuantizer(100, 32).init(jax.random.key(0))
    out, variables = jax.eval_shape(
        lambda k, x: model.init_with_output(k, x, {"codes": book}), jax.random.key(0), images
    )
    assert out.tokens[0].shape == (2, 7, 7) and out.images.shape == images.shape
    kernels = {
        "/".join(str(part.key) for part in path[1:-1]): leaf.shape
        for path, leaf in jax.tree.leaves_with_path(variables)
        if path[-1].key == "kernel"
    }
    residual = {"residual/conv1": (3, 3, 32, 32), "residual/conv2": (3, 3, 32, 32)}
    encoder = {"down0": (2, 2, 1, 32), "down1": (2, 2, 32, 32)} | residual
    decoder = {"up0": (2, 2, 32, 32), "up1": (2, 2, 32, 1)} | residual
    want = {f"encoder/{name}": shape for name, shape in encoder.items()}
    assert kernels == want | {f"decoder/{name}": shape for name, shape in decoder.items()}


def test_a_patch_convolution_is_lax_s():
    layer, x = PatchConv(5), noise(2, 4, 6, 3)
    params = fresh(layer, x)
    inside = params["params"]

    def plain(x, kernel, bias):
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), "VALID", dimension_numbers=NHWC) + bias[None, None, None]

    want = quick(plain)(x, inside["kernel"], inside["bias"])
    np.testing.assert_allclose(quick(layer.apply)(params, x), want, atol=1e-5)


def test_its_transpose_is_lax_s_by_gradient():
    """A transposed convolution is what the gradient of the convolution does to its input."""
    layer, x = PatchTranspose(3), noise(2, 2, 3, 5)
    params = fresh(layer, x)
    inside = params["params"]

    def plain(x, kernel, bias):
        down = lambda y: jax.lax.conv_general_dilated(  # noqa: E731
            y, kernel.swapaxes(2, 3), (2, 2), "VALID", dimension_numbers=NHWC
        )
        return jax.vjp(down, jnp.zeros((2, 4, 6, 3)))[1](x)[0] + bias[None, None, None]

    want = quick(plain)(x, inside["kernel"], inside["bias"])
    np.testing.assert_allclose(quick(layer.apply)(params, x), want, atol=1e-5)


def silu(x):
    return x / (1 + np.exp(-x))


def conv3x3(x, layer):
    """[B, h, w, C] in float64, by its definition."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    out = np.zeros((*x.shape[:3], layer["kernel"].shape[-1])) + layer["bias"]
    for i, j in np.ndindex(3, 3):
        out += padded[:, i : i + x.shape[1], j : j + x.shape[2]] @ layer["kernel"][i, j]
    return out


def test_the_group_norm_follows_the_addition():
    layer, x = NormedResidual(groups=2), noise(2, 3, 4, 6)
    params = fresh(layer, x)
    inside = jax.tree.map(lambda a: np.asarray(a, np.float64), params["params"])
    whole = np.asarray(x, np.float64)
    added = whole + conv3x3(silu(conv3x3(whole, inside["conv1"])), inside["conv2"])
    grouped = added.reshape(2, 12, 2, 3)  # mean and variance over the places and channels of a group
    mean, var = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
    normed = ((grouped - mean) / np.sqrt(var + 1e-5)).reshape(added.shape)
    want = normed * inside["norm"]["scale"] + inside["norm"]["bias"]
    np.testing.assert_allclose(quick(layer.apply)(params, x), want, atol=1e-4)


def test_forward_recomputed_from_its_layers():
    """An activation after each convolution on the way down, before each on the way up; none after norm or image."""
    model, params, books, images = build_case("patch_vqvae-2")
    encoder, decoder = (params["params"][part] for part in ("encoder", "decoder"))

    def by_hand(x):
        for name in ("down0", "down1"):
            x = jax.nn.silu(PatchConv(4).apply({"params": encoder[name]}, x))
        z_e = NormedResidual(2).apply({"params": encoder["residual"]}, x)
        distance = jnp.sum((z_e[..., None, :] - books["codes"].codes[None, None, None]) ** 2, -1)
        nearest = jnp.argmin(distance, -1)
        x = NormedResidual(2).apply({"params": decoder["residual"]}, books["codes"].codes[nearest])
        for name, features in (("up0", 4), ("up1", 3)):
            x = PatchTranspose(features).apply({"params": decoder[name]}, jax.nn.silu(x))
        return nearest, x

    tokens, image = quick(by_hand)(images)
    out = quick(lambda p: model.apply(p, images, books))(params)
    np.testing.assert_array_equal(out.tokens[0], tokens)
    np.testing.assert_allclose(out.images, image, atol=1e-5)


def test_groups_divide_the_width():
    model = PatchVQVAE((VectorQuantizer(8, 6),), width=6, groups=4)
    with pytest.raises(UserError, match="width=6 does not divide among groups=4"):
        model.init(jax.random.key(0), noise(1, 4, 4, 3), {})
