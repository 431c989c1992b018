"""VGG16's convolutions, https://arxiv.org/abs/1409.1556, with torchvision's names; LPIPS looks through it.

40 GFLOP an image of 256 pixels.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vqvae_jax.features.layers import layer, normalised
from vqvae_jax.features.net import Net
from vqvae_jax.types import Array, UserError

DISTANCE = 4  # `evaluate` takes no distances here, Python may
PERCEPTUAL = (0, 1, 2, 3, 4)
GROUPS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, layers; between groups the sides are halved
NUMBERS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))  # of torchvision's `features`
SMALLEST = 16  # pixels
AROUND = ((1, 1), (1, 1))


def _shapes() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    depth = 3
    for (channels, _), numbers in zip(GROUPS, NUMBERS, strict=True):
        for number in numbers:
            found |= {f"{number}/kernel": (3, 3, depth, channels), f"{number}/bias": (channels,)}
            depth = channels
    return found


SHAPES = _shapes()


def maps(arrays: Mapping[str, Array], images: Array) -> tuple[Array, ...]:
    """Images [B, H, W, C] in [0, 1], 16 pixels or more → 5 maps, after relu1_2, 2_2, 3_3, 4_3 and 5_3.

    Raises:
        UserError: they are smaller.
    """
    if min(images.shape[1:3]) < SMALLEST:
        raise UserError(f"VGG16 halves images four times: they want {SMALLEST} pixels, these have {images.shape[1:3]}")
    x, found = normalised(images), []
    for group, numbers in enumerate(NUMBERS):
        x = _halved(x) if group else x
        for number in numbers:
            x = jax.nn.relu(layer(arrays, str(number), x, 1, AROUND))
        found.append(x)
    return tuple(found)


def from_torch(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """torchvision's weights as ours, whole models or `features` alone. KeyError: they are another net's."""
    found: dict[str, np.ndarray] = {}
    for number in sum(NUMBERS, ()):
        kernel = np.moveaxis(tensors[f"features.{number}.weight"], (0, 1), (3, 2))
        found |= {f"{number}/kernel": kernel, f"{number}/bias": tensors[f"features.{number}.bias"]}
    return {name: np.ascontiguousarray(array, np.float32) for name, array in found.items()}


def _halved(x: Array) -> Array:
    """The largest of each 2x2 pixels."""
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


NET = Net("vgg16", SHAPES, maps, from_torch, DISTANCE, PERCEPTUAL)
