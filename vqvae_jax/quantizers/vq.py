"""Codes trained by gradient, https://arxiv.org/abs/1711.00937 section 3.2; a code unused for long is drawn anew."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vqvae_jax.limits import Count, Natural
from vqvae_jax.networks.lookup import rows
from vqvae_jax.quantizers import codebook as cb
from vqvae_jax.types import Array, Codebook, Quantized, Tokens


@dataclasses.dataclass(frozen=True)
class VectorQuantizer:
    """Nearest code; the `codebook` loss moves the codes, the `commitment` loss the encoder.

    Attributes:
        codebook_size: codes, K.
        code_dim: channels of a code, D.
        revive_after: steps unused after which a code becomes one of the batch's encoder outputs; 0 never.
        kmeans_iterations: of Lloyd's algorithm over the first training batch's encoder outputs, from which the codes
            then start; 0: from normal noise.
        rotation: the gradient of z_q reaches z_e turned and scaled as z_e is to its code, the rotation trick,
            https://arxiv.org/abs/2410.06424; False: as it is. z_q and the losses are the same.
    """

    codebook_size: Count = 512
    code_dim: Count = 64
    revive_after: Natural = 100
    kmeans_iterations: Natural = 0
    rotation: bool = False

    @staticmethod
    def terms(fields: Mapping[str, Any]) -> dict[str, float]:
        """Its loss terms, each with its usual weight."""
        return {"codebook": 1.0, "commitment": 0.25}

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
        stats = {"idle": jnp.zeros(self.codebook_size, jnp.int32), **cb.not_started(self.kmeans_iterations)}
        return Codebook(codes=codes, stats=stats)

    def __call__(self, codebook: Codebook, z_e: Array, *, key: Array | None = None, train: bool = False) -> Quantized:
        """z_e [B, …, D] → Quantized. `key` is needed in training, for revival."""
        flat = cb.flattened(z_e)
        if train:
            codebook = cb.kmeans_start(codebook, flat, key, self.kmeans_iterations)
        indices = cb.nearest(z_e, codebook.codes)
        z_q = rows(codebook.codes, indices)
        losses = {"codebook": cb.distance_to(z_q, z_e), "commitment": cb.distance_to(z_e, z_q)}
        fresh = None
        if train:
            codebook, fresh = cb.revive(codebook, flat, indices, key, self.revive_after)
        passed_on = cb.rotated if self.rotation else cb.straight_through
        return Quantized(passed_on(z_e, z_q), (indices,), losses, codebook, fresh)

    def lookup(self, codebook: Codebook, indices: Tokens) -> Array:
        return codebook.codes[indices[0]]
