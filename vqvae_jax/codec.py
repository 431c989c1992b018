"""uint8 images to token maps and back with a trained autoencoder, in batches of one size, compiled once each."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from vqvae_jax.data.augment import normalise, to_uint8
from vqvae_jax.types import Array, Model, Tokens

BATCH = 64  # images at once
PIXELS = 64 * 64 * BATCH  # at once, at most, or one image

Range = tuple[float, float]


@partial(jax.jit, static_argnums=(0, 1))
def encode(autoencoder: Any, value_range: Range, model: Model, images: Array) -> Tokens:
    """uint8 [B, H, W, C] → int32 maps [B, h, w], coarse to fine."""
    images = normalise(images, value_range)
    return autoencoder.apply({"params": model.params}, images, model.codebooks, method="encode")


@partial(jax.jit, static_argnums=(0, 1))
def decode(autoencoder: Any, value_range: Range, model: Model, tokens: Tokens) -> Array:
    """Token maps, or the upper ones alone → uint8 [B, H, W, C]."""
    images = autoencoder.apply({"params": model.params}, tokens, model.codebooks, method="decode")
    return to_uint8(images, value_range)


@partial(jax.jit, static_argnums=(0, 1))
def reconstruct(autoencoder: Any, value_range: Range, model: Model, images: Array) -> list[Array]:
    """uint8 images → uint8 images from the top alone, the top two, …, all."""
    tokens = encode(autoencoder, value_range, model, images)
    return [decode(autoencoder, value_range, model, tokens[: i + 1]) for i in range(len(tokens))]


def in_batches(function: Callable[[Any], Any], *arrays: Any, size: int = BATCH) -> Any:
    """What a function of [B, …] makes of [N, …] arrays, as numpy; the last batch is padded, so that nothing is
    compiled twice. Whatever the function's result holds is put together again along the first axis.
    """
    parts = []
    for start in range(0, len(arrays[0]), size):
        taken = [np.asarray(array[start : start + size]) for array in arrays]
        used = len(taken[0])
        whole = [np.pad(part, ((0, size - used), *[(0, 0)] * (part.ndim - 1))) for part in taken]
        parts.append(jax.tree.map(lambda x, used=used: np.asarray(x)[:used], function(*whole)))
    return jax.tree.map(lambda *several: np.concatenate(several), *parts)


def batch_size(height: int, width: int) -> int:
    """Images of so many pixels that are taken at once."""
    return max(1, min(BATCH, PIXELS // (height * width)))
