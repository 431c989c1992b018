"""VAR's block, https://arxiv.org/abs/2404.02905, and the features that it reads its maps by; number for number the
authors' code, https://github.com/FoundationVision/VAR.

Legend: B batch, P positions, N heads, W width, S scales, K codes, D features.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vqvae_jax.networks.attention import attention, attention_by_groups
from vqvae_jax.networks.dense import Dense
from vqvae_jax.networks.dit import modulated
from vqvae_jax.networks.neighbours import neighbours
from vqvae_jax.networks.scales import embedded, new_phis, running
from vqvae_jax.types import Array, Tokens

GATE, MODULATION, HEAD = 1e-5, 0.5, 0.02  # of fresh kernels beside the others
FIRST_SHARPNESS, LARGEST_SHARPNESS = math.log(4), math.log(100)  # of l2-normalised heads
EPSILON = 1e-12  # the least length that a head is divided by
PLAIN_SHARPNESS = 0.25  # in 1/√(W / N), of heads that are not normalised


class Past(NamedTuple):
    """What a block keeps of the scales before, for sampling: [B, P, N, W / N] each."""

    keys: Array
    values: Array


class Modulate(nn.Module):
    """What a vector says of norms, by a dense layer of its SiLU: [B, W] → [B, 1, size]; fresh gates are nearly 0.

    Attributes:
        size: numbers that it says, the first ones gates.
        gates: how many are.
        std: of fresh kernels, before these are made smaller.
    """

    size: int
    gates: int
    std: float

    @nn.compact
    def __call__(self, vector: Array) -> Array:
        shares = jnp.where(jnp.arange(self.size) < self.gates, GATE, MODULATION)
        fresh = lambda key, *shape: self.std * shares[None] * jax.random.normal(key, shape)  # noqa: E731
        kernel = self.param("kernel", fresh, vector.shape[-1], self.size)
        bias = self.param("bias", nn.initializers.zeros, (self.size,))
        return (nn.silu(vector) @ kernel + bias[None])[:, None]


class Block(nn.Module):
    """x + gate · attention(norm(x) · (1 + scale) + shift), then the same with an MLP. Norms and softmax are float32.

    Attributes:
        width, heads, mlp: of the residual stream, of the attention, inside of the MLP.
        dropout: share of what attention and MLP give that is dropped in training.
        drop_path: share of examples whose attention, or MLP, is left out in training.
        l2_norm: whether queries and keys have length 1, and a learned sharpness a head.
        std, residual_std: of fresh kernels, and of those that end in the residual stream.
        words, shapes: positions of a text before all maps; (h, w) of these. A position sees its map and those before.
        local: whether a depthwise 3x3 over each map stands before all that. Not the authors'.
        dtype: what it computes in.
    """

    width: int
    heads: int
    mlp: int
    dropout: float
    drop_path: float
    l2_norm: bool
    std: float
    residual_std: float
    words: int
    shapes: tuple[tuple[int, int], ...]
    local: bool = False
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.modulate = Modulate(6 * self.width, 2 * self.width, self.std)
        self.qkv = Dense(3 * self.width, self.dtype, self.std, bias=False)
        self.query_bias, self.value_bias = (
            self.param(name, nn.initializers.zeros, (self.width,)) for name in ("query_bias", "value_bias")
        )
        if self.l2_norm:
            self.sharpness = self.param("sharpness", nn.initializers.constant(FIRST_SHARPNESS), (self.heads,))
        self.mix_heads = Dense(self.width, self.dtype, self.residual_std)
        self.up, self.down = Dense(self.mlp, self.dtype, self.std), Dense(self.width, self.dtype, self.residual_std)
        self.drop = nn.Dropout(self.dropout)
        if self.local:
            self.taps = self.param("taps", nn.initializers.zeros, (3, 3, self.width))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Positions that see each other: the text with the first map, then a map each."""
        first, *rest = (math.prod(shape) for shape in self.shapes)
        return (self.words + first, *rest)

    def __call__(self, x: Array, vector: Array, train: bool = False) -> Array:
        """All scales, [B, P, W], and what they are told, [B, W] → [B, P, W]."""
        said = self._said(vector)
        if self.local:
            starts = np.cumsum(self.sizes)[:-1].tolist()
            x = jnp.concatenate([self._heard(one, i) for i, one in enumerate(jnp.split(x, starts, axis=1))], axis=1)
        q, k, v = self._queries_keys_values(x, said)
        attended = attention_by_groups(q, k, v, self.sizes)
        return self._after(x, attended, said, train)

    def part(self, x: Array, vector: Array, scale: int, past: Past | None) -> tuple[Array, Past]:
        """One scale, [B, n, W] → [B, n, W], and the past with it; None before the first."""
        said = self._said(vector)
        x = self._heard(x, scale) if self.local else x
        q, k, v = self._queries_keys_values(x, said)
        if past is not None:
            k, v = (jnp.concatenate(both, axis=1) for both in ((past.keys, k), (past.values, v)))
        return self._after(x, attention(q, k, v), said, False), Past(k, v)

    def _heard(self, x: Array, scale: int) -> Array:
        """One scale with what each of its places hears of the nine around it."""
        words = self.words if scale == 0 else 0
        own = neighbours(x[:, words:].reshape(len(x), *self.shapes[scale], self.width), self.taps)
        return x + jnp.pad(own.reshape(len(x), -1, self.width), ((0, 0), (words, 0), (0, 0)))

    def _said(self, vector: Array) -> list[Array]:
        """Two gates, two scales, two shifts: of the attention and of the MLP, [B, 1, W] each."""
        return jnp.split(self.modulate(vector), 6, axis=-1)

    def _queries_keys_values(self, x: Array, said: list[Array]) -> list[Array]:
        """[B, P, N, W / N] each; queries are such that attention's own division by √(W / N) leaves theirs."""
        split = (*x.shape[:2], self.heads, -1)
        q, k, v = jnp.split(self.qkv(modulated(x, said[4], said[2], self.dtype)), 3, axis=-1)
        q, v = (one + bias.reshape(1, 1, -1) for one, bias in ((q, self.query_bias), (v, self.value_bias)))
        q, k, v = (one.reshape(split) for one in (q, k, v))
        sharpness: Any = PLAIN_SHARPNESS
        if self.l2_norm:
            most = jnp.minimum(self.sharpness, LARGEST_SHARPNESS)
            sharpness = jnp.exp(most).reshape(1, 1, -1, 1) * q.shape[-1] ** 0.5
            q, k = normalised(q), normalised(k)
        return [one.astype(self.dtype) for one in (q * sharpness, k, v)]

    def _after(self, x: Array, attended: Array, said: list[Array], train: bool) -> Array:
        gate1, gate2, _, scale2, _, shift2 = said
        x = x + self._kept(gate1, self.mix_heads(attended.reshape(x.shape)), train)
        hidden = nn.gelu(self.up(modulated(x, shift2, scale2, self.dtype)))
        return x + self._kept(gate2, self.down(hidden), train)

    def _kept(self, gate: Array, change: Array, train: bool) -> Array:
        """What is added to the residual stream: of some examples, in training, nothing."""
        change = gate.astype(self.dtype) * self.drop(change, deterministic=not train)
        if not (train and self.drop_path):
            return change
        stays = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.drop_path, (len(change), 1, 1))
        return jnp.where(stays, change / (1 - self.drop_path), 0)


class Features(nn.Module):
    """Maps of growing sizes as one running map of numbers, see `networks.scales`.

    Attributes:
        sizes: K, of one table for all scales, or (S, K) of a table a scale.
        code_dim: D.
        phis: convolutions after enlarging; scales share them.
    """

    sizes: tuple[int, ...]
    code_dim: int
    phis: int

    def setup(self):
        self.codes = self.param("codes", nn.initializers.normal(1.0), (*self.sizes, self.code_dim))
        fresh = lambda key, name: new_phis(key, self.phis, self.code_dim)[name]  # noqa: E731
        self.kernel, self.bias = (self.param(name, fresh, name) if self.phis else None for name in ("kernel", "bias"))

    def __call__(self, maps: Tokens, shape: tuple[int, int], scales: int) -> list[Array]:
        """f̂ after each of the first maps of so many scales, the last of `shape`: float32 [B, h, w, D]."""
        phis = {"kernel": self.kernel, "bias": self.bias} if self.phis else {}
        return running(embedded(self.codes, maps), phis, shape, scales)


def normalised(x: Array) -> Array:
    """Vectors of length 1 over the last axis, float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), EPSILON**2))
