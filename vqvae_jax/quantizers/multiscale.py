"""Codes scale by scale, VAR's, https://arxiv.org/abs/2404.02905, algorithms 1 and 2, as in its authors' code.

    r_0 = f;  for every scale s:  r_s, its areas' means p x p → nearest codes → enlarged, φ_s → added to f̂, taken from r

The authors' code to train it was never released: the loss is that of their quantizer, the rest is ours.

Legend: B examples, h w code map, D code size, K codes, S scales, P how many φ.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from vqvae_jax.limits import Blocks, Share
from vqvae_jax.networks.resize import enlarged, shrunk
from vqvae_jax.networks.scales import PHI, new_phis, phi, running
from vqvae_jax.quantizers import codebook as cb
from vqvae_jax.types import Array, Codebook, Quantized, Quantizer, Tokens, UserError

MOST = 100  # scales; each is traced


@dataclasses.dataclass(frozen=True)
class MultiscaleQuantizer:
    """An inner quantizer at maps of growing sizes, each of what the ones before left over; z_q is f̂ after the last.

    With f̂_s, the running sum, the losses are means over scales: `commitment` |f - sg f̂_s|² moves the encoder, and
    `codebook` |f̂_s - sg f|² the φ and the codes that learn by gradient, those of a scale by all later ones too. Other
    terms of the inner quantizer are means of its own. The decoder moves neither codes nor φ: straight-through, once.

    With a table for each scale, `shared=False`, usage and revival are of each scale by itself, so that the first ones,
    which see few vectors, stay alive. A shared one, the authors' way, is moved once a step by the vectors of all scales
    together.

    With `dropout` a training example is decoded from the first so many scales alone, all alike likely; codes and φ of
    all scales learn as ever, since their losses do not pass the decoder.

    A map of n times the last scale's side has n times all others: larger images are coded in the same way.

    Attributes:
        inner: the quantizer of one scale, one that is `subtractable`: vq, ema, simvq, cvq with distance l2.
        scales: sides of the maps, as they grow; the last is the side of the code map in training.
        phis: how many φ, which neighbouring scales share; 0: what is enlarged is added as it is.
        shared: one table for all scales.
        dropout: probability that a training example is decoded from fewer scales.
    """

    inner: Quantizer
    scales: tuple[int, ...] = (1, 2, 4, 8)
    phis: Blocks = 4
    shared: bool = False
    dropout: Share = 0.0

    def __post_init__(self):
        cb.check_inner("multi-scale", self.inner, self.shared)
        sides = self.scales
        if not sides or sides[0] < 1 or any(after < before for before, after in itertools.pairwise(sides)):
            raise UserError(f"scales are sides of maps that grow, as scales=1,2,4,8; got {sides}")
        if len(sides) > MOST:
            raise UserError(f"at most {MOST} scales, as scales=1,2,4,8; got {len(sides)}")
        if not 0 <= self.dropout <= 1:
            raise UserError(f"dropout must be from 0 to 1; got {self.dropout}")

    @staticmethod
    def terms(fields: Mapping[str, Any]) -> dict[str, float]:
        """Its loss terms beside those of the inner quantizer, each with its usual weight."""
        return {"commitment": 0.25, **({"codebook": 1.0} if fields["phis"] else {})}

    @property
    def input_dim(self) -> int:
        return self.inner.input_dim

    @property
    def output_dim(self) -> int:
        return self.inner.output_dim

    @property
    def vocab_sizes(self) -> tuple[int | None, ...]:
        return self.inner.vocab_sizes * len(self.scales)

    @property
    def side(self) -> int:
        """What the sides of a code map are multiples of, and in training are."""
        return self.scales[-1]

    def init(self, key: Array) -> Codebook:
        tables, phis = jax.random.split(key)
        keys = jax.random.split(tables, len(self.scales))
        book = self.inner.init(tables) if self.shared else jax.vmap(self.inner.init)(keys)
        return book.replace(params=book.params | new_phis(phis, self.phis, self.output_dim))

    def __call__(self, codebook: Codebook, z_e: Array, *, key: Array | None = None, train: bool = False) -> Quantized:
        """z_e [B, h, w, D] → Quantized with a map of indices a scale, [B, p, q]. `key` is needed in training.

        UserError where the scales do not divide h and w.
        """
        f, shape = z_e.astype(jnp.float32), self._shape(z_e)
        keys = jax.random.split(cb.needed(key), len(self.scales) + 2) if train else None
        quantize = self._with_one_table if self.shared else self._with_a_table_each
        coded, vectors, new = quantize(codebook, f, shape, keys)
        sums = running(vectors, codebook.params, shape)
        z_q = sums[-1] if keys is None else self._dropped(sums, keys[-2])
        indices = sum((one.indices for one in coded), ())
        fresh = new.fresh if train else None
        held = new.codebook.replace(params=codebook.params)
        return Quantized(
            cb.straight_through(f, z_q).astype(z_e.dtype), indices, self._losses(f, sums, new), held, fresh
        )

    def lookup(self, codebook: Codebook, indices: Tokens) -> Array:
        """f̂ after all scales, or after the first ones alone: [B, h, w, D]."""
        tables = (self._table(codebook, scale) for scale in range(len(indices)))
        vectors = [self.inner.lookup(table, (one,)) for table, one in zip(tables, indices, strict=True)]
        height, width = (side * self.side // self.scales[0] for side in indices[0].shape[1:3])
        return running(vectors, codebook.params, (height, width), len(self.scales))[-1]

    def codes(self, codebook: Codebook) -> Array:
        """What indices stand for before φ: float32 [S, K, D], with `shared` [K, D]."""
        every = jnp.arange(self.inner.vocab_sizes[0])
        scales = range(1 if self.shared else len(self.scales))
        found = [self.inner.lookup(self._table(codebook, scale), (every,)) for scale in scales]
        return found[0] if self.shared else jnp.stack(found)

    def _shape(self, z_e: Array) -> tuple[int, int]:
        """(h, w) of what is coded."""
        if z_e.ndim != 4:
            raise UserError(f"a multi-scale quantizer codes maps [B, h, w, D]; got {list(z_e.shape)}")
        height, width = z_e.shape[1:3]
        if height % self.side or width % self.side:
            last = math.gcd(height, width)
            fit = ",".join(map(str, [*(scale for scale in self.scales if scale < last), last]))
            raise UserError(
                f"scales={','.join(map(str, self.scales))} end at {self.side}, which does not divide a code map of "
                f"{height}x{width}; end them at its side, scales={fit}, or take images of another size"
            )
        return height, width

    def _table(self, codebook: Codebook, scale: int) -> Codebook:
        """What a scale quantizes with."""
        book = codebook.replace(params={name: x for name, x in codebook.params.items() if name not in PHI})
        return book if self.shared else jax.tree.map(lambda x: x[scale], book)

    def _with_a_table_each(self, codebook: Codebook, f: Array, shape: tuple[int, int], keys: Array | None):
        """What the inner quantizer says of each scale, the code vectors, and all of it together."""
        coded: list[Quantized] = []
        vectors: list[Array] = []
        rest = lax.stop_gradient(f)
        for scale, here in enumerate(self._sizes(shape)):
            table, key = self._table(codebook, scale), None if keys is None else keys[scale]
            coded.append(self.inner(table, shrunk(rest, here), key=key, train=keys is not None))
            vectors.append(self._vectors(table, coded[-1]))
            rest = rest - self._added(codebook, vectors[-1], scale, shape)
        losses = {term: jnp.mean(jnp.stack([one.losses[term] for one in coded])) for term in coded[0].losses}
        book = jax.tree.map(lambda *tables: jnp.stack(tables), *(one.codebook for one in coded))
        fresh = [one.fresh for one in coded if one.fresh is not None]
        return (
            coded,
            vectors,
            coded[0]._replace(losses=losses, codebook=book, fresh=jnp.stack(fresh) if fresh else None),
        )

    def _with_one_table(self, codebook: Codebook, f: Array, shape: tuple[int, int], keys: Array | None):
        coded: list[Quantized] = []
        vectors: list[Array] = []
        residuals: list[Array] = []
        rest, table = lax.stop_gradient(f), self._table(codebook, 0)
        for scale, here in enumerate(self._sizes(shape)):
            residuals.append(shrunk(rest, here))
            coded.append(self.inner(table, residuals[-1]))
            vectors.append(self._vectors(table, coded[-1]))
            rest = rest - self._added(codebook, vectors[-1], scale, shape)
        every = jnp.concatenate([one.reshape(-1, one.shape[-1]) for one in residuals])
        key = None if keys is None else keys[-1]
        return coded, vectors, self.inner(table, every, key=key, train=keys is not None)

    def _sizes(self, shape: tuple[int, int]) -> list[tuple[int, int]]:
        """(p, q) of each scale's map."""
        times = [side // self.side for side in shape]
        return [(scale * times[0], scale * times[1]) for scale in self.scales]

    def _vectors(self, table: Codebook, coded: Quantized) -> Array:
        """Code vectors, with gradient to the codes where these learn by it."""
        value = lax.stop_gradient(coded.z_q)
        if "codebook" not in coded.losses:
            return value
        looked_up = self.inner.lookup(table, coded.indices)
        return value + (looked_up - lax.stop_gradient(looked_up))

    def _added(self, codebook: Codebook, vectors: Array, scale: int, shape: tuple[int, int]) -> Array:
        """What a scale adds to f̂, held."""
        return lax.stop_gradient(phi(codebook.params, enlarged(vectors, shape), scale, len(self.scales)))

    def _dropped(self, sums: list[Array], key: Array) -> Array:
        """f̂ after as many scales as an example is decoded from."""
        if not self.dropout:
            return sums[-1]
        fewer, last = jax.random.split(key)
        count, scales = len(sums[0]), len(sums)
        ends = jax.random.bernoulli(fewer, self.dropout, (count,))
        number = jnp.where(ends, jax.random.randint(last, (count,), 0, scales), scales - 1)
        return jnp.stack(sums)[number, jnp.arange(count)]

    def _losses(self, f: Array, sums: list[Array], new: Quantized) -> dict[str, Array]:
        mean = lambda each: jnp.mean(jnp.stack(each))  # noqa: E731
        losses = new.losses | {"commitment": mean([cb.distance_to(f, one) for one in sums])}
        if "codebook" in losses or self.phis:
            losses["codebook"] = mean([cb.distance_to(one, f) for one in sums])
        return losses
