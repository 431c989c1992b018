"""CLIP's text encoder, https://arxiv.org/abs/2103.00020, as Stable Diffusion 1 is told texts: all states of its last
layer after the norm; number for number the authors' code, https://github.com/openai/CLIP (clip/model.py).

    begin, words, end, end, … → word + place → layers, each place sees itself and those before → norm → states

Legend: B batch, T places of a text here, P places there, W width, N heads.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vqvae_jax.limits import Count, Several
from vqvae_jax.networks.attention import causal_attention
from vqvae_jax.networks.dense import STD, Dense
from vqvae_jax.networks.embed import Embed
from vqvae_jax.types import Array, Caption, UserError

EPSILON = 1e-5  # of the norms
MARKS = 2  # begin and end: the last two words of the table
SHARP = 1.702  # of the activation


class Layer(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)), [B, P, W] → the same.

    Attributes:
        heads: of the attention.
        attend: which places see which, of `networks.attention`.
        activation: inside of the MLP, which is four times as wide.
        dtype: of the products.
    """

    heads: int
    attend: Callable[[Array, Array, Array], Array]
    activation: Callable[[Array], Array]
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width, seen = x.shape[-1], norm("norm1")(x)
        heads = lambda name: Dense(width, self.dtype, name=name)(seen).reshape(*x.shape[:2], self.heads, -1)  # noqa: E731
        found = self.attend(heads("query"), heads("key"), heads("value"))
        x = x + Dense(width, self.dtype, name="mix_heads")(found.reshape(x.shape))
        hidden = self.activation(Dense(4 * width, self.dtype, name="up")(norm("norm2")(x)))
        return x + Dense(width, self.dtype, name="down")(hidden)


def norm(name: str) -> nn.LayerNorm:
    """Over the width, in float32."""
    return nn.LayerNorm(epsilon=EPSILON, dtype=jnp.float32, use_fast_variance=False, name=name)


def quick_gelu(x: Array) -> Array:
    """x · σ(1.702 x), https://arxiv.org/abs/1606.08415, section 2."""
    return x * jax.nn.sigmoid(SHARP * x)


class CLIPText(nn.Module):
    """A text → what is attended to, and one vector.

    Attributes:
        text: what its texts are like; its words are the table's, counted from 1.
        width: of the states.
        layers, heads: of the transformer.
        vocab: rows of the table, begin and end its last two.
        length: places, begin and end among them.
        frozen: no training moves it.
        pooled: the network is told the state of the end as a vector too; Stable Diffusion 1 is told none.
        weights: CLIP's file, which a training starts from; "" where it starts from a whole prior, or from nothing.
        dtype: of the products; parameters, norms, softmax and states are float32.
    """

    text: Caption
    width: Count = 768
    layers: Several = 12
    heads: Count = 12
    vocab: Count = 49_408
    length: Count = 77
    frozen: bool = True
    pooled: bool = True
    weights: str = ""
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, text: Array) -> tuple[Array, Array]:
        """int32 [B, T], 0 where nothing stands → states [B, P, W], that of the end [B, W]; zeros alone are ""."""
        self._check()
        words = ids(text, self.vocab, self.length)
        x = Embed(self.vocab, self.width, STD, name="embed_word")(words)
        x = x + Embed(self.length, self.width, STD, name="embed_place")(jnp.arange(self.length))[None]
        for number in range(self.layers):
            x = Layer(self.heads, causal_attention, quick_gelu, self.dtype, name=f"layer{number}")(x)
        states = norm("norm_out")(x)
        end = jnp.argmax(words == self.vocab - 1, axis=1)  # the first
        return states, states[jnp.arange(len(states)), end]

    def _check(self) -> None:
        """UserError for texts that are not of its words, or have no place."""
        if self.width % self.heads:
            raise UserError(f"text_encoder: width={self.width} does not divide among heads={self.heads}; change one")
        if self.text.vocab_size != self.vocab + 1:
            raise UserError(
                f"config.text.vocab_size={self.text.vocab_size}, and the text encoder has a table of {self.vocab} "
                f"words, beside the empty one: --config.text.vocab_size={self.vocab + 1}, with its own tokenizer.json"
            )
        if self.text.length > (most := self.length - MARKS):
            raise UserError(
                f"config.text.length={self.text.length}: the text encoder has {most} places, beside begin and end: "
                f"--config.text.length={most}"
            )


def ids(text: Array, vocab: int, length: int) -> Array:
    """Our numbers, int32 [B, T], as CLIP's, int32 [B, length]: begin, the words, and then the end, again and again."""
    begin, end = vocab - 2, vocab - 1
    words = jnp.where(text > 0, text - 1, end)
    sides = ((0, 0), (1, length - 1 - text.shape[1]))
    return jnp.pad(words, sides, constant_values=end).at[:, 0].set(begin)
