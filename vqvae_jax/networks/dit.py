"""The diffusion transformer, https://arxiv.org/abs/2212.09748, with adaLN-zero; number for number the authors' code,
https://github.com/facebookresearch/DiT, without a context and with `local=False`.

    x → patches → dense, + place ──→ blocks → norm · (1 + scale) + shift → dense → patches of the answer
    time → waves → MLP, + vector → SiLU → shifts, scales and gates of each block and of the end

A context, vectors that are attended to (of a text), has an attention of its own in each block, as in
https://arxiv.org/abs/2310.00426.

Legend: B batch, h w map, P places (h · w / patch²), W width, N heads, S vectors of the context.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vqvae_jax.limits import Count, Natural, Several, Share
from vqvae_jax.networks.attention import attention
from vqvae_jax.networks.dense import Dense
from vqvae_jax.networks.embed_time import time_embedding
from vqvae_jax.networks.neighbours import neighbours
from vqvae_jax.types import Array, UserError

WAVES = 256  # numbers that say the time, before the MLP
EPSILON = 1e-6  # of the norms


class Block(nn.Module):
    """x + gate · attention(norm(x) · (1 + scale) + shift), then the same with an MLP; between them the context's.

    Before them, where `local`, a depthwise 3x3 over the places.
    """

    width: int
    heads: int
    mlp: int
    dropout: float
    local: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, told: Array, context: Array | None, form: tuple[int, int], train: bool) -> Array:
        """[B, P, W], SiLU of what it is told [B, W], [B, S, D] → [B, P, W]; form is rows and columns of places."""
        drop = nn.Dropout(self.dropout, deterministic=not train)
        said = Dense(6 * self.width, jnp.float32, 0.0, name="modulate")(told)[:, None]
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(said, 6, axis=-1)
        if self.local:
            taps = self.param("taps", nn.initializers.zeros, (3, 3, self.width))
            x = x + neighbours(x.reshape(len(x), *form, -1), taps).reshape(x.shape)
        q, k, v = jnp.split(self._dense(3 * self.width, "qkv", modulated(x, shift1, scale1, self.dtype)), 3, axis=-1)
        mixed = self._dense(self.width, "mix_heads", attention(*map(self._heads, (q, k, v))).reshape(x.shape))
        x = x + gate1.astype(self.dtype) * drop(mixed)
        if context is not None:
            x = x + drop(self._attend(x, context))
        hidden = nn.gelu(self._dense(self.mlp, "up", modulated(x, shift2, scale2, self.dtype)))
        return x + gate2.astype(self.dtype) * drop(self._dense(self.width, "down", hidden))

    def _attend(self, x: Array, context: Array) -> Array:
        """What each place finds in the context."""
        q = self._dense(self.width, "query", standardised(x).astype(self.dtype))
        k, v = jnp.split(self._dense(2 * self.width, "key_value", context), 2, axis=-1)
        return self._dense(self.width, "mix_context", attention(*map(self._heads, (q, k, v))).reshape(x.shape))

    def _dense(self, size: int, name: str, x: Array) -> Array:
        return Dense(size, self.dtype, xavier(x.shape[-1], size), name=name)(x)

    def _heads(self, x: Array) -> Array:
        return x.reshape(*x.shape[:2], self.heads, -1)


class DiT(nn.Module):
    """A map with noise, and how much → what there is to be foretold of each number.

    Attributes:
        channels: numbers a place of the answer.
        width: of the residual stream.
        layers: blocks.
        heads: of the attention.
        mlp: width inside of the MLPs, in widths.
        patch: places of the map, in a row, that become one.
        dropout: share of what attention and MLP give that is dropped in training; the paper has none.
        local: whether a depthwise 3x3 stands before each block: not in the paper; worth much where training is short.
        spare: numbers a place that are foretold after the answer and not given: the authors' weights have variances.
        remat: the backward pass computes blocks anew and does not keep what is inside: less memory, a third more work.
        dtype: what the blocks compute in; parameters, norms, softmax and answer are float32.
    """

    channels: int
    width: Count = 128
    layers: Several = 4
    heads: Count = 4
    mlp: Count = 4
    patch: Count = 1
    dropout: Share = 0.0
    local: bool = False
    spare: Natural = 0
    remat: bool = False
    dtype: jnp.dtype = jnp.float32

    @property
    def vector_size(self) -> int:
        """Numbers of the vector that it is told beside the time."""
        return self.width

    @property
    def stride(self) -> int:
        """What the map's sides are multiples of."""
        return self.patch

    @nn.compact
    def __call__(
        self, x: Array, time: Array, vector: Array | None = None, context: Array | None = None, *, train: bool = False
    ) -> Array:
        """[B, h, w, C], float [B] in 0 to 1000, [B, W], [B, S, D] → float32 [B, h, w, channels]."""
        if self.width % self.heads or self.width % 4:
            raise UserError(f"width={self.width} is a multiple of 4 and of heads={self.heads}; change one")
        form = (x.shape[1] // self.patch, x.shape[2] // self.patch)
        told = time_embedding(time, WAVES)
        told = Dense(self.width, jnp.float32, name="time2")(nn.silu(Dense(self.width, jnp.float32, name="time1")(told)))
        told = nn.silu(told if vector is None else told + vector)
        x = patches(x, self.patch).astype(self.dtype)
        x = Dense(self.width, self.dtype, xavier(x.shape[-1], self.width), name="read")(x)
        x = x + jnp.asarray(waves(form, self.width), self.dtype)[None]
        block = (self.width, self.heads, self.mlp * self.width, self.dropout, self.local, self.dtype)
        kind = nn.remat(Block, static_argnums=(4, 5)) if self.remat else Block
        for number in range(self.layers):
            x = kind(*block, name=f"blocks_{number}")(x, told, context, form, train)
        shift, scale = jnp.split(Dense(2 * self.width, jnp.float32, 0.0, name="modulate")(told)[:, None], 2, axis=-1)
        x = modulated(x, shift, scale, jnp.float32)
        x = Dense(self.patch**2 * (self.channels + self.spare), jnp.float32, 0.0, name="write")(x)
        return unpatched(x, form, self.patch)[..., : self.channels]


def xavier(inputs: int, outputs: int) -> float:
    """Standard deviation of fresh kernels; theirs are uniform, ours normal."""
    return float(np.sqrt(2 / (inputs + outputs)))


def standardised(x: Array) -> Array:
    """Each place of mean 0 and variance 1, float32."""
    x = x.astype(jnp.float32)
    away = x - jnp.mean(x, axis=-1, keepdims=True)
    return away * jax.lax.rsqrt(jnp.mean(jnp.square(away), axis=-1, keepdims=True) + EPSILON)


def modulated(x: Array, shift: Array, scale: Array, dtype: jnp.dtype) -> Array:
    """Standardised, scaled and shifted, [B, P, W] and twice [B, 1, W]."""
    return (standardised(x) * (1 + scale) + shift).astype(dtype)


def patches(x: Array, size: int) -> Array:
    """[B, h, w, C] → [B, places, size · size · C], the numbers of a place as (row, column, channel)."""
    count, height, width, channels = x.shape
    x = x.reshape(count, height // size, size, width // size, size, channels).swapaxes(2, 3)
    return x.reshape(count, -1, size * size * channels)


def unpatched(x: Array, form: tuple[int, int], size: int) -> Array:
    """The map that `patches` cut up, [B, places, size · size · C] → [B, h, w, C]; form: rows and columns of places."""
    x = x.reshape(len(x), *form, size, size, -1).swapaxes(2, 3)
    return x.reshape(len(x), form[0] * size, form[1] * size, -1)


def waves(form: tuple[int, int], width: int) -> np.ndarray:
    """Fixed places, [rows · columns, width]: half of the channels from the column, half from the row; in each half
    sines, then cosines."""

    def one(positions: np.ndarray) -> np.ndarray:
        frequency = 10_000.0 ** (-np.arange(width // 4) / (width // 4))
        angle = positions.reshape(-1)[:, None] * frequency[None]
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)

    row, column = np.indices(form)
    return np.concatenate([one(column), one(row)], axis=-1)
