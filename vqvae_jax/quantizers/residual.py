"""Residual quantization, https://arxiv.org/abs/2203.01941: each depth codes what the depths before it have left over.

Legend: B examples, h w code map, K codes, D code size.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from vqvae_jax.limits import Several, Share
from vqvae_jax.quantizers import codebook as cb
from vqvae_jax.types import Array, Codebook, Quantized, Quantizer, Tokens, UserError

DEPTHS = 1000  # at most; each is traced


@dataclasses.dataclass(frozen=True)
class ResidualQuantizer:
    """An inner quantizer, applied `depth` times: r_0 = z_e, r_{d+1} = r_d - sg[e_d], z_q = Σ e_d.

    What is subtracted is held, so r_d = z_e - sg[e_0 + … + e_{d-1}], and the inner `commitment` |r_d - sg[e_d]|² is
    what RQ-VAE writes: z_e beside the running sum of codes, with its gradient at every depth. The inner `codebook`
    |sg[r_d] - e_d|² moves the codes of depth d alone. Each term is the mean over depths.

    Without `shared` every depth has a table and statistics of its own, [depth, …], moved by its own residuals. With it
    there is one table, moved once a step by the residuals of all depths together.

    With `dropout` a training example uses only the first so many depths, 1 … depth alike likely. In the depths after
    them it adds nothing to z_q and teaches nothing: examples that go on take its place there, in turn, so that a
    quantizer that knows nothing of dropout sees only vectors that reach it; losses weigh as many as went on. Those
    places of `indices` mean nothing. A depth that nobody reached stays as it was.

    Attributes:
        inner: the quantizer of one depth, one that is `subtractable`: vq, ema, simvq, cvq with distance l2.
        depth: residuals, and token maps.
        shared: one table for all depths.
        dropout: probability that a training example uses fewer depths.
    """

    inner: Quantizer
    depth: Several = 4
    shared: bool = False
    dropout: Share = 0.0

    def __post_init__(self):
        cb.check_inner("residual", self.inner, self.shared)
        if not 1 <= self.depth <= DEPTHS or not 0 <= self.dropout <= 1:
            got = f"got {self.depth} and {self.dropout}"
            raise UserError(f"depth must be from 1 to {DEPTHS}, dropout from 0 to 1; {got}")

    @property
    def input_dim(self) -> int:
        return self.inner.input_dim

    @property
    def output_dim(self) -> int:
        return self.inner.output_dim

    @property
    def vocab_sizes(self) -> tuple[int | None, ...]:
        return self.inner.vocab_sizes * self.depth

    def init(self, key: Array) -> Codebook:
        return self.inner.init(key) if self.shared else jax.vmap(self.inner.init)(jax.random.split(key, self.depth))

    def __call__(self, codebook: Codebook, z_e: Array, *, key: Array | None = None, train: bool = False) -> Quantized:
        """z_e [B, …, D] → Quantized with `depth` maps of indices. `key` is needed in training."""
        z, used = z_e.astype(jnp.float32), None
        if train:
            key, drop = jax.random.split(cb.needed(key))
            used = self._used(drop, z.shape[0]) if self.dropout else None
        quantize = self._with_one_table if self.shared else self._with_a_table_each
        coded, losses, codebook, fresh = quantize(codebook, z, used, key, train)
        z_q = jnp.zeros_like(z)
        for d, one in enumerate(coded):
            z_q += one.z_q if used is None else jnp.where(_like(used[d], z), one.z_q, 0.0)
        indices = sum((one.indices for one in coded), ())
        return Quantized(cb.straight_through(z, z_q).astype(z_e.dtype), indices, losses, codebook, fresh)

    def lookup(self, codebook: Codebook, indices: Tokens) -> Array:
        """The sum of codes of all depths, or of the first ones alone."""
        first = self.inner.lookup(self._table(codebook, 0), indices[:1])
        rest = enumerate(indices[1:], start=1)
        return sum((self.inner.lookup(self._table(codebook, d), (one,)) for d, one in rest), first)

    def _table(self, codebook: Codebook, d: int) -> Codebook:
        """What depth d quantizes with."""
        return codebook if self.shared else jax.tree.map(lambda x: x[d], codebook)

    def _used(self, key: Array, count: int) -> Array:
        """Whether an example uses a depth: bool [depth, B], True first."""
        fewer, last = jax.random.split(key)
        depths = jax.random.randint(last, (count,), 1, self.depth + 1)
        depths = jnp.where(jax.random.bernoulli(fewer, self.dropout, (count,)), depths, self.depth)
        return jnp.arange(self.depth)[:, None] < depths[None]

    def _with_a_table_each(self, codebook: Codebook, z: Array, used: Array | None, key: Array | None, train: bool):
        keys = jax.random.split(key, self.depth) if train and key is not None else [None] * self.depth
        coded: list[Quantized] = []
        for d in range(self.depth):
            here, r = self._table(codebook, d), z
            if used is not None:
                r = r[_in_turn(used[d])]
            out = self.inner(here, r, key=keys[d], train=train)
            if used is not None:
                out = _if_reached(out, here, used[d])
            coded.append(out)
            z = r - lax.stop_gradient(out.z_q)
        losses = {term: jnp.mean(jnp.stack([one.losses[term] for one in coded])) for term in coded[0].losses}
        if not train:
            return coded, losses, codebook, None
        tables = jax.tree.map(lambda *tables: jnp.stack(tables), *(one.codebook for one in coded))
        fresh = [one.fresh for one in coded if one.fresh is not None]
        return coded, losses, tables, jnp.stack(fresh) if fresh else None

    def _with_one_table(self, codebook: Codebook, z: Array, used: Array | None, key: Array | None, train: bool):
        coded: list[Quantized] = []
        residuals = []
        for _ in range(self.depth):
            residuals.append(z)
            coded.append(self.inner(codebook, z))
            z = z - lax.stop_gradient(coded[-1].z_q)
        stacked = jnp.concatenate(residuals)  # [depth · B, h, w, D]
        if used is not None:
            stacked = stacked[_in_turn(used.reshape(-1))]
        out = self.inner(codebook, stacked, key=key, train=train)
        if used is not None:
            out = _if_reached(out, codebook, used)
        return coded, out.losses, out.codebook, out.fresh


def _in_turn(used: Array) -> Array:
    """Who stands at each place: itself where used, else those in use, one after the other. bool [B] → int [B]."""
    order = jnp.argsort(~used, stable=True)  # those in use first
    places = jnp.arange(used.shape[0])
    return jnp.where(used, places, order[places % jnp.maximum(jnp.sum(used), 1)])


def _if_reached(out: Quantized, before: Codebook, used: Array) -> Quantized:
    """Losses by the share of examples in use; without any the codebook is that of before."""
    anyone = jnp.any(used)
    return out._replace(
        losses={term: jnp.mean(used.astype(jnp.float32)) * loss for term, loss in out.losses.items()},
        codebook=jax.tree.map(lambda new, old: jnp.where(anyone, new, old), out.codebook, before),
        fresh=None if out.fresh is None else out.fresh & anyone,
    )


def _like(mask: Array, z: Array) -> Array:
    """[B] → [B, 1, 1, 1]."""
    return mask.reshape(-1, *[1] * (z.ndim - 1))
