"""Integers to vectors, as a Linen layer, and the mean of those of a text."""

import flax.linen as nn
import jax.numpy as jnp

from vqvae_jax.networks.lookup import rows
from vqvae_jax.types import Array


class Embed(nn.Module):
    """A table of `size` vectors with `features` channels, drawn from a normal distribution with deviation `std`.

    int [...] → [..., features] in `dtype`; the table and its gradient are float32.
    """

    size: int
    features: int
    std: float = 1.0  # as PyTorch's
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.embedding = self.param("embedding", nn.initializers.normal(self.std), (self.size, self.features))

    def __call__(self, numbers: Array) -> Array:
        return rows(self.embedding, numbers, self.dtype)


def mean_word(text: Array, words: Array) -> Array:
    """The mean of the vectors of all places where something stands, zeros without any: [B, T], [B, T, V] → [B, V]."""
    said = (text > 0)[..., None]
    return jnp.sum(said * words, axis=1) / jnp.maximum(jnp.sum(said, axis=1), 1)
