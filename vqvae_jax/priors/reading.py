"""What a diffusion prior tells its network of labels and texts; a text by its words alone, or by a text encoder.

Legend: B batch, T places of a text, V numbers of the network's vector, S vectors that are attended to, of D numbers.
"""

from typing import Any

import jax
import jax.numpy as jnp

from vqvae_jax.networks.embed import mean_word
from vqvae_jax.priors.condition import told_label, told_text
from vqvae_jax.types import Array, Condition, UserError


def told(prior: Any, condition: Condition, count: int, train: bool) -> tuple[Array | None, Array | None]:
    """Label and text as a vector [B, V], the text as vectors that are attended to, [B, S, D]; None of neither."""
    vector = context = None
    if prior.label_condition:
        vector = prior.embed_label(told_label(prior, condition, count, train))
    if prior.text:
        one, context = read(prior, told_text(prior, condition, count, train))
        vector = one if vector is None else vector if one is None else vector + one
    return vector, context


def read(prior: Any, text: Array) -> tuple[Array | None, Array]:
    """int32 [B, T] → a vector [B, V], None where the network is told none, and what is attended to, [B, S, D].

    Without a text encoder: the mean of the words, and each word with its place.
    """
    encoder = prior.text_encoder
    if encoder is None:
        words = prior.embed_text(text)
        return mean_word(text, words), words + prior.place_text(jnp.arange(prior.text.length))[None]
    states, one = encoder(text)
    if encoder.frozen:
        states, one = jax.lax.stop_gradient((states, one))
    return prior.from_encoder(one) if encoder.pooled else None, states


def check_encoder(prior: Any) -> None:
    """UserError where a text encoder has no texts to read."""
    if prior.text_encoder is not None and prior.text is None:
        raise UserError(
            "there is a text encoder and no text is told: --config.priors.LEVEL.text_condition=true, or leave the "
            "section text_encoder out"
        )
