"""Codes that are one linear map of a frozen table, https://arxiv.org/abs/2411.02038 (SimVQ): all learn or none.

Legend: K codes, D code size.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from vqvae_jax.limits import Count
from vqvae_jax.networks.lookup import rows
from vqvae_jax.quantizers import codebook as cb
from vqvae_jax.types import Array, Codebook, Quantized, Tokens


@dataclasses.dataclass(frozen=True)
class SimVQuantizer:
    """Nearest of the codes table · matrix; the `codebook` loss moves the matrix alone, `commitment` the encoder.

    A code that nobody uses moves with all others, so none has to be revived. The table, N(0, 1/D), is in
    `stats["table"]` and never moves; the matrix [D, D] is in `params`, its transpose is the paper's matrix. The
    codebook's own `codes` are empty: what codes are is computed where it is needed.

    Attributes:
        codebook_size: codes, K.
        code_dim: channels of a code, D.
    """

    codebook_size: Count = 8192
    code_dim: Count = 64

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
        table, matrix = jax.random.split(key)
        size, dim = self.codebook_size, self.code_dim
        params = {"matrix": jax.random.uniform(matrix, (dim, dim), minval=-(dim**-0.5), maxval=dim**-0.5)}
        drawn = jax.random.normal(table, (size, dim)) * dim**-0.5
        return Codebook(jnp.zeros((0, dim)), params, {"table": drawn, "idle": jnp.zeros(size, jnp.int32)})

    def __call__(self, codebook: Codebook, z_e: Array, *, key: Array | None = None, train: bool = False) -> Quantized:
        """z_e [B, …, D] → Quantized. `key` is not used."""
        codes = codes_of(codebook)
        indices = cb.nearest(z_e, codes)
        z_q = rows(codes, indices)
        losses = {"codebook": cb.distance_to(z_q, z_e), "commitment": cb.distance_to(z_e, z_q)}
        if train:
            idle = cb.idle(codebook.stats["idle"], cb.counts(indices, self.codebook_size))
            codebook = codebook.replace(stats=codebook.stats | {"idle": idle})
        return Quantized(cb.straight_through(z_e, z_q), (indices,), losses, codebook, None)

    def lookup(self, codebook: Codebook, indices: Tokens) -> Array:
        return codes_of(codebook)[indices[0]]


@jax.jit  # without jit around it XLA may round otherwise, and lookup(indices) were not quite z_q
def codes_of(codebook: Codebook) -> Array:
    """float32 [K, D], with gradient to the matrix alone."""
    table = lax.stop_gradient(codebook.stats["table"])
    return jnp.matmul(table, codebook.params["matrix"], precision=lax.Precision.HIGHEST)
