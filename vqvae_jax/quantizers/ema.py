"""Codes as exponential moving averages of the vectors they stand for, https://arxiv.org/abs/1711.00937 appendix A.1."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from vqvae_jax.limits import Count, Natural, Rate
from vqvae_jax.quantizers import codebook as cb
from vqvae_jax.types import Array, Codebook, Quantized, Tokens

EPSILON = 1e-5  # Laplace smoothing of the counts


@dataclasses.dataclass(frozen=True)
class EMAQuantizer:
    """Nearest code; codes follow the mean of their vectors, only the `commitment` loss has a gradient.

    Every code starts overdue, so the first training step draws the unused ones from that batch: the codebook
    starts alive whatever the scale of the encoder.

    Attributes:
        codebook_size: codes, K.
        code_dim: channels of a code, D.
        decay: share of the old average that a step keeps.
        revive_after: steps unused after which a code becomes one of the batch's encoder outputs; 0 never: a code that
            nobody uses then shrinks towards 0, as its sum fades and its smoothed count does not.
        kmeans_iterations: of Lloyd's algorithm over the first training batch's encoder outputs, from which the codes
            then start; 0: from normal noise.
    """

    codebook_size: Count = 512
    code_dim: Count = 64
    decay: Rate = 0.99
    revive_after: Natural = 100
    kmeans_iterations: Natural = 0

    @staticmethod
    def terms(fields: Mapping[str, Any]) -> dict[str, float]:
        """Its loss terms, each with its usual weight."""
        return {"commitment": 0.25}

    @property
    def input_dim(self) -> int:
        return self.code_dim

    @property
    def output_dim(self) -> int:
        return self.code_dim

    @property
    def vocab_sizes(self) -> tuple[int, ...]:
        return (self.codebook_size,)

    @property
    def subtractable(self) -> bool:
        """Whether z_q is a code nearest to z_e as it is, so that something is left over: see `residual`."""
        return True

    def init(self, key: Array) -> Codebook:
        codes = jax.random.normal(key, (self.codebook_size, self.code_dim))
        # Counts of 1 with sums = codes: with counts of 0 a code unused in the first step would fly off.
        ones = jnp.ones(self.codebook_size)
        stats = {"idle": jnp.full(self.codebook_size, self.revive_after, jnp.int32), "count": ones, "sum": codes + 0.0}
        return Codebook(codes=codes, stats=stats | cb.not_started(self.kmeans_iterations))

    def __call__(self, codebook: Codebook, z_e: Array, *, key: Array | None = None, train: bool = False) -> Quantized:
        """z_e [B, …, D] → Quantized. `key` is needed in training, for revival."""
        flat = cb.flattened(z_e)
        if train:
            codebook = self._start(codebook, flat, key)
        indices = cb.nearest(z_e, codebook.codes)
        z_q = lax.stop_gradient(codebook.codes)[indices]
        losses = {"commitment": cb.distance_to(z_e, z_q)}
        fresh = None
        if train:
            codebook, fresh = self.moved(codebook, flat, indices, key)
        return Quantized(cb.straight_through(z_e, z_q), (indices,), losses, codebook, fresh)

    def lookup(self, codebook: Codebook, indices: Tokens) -> Array:
        return codebook.codes[indices[0]]

    def _start(self, codebook: Codebook, flat: Array, key: Array | None) -> Codebook:
        """k-means in the first step, where it is wanted, with sums to match."""
        if not self.kmeans_iterations:
            return codebook
        new = cb.kmeans_start(codebook, flat, key, self.kmeans_iterations)
        total = jnp.where(codebook.stats["started"], codebook.stats["sum"], lax.stop_gradient(new.codes))
        return new.replace(stats=new.stats | {"sum": total})

    def moved(self, codebook: Codebook, flat: Array, indices: Array, key: Array | None) -> tuple[Codebook, Array]:
        """The codebook after a batch [N, D] with these indices, and which codes were dead and have a new value."""
        size, stats = self.codebook_size, codebook.stats
        used = cb.counts(indices, size)
        count = self.decay * stats["count"] + (1 - self.decay) * used
        total = self.decay * stats["sum"] + (1 - self.decay) * cb.sums(flat, indices.reshape(-1), size)
        idle = cb.idle(stats["idle"], used)
        dead = (idle >= self.revive_after) & (self.revive_after > 0)
        drawn = cb.draw(key, flat, size)
        codes = jnp.where(dead[:, None], drawn, total / smoothed(count)[:, None])
        moved = {
            "idle": jnp.where(dead, 0, idle),
            "count": jnp.where(dead, 1.0, count),
            "sum": jnp.where(dead[:, None], drawn, total),
        }
        return codebook.replace(codes=codes, stats=stats | moved), dead


def smoothed(count: Array) -> Array:
    """Laplace-smoothed counts with the same sum, [K] → [K]: no code is divided by nothing."""
    whole = jnp.sum(count)
    return (count + EPSILON) / (whole + count.shape[0] * EPSILON) * whole
