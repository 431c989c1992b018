"""Codes trained by gradient, https://arxiv.org/abs/1711.00937 section 3.2; a code unused for long is drawn anew."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from vqvae_jax.quantizers import codebook as cb
from vqvae_jax.types import Array, Codebook, Quantized, Tokens


@dataclasses.dataclass(frozen=True)
class VectorQuantizer:
    """Nearest code; the `codebook` loss moves the codes, the `commitment` loss the encoder.

    Attributes:
        codebook_size: codes, K.
        code_dim: channels of a code, D.
        revive_after: steps unused after which a code becomes one of the batch's encoder outputs; 0 never.
    """

    codebook_size: int = 512
    code_dim: int = 64
    revive_after: int = 100

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
        codes = jax.random.normal(key, (self.codebook_size, self.code_dim))
        return Codebook(codes=codes, stats={"idle": jnp.zeros(self.codebook_size, jnp.int32)})

    def __call__(self, codebook: Codebook, z_e: Array, *, key: Array | None = None, train: bool = False) -> Quantized:
        """z_e [B, h, w, D] → Quantized. `key` is needed in training, for revival."""
        indices = cb.nearest(z_e, codebook.codes)
        z_q = codebook.codes[indices]
        losses = {"codebook": cb.distance_to(z_q, z_e), "commitment": cb.distance_to(z_e, z_q)}
        fresh = None
        if train:
            codebook, fresh = self._revive(codebook, z_e, indices, key)
        return Quantized(cb.straight_through(z_e, z_q), (indices,), losses, codebook, fresh)

    def lookup(self, codebook: Codebook, indices: Tokens) -> Array:
        return codebook.codes[indices[0]]

    def _revive(self, codebook: Codebook, z_e: Array, indices: Array, key: Array | None) -> tuple[Codebook, Array]:
        used = cb.counts(indices, self.codebook_size)
        idle = cb.idle(codebook.stats["idle"], used)
        dead = (idle >= self.revive_after) & (self.revive_after > 0)
        flat = lax.stop_gradient(z_e).astype(jnp.float32).reshape(-1, self.code_dim)
        codes = jnp.where(dead[:, None], cb.draw(key, flat, self.codebook_size), codebook.codes)
        return codebook.replace(codes=codes, stats={"idle": jnp.where(dead, 0, idle)}), dead
