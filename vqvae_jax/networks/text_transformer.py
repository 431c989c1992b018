"""A small text encoder that is trained with its prior: each place of a text sees all others."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vqvae_jax.limits import Count, Several
from vqvae_jax.networks.attention import attention
from vqvae_jax.networks.clip_text import Layer, norm
from vqvae_jax.networks.dense import STD
from vqvae_jax.networks.embed import Embed, mean_word
from vqvae_jax.types import Array, Caption, UserError


class TextTransformer(nn.Module):
    """A text → what is attended to, and one vector.

    Attributes:
        text: what its texts are like.
        width: of the states.
        layers, heads: of the transformer.
        pooled: the network is told the mean of the states as a vector too.
        dtype: of the products; parameters, norms, softmax and states are float32.
    """

    text: Caption
    width: Count = 128
    layers: Several = 2
    heads: Count = 4
    pooled: bool = True
    dtype: Any = jnp.float32

    frozen = False  # no field: it knows nothing before the training
    weights = ""

    @nn.compact
    def __call__(self, text: Array) -> tuple[Array, Array]:
        """int32 [B, T], 0 where nothing stands → states [B, T, W], their mean over what stands there [B, W]."""
        if self.width % self.heads:
            raise UserError(f"text_encoder: width={self.width} does not divide among heads={self.heads}; change one")
        x = Embed(self.text.vocab_size, self.width, STD, name="embed_word")(text)
        x = x + Embed(self.text.length, self.width, STD, name="embed_place")(jnp.arange(self.text.length))[None]
        for number in range(self.layers):
            x = Layer(self.heads, attention, nn.gelu, self.dtype, name=f"layer{number}")(x)
        states = norm("norm_out")(x)
        return states, mean_word(text, states)
