"""Frozen nets beside the published code with random weights: torchvision, the port of EfficientNet-Lite0, LPIPS.

scripts/record_features.py made the recording; the nets have few channels and blocks.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqvae_jax.features import NETS, efficientnet_lite0, inverted, mobilenet_v2
from vqvae_jax.features.inverted import Block
from vqvae_jax.features.layers import normalised
from vqvae_jax.features.perceptual import perceptual
from vqvae_jax.networks.fast import plain

RECORDED = Path(__file__).parents[1] / "reference" / "features.npz"
KERNEL = {"mobilenet_v2": 3, "efficientnet_lite0": 5}  # of the last block
EPS, CLOSE = {"mobilenet_v2": mobilenet_v2.EPS, "efficientnet_lite0": efficientnet_lite0.EPS}, 2e-5
NAMES = {"mobilenet_v2": mobilenet_v2.torch_names, "efficientnet_lite0": efficientnet_lite0.torch_names}
NORMAL = {"mobilenet_v2": (), "efficientnet_lite0": (efficientnet_lite0.MEAN, efficientnet_lite0.DEVIATION)}
PAD = {"mobilenet_v2": inverted.symmetric, "efficientnet_lite0": inverted.same}


def recorded(prefix):
    """What stands below it."""
    with np.load(RECORDED) as file:
        return {name.removeprefix(prefix): file[name] for name in file.files if name.startswith(prefix)}


def small(name):
    """The blocks of the recording and its arrays, by our names."""
    tensors = recorded(f"{name}/param/")
    widths = [recorded(f"{name}/maps/")[str(i)].shape[-1] for i in range(1, 5)]
    shape = ((1, 3, 1), (6, 3, 2), (6, 3, 1), (6, KERNEL[name], 2))
    blocks = [Block(t, c, k, s) for (t, k, s), c in zip(shape, widths, strict=True)]
    return blocks, inverted.from_torch(tensors, blocks, NAMES[name], EPS[name])


@pytest.mark.parametrize("form", ["fast", "plain"])
@pytest.mark.parametrize("name", NAMES)
def test_maps_are_those_of_the_published_code(name, form):
    blocks, arrays = small(name)
    images = normalised(recorded(f"{name}/images")[""] / 255, *NORMAL[name])
    with plain(form == "plain"):
        maps = jax.jit(lambda a, x: inverted.maps(a, x, blocks, PAD[name]))(arrays, images)
    for number, one in enumerate(maps):
        np.testing.assert_allclose(one, recorded(f"{name}/maps/")[str(number)], atol=CLOSE, rtol=CLOSE)


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_of_a_depthwise_convolution_have_one_gradient(name):
    blocks, arrays = small(name)
    images = normalised(recorded(f"{name}/images")[""] / 255, *NORMAL[name])

    def gradient(on):
        with plain(on):
            wave = lambda x: jnp.sum(jnp.sin(inverted.maps(arrays, x, blocks, PAD[name])[-1]))  # noqa: E731
            return jax.jit(jax.grad(wave))(images)

    np.testing.assert_allclose(gradient(False), gradient(True), atol=1e-5)


def lpips():
    """VGG16's arrays with the heads, and what was recorded."""
    net = NETS["vgg16"]
    heads = recorded("lpips/param/")
    arrays = net.from_torch(recorded("vgg16/param/"))
    arrays |= {f"heads/{i}": heads[f"lin{i}.model.1.weight"].reshape(-1) for i in range(5)}
    return net, arrays, recorded("lpips/")


def test_vgg16_looks_through_what_lpips_looks_through():
    net, arrays, known = lpips()
    for number, one in enumerate(jax.jit(net.maps)(arrays, known["images"])):
        np.testing.assert_allclose(one, recorded("vgg16/maps/")[str(number)], atol=CLOSE, rtol=CLOSE)


def test_lpips_is_that_of_its_authors():
    net, arrays, known = lpips()
    images, others = jnp.asarray(known["images"]), jnp.asarray(known["others"])
    total = lambda x: (jnp.sum(each := perceptual(net, arrays, x, others)), each)  # noqa: E731
    gradient, each = jax.jit(jax.grad(total, has_aux=True))(images)
    np.testing.assert_allclose(each, known["distance"], rtol=1e-5, atol=1e-7)
    away = np.linalg.norm(gradient - known["gradient"]) / np.linalg.norm(known["gradient"])
    assert away < 1e-5
    assert float(each[-1]) < 1e-9 and np.abs(gradient[-1]).max() < 1e-6  # equal pictures
