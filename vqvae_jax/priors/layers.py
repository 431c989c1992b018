"""The layers of the gated PixelCNN, https://arxiv.org/abs/1606.05328 section 2, and attention over its two stacks.

The vertical stack sees the rows above, the horizontal one the pixels to the left and, through the vertical one, the
rows above. Layer A shifts both, so that nothing sees its own pixel; all later layers may then include it.

Each layer has three forms of the same sums. `__call__` takes whole maps. For cached sampling, `row` takes one row of
the vertical stack, and `pixel` one pixel of the horizontal stack, with what they look back on.

Legend: B batch, h w map, D depth. The windows are what lies before: `above` [B, vertical, w, D] rows,
`left` [B, 1, horizontal, D] pixels, zeros beyond the border.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vqvae_jax.networks.attention import cached, cached_attention, causal_attention, new_cache
from vqvae_jax.networks.conv import Conv, uniform
from vqvae_jax.types import Array


def gate(x: Array) -> Array:
    """tanh(first half) · sigmoid(second half), [..., 2D] → [..., D]."""
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.tanh(a) * jax.nn.sigmoid(b)


class Linear(nn.Module):
    """A dense layer over the last axis, initialised as PyTorch's."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", uniform(x.shape[-1]), (x.shape[-1], self.features))
        bias = self.param("bias", uniform(x.shape[-1]), (self.features,))
        x = x.astype(self.dtype) @ kernel.astype(self.dtype)
        return x + jnp.expand_dims(bias.astype(self.dtype), range(x.ndim - 1))


