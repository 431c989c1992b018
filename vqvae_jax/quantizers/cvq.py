"""Clustering VQ, https://arxiv.org/abs/2307.15139: the less a code is used, the more it becomes an encoder output."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from vqvae_jax.networks.lookup import rows
from vqvae_jax.quantizers import codebook as cb
from vqvae_jax.types import Array, Codebook, Quantized, Tokens, UserError, unknown

EPSILON = 1e-3
FRESH = 0.5  # a code that a step makes more of its anchor than of itself has no past


@dataclasses.dataclass(frozen=True)
class CVQuantizer:
    """As `vq`, the codes learn by gradient; before that each training step blends them with anchors.

    share ← decay · share + (1 - decay) · used / N            running usage, from 0
    alpha = exp(-share · K · 10 / (1 - decay) - 0.001)        almost 1 where unused, almost 0 where used
    codes ← (1 - alpha) · codes + alpha · anchors

    The optimizer's step comes after the blend. Where alpha is above a half, the code is `fresh`: its moments in the
    optimizer belong to what it was, so they start anew; a code that is not used has no gradient to lose. What moves
    codes is remembered in `stats["share"]`; `stats["idle"]`, steps unused, is for who watches. Anchors are of the batch
    at hand, over all devices: no pool of earlier features.

    With distance "cosine" everything happens on the sphere: look-up, both losses, z_q and the blend see z_e / |z_e| and
    codes / |code|; the gradient of z_q passes straight to z_e / |z_e|. Codes are divided by their length before they
    are blended, for else long ones would hardly follow their anchors.

    Attributes:
        codebook_size: codes, K.
        code_dim: channels of a code, D.
        decay: share of the old usage that a step keeps, gamma.
        anchor: the vector of the batch that a code is blended with: the closest to the code; a random one; one drawn
            with probability softmax of -|z - e|².
        distance: of the look-up, the losses and the anchors.
    """

    codebook_size: int = 512
    code_dim: int = 64
    decay: float = 0.99
    anchor: Literal["closest", "random", "probabilistic"] = "closest"
    distance: Literal["l2", "cosine"] = "l2"

    def __post_init__(self):
        for field, words in (("anchor", ("closest", "random", "probabilistic")), ("distance", ("l2", "cosine"))):
            if getattr(self, field) not in words:
                raise UserError(unknown(f"{field}: there is no", getattr(self, field), words, "There are"))
        if not 0 <= self.decay < 1:
            raise UserError(f"decay must be at least 0 and below 1, got {self.decay}")

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
        size = self.codebook_size
        return Codebook(codes=self._seen(codes), stats={"share": jnp.zeros(size), "idle": jnp.zeros(size, jnp.int32)})

    def __call__(self, codebook: Codebook, z_e: Array, *, key: Array | None = None, train: bool = False) -> Quantized:
        """z_e [B, …, D] → Quantized. `key` is needed in training, for anchors that are drawn."""
        z, codes = self._seen(z_e), self._seen(codebook.codes)
        indices = cb.nearest(z, codes)
        z_q = self.lookup(codebook, (indices,))
        losses = {"codebook": cb.distance_to(z_q, z), "commitment": cb.distance_to(z, z_q)}
        fresh = None
        if train:
            codebook, fresh = self._blend(codebook, codes, cb.flattened(z), indices, key)
        return Quantized(cb.straight_through(z, z_q).astype(z_e.dtype), (indices,), losses, codebook, fresh)

    def lookup(self, codebook: Codebook, indices: Tokens) -> Array:
        return self._seen(rows(codebook.codes, indices[0]))

    def _seen(self, x: Array) -> Array:
        """Vectors as the distance sees them, float32."""
        return cb.normalised(x) if self.distance == "cosine" else x.astype(jnp.float32)

    def _blend(
        self, codebook: Codebook, codes: Array, flat: Array, indices: Array, key: Array | None
    ) -> tuple[Codebook, Array]:
        size, used = self.codebook_size, cb.counts(indices, self.codebook_size)
        share = self.decay * codebook.stats["share"] + (1 - self.decay) * used / indices.size
        alpha = jnp.exp(-share * size * 10 / (1 - self.decay) - EPSILON)
        moved = (1 - alpha)[:, None] * codes + alpha[:, None] * self._anchors(codes, flat, key)
        stats = {"share": share, "idle": cb.idle(codebook.stats["idle"], used)}
        return codebook.replace(codes=moved, stats=stats), alpha > FRESH

    def _anchors(self, codes: Array, flat: Array, key: Array | None) -> Array:
        """A vector of the batch for each code, [K, D]. The roles of vectors and codes are swapped in `nearest`."""
        if self.anchor == "closest":
            return flat[cb.nearest(codes, flat)]
        if self.anchor == "random":
            return cb.draw(key, flat, self.codebook_size)
        return flat[cb.nearest(codes, flat, cb.needed(key))]
