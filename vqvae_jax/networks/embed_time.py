"""A moment as a vector of waves, for networks that are told how much noise lies on what they see."""

import math

import jax.numpy as jnp

from vqvae_jax.types import Array

LONGEST = 10_000  # the slowest wave's length over the fastest's, in units of time / 2π


def time_embedding(time: Array, size: int) -> Array:
    """Cosines, then sines, of geometrically falling frequencies: float [B] → float32 [B, size], size even.

    As https://arxiv.org/abs/1706.03762, section 3.5, in the order of the authors of latent diffusion.
    """
    half = size // 2
    frequency = jnp.exp(-math.log(LONGEST) / half * jnp.arange(half, dtype=jnp.float32))
    angle = time.astype(jnp.float32)[:, None] * frequency[None]
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
