"""BERT's block, https://arxiv.org/abs/1810.04805, as MaskGIT has it: each position sees all; also with norms before.

Legend: B batch, S positions, h w map, W width.
"""

import math
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from vqvae_jax.networks.attention import attention
from vqvae_jax.networks.dense import Dense
from vqvae_jax.networks.neighbours import neighbours
from vqvae_jax.types import Array

EPSILON = 1e-12  # of the norms, as the authors have it


class Block(nn.Module):
    """Attention and an MLP, each with a residual; before them, where `local`, a depthwise 3x3 over the own places.

    norm "pre": x + f(norm(x)); "post": norm(x + f(x)), as in the paper. Norms are float32.
    """

    width: int
    heads: int
    mlp: int
    dropout: float
    norm: Literal["pre", "post"]
    local: bool
    form: tuple[int, int, int]  # h, w, depths of the own places, the last of the sequence
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.norm1, self.norm2 = layer_norm(), layer_norm()
        self.query, self.key, self.value = (Dense(self.width, self.dtype) for _ in range(3))
        self.mix_heads = Dense(self.width, self.dtype)
        self.up, self.down = Dense(self.mlp, self.dtype), Dense(self.width, self.dtype)
        self.drop = nn.Dropout(self.dropout)
        if self.local:
            self.taps = self.param("taps", nn.initializers.zeros, (3, 3, self.width))

    def __call__(self, x: Array, train: bool = False) -> Array:
        """[B, S, W] → [B, S, W]."""
        if self.local:
            x = x + self._neighbours(x)
        for norm, change in ((self.norm1, self._attend), (self.norm2, self._mlp)):
            if self.norm == "post":
                x = norm(x + self.drop(change(x), deterministic=not train)).astype(self.dtype)
            else:
                x = x + self.drop(change(norm(x).astype(self.dtype)), deterministic=not train)
        return x

    def _attend(self, x: Array) -> Array:
        heads = (*x.shape[:2], self.heads, -1)
        q, k, v = (dense(x).reshape(heads) for dense in (self.query, self.key, self.value))
        return self.mix_heads(attention(q, k, v).reshape(x.shape))

    def _mlp(self, x: Array) -> Array:
        return self.down(nn.gelu(self.up(x)))

    def _neighbours(self, x: Array) -> Array:
        """What each own place hears of the nine around it, channel by channel; zeros of all other positions."""
        (height, width, depths), others = self.form, x.shape[1] - math.prod(self.form)
        own = x[:, others:].reshape(len(x), height, width, depths * self.width)
        heard = neighbours(own, jnp.tile(self.taps, depths))
        return jnp.pad(heard.reshape(len(x), -1, self.width), ((0, 0), (others, 0), (0, 0)))


def layer_norm() -> nn.LayerNorm:
    """Layer norm in float32, with the authors' epsilon."""
    return nn.LayerNorm(epsilon=EPSILON, dtype=jnp.float32, use_fast_variance=False)