class ChannelNorm(nn.Module):
    """Layer norm over the channels at each position, computed in float32."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return nn.LayerNorm(epsilon=1e-5, dtype=jnp.float32, use_fast_variance=False, name="norm")(x).astype(self.dtype)


class PixelConvA(nn.Module):
    """The first layer: image or embedding [B, h, w, depth_in] → both stacks [B, h, w, depth_out].

    Attributes:
        depth_in, depth_out: channels in and out.
        cond_depth: channels of the condition, 0 for none.
        horizontal, vertical: how many columns and rows the layer looks back.
    """

    depth_in: int
    depth_out: int
    cond_depth: int = 0
    horizontal: int = 2
    vertical: int = 2
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.vertical_conv, self.horizontal_conv, self.vert_to_horiz, self.cond_layer = directional_convs(
            self, self.vertical, self.horizontal
        )

    def __call__(self, x: Array, cond: Array | None = None) -> tuple[Array, Array]:
        vertical, across = vertical_pass(self, x, self.bias(cond), (self.vertical, -1))
        return vertical, gate(self.horizontal_conv(x, ((0, 0), (self.horizontal, -1))) + across)

    def bias(self, cond: Array | None) -> Array:
        """What the condition, [B, M] or [B, h, w, M], adds before the gates: [B, h or 1, w or 1, 4 depth_out]."""
        return condition_bias(self, cond)

    def row(self, above: Array, bias: Array) -> tuple[Array, Array]:
        """Rows above → the next row of the vertical stack, and what it gives to the horizontal one."""
        return vertical_pass(self, above, bias, (0, 0))

    def pixel(self, left: Array, across: Array) -> Array:
        """Pixels to the left → the horizontal stack at this pixel."""
        return gate(self.horizontal_conv(left) + across)


class PixelConvB(nn.Module):
    """Any later layer: both stacks [B, h, w, depth_in] → both stacks.

    `norm` adds channel norms, `dropout` is the share of gated units dropped in training.
    """

    depth_in: int
    cond_depth: int = 0
    norm: bool = False
    horizontal: int = 2
    vertical: int = 2
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @property
    def depth_out(self) -> int:
        return self.depth_in

    def setup(self):
        self.vertical_conv, self.horizontal_conv, self.vert_to_horiz, self.cond_layer = directional_convs(
            self, self.vertical + 1, self.horizontal + 1
        )
        self.horiz_residual = Conv(self.depth_out, 1, dtype=self.dtype)
        self.drop = nn.Dropout(self.dropout)
        if self.norm:
            self.vert_norm, self.horiz_norm = ChannelNorm(self.dtype), ChannelNorm(self.dtype)

    def __call__(
        self, vertical: Array, horizontal: Array, cond: Array | None = None, train: bool = False
    ) -> tuple[Array, Array]:
        vertical, across = self._vertical(vertical, self.bias(cond), (self.vertical, 0), train)
        left = self.horizontal_conv(horizontal, ((0, 0), (self.horizontal, 0)))
        return vertical, self._horizontal(horizontal, left, across, train)

    def bias(self, cond: Array | None) -> Array:
        """As in layer A."""
        return condition_bias(self, cond)

    def row(self, above: Array, bias: Array) -> tuple[Array, Array]:
        """Rows above and this one → this row of the vertical stack, and what it gives to the horizontal one."""
        return self._vertical(above, bias, (0, 0), False)

    def pixel(self, left: Array, across: Array) -> Array:
        """Pixels to the left and this one → the horizontal stack at this pixel."""
        return self._horizontal(left[:, :, self.horizontal :], self.horizontal_conv(left), across, False)

    def _vertical(self, x: Array, bias: Array, rows: tuple[int, int], train: bool) -> tuple[Array, Array]:
        gated, across = vertical_pass(self, x, bias, rows)
        gated = self.drop(gated, deterministic=not train)
        return self.vert_norm(gated) if self.norm else gated, across

    def _horizontal(self, x: Array, left: Array, across: Array, train: bool) -> Array:
        gated = self.drop(gate(left + across), deterministic=not train)
        change = self.horiz_residual(gated)
        return x + (self.horiz_norm(change) if self.norm else change)


def directional_convs(layer, rows: int, columns: int):
    """What layers A and B have in common: two convolutions, the way from one stack to the other, the condition."""
    wide, dtype = 2 * layer.depth_out, layer.dtype
    vertical = Conv(wide, (rows, 2 * layer.horizontal + 1), dtype=dtype, name="vertical_conv")
    horizontal = Conv(wide, (1, columns), dtype=dtype, name="horizontal_conv")
    cond = Linear(2 * wide, dtype, name="cond_layer") if layer.cond_depth else None
    return vertical, horizontal, Conv(wide, 1, dtype=dtype, name="vert_to_horiz"), cond


def condition_bias(layer, cond: Array | None) -> Array:
    """What the condition adds to both stacks; zeros [1, 1, 1, 4 depth_out] where there is none."""
    if cond is None or layer.cond_layer is None:
        return jnp.zeros((1, 1, 1, 4 * layer.depth_out), layer.dtype)
    bias = layer.cond_layer(cond)
    return bias if bias.ndim == 4 else bias[:, None, None]


def vertical_pass(layer, x: Array, bias: Array, rows: tuple[int, int]) -> tuple[Array, Array]:
    """The vertical convolution, its gate, and its 1x1 way to the horizontal stack (taken before condition and gate).

    `rows` are the empty rows above and below x.
    """
    x = layer.vertical_conv(x, (rows, (layer.horizontal, layer.horizontal)))
    to_vertical, to_horizontal = jnp.split(bias, 2, axis=-1)
    return gate(x + to_vertical), layer.vert_to_horiz(x) + to_horizontal


class PixelAttention(nn.Module):
    """Raster-order causal self-attention with a residual, over each of the two stacks with the same weights.

    A position sees itself: what it holds is already shifted by layer A.
    """

    depth: int
    heads: int = 8
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.kqv_projection = Linear(3 * self.depth, self.dtype)
        self.mix_heads = Linear(self.depth, self.dtype)

    def __call__(self, vertical: Array, horizontal: Array) -> tuple[Array, Array]:
        return self.attend(vertical), self.attend(horizontal)

    def attend(self, x: Array) -> Array:
        """A whole map, [B, h, w, D] → [B, h, w, D]."""
        k, q, v = self.keys_queries_values(x)
        return x + self.mix_heads(causal_attention(q, k, v).reshape(x.shape))

    def empty(self, batch: int, height: int, width: int) -> dict[str, Array]:
        """The cache of no position yet."""
        none = jnp.zeros((batch, self.heads, 0, self.depth // self.heads), self.dtype)
        cache = new_cache(none, height * width, width)
        return {"keys": cache, "values": cache}

    def part(self, x: Array, past: dict[str, Array], start: Array) -> tuple[Array, dict[str, Array]]:
        """A row or a pixel whose first raster position is `start`: the attended x, and the cache after it."""
        k, q, v = (a.swapaxes(1, 2) for a in self.keys_queries_values(x))
        keys, values = cached(past["keys"], k, start), cached(past["values"], v, start)
        attended = cached_attention(q, keys, values, start).swapaxes(1, 2)
        return x + self.mix_heads(attended.reshape(x.shape)), {"keys": keys, "values": values}

    def keys_queries_values(self, x: Array) -> tuple[Array, Array, Array]:
        """[B, h, w, D] → three times [B, h·w, heads, D / heads]."""
        flat = self.kqv_projection(x.reshape(x.shape[0], -1, self.depth))
        k, q, v = jnp.split(flat, 3, axis=-1)
        heads = (*k.shape[:2], self.heads, self.depth // self.heads)
        return k.reshape(heads), q.reshape(heads), v.reshape(heads)
