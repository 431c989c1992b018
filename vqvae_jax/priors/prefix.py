"""A text in front of a sequence, as in https://arxiv.org/abs/2102.12092, section 2.2; foretold as well, or only read.

    begin, word 0, …, word S - 2, word S - 1    → before the maps, each word + its place; begin where it is foretold
    word 0, word 1, …, word S - 1               ← foretold at these positions, from those before

Where nothing stands, 0, each place has a word of its own, that of its padding. To be foretold 0 is a word as others.

Legend: B batch, S places of a text, W width, V vocabulary of texts.
"""

import flax.linen as nn
import jax.numpy as jnp

from vqvae_jax.networks.dense import STD, Dense
from vqvae_jax.networks.embed import Embed
from vqvae_jax.networks.likelihood import nll
from vqvae_jax.types import Array, Caption


class Prefix(nn.Module):
    """Texts as vectors, and what is foretold of them.

    Attributes:
        text: what they are like.
        width: of the residual stream.
        foretold: whether they are; a vector `begin` stands before them then.
        tied: logits by the words' vectors, not by a matrix of their own.
        dtype: of the vectors; logits are float32.
    """

    text: Caption
    width: int
    foretold: bool = False
    tied: bool = False
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        table = lambda size: Embed(size, self.width, STD, self.dtype)  # noqa: E731
        self.words, self.places = table(self.text.vocab_size), table(self.text.length)
        self.padding = table(self.text.length)
        if self.foretold:
            self.begin = table(1)
        if self.foretold and not self.tied:
            self.to_logits = Dense(self.text.vocab_size, jnp.float32, bias=False)

    @property
    def length(self) -> int:
        """Positions of the sequence that it takes."""
        return self.text.length + self.foretold

    def __call__(self, text: Array) -> Array:
        """int32 [B, S] → [B, length, W]."""
        places = jnp.arange(self.text.length)
        words = jnp.where((text > 0)[..., None], self.words(text), self.padding(places)[None])
        told = words + self.places(places)[None]
        if not self.foretold:
            return told
        return jnp.concatenate([self.begin(jnp.zeros((len(text), 1), jnp.int32)), told], axis=1)

    def logits(self, x: Array) -> Array:
        """What the blocks say at all positions of it, [B, length, W] → of each place's word, float32 [B, S, V]."""
        x = x[:, : self.text.length]
        return x @ self.words.embedding.T if self.tied else self.to_logits(x)

    def nll(self, x: Array, text: Array) -> Array:
        """[B, length, W], int32 [B, S] → nats a place, float32 [B]; 0 for a text that says nothing."""
        return jnp.where(jnp.any(text > 0, axis=1), nll(self.logits(x), text), 0.0)
