"""Own pictures whose upper half is given, continued by the priors."""

from pathlib import Path
from typing import Any

import numpy as np

from vqvae_jax import logs, sample
from vqvae_jax.reconstruct import found, read
from vqvae_jax.trained import Trained
from vqvae_jax.types import UserError


def complete(
    model: Trained, pictures: Path, output: Path, count: int, seed: int, label: str | None, **pick: Any
) -> int:
    """Draws `count` lower halves for the upper half of each picture.

    Args:
        model: with its priors.
        pictures: a folder, or one file; cropped to squares as in training.
        output: x.png, a row a picture: the picture | its upper half | what was drawn; x.npz, uint8 `arr_0`
            [N * count, H, W, C]; else a new folder of single pictures.
        count, seed, label, pick: as in `Trained.sample`.

    Returns:
        How many pictures were continued.

    Raises:
        UserError: no picture there that can be used; the others are named on standard error.
    """
    root, names = found(pictures)
    originals = [image for _, _, image in read(model, root, names, model.facts["image_size"])]
    if not originals:
        raise UserError(f"no picture in {pictures} can be used; what is wrong with them stands above")
    images = np.stack(originals)
    drawn = model.complete(images, count, seed, label, **pick)
    if output.suffix != ".png":
        sample.save(drawn.reshape(-1, *images.shape[1:]), output)
        return len(images)
    logs.save_png(output, rows_of(images, drawn))
    return len(images)


def rows_of(images: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """A row a picture: the picture | its upper half | what was drawn. uint8 [N, H, W, C], [N, count, H, W, C]."""
    halves = images.copy()
    halves[:, images.shape[1] // 2 :] = logs.GREY
    rows = np.concatenate([images[:, None], halves[:, None], drawn], axis=1)
    return logs.grid(rows, columns=rows.shape[1], scale=max(1, 64 // images.shape[1]))
