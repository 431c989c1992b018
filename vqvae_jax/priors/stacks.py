"""The two stacks of a gated PixelCNN, https://arxiv.org/abs/1606.05328, section 2.2: whole maps, and step by step.

Legend: B batch, h w map, D depth (channels).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from vqvae_jax.priors.layers import PixelAttention
from vqvae_jax.types import Array

Past = dict[str, Any]  # what cached sampling remembers of the rows and pixels before


class PixelCNN(nn.Module):
    """A stack of layers: a PixelConvA, then any PixelConvB and PixelAttention.

    `__call__` takes the whole map. For cached sampling `start`, `row` and `pixel` give the same numbers step by step:
    the vertical stack once a row, the horizontal one once a pixel.
    """

    layers: tuple[nn.Module, ...]

    def __call__(self, x: Array, cond: Array | None = None, train: bool = False) -> tuple[Array, Array]:
        """[B, h, w, depth_in] and a condition [B, M] or [B, h, w, M] → vertical and horizontal stack [B, h, w, D]."""
        vertical, horizontal = self.layers[0](x, cond)
        for layer in self.layers[1:]:
            if isinstance(layer, PixelAttention):
                vertical, horizontal = layer(vertical, horizontal)
            else:
                vertical, horizontal = layer(vertical, horizontal, cond, train)
        return vertical, horizontal

    def biases(self, cond: Array | None) -> list[Array | None]:
        """What the condition adds in each layer, computed once a sample."""
        return [None if isinstance(layer, PixelAttention) else layer.bias(cond) for layer in self.layers]

    def start(self, batch: int, height: int, width: int) -> tuple[list[Past], list[Past]]:
        """The empty past of the vertical and of the horizontal stack, one entry a layer."""

        def empty(layer: Any, *shape: int) -> Past:
            if isinstance(layer, PixelAttention):
                return layer.empty(batch, height, width)
            return {"seen": jnp.zeros((batch, *shape, layer.depth_in), layer.dtype)}

        rows = [empty(layer, layer_rows(layer), width) for layer in self.layers]
        lines = [empty(layer, layer_columns(layer) + width) for layer in self.layers]
        return rows, lines

    def row(self, past: list[Past], biases: list, r: Array) -> tuple[Array, list[Array | None], list[Past]]:
        """Row r of the vertical stack: its output [B, 1, w, D], what each layer gives the other stack, the past.

        The past of a layer are the rows that it looks back on.
        """
        x: Any = None
        across: list[Array | None] = []
        after: list[Past] = []
        for layer, before, bias in zip(self.layers, past, biases, strict=True):
            if isinstance(layer, PixelAttention):
                x, seen = layer.part(x, before, r * x.shape[2])
                across.append(None)
                after.append(seen)
                continue
            rows = before["seen"] if x is None else jnp.concatenate([before["seen"], x], axis=1)
            x, to_horizontal = layer.row(rows, at(bias, r, 1))
            across.append(to_horizontal)
            after.append({"seen": rows[:, -layer_rows(layer) :]})
        return x, across, after

    def pixel(self, past: list[Past], across: list, r: Array, c: Array, width: int) -> tuple[Array, list[Past]]:
        """Pixel (r, c) of the horizontal stack: its output [B, 1, 1, D], and the past after it.

        The past of a layer is its line: zeros as far as it looks back, then what it was given in this row. What is
        left there of the row above is written over before it is read, so that a new row needs no new line.
        """
        x: Any = None
        after: list[Past] = []
        for layer, before, to_horizontal in zip(self.layers, past, across, strict=True):
            if isinstance(layer, PixelAttention):
                x, seen = layer.part(x, before, r * width + c)
                after.append(seen)
                continue
            if x is not None:
                before = written(before, x[:, 0], c + layer_columns(layer))
            size = layer_columns(layer) + (x is not None)
            left = lax.dynamic_slice_in_dim(before["seen"], c, size, axis=1)[:, None]
            x = layer.pixel(left, at(to_horizontal, c, 2))
            after.append(before)
        return x, after


def written(line: Past, x: Array, place: Array) -> Past:
    """A line with a new pixel [B, 1, D] at its place."""
    return {"seen": lax.dynamic_update_slice_in_dim(line["seen"], x, place, axis=1)}


def layer_rows(layer: nn.Module) -> int:
    """Rows that a layer looks back on."""
    return getattr(layer, "vertical", 0)


def layer_columns(layer: nn.Module) -> int:
    """Columns that a layer looks back on."""
    return getattr(layer, "horizontal", 0)


def at(x: Array, index: Array, axis: int) -> Array:
    """One slice along an axis, kept as an axis of size 1; all of it where the size is 1 already."""
    return x if x.shape[axis] == 1 else lax.dynamic_slice_in_dim(x, index, 1, axis)
