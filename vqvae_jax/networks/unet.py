"""The U-Net of latent diffusion, https://arxiv.org/abs/2112.10752, as its authors' code has it
(https://github.com/CompVis/latent-diffusion, ldm/modules/diffusionmodules/openaimodel.py), which it is number for
number; with a context it is that of Stable Diffusion 1.

    x → 3x3 → levels, fine to coarse: residual blocks (transformer), halved → middle
      → levels, coarse to fine: residual blocks (transformer), doubled → norm, swish, 3x3 → the answer
    time → waves → MLP, + vector → swish → added inside of each residual block

Each block of the way up also sees what a block, or a halving, of the way down gave: the latest that none has seen yet.

Legend: B batch, h w map, C channels of a level, P places (h · w), S vectors of the context.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vqvae_jax.limits import Count, Several, Share
from vqvae_jax.networks.attention import attention
from vqvae_jax.networks.conv import Conv, DoubledConv
from vqvae_jax.networks.dense import Dense
from vqvae_jax.networks.embed_time import time_embedding
from vqvae_jax.networks.norm import GroupNorm
from vqvae_jax.types import Array, UserError

EPSILON = 1e-5  # of the norms, but for those before transformers, which have GroupNorm's own
INNER = 4  # width inside of a transformer's MLP, in widths
MOST = 20  # levels, each half of the one before


class Inside(NamedTuple):
    """What all blocks are made of."""

    heads: int
    groups: int
    dropout: float
    dtype: jnp.dtype

    def norm(self, name: str, epsilon: float = EPSILON) -> nn.Module:
        return GroupNorm(self.groups, self.dtype, epsilon, name=name)

    def conv(self, features: int, size: int, name: str, silent: bool = False, stride: int = 1) -> nn.Module:
        """Padded on all sides, of a stride too."""
        return Conv(features, size, stride, (size // 2, size // 2), self.dtype, silent=silent, name=name)

    def dense(self, into: int, features: int, name: str, bias: bool = True) -> Dense:
        """Fresh kernels deviate as PyTorch's do."""
        return Dense(features, self.dtype, (3 * into) ** -0.5, bias, name=name)


class Told(NamedTuple):
    """What all blocks are told."""

    moment: Array  # [B, 4 width]
    context: Array | None  # [B, S, D]
    train: bool


class Residual(nn.Module):
    """x + conv3x3(swish(norm(conv3x3(swish(norm(x))) + dense(moment)))), [B, h, w, C] → [B, h, w, features].

    Where C is another number, a 1x1 convolution of x stands in for x.
    """

    features: int
    inside: Inside

    @nn.compact
    def __call__(self, x: Array, told: Told) -> Array:
        inside, conv = self.inside, self.inside.conv
        h = conv(self.features, 3, "conv1")(nn.swish(inside.norm("norm1")(x)))
        moment = inside.dense(told.moment.shape[-1], self.features, "moment")(told.moment)
        h = nn.swish(inside.norm("norm2")(h + moment[:, None, None]))
        h = nn.Dropout(inside.dropout)(h, deterministic=not told.train)
        h = conv(self.features, 3, "conv2", silent=True)(h)
        if x.shape[-1] != self.features:
            x = conv(self.features, 1, "shortcut")(x)
        return x + h


class Transformer(nn.Module):
    """Places see each other, then the context where there is one, then an MLP: [B, h, w, C] → the same."""

    inside: Inside

    @nn.compact
    def __call__(self, x: Array, context: Array | None) -> Array:
        inside, channels = self.inside, x.shape[-1]
        h = inside.conv(channels, 1, "enter")(inside.norm("norm", GroupNorm.epsilon)(x))
        h = h.reshape(len(x), -1, channels)  # [B, P, C]
        own = self._norm(h, "norm1")
        h = h + Attention(inside, name="itself")(own, own)
        if context is not None:
            h = h + Attention(inside, name="other")(self._norm(h, "norm2"), context)
        h = h + self._mlp(self._norm(h, "norm3"))
        return x + inside.conv(channels, 1, "leave", silent=True)(h.reshape(x.shape))

    def _norm(self, x: Array, name: str) -> Array:
        norm = nn.LayerNorm(epsilon=EPSILON, dtype=jnp.float32, use_fast_variance=False, name=name)
        return norm(x).astype(self.inside.dtype)

    def _mlp(self, x: Array) -> Array:
        """GEGLU, https://arxiv.org/abs/2002.05202, with the exact error function."""
        channels, inner = x.shape[-1], INNER * x.shape[-1]
        value, gate = jnp.split(self.inside.dense(channels, 2 * inner, "up")(x), 2, axis=-1)
        return self.inside.dense(inner, channels, "down")(value * nn.gelu(gate, approximate=False))


class Attention(nn.Module):
    """What each place [B, P, C] sees of other vectors [B, S, D] → [B, P, C]."""

    inside: Inside

    @nn.compact
    def __call__(self, x: Array, seen: Array) -> Array:
        dense, channels = self.inside.dense, x.shape[-1]
        looks = {"query": x, "key": seen, "value": seen}
        q, k, v = (
            dense(a.shape[-1], channels, name, bias=False)(a).reshape(*a.shape[:2], self.inside.heads, -1)
            for name, a in looks.items()
        )
        return dense(channels, channels, "mix_heads")(attention(q, k, v).reshape(x.shape))


