"""Nets of inverted residual blocks: expand, depthwise, project, https://arxiv.org/abs/1801.04381."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vqvae_jax.features.layers import folded, layer, relu6
from vqvae_jax.networks.fast import NONE, Padding
from vqvae_jax.types import Array

STEM, CHANNELS = "0", 32  # the first layer, a 3x3 convolution of stride 2, and what it makes of three channels
Pad = Callable[[int, int, int], tuple[int, int]]  # of one axis: (pixels, kernel, stride) → before and after
Names = Callable[[str], tuple[str, str]]  # our layer → the other's convolution and batch norm


class Block(NamedTuple):
    """The sizes of one inverted residual block."""

    expand: int  # times so many channels between its layers; 1 has no first layer
    channels: int
    kernel: int
    stride: int


def symmetric(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """Pixels before and behind one axis, as PyTorch pads: the same on both sides."""
    return kernel // 2, kernel // 2


def same(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """As TensorFlow pads: the odd pixel goes behind."""
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


def maps(arrays: Mapping[str, Array], x: Array, blocks: Sequence[Block], pad: Pad) -> tuple[Array, ...]:
    """Normalised images [B, H, W, 3] → the stem's output and each block's, [B, h, w, C]."""
    found = [relu6(layer(arrays, STEM, x, 2, _padding(x, 3, 2, pad)))]
    for number, block in enumerate(blocks, 1):
        found.append(_block(arrays, str(number), found[-1], block, pad))
    return tuple(found)


def _block(arrays: Mapping[str, Array], name: str, x: Array, block: Block, pad: Pad) -> Array:
    wide = x if block.expand == 1 else relu6(layer(arrays, f"{name}/expand", x, 1, NONE))
    padding = _padding(wide, block.kernel, block.stride, pad)
    out = layer(
        arrays, f"{name}/project", relu6(layer(arrays, f"{name}/depthwise", wide, block.stride, padding)), 1, NONE
    )
    return x + out if block.stride == 1 and x.shape == out.shape else out


def _padding(x: Array, kernel: int, stride: int, pad: Pad) -> Padding:
    return pad(x.shape[1], kernel, stride), pad(x.shape[2], kernel, stride)


def shapes(blocks: Sequence[Block]) -> dict[str, tuple[int, ...]]:
    """Name → shape of each array."""
    kernels: dict[str, tuple[int, ...]] = {STEM: (3, 3, 3, CHANNELS)}
    depth = CHANNELS
    for number, block in enumerate(blocks, 1):
        wide = depth * block.expand
        if block.expand > 1:
            kernels[f"{number}/expand"] = (1, 1, depth, wide)
        kernels[f"{number}/depthwise"] = (block.kernel, block.kernel, wide)
        kernels[f"{number}/project"] = (1, 1, wide, block.channels)
        depth = block.channels
    return {
        f"{name}/{part}": form
        for name, kernel in kernels.items()
        for part, form in (("kernel", kernel), ("bias", kernel[-1:]))
    }


def from_torch(
    tensors: Mapping[str, np.ndarray], blocks: Sequence[Block], names: Names, eps: float
) -> dict[str, np.ndarray]:
    """PyTorch's weights as ours, batch norms folded in.

    Raises:
        KeyError: a tensor is missing: they are another net's.
    """
    found: dict[str, np.ndarray] = {}
    for layer_name in {name.rpartition("/")[0]: None for name in shapes(blocks)}:
        kernel, norm = names(layer_name)
        parts = {part: tensors[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")}
        found |= {
            f"{layer_name}/{part}": array for part, array in folded(tensors[f"{kernel}.weight"], parts, eps).items()
        }
    return found
