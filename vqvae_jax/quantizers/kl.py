"""A continuous bottleneck, the KL autoencoder of latent diffusion, https://arxiv.org/abs/2112.10752 (appendix G).

Each place holds numbers and not the index of a code: the encoder says a mean and a log-variance, training adds noise of
that size, and the term `kl` holds both near a standard normal, https://arxiv.org/abs/1312.6114 (appendix B).

Legend: B batch, h w map, D numbers a place.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vqvae_jax.limits import Count, Rate
from vqvae_jax.types import Array, Codebook, Quantized, Tokens, UserError

LOG_VARIANCE = (-30.0, 20.0)  # where the authors' code clips it


@dataclasses.dataclass(frozen=True)
class KLBottleneck:
    """A quantizer like the others, but that its maps are float32 [B, h, w, D], of mean 0 and standard deviation 1.

    That scale is the running mean and variance a channel of the encoder's means, kept in `Codebook.stats`: maps on
    disk, priors and samples need no other. When a training ends they are measured, see `vqvae_jax/scale.py`. The paper
    divides by one standard deviation of all channels, of a first batch; the published weights multiply by 0.18215.

    The term `kl` is the mean over all numbers, in nats a number. The authors' code sums it, and the reconstruction
    error, over an image: its weight w is w · (numbers of a map) / (numbers of an image) here.

    Attributes:
        code_dim: numbers a place, D; the encoder gives twice as many.
        decay: of the running mean and variance, a step.
    """

    code_dim: Count = 4
    decay: Rate = 0.95

    numbers = True  # what its map holds, in place of codes

    def __post_init__(self):
        if not 0 <= self.decay < 1:
            raise UserError(f"decay is a share of what was known before, from 0 to below 1; got {self.decay}")

    @staticmethod
    def terms(fields: Mapping[str, Any]) -> dict[str, float]:
        """Its loss terms, each with its usual weight."""
        return {"kl": 1e-4}

    @property
    def input_dim(self) -> int:
        return 2 * self.code_dim

    @property
    def output_dim(self) -> int:
        return self.code_dim

    @property
    def vocab_sizes(self) -> tuple[None]:
        return (None,)

    def init(self, key: Array) -> Codebook:
        """No codes; sums over past steps, of which none count yet. `key` is not used."""
        sums = {name: jnp.zeros(self.code_dim) for name in ("mean", "square")}
        return Codebook(jnp.zeros((0, self.code_dim)), stats={"count": jnp.zeros(()), **sums})

    def __call__(self, codebook: Codebook, z_e: Array, *, key: Array | None = None, train: bool = False) -> Quantized:
        """z_e [B, …, 2D], means then log-variances → Quantized, its map float32 [B, …, D]; in training `key` is needed.

        z_q is the mean, in training with noise; only there the running statistics move.
        """
        mean, log_variance = moments(z_e)
        kl = jnp.mean(divergence(mean, log_variance))
        if train:
            assert key is not None
            codebook = self._seen(codebook, jax.lax.stop_gradient(mean))
            z_q = noisy(mean, log_variance, jax.random.normal(key, mean.shape))
            return Quantized(z_q.astype(z_e.dtype), (self._scaled(codebook, mean),), {"kl": kl}, codebook, None)
        maps = (self._scaled(codebook, mean),)
        return Quantized(self.lookup(codebook, maps).astype(z_e.dtype), maps, {"kl": kl}, codebook, None)

    def lookup(self, codebook: Codebook, indices: Tokens) -> Array:
        """The map [B, …, D] → z_q, at the encoder's own scale."""
        shift, scale = self._scale(codebook, indices[0].ndim)
        return indices[0].astype(jnp.float32) * scale + shift

    def _scaled(self, codebook: Codebook, mean: Array) -> Array:
        shift, scale = self._scale(codebook, mean.ndim)
        return (mean - shift) / scale

    def _seen(self, codebook: Codebook, mean: Array) -> Codebook:
        """The running sums with those of a batch of means [B, …, D]."""
        axes = tuple(range(mean.ndim - 1))
        new = {"count": jnp.ones(()), "mean": jnp.mean(mean, axes), "square": jnp.mean(jnp.square(mean), axes)}
        before, share = codebook.stats, 1 - self.decay
        return codebook.replace(stats={name: self.decay * before[name] + share * new[name] for name in new})

    def _scale(self, codebook: Codebook, rank: int) -> tuple[Array, Array]:
        """Mean and standard deviation of each number, [1, …, 1, D]; 0 and 1 before the first step."""
        mean, deviation = mean_and_deviation(codebook)
        row = lambda x: x.reshape(*[1] * (rank - 1), -1)  # noqa: E731
        return row(mean), row(deviation)


def moments(z_e: Array) -> tuple[Array, Array]:
    """What an encoder says, [..., 2D] → means and clipped log-variances, float32 [..., D] each."""
    mean, log_variance = jnp.split(z_e.astype(jnp.float32), 2, axis=-1)
    return mean, jnp.clip(log_variance, *LOG_VARIANCE)


def divergence(mean: Array, log_variance: Array) -> Array:
    """Kullback-Leibler divergence of each number from a standard normal, nats, [..., D] → [..., D]."""
    return 0.5 * (jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance)


def noisy(mean: Array, log_variance: Array, noise: Array) -> Array:
    """A sample, from noise of a standard normal; [..., D] all."""
    return mean + jnp.exp(0.5 * log_variance) * noise


def statistics(mean: Array, deviation: Array) -> dict[str, Array]:
    """`Codebook.stats` of which `mean_and_deviation` gives these, [D] each: for weights whose scale is known."""
    return {"count": jnp.ones(()), "mean": mean, "square": jnp.square(deviation) + jnp.square(mean)}


def mean_and_deviation(codebook: Codebook) -> tuple[Array, Array]:
    """Of each number that the encoder says, [D], over the last steps; 0 and 1 before the first."""
    count = codebook.stats["count"]
    known = jnp.maximum(count, 1e-12)[None]
    mean = codebook.stats["mean"] / known
    variance = jnp.maximum(codebook.stats["square"] / known - jnp.square(mean), 1e-12)
    return mean, jnp.where(count[None] > 0, jnp.sqrt(variance), 1.0)
