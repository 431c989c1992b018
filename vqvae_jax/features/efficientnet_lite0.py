"""EfficientNet-Lite0 to its block 10, https://arxiv.org/abs/1905.11946 without squeeze-and-excitation, ReLU6.

After block 10 a place has 112 channels and lies 16 pixels from the next. Trained in TensorFlow: it pads as TensorFlow
does, and sees (x - 127) / 128 of pixels 0 … 255. Names are those of the PyTorch ports with `_blocks`.
"""

from collections.abc import Mapping

import numpy as np

from vqvae_jax.features import inverted
from vqvae_jax.features.inverted import Block
from vqvae_jax.features.layers import normalised
from vqvae_jax.features.net import Net
from vqvae_jax.types import Array

DISTANCE = 11  # the map that distances take, `_blocks.10`
PERCEPTUAL = (3, 5)  # those that a loss takes
SCALE = 10.0  # of the pooled features, for the kernel distance: they are ten times as large as those of MobileNetV2
EPS = 1e-3  # of TensorFlow's batch norm
MEAN, DEVIATION = (127 / 255,) * 3, (128 / 255,) * 3
ROWS = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5))  # …, kernel
BLOCKS = tuple(Block(t, c, k, s if i == 0 else 1) for t, c, n, s, k in ROWS for i in range(n))
SHAPES = inverted.shapes(BLOCKS)
PARTS = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}


def maps(arrays: Mapping[str, Array], images: Array) -> tuple[Array, ...]:
    """Images [B, H, W, C] in [0, 1] of any size → 12 maps, of the stem and of `_blocks.0` to `_blocks.10`."""
    return inverted.maps(arrays, normalised(images, MEAN, DEVIATION), BLOCKS, inverted.same)


def from_torch(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The port's weights as ours. KeyError: they are another net's."""
    return inverted.from_torch(tensors, BLOCKS, torch_names, EPS)


def torch_names(layer: str) -> tuple[str, str]:
    number, _, part = layer.partition("/")
    if not part:
        return "_conv_stem", "_bn0"
    kernel, norm = PARTS[part]
    return f"_blocks.{int(number) - 1}.{kernel}", f"_blocks.{int(number) - 1}.{norm}"


NET = Net("efficientnet_lite0", SHAPES, maps, from_torch, DISTANCE, PERCEPTUAL, SCALE)