class UNet(nn.Module):
    """A map of numbers and how late it is → a map of numbers, such as the noise that lies on it.

    Fresh parameters give 0, whatever they see: the last convolution begins as 0, and so do the last layers of all
    blocks.

    Attributes:
        channels: numbers a place that it gives.
        width: channels of the first convolution.
        factors: of the levels, fine to coarse: a level is so many times as wide, and half as high as the one before.
        blocks: residual blocks of a level on the way down; on the way up there is one more.
        attention: levels with a transformer behind each residual block, 0 the finest, -1 the coarsest; in the middle
            there always is one.
        heads: of all attention.
        dropout: share of what is inside of a residual block that is dropped in training.
        groups: of the norms; where they do not divide a width, as many as divide both. In a level of no more channels
            than groups the norm takes away all that the time has added.
        dtype: what the layers compute in; parameters, norms, softmax and what becomes of the time are float32.
    """

    channels: int
    width: Count = 64
    factors: tuple[int, ...] = (1, 2)
    blocks: Several = 1
    attention: tuple[int, ...] = (-1,)
    heads: Count = 4
    dropout: Share = 0.0
    groups: Count = 32
    dtype: jnp.dtype = jnp.float32

    @property
    def vector_size(self) -> int:
        """Numbers of the vector that it is told beside the time."""
        return 4 * self.width

    @property
    def stride(self) -> int:
        """What the height and width of a map must be multiples of."""
        return 2 ** max(0, min(len(self.factors), MOST) - 1)

    @nn.compact
    def __call__(
        self, x: Array, time: Array, vector: Array | None = None, context: Array | None = None, *, train: bool = False
    ) -> Array:
        """A map [B, h, w, any], float [B] from 0 to 1000, [B, vector_size], [B, S, any] → float32 [B, h, w, channels].

        Without a context there are no layers that see it. In training with dropout it needs the stream "dropout".
        """
        self._check(x)
        inside = Inside(self.heads, self.groups, self.dropout, self.dtype)
        told = Told(self._moment(time, vector), context, train)
        x = inside.conv(self.width, 3, "conv_in")(x)
        x = self._up(*self._down(x, told, inside), told, inside)
        x = inside.conv(self.channels, 3, "conv_out", silent=True)(nn.swish(inside.norm("norm_out")(x)))
        return x.astype(jnp.float32)

    def _down(self, x: Array, told: Told, inside: Inside) -> tuple[Array, list[Array]]:
        """The middle's map, and all that was seen on the way to it."""
        last, seen = len(self.factors) - 1, [x]
        for level in range(last + 1):
            for i in range(self.blocks):
                x = self._block(x, told, inside, f"down{level}", level, i)
                seen.append(x)
            if level < last:
                x = inside.conv(x.shape[-1], 3, f"down{level}_half", stride=2)(x)
                seen.append(x)
        x = Residual(x.shape[-1], inside, name="middle_block0")(x, told)
        x = Transformer(inside, name="middle_attention")(x, told.context)
        return Residual(x.shape[-1], inside, name="middle_block1")(x, told), seen

    def _up(self, x: Array, seen: list[Array], told: Told, inside: Inside) -> Array:
        for level in reversed(range(len(self.factors))):
            for i in range(self.blocks + 1):
                x = jnp.concatenate([x, seen.pop()], axis=-1)
                x = self._block(x, told, inside, f"up{level}", level, i)
            x = DoubledConv(x.shape[-1], self.dtype, name=f"up{level}_double")(x) if level else x
        return x

    def _block(self, x: Array, told: Told, inside: Inside, prefix: str, level: int, i: int) -> Array:
        x = Residual(self.width * self.factors[level], inside, name=f"{prefix}_block{i}")(x, told)
        if level in self.attention or level - len(self.factors) in self.attention:
            x = Transformer(inside, name=f"{prefix}_attention{i}")(x, told.context)
        return x

    def _moment(self, time: Array, vector: Array | None) -> Array:
        """SiLU of the time's embedding, to which the vector is added, float32 [B, 4 width]."""
        size = self.vector_size
        dense = lambda into, name: Dense(size, jnp.float32, (3 * into) ** -0.5, name=name)  # noqa: E731
        moment = dense(self.width, "time1")(time_embedding(time, self.width))
        moment = dense(size, "time2")(jax.nn.silu(moment))
        return jax.nn.silu(moment if vector is None else moment + vector)

    def _check(self, x: Array) -> None:
        levels, sides = len(self.factors), x.shape[1:3]
        if not 1 <= levels <= MOST or min(self.factors) < 1:
            raise UserError(
                f"factors wants 1 to {MOST} widths of 1 or more, fine to coarse, as 1,2,4; got {self.factors}"
            )
        if beyond := [level for level in self.attention if not -levels <= level < levels]:
            raise UserError(
                f"attention={beyond}: there are levels 0 to {levels - 1}, -1 is the coarsest; name of these"
            )
        if self.width % 2 or any(self.width * factor % self.heads for factor in self.factors):
            raise UserError(
                f"width={self.width} wants to be even, and to divide among heads={self.heads} in each level; change one"
            )
        if any(side % self.stride for side in sides):
            raise UserError(
                f"{levels} factors halve a map to 1 / {self.stride}: one of {sides[0]}x{sides[1]} does not come out "
                "even; give fewer factors"
            )
