"""Finite scalar quantization, https://arxiv.org/abs/2309.15505: each channel is rounded to one of a few values."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from vqvae_jax.quantizers import codebook as cb
from vqvae_jax.types import Array, Codebook, Quantized, Tokens, UserError

EPSILON = 1e-3  # keeps the bounded values off the outermost rounding border


@dataclasses.dataclass(frozen=True)
class FiniteScalarQuantizer:
    """A fixed grid in [-1, 1] in place of a codebook: nothing is learned here, there is no loss and no dead code.

    An index has one digit a channel, the first channel's changing fastest, as in the paper.

    Attributes:
        levels: values that each channel may take, 3 or more; as many channels as there are numbers.
    """

    levels: tuple[int, ...] = (8, 6, 5)

    def __post_init__(self):
        if not self.levels or min(self.levels) < 3:
            raise UserError(f"levels wants numbers of 3 or more, one a channel, as 8,6,5; got {self.levels}")
        if math.prod(self.levels) >= 2**31:
            raise UserError(f"levels multiply to {math.prod(self.levels)} codes: an int32 index ends at {2**31 - 1}")

    @property
    def input_dim(self) -> int:
        return len(self.levels)

    @property
    def output_dim(self) -> int:
        return len(self.levels)

    @property
    def vocab_sizes(self) -> tuple[int, ...]:
        return (math.prod(self.levels),)

    def init(self, key: Array) -> Codebook:
        return Codebook(codes=jnp.zeros((0, len(self.levels))))

    def __call__(self, codebook: Codebook, z_e: Array, *, key: Array | None = None, train: bool = False) -> Quantized:
        """z_e [B, h, w, D] → Quantized. In bfloat16 rounding would lose codes: float32 always. `key` is not used."""
        bounded = self._bound(z_e.astype(jnp.float32))
        whole = jnp.round(bounded)  # -(L // 2) … (L - 1) // 2
        digits = whole.astype(jnp.int32) + self._half
        indices = jnp.sum(digits * self._bases, axis=-1)
        z_q = cb.straight_through(bounded * self._scale, whole * self._scale)
        return Quantized(z_q.astype(z_e.dtype), (indices,), {}, codebook, None)

    def lookup(self, codebook: Codebook, indices: Tokens) -> Array:
        digits = indices[0][..., None] // self._bases % self._row(self.levels, np.int32)
        return (digits - self._half).astype(jnp.float32) * self._scale

    def _bound(self, z: Array) -> Array:
        """Into an interval that rounds to L values, 0 to 0: of an even number one more lies below 0 than above.

        The shift is atanh, with which 0 goes to 0 exactly; the authors' code has tan, which is nearly the same.
        """
        levels = np.array(self.levels)
        half = (levels - 1) * (1 - EPSILON) / 2
        offset = np.where(levels % 2, 0.0, 0.5)
        return jnp.tanh(z + self._row(np.arctanh(offset / half))) * self._row(half) - self._row(offset)

    @property
    def _half(self) -> np.ndarray:
        return self._row(np.array(self.levels) // 2, np.int32)

    @property
    def _scale(self) -> np.ndarray:
        """To [-1, 1] by a product: XLA may turn a division by a constant into one, with another rounding."""
        return self._row(1 / self._half)

    @property
    def _bases(self) -> np.ndarray:
        return self._row(np.cumprod((1, *self.levels[:-1])), np.int32)

    def _row(self, values: Any, dtype: Any = np.float32) -> np.ndarray:
        """A number a channel, [1, 1, 1, D]."""
        return np.asarray(values, dtype).reshape(1, 1, 1, -1)
