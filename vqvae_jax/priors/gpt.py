"""GPT-2's block, over a sequence or over what follows of one: https://github.com/openai/gpt-2.

Parameters as there: normal of 0.02, biases 0, and what is added to the residual stream less, as the prior says.

Legend: B batch, S positions, N heads, W width.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from vqvae_jax.networks.attention import cached, cached_attention, causal_attention
from vqvae_jax.networks.dense import Dense
from vqvae_jax.priors.layers import ChannelNorm
from vqvae_jax.types import Array


class Past(NamedTuple):
    """What a block keeps of the tokens before, for cached sampling; zeros where nothing came yet."""

    keys: Array  # as `attention.new_cache` lays them out
    values: Array


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)). Norms and softmax are float32 whatever the dtype."""

    width: int
    heads: int
    dropout: float
    residual_std: float  # of the two projections that end in the residual stream
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.norm1, self.norm2 = ChannelNorm(self.dtype), ChannelNorm(self.dtype)
        self.qkv = Dense(3 * self.width, self.dtype)
        self.mix_heads = Dense(self.width, self.dtype, self.residual_std)
        self.up = Dense(4 * self.width, self.dtype)
        self.down = Dense(self.width, self.dtype, self.residual_std)
        self.drop = nn.Dropout(self.dropout)

    def __call__(self, x: Array, train: bool = False) -> tuple[Array, Past]:
        """A sequence from its beginning, [B, S, W] → [B, S, W], and its keys and values."""
        q, k, v = self._queries_keys_values(x)
        return self._after(x, causal_attention(q, k, v), train), Past(k.swapaxes(1, 2), v.swapaxes(1, 2))

    def part(self, x: Array, past: Past, start: Array) -> tuple[Array, Past]:
        """What follows at position `start`, [B, n, W] → [B, n, W], and the past with it."""
        q, k, v = (a.swapaxes(1, 2) for a in self._queries_keys_values(x))
        keys, values = cached(past.keys, k, start), cached(past.values, v, start)
        attended = cached_attention(q, keys, values, start).swapaxes(1, 2)
        return self._after(x, attended, False), Past(keys, values)

    def _queries_keys_values(self, x: Array) -> tuple[Array, Array, Array]:
        heads = self.qkv(self.norm1(x)).reshape(*x.shape[:2], 3, self.heads, -1)
        return heads[:, :, 0], heads[:, :, 1], heads[:, :, 2]  # [B, S, N, W / N]

    def _after(self, x: Array, attended: Array, train: bool) -> Array:
        x = x + self.drop(self.mix_heads(attended.reshape(x.shape)), deterministic=not train)
        return x + self.drop(self.down(nn.gelu(self.up(self.norm2(x)))), deterministic=not train)
