"""Clustering VQ, https://arxiv.org/abs/2307.15139: the less a code is used, the more it becomes an encoder output."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from vqvae_jax.limits import Count, Rate
from vqvae_jax.networks.lookup import rows
from vqvae_jax.quantizers import codebook as cb
from vqvae_jax.types import Array, Codebook, Quantized, Tokens, UserError, unknown

EPSILON = 1e-3
TEMPERATURE = 0.07  # of the contrastive term
FRESH = 0.5  # a code that a step makes more of its anchor than of itself has no past


@dataclasses.dataclass(frozen=True)
class CVQuantizer:
    """As `vq`, the codes learn by gradient; before that each training step blends them with anchors.

    share ← decay · share + (1 - decay) · used / N            running usage, from 0
    alpha = exp(-share · K · 10 / (1 - decay) - 0.001)        almost 1 where unused, almost 0 where used
    codes ← (1 - alpha) · codes + alpha · anchors

    The optimizer's step comes after the blend. Where alpha is above a half, the code is `fresh`: its moments in the
    optimizer belong to what it was, so they start anew; a code that is not used has no gradient to lose. (The authors'
    code leaves the moments as they are.) What moves codes is remembered in `stats["share"]`; `stats["idle"]`, steps
    unused, is for who watches. Anchors are of the batch at hand, over all devices: no pool of earlier features.

    Attributes:
        codebook_size: codes, K.
        code_dim: channels of a code, D.
        decay: share of the old usage that a step keeps, gamma.
        anchor: the vector of the batch that a code is blended with: the closest to the code; a random one; one drawn
            with probability softmax of -|z - e|², with "cos" of the cosine.
        distance: "l2"; "cos", the authors' default: code and anchor are found by direction, and all else (z_q, both
            losses, the blend) is of raw vectors; "sphere", not published: everything sees z_e / |z_e| and
            codes / |code|, and the gradient of z_q passes straight to z_e / |z_e|.
        contrastive: whether there is a loss term `contrastive` as well, see `contrast`. It takes N · K numbers.
    """

    codebook_size: Count = 512
    code_dim: Count = 64
    decay: Rate = 0.99
    anchor: Literal["closest", "random", "probabilistic"] = "closest"
    distance: Literal["l2", "cos", "sphere"] = "l2"
    contrastive: bool = False

    def __post_init__(self):
        if self.distance == "cosine":
            raise UserError("distance: what was 'cosine' is called 'sphere' now; 'cos' is the published form")
        for field, words in (("anchor", ("closest", "random", "probabilistic")), ("distance", ("l2", "cos", "sphere"))):
            if getattr(self, field) not in words:
                raise UserError(unknown(f"{field}: there is no", getattr(self, field), words, "There are"))
        if not 0 <= self.decay < 1:
            raise UserError(f"decay must be at least 0 and below 1, got {self.decay}")

    @staticmethod
    def terms(fields: Mapping[str, Any]) -> dict[str, float]:
        """Its loss terms, each with its usual weight."""
        more = {"contrastive": 1.0} if fields["contrastive"] else {}
        return {"codebook": 1.0, "commitment": 0.25, **more}

    @property
    def on_sphere(self) -> bool:
        """Whether a code that is looked up has length 1, however long it is kept."""
        return self.distance == "sphere"

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
        return self.distance == "l2"

    def init(self, key: Array) -> Codebook:
        size = self.codebook_size
        codes = jax.random.uniform(key, (size, self.code_dim), jnp.float32, -1 / size, 1 / size)  # as the authors'
        return Codebook(codes=self._seen(codes), stats={"share": jnp.zeros(size), "idle": jnp.zeros(size, jnp.int32)})

    def __call__(self, codebook: Codebook, z_e: Array, *, key: Array | None = None, train: bool = False) -> Quantized:
        """z_e [B, …, D] → Quantized. `key` is needed in training, for anchors that are drawn."""
        z, codes = self._seen(z_e), self._seen(codebook.codes)
        indices = cb.nearest(self._compared(z), self._compared(codes))
        z_q = self.lookup(codebook, (indices,))
        losses = {"codebook": cb.distance_to(z_q, z), "commitment": cb.distance_to(z, z_q)}
        if self.contrastive:
            flat, unit = self._compared(cb.flattened(z)), self.distance != "l2"
            losses["contrastive"] = contrast(flat, self._compared(codes), unit)
        fresh = None
        if train:
            codebook, fresh = self._blend(codebook, codes, cb.flattened(z), indices, key)
        return Quantized(cb.straight_through(z, z_q).astype(z_e.dtype), (indices,), losses, codebook, fresh)

    def lookup(self, codebook: Codebook, indices: Tokens) -> Array:
        return self._seen(rows(codebook.codes, indices[0]))

    def _seen(self, x: Array) -> Array:
        """Vectors as z_q, losses and the blend see them, float32."""
        return cb.normalised(x) if self.distance == "sphere" else x.astype(jnp.float32)

    def _compared(self, x: Array) -> Array:
        """Vectors as the look-up sees them."""
        return cb.normalised(x) if self.distance == "cos" else x

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
        if self.anchor == "random":
            return cb.draw(key, flat, self.codebook_size)
        wanted, among = self._compared(codes), self._compared(flat)
        if self.anchor == "closest":
            return flat[cb.nearest(wanted, among)]
        # -|z - e|² of unit vectors is twice the cosine, less 2
        scale = 0.5**0.5 if self.distance == "cos" else 1.0
        return flat[cb.nearest(scale * wanted, scale * among, cb.needed(key))]


def contrast(z: Array, codes: Array, unit: bool) -> Array:
    """The paper's contrastive term: cross-entropy of a code's closest N / K vectors, by their mean, against the farther
    half of all, at temperature 0.07; mean over codes. Vectors [N, D], held, and codes [K, D] → scalar.

    Near and far are by cosine where vectors have unit length (`unit`), else by -|z - e|². The gradient is taken at the
    codes that were compared. In the authors' code it is mixed: the blend overwrites codes between the two passes.
    """
    dots = jnp.matmul(z, codes.T, precision=lax.Precision.HIGHEST)
    lengths = jnp.sum(z * z, axis=-1)[:, None] + jnp.sum(codes * codes, axis=-1)[None]
    ordered = jnp.sort(dots if unit else 2 * dots - lengths, axis=0)  # [N, K], the closest last
    near = jnp.mean(ordered[-max(1, len(z) // len(codes)) :], axis=0, keepdims=True)
    logits = jnp.concatenate([near, ordered[: len(z) // 2]]) / TEMPERATURE
    return jnp.mean(jax.nn.logsumexp(logits, axis=0) - logits[0])
