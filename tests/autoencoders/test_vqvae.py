"""The VQ-VAE of one level, beyond the contract: its layers, counted and recomputed."""

import jax
import jax.numpy as jnp
import numpy as np
from small_models import build_case, quick

from vqvae_jax.autoencoders import VQVAE
from vqvae_jax.quantizers import VectorQuantizer


def test_the_published_sizes():
    """Two halvings of 64 and 128 channels, residual blocks of 32, codes of 64: shapes by hand."""
    model = VQVAE((VectorQuantizer(512, 64),))
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    params = jax.eval_shape(lambda k, x: model.init(k, x, model.init_codebooks(k)), jax.random.key(0), images)["params"]
    kernels = {
        "/".join(str(part.key) for part in path[:-1]): leaf.shape
        for path, leaf in jax.tree.leaves_with_path(params)
        if path[-1].key == "kernel"
    }
    residual = {"residual0/conv1": (3, 3, 128, 32), "residual0/conv2": (1, 1, 32, 128)}
    residual |= {name.replace("0", "1", 1): shape for name, shape in residual.items()}
    encoder = {"down0": (4, 4, 3, 64), "down1": (4, 4, 64, 128), "conv": (3, 3, 128, 128), "to_code": (1, 1, 128, 64)}
    decoder = {"conv": (3, 3, 64, 128), "up0": (4, 4, 128, 64), "output": (4, 4, 64, 3)}
    want = {f"encoder/{name}": shape for name, shape in (encoder | residual).items()}
    assert kernels == want | {f"decoder/{name}": shape for name, shape in (decoder | residual).items()}


def test_the_encoder_recomputed_with_plain_lax():
    model, params, books, images = build_case("vqvae-2")
    inside = params["params"]["encoder"]

    def conv(x, layer, stride=1, padding="SAME"):
        dimensions = ("NHWC", "HWIO", "NHWC")
        out = jax.lax.conv_general_dilated(x, layer["kernel"], (stride, stride), padding, dimension_numbers=dimensions)
        return out + layer["bias"][None, None, None]

    def by_hand(images):
        x = images
        for name in ("down0", "down1"):
            x = jax.nn.relu(conv(x, inside[name], 2, ((1, 1), (1, 1))))
        x = conv(x, inside["conv"])
        for name in ("residual0", "residual1"):
            x = x + conv(jax.nn.relu(conv(jax.nn.relu(x), inside[name]["conv1"])), inside[name]["conv2"])
        return conv(jax.nn.relu(x), inside["to_code"])

    z_e = quick(by_hand)(images)
    distance = ((np.asarray(z_e)[..., None, :] - np.asarray(books["codes"].codes)) ** 2).sum(-1)
    tokens = quick(lambda p: model.apply(p, images, books, method="encode"))(params)
    np.testing.assert_array_equal(tokens[0], distance.argmin(-1))
    chosen = np.asarray(books["codes"].codes)[distance.argmin(-1)]
    losses = quick(lambda p: model.apply(p, images, books).losses)(params)
    np.testing.assert_allclose(losses["commitment/codes"], np.mean((z_e - chosen) ** 2), rtol=1e-5)
    np.testing.assert_allclose(losses["codebook/codes"], np.mean((z_e - chosen) ** 2), rtol=1e-5)
