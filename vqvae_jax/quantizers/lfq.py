"""Look-up free quantization, https://arxiv.org/abs/2310.05737 (MAGVIT-v2): a code is the signs of its channels."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from vqvae_jax.limits import Count, Natural, Positive
from vqvae_jax.quantizers import codebook as cb
from vqvae_jax.quantizers import signs
from vqvae_jax.types import Array, Codebook, Quantized, Tokens


@dataclasses.dataclass(frozen=True)
class LookupFreeQuantizer:
    """-1 or 1 a channel in place of a codebook: 2^D codes, no table, no distances; 0 becomes -1.

    The first channel is the highest bit of an index, see `signs`. Two terms:

        commitment   |z_e - sg[z_q]|², mean over all elements; published weight 0.25
        entropy      that of a place less that of the batch's mean, nats; published weight 0.1

    The second is of softmax(2 z_e · code / temperature) over all codes: places are to be sure of a code, and all codes
    are to be used. At the published temperature a channel is sure from |z_e| = 0.02 on, and beyond the term no longer
    moves it; a higher one reaches channels of the size of a code. A weight that falls at the beginning, as MAGVIT has
    it: `loss_weights.entropy` may be a ramp.

    Attributes:
        bits: of an index, and channels, D; 24 at most.
        temperature: of that softmax.
        group: bits whose combinations the batch's entropy weighs together, a divisor of `bits`: it is then the sum
            over groups; 0: all bits, exactly. More than 18 bits want one.
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
        z = z_e.astype(jnp.float32)
        z_q = signs.signs(z)
        logit = 4.0 * z / self.temperature  # 2 z · code / temperature of 1, less that of -1
        entropy = jnp.mean(signs.place_entropy(logit)) - signs.batch_entropy(logit, self.group or self.bits)
        losses = {"commitment": cb.distance_to(z, z_q), "entropy": entropy}
        return Quantized(cb.straight_through(z_e, z_q), (signs.indices_of(z),), losses, codebook, None)

    def lookup(self, codebook: Codebook, indices: Tokens) -> Array:
        return signs.signs_of(indices[0], self.bits)
