"""What an evaluation says of maps that hold numbers: their divergence, how many vary, whether their scale is right.

kl/LEVEL          divergence from a standard normal, nats a number, mean over images
active/LEVEL      share of a place's numbers whose mean varies over the split: a deviation above doctor.STILL
latent_mean/LEVEL mean over the split of the map as priors see it: of its numbers the one farthest from 0
latent_std/LEVEL  the same of the standard deviation: the one farthest from 1

Legend: B images, h w map, D numbers a place.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from vqvae_jax import doctor
from vqvae_jax.quantizers.kl import KLBottleneck, divergence, moments
from vqvae_jax.quantizers.told import Told
from vqvae_jax.types import Array, Codebook

HELD = "numbers/"  # begins the names of sums


def listening(autoencoder: Any, heard: dict[str, Array]) -> Any:
    """The same autoencoder; what its quantizers of numbers are given is noted in `heard`, by level."""
    pairs = tuple(zip(autoencoder.level_names, autoencoder.quantizers, strict=True))
    if not any(isinstance(quantizer, KLBottleneck) for _, quantizer in pairs):
        return autoencoder
    told = (Told(one, level, heard) if isinstance(one, KLBottleneck) else one for level, one in pairs)
    return autoencoder.clone(quantizers=tuple(told))


def sums(heard: Mapping[str, Array], codebooks: Mapping[str, Codebook], quantizers: Mapping[str, Any], mask: Array):
    """Over the images that mask [B] counts, of each level's z_e [B, h, w, 2D]: additive."""
    found: dict[str, Array] = {}
    for level, z_e in heard.items():
        mean, log_variance = moments(z_e)
        found[f"kl/{level}"] = jnp.sum(mask * jnp.mean(divergence(mean, log_variance), (1, 2, 3)))
        scaled = quantizers[level](codebooks[level], z_e).indices[0]
        found[f"{HELD}{level}"] = jnp.stack([powers(mean, mask), powers(scaled, mask)])
    return found


def powers(maps: Array, mask: Array) -> Array:
    """[B, h, w, D] → [3, D]: how many, their sum, the sum of their squares, over the images that mask [B] counts."""
    weight = jnp.broadcast_to(mask[:, None, None, None], maps.shape)
    return jnp.stack([jnp.sum(weight * one, (0, 1, 2)) for one in (jnp.ones_like(maps), maps, jnp.square(maps))])


def summary(sums: Mapping[str, Any]) -> dict[str, float]:
    """What the sums over a split say."""
    metrics: dict[str, float] = {}
    for name in sums:
        if name.startswith(HELD):
            level = name.removeprefix(HELD)
            (_, varies), (mean, deviation) = map(mean_and_deviation, np.asarray(sums[name], np.float64))
            metrics |= {
                f"kl/{level}": float(sums[f"kl/{level}"]) / float(sums["count"]),
                f"active/{level}": float(np.mean(varies > doctor.STILL)),
                f"latent_mean/{level}": float(mean[np.argmax(np.abs(mean))]),
                f"latent_std/{level}": float(deviation[np.argmax(np.abs(deviation - 1))]),
            }
    return metrics


def mean_and_deviation(powers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of what `powers` gave, summed: [D] each."""
    count, total, square = powers
    mean = total / count
    return mean, np.sqrt(np.maximum(square / count - np.square(mean), 0))
