"""Codes of length 1 and few channels, https://arxiv.org/abs/2110.04627 section 3.2 (ViT-VQGAN), trained by gradient."""

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
class CosineQuantizer:
    """The code at the smallest angle; the `codebook` loss moves the codes, the `commitment` loss the encoder.

    Everything happens on the sphere: look-up, both losses, z_q, revival and k-means see z_e / |z_e| and codes / |code|.
    The gradient of z_q passes straight to z_e / |z_e|, and through that division to z_e. The codes themselves may have
    any length. The autoencoder's 1x1 convolutions project to the few channels and back.

    Attributes:
        codebook_size: codes, K.
        code_dim: channels of a code, D.
        revive_after: steps unused after which a code becomes one of the batch's encoder outputs; 0 never.
        kmeans_iterations: of Lloyd's algorithm over the first training batch's encoder outputs, from which the codes
            then start; 0: from normal noise.
    """

    codebook_size: Count = 8192
    code_dim: Count = 8
    revive_after: Natural = 100
    kmeans_iterations: Natural = 0

    on_sphere = True  # a code that is looked up has length 1, however long it is kept

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

    def init(self, key: Array) -> Codebook:
        codes = cb.normalised(jax.random.normal(key, (self.codebook_size, self.code_dim)))
        stats = {"idle": jnp.zeros(self.codebook_size, jnp.int32), **cb.not_started(self.kmeans_iterations)}
        return Codebook(codes=codes, stats=stats)

    def __call__(self, codebook: Codebook, z_e: Array, *, key: Array | None = None, train: bool = False) -> Quantized:
        """z_e [B, …, D] → Quantized. `key` is needed in training, for revival."""
        z = cb.normalised(z_e)
        flat = cb.flattened(z)
        if train:
            codebook = cb.kmeans_start(codebook, flat, key, self.kmeans_iterations)
        indices = cb.nearest(z, cb.normalised(codebook.codes))
        z_q = self.lookup(codebook, (indices,))
        losses = {"codebook": cb.distance_to(z_q, z), "commitment": cb.distance_to(z, z_q)}
        fresh = None
        if train:
            codebook, fresh = cb.revive(codebook, flat, indices, key, self.revive_after)
        return Quantized(cb.straight_through(z, z_q).astype(z_e.dtype), (indices,), losses, codebook, fresh)

    def lookup(self, codebook: Codebook, indices: Tokens) -> Array:
        return cb.normalised(rows(codebook.codes, indices[0]))
