"""Group normalisation, https://arxiv.org/abs/1803.08494, in a form that XLA makes few passes of.

Sums are taken of each channel first, over contiguous rows, and of a group's channels then: grouping the channels of a
whole image would be another layout of it. What is left for every pixel is a difference, a product and a sum.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from vqvae_jax.types import Array

EPSILON = 1e-6  # taming's, latent diffusion's, MaskGIT's; PyTorch's own is 1e-5


class GroupNorm(nn.Module):
    """[B, H, W, C] → the same, of mean 0 and variance 1 in each group of channels, then scaled and shifted a channel.

    Statistics are float32 and of deviations from the mean, so that a large mean costs no digits.

    Attributes:
        groups: of neighbouring channels; where they do not divide the channels, as many as divide both.
        dtype: of the result.
        epsilon: what is added to the variance.
    """

    groups: int = 32
    dtype: jnp.dtype = jnp.float32
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        shift = self.param("bias", nn.initializers.zeros, (channels,))
        groups = math.gcd(self.groups, channels)
        mean = lambda x: of_groups(jnp.mean(x, (1, 2)), groups)  # noqa: E731
        away, factor = standardised(x.astype(jnp.float32), mean, self.epsilon)
        return (away * (factor * scale[None, None, None]) + shift[None, None, None]).astype(self.dtype)


def standardised(x: Array, mean: Callable[[Array], Array], epsilon: float) -> tuple[Array, Array]:
    """What x is away from its mean, and one over its standard deviation, as `mean` gives it: to be multiplied."""
    away = x - mean(x)
    return away, jax.lax.rsqrt(mean(jnp.square(away)) + epsilon)


def of_groups(means: Array, groups: int) -> Array:
    """The mean of each channel's group, [B, C] → [B, 1, 1, C]."""
    batch, channels = means.shape
    whole = jnp.mean(means.reshape(batch, groups, -1), -1, keepdims=True)
    return jnp.broadcast_to(whole, (batch, groups, channels // groups)).reshape(batch, 1, 1, channels)
