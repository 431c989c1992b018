"""Binary spherical quantization, https://arxiv.org/abs/2406.07548: the signs of a vector of length 1."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from vqvae_jax.limits import Count, Natural, Positive
from vqvae_jax.quantizers import codebook as cb
from vqvae_jax.quantizers import signs
from vqvae_jax.types import Array, Codebook, Quantized, Tokens


@dataclasses.dataclass(frozen=True)
class BinarySphericalQuantizer:
    """As `lfq` on the sphere: z_e / |z_e| becomes the nearest of 2^D corners, ±1/√D a channel; 0 becomes -1/√D.

    Both terms are of z_e / |z_e|, and the gradient of z_q passes straight to it, and through the division to z_e. No
    vector is far from its code: `commitment` is at most 2/D, so that it may weigh less or nothing. The softmax of
    `entropy` is of 2 z · code / temperature here too. The first channel is the highest bit of an index, see `signs`.

    Attributes:
        bits: of an index, and channels, D; 24 at most.
        temperature: of that softmax.
        group: bits whose combinations the batch's entropy weighs together, a divisor of `bits`: it is then the sum
            over groups; 0: all bits, exactly. More than 18 bits want one. 1 is the paper's approximation.
    """

    bits: Count = 10
    temperature: Positive = 0.01
    group: Natural = 0

    def __post_init__(self):
        signs.check(self.bits, self.group)

    @staticmethod
    def terms(fields: Mapping[str, Any]) -> dict[str, float]:
        """Its loss terms, each with its usual weight."""
        return {"commitment": 0.25, "entropy": 0.1}

    @property
    def input_dim(self) -> int:
        return self.bits

    @property
    def output_dim(self) -> int:
        return self.bits

    @property
    def vocab_sizes(self) -> tuple[int, ...]:
        return (2**self.bits,)

    def init(self, key: Array) -> Codebook:
        return Codebook(codes=jnp.zeros((0, self.bits)))

    def __call__(self, codebook: Codebook, z_e: Array, *, key: Array | None = None, train: bool = False) -> Quantized:
        """z_e [B, …, D] → Quantized. `key` is not used."""
        z = cb.normalised(z_e)
        z_q = signs.signs(z) * self._unit
        logit = 4.0 * self._unit * z / self.temperature
        entropy = jnp.mean(signs.place_entropy(logit)) - signs.batch_entropy(logit, self.group or self.bits)
        losses = {"commitment": cb.distance_to(z, z_q), "entropy": entropy}
        return Quantized(cb.straight_through(z, z_q).astype(z_e.dtype), (signs.indices_of(z),), losses, codebook, None)

    def lookup(self, codebook: Codebook, indices: Tokens) -> Array:
        return signs.signs_of(indices[0], self.bits) * self._unit

    @property
    def _unit(self) -> np.float32:
        """What a channel of a code is long."""
        return np.float32(self.bits**-0.5)
