"""A quantizer that is watched, and may be told which codes to take."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from vqvae_jax.quantizers import codebook as cb
from vqvae_jax.types import Array, Codebook, Quantized, Tokens


@dataclasses.dataclass(frozen=True, eq=False)
class Told:
    """As `inner` in evaluation, with an ear for its input.

    Attributes:
        inner: the quantizer.
        level: under which name the input is noted.
        seen: where it is noted, the first time: level → z_e.
        indices: the codes to take, int [B, h, w]; None: the nearest.
    """

    inner: Any
    level: str
    seen: dict[str, Array]
    indices: Any = None

    @property
    def input_dim(self) -> int:
        return self.inner.input_dim

    @property
    def output_dim(self) -> int:
        return self.inner.output_dim

    @property
    def vocab_sizes(self) -> tuple[int, ...]:
        return self.inner.vocab_sizes

    def init(self, key: Array) -> Codebook:
        return self.inner.init(key)

    def __call__(self, codebook: Codebook, z_e: Array, *, key: Array | None = None, train: bool = False) -> Quantized:
        self.seen.setdefault(self.level, z_e)
        out = self.inner(codebook, z_e)
        if self.indices is None:
            return out
        indices = (jnp.asarray(self.indices, jnp.int32),)
        z_q = self.inner.lookup(codebook, indices)
        both = {"codebook": cb.distance_to(z_q, z_e), "commitment": cb.distance_to(z_e, z_q)}
        losses = {term: both[term] for term in out.losses}
        return Quantized(cb.straight_through(z_e, z_q), indices, losses, codebook, None)

    def lookup(self, codebook: Codebook, indices: Tokens) -> Array:
        return self.inner.lookup(codebook, indices)
