"""MobileNetV2 to its block 13, https://arxiv.org/abs/1801.04381 table 2, with torchvision's names.

After block 13 a place has 96 channels and lies 16 pixels from the next: 0.56 M parameters to there.
"""

from collections.abc import Mapping

import numpy as np

from vqvae_jax.features import inverted
from vqvae_jax.features.inverted import Block
from vqvae_jax.features.layers import normalised
from vqvae_jax.features.net import Net
from vqvae_jax.types import Array

DISTANCE = 13  # the map that distances take: deeper ones miss noise, shallower ones hardly part samples from images
PERCEPTUAL = (3, 6)  # those that a loss takes
EPS = 1e-5  # of PyTorch's batch norm
ROWS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
)  # expansion, channels, blocks, stride
BLOCKS = tuple(Block(t, c, 3, s if i == 0 else 1) for t, c, n, s in ROWS for i in range(n))
SHAPES = inverted.shapes(BLOCKS)


def maps(arrays: Mapping[str, Array], images: Array) -> tuple[Array, ...]:
    """Images [B, H, W, C] in [0, 1] of any size → 14 maps, after `features.0` to `features.13`."""
    return inverted.maps(arrays, normalised(images), BLOCKS, inverted.symmetric)


def from_torch(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """torchvision's weights as ours. KeyError: they are another net's."""
    return inverted.from_torch(tensors, BLOCKS, torch_names, EPS)


def torch_names(layer: str) -> tuple[str, str]:
    """ "2/expand" → "features.2.conv.0.0" and its norm "features.2.conv.0.1"."""
    number, _, part = layer.partition("/")
    if not part:
        return "features.0.0", "features.0.1"
    first = 0 if number == "1" else 1  # block 1 has no layer that expands
    if part == "project":
        return f"features.{number}.conv.{first + 1}", f"features.{number}.conv.{first + 2}"
    place = f"features.{number}.conv.{0 if part == 'expand' else first}"
    return f"{place}.0", f"{place}.1"


NET = Net("mobilenet_v2", SHAPES, maps, from_torch, DISTANCE, PERCEPTUAL)
