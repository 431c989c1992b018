"""A net with its weights, on images of a data set."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vqvae_jax.features import NETS, file
from vqvae_jax.features.net import Net
from vqvae_jax.types import Array, UserError

PIXELS = 1 << 18  # that are looked at together: 64 images of 64 pixels


class Frozen(NamedTuple):
    """A net and its arrays, see `load`."""

    net: Net
    arrays: Mapping[str, Any]

    def pooled(self, images: Any) -> np.ndarray:
        """The mean over places of the map that distances take: uint8 [N, H, W, C] → float32 [N, c].

        Over all devices of this process. Images keep their size; grey ones are repeated to three channels.

        Raises:
            UserError: images of another type or shape.
        """
        check_images(images)
        devices = np.array(jax.local_devices())
        own, divided = (
            NamedSharding(jax.sharding.Mesh(devices, ("data",)), spec)
            for spec in (PartitionSpec(), PartitionSpec("data"))
        )
        arrays = jax.device_put(dict(self.arrays), own)
        size = -(-max(1, PIXELS // (images.shape[1] * images.shape[2])) // len(devices)) * len(devices)
        found = [means(self.net, arrays, jax.device_put(rows, divided)) for rows in _batches(images, size)]
        return np.concatenate([np.asarray(one) for one in found])[: len(images)]


def load(name: str, path: Path | None = None) -> Frozen:
    """A net from the file of frozen nets. UserError: it is not there, or damaged."""
    return Frozen(NETS[name], file.read(name, path))


@partial(jax.jit, static_argnums=0)
def means(net: Net, arrays: Mapping[str, Array], images: Array) -> Array:
    """uint8 [B, H, W, C] → [B, c]."""
    return jnp.mean(net.maps(arrays, images / 255.0)[net.distance], axis=(1, 2))


def check_images(images: Any) -> None:
    """UserError unless they are uint8 [N, H, W, 1 or 3]."""
    form, dtype = np.shape(images), getattr(images, "dtype", np.dtype(np.uint8))
    if len(form) != 4 or form[-1] not in (1, 3) or not form[0] or dtype != np.uint8:
        raise UserError(f"frozen nets look at images uint8 [N, H, W, 1 or 3]; got {dtype} {list(form)}")


def _batches(images: Any, size: int) -> Iterator[np.ndarray]:
    """So many images each; the last ones are repeated to fill up."""
    for start in range(0, len(images), size):
        yield np.asarray(images[np.minimum(np.arange(start, start + size), len(images) - 1)])
