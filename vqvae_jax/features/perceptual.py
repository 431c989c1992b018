"""How far two pictures are apart in the maps of a frozen net, https://arxiv.org/abs/1801.03924 (LPIPS)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vqvae_jax.features import file
from vqvae_jax.features.frozen import Frozen, load
from vqvae_jax.features.net import Net
from vqvae_jax.types import Array

EPS = 1e-12  # beside the square of a length, inside the root: a place where all is 0 has a gradient as well
LPIPS = "vgg16"  # the net that has heads: with them the distance is LPIPS v0.1, as it is published


def load_perceptual(name: str, path: Path | None = None) -> Frozen:
    """A net from the file of frozen nets, VGG16 with LPIPS' heads. UserError: something is not there."""
    net, arrays = load(name, path)
    if name == LPIPS:
        arrays = {**arrays, **{f"heads/{i}": head for i, head in file.read(file.HEADS, path).items()}}
    return Frozen(net, arrays)


def has_lpips(path: Path | None = None) -> bool:
    """Whether all of it is in the file of frozen nets."""
    return {LPIPS, file.HEADS} <= set(file.names(path))


def perceptual(net: Net, arrays: Mapping[str, Array], images: Array, others: Array) -> Array:
    """Images in [0, 1] twice, [B, H, W, C] → [B]; the gradient goes to the first alone.

    Of each of `net.perceptual`: squared differences of vectors of length 1, weighed by heads where there are some,
    summed over channels, mean over places; summed over the maps.
    """
    seen, wanted = net.maps(arrays, images), jax.lax.stop_gradient(net.maps(arrays, others))
    total = jnp.zeros(len(images))
    for i, number in enumerate(net.perceptual):
        apart = jnp.square(_unit(seen[number]) - _unit(wanted[number]))
        head: Any = arrays.get(f"heads/{i}")
        weighed = apart if head is None else apart * head[None, None, None]
        total += jnp.mean(jnp.sum(weighed, axis=-1), axis=(1, 2))
    return total


def _unit(x: Array) -> Array:
    return x / jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + EPS)
