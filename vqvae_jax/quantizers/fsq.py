"""Finite scalar quantization, https://arxiv.org/abs/2309.15505: each channel is rounded to one of a few values."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from vqvae_jax.quantizers import codebook as cb
from vqvae_jax.types import Array, Codebook, Quantized, Tokens, UserError

EPSILON = 1e-3  # keeps the bounded values off the outermost rounding border
MOST = 1001  # values of a channel: half an interval times EPSILON is then half a value


@dataclasses.dataclass(frozen=True)
class FiniteScalarQuantizer:
    """A fixed grid in [-1, 1] in place of a codebook: nothing is learned here, there is no loss and no dead code.

    An index has one digit a channel, the first channel's changing fastest, as in the paper.

    Attributes:
        levels: values that each channel may take, 3 to 1,001; as many channels as there are numbers. Their product is
            the number of codes, 2^24 at most.
    """

    levels: tuple[int, ...] = (8, 6, 5)

    def __post_init__(self):
        if not self.levels or min(self.levels) < 3:
            raise UserError(f"levels wants numbers of 3 or more, one a channel, as 8,6,5; got {self.levels}")
        if max(self.levels) > MOST:
            raise UserError(
                f"levels are at most {MOST} a channel, of more the outermost can never be reached; got {self.levels}"
            )
        if (codes := math.prod(self.levels)) > 2**cb.BITS:
            raise UserError(
                f"levels multiply to {codes} codes, each of which is counted: at most 2^{cb.BITS}, as 8,8,8,5,5,5"
            )

    @staticmethod
    def terms(fields: Mapping[str, Any]) -> dict[str, float]:
        """Its loss terms, each with its usual weight."""
        return {}

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
        """z_e [B, …, D] → Quantized. In bfloat16 rounding would lose codes: float32 always. `key` is not used."""
        half, scale, bases = self._rows(z_e.ndim)
        bounded = self._bound(z_e.astype(jnp.float32))
        whole = jnp.round(bounded)  # -(L // 2) … (L - 1) // 2
        indices = jnp.sum((whole.astype(jnp.int32) + half) * bases, axis=-1)
        z_q = cb.straight_through(bounded * scale, whole * scale)
        return Quantized(z_q.astype(z_e.dtype), (indices,), {}, codebook, None)

    def lookup(self, codebook: Codebook, indices: Tokens) -> Array:
        rank = indices[0].ndim + 1
        half, scale, bases = self._rows(rank)
        digits = indices[0][..., None] // bases % _row(self.levels, rank, np.int32)
        return (digits - half).astype(jnp.float32) * scale

    def _bound(self, z: Array) -> Array:
        """Into an interval that rounds to L values, 0 to 0: of an even number one more lies below 0 than above.

        It is the paper's, (L - 1)(1 - ε) wide; some implementations have 1 + ε, and other codes for a vector in a
        hundred. The shift alone differs: atanh, with which 0 goes to 0 exactly, where the authors' code has tan. Of a
        million normal vectors 284 get another code at levels 4, 3, 3, 41 at 8, 6, 5, 11 at 8, 5, 5, 5, none where all
        levels are odd. It stays: the tokens of stored runs depend on it.
        """
        levels = np.array(self.levels)
        half = (levels - 1) * (1 - EPSILON) / 2
        offset = np.where(levels % 2, 0.0, 0.5)
        shift, stretch, middle = (_row(values, z.ndim) for values in (np.arctanh(offset / half), half, offset))
        return jnp.tanh(z + shift) * stretch - middle

    def _rows(self, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of each channel: the digit of 0; the step to [-1, 1]; what its digit counts in an index.

        The step is a factor: XLA may turn a division by a constant into one, with another rounding.
        """
        half = _row(np.array(self.levels) // 2, rank, np.int32)
        return half, _row(1 / half, rank), _row(np.cumprod((1, *self.levels[:-1])), rank, np.int32)


def _row(values: Any, rank: int, dtype: Any = np.float32) -> np.ndarray:
    """A number a channel, beside an array of so many axes: [1, …, 1, D]."""
    return np.asarray(values, dtype).reshape(*[1] * (rank - 1), -1)
