"""Whether samples are training images: the nearest one of each, and how near images are that were never trained on.

Pictures are compared as they look from afar, at 32 pixels or so, by the root of the mean squared difference of their
values, 0 to 255. A sample that is much nearer than held-out images are is a copy; one that is not may still be one in
its parts.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vqvae_jax.data import Arrays
from vqvae_jax.data.arrays import under
from vqvae_jax.data.stream import Lazy

SIDE = 32  # pixels that are compared, at least, where a picture has more
SHOWN = 8  # samples
HELD_OUT = 64  # images that say what is usual
MOST, STREAMED = 20_000, 2_000  # training images that are looked at, at random; of those that must be decoded anew
CHUNK = 512  # at once


class Nearest(NamedTuple):
    """Of each picture."""

    row: np.ndarray  # int [N], of the training images
    rms: np.ndarray  # float32 [N]
    mirrored: np.ndarray  # bool [N]


def nearest(pictures: Any, training: Any, rows: np.ndarray, mirror: bool) -> Nearest:
    """Among some rows of the training images, and their mirror images where the training had these too."""
    seen = _small(np.asarray(pictures))
    best, row = np.full(len(seen), np.inf), np.zeros(len(seen), int)
    mirrored = np.zeros(len(seen), bool)
    for start in range(0, len(rows), CHUNK):
        here = rows[start : start + CHUNK]
        images = np.asarray(training[here])
        for turned in (False, True)[: 1 + mirror]:
            others = _small(images[:, :, ::-1] if turned else images)
            first = _apart(seen, others).argmin(axis=1)
            least = np.square(seen - others[first]).mean(axis=1)  # anew: the product's rounding hides what is equal
            nearer = least < best
            best = np.where(nearer, least, best)
            row = np.where(nearer, here[first], row)
            mirrored = np.where(nearer, turned, mirrored)
    return Nearest(row, np.sqrt(best).astype(np.float32), mirrored)


def _small(images: np.ndarray) -> np.ndarray:
    """Means over areas, from -128 to 127, float32 [N, values]: around 0 products round least."""
    count, height, width, channels = images.shape
    area = max(1, min(height, width) // SIDE)
    whole = images[:, : height // area * area, : width // area * area].astype(np.float32) - 128
    return whole.reshape(count, height // area, area, width // area, area, channels).mean((2, 4)).reshape(count, -1)


def _apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Mean squared differences, float32 [N, M]."""
    squares = np.square(one).mean(1)[:, None] + np.square(other).mean(1) - 2 / one.shape[1] * (one @ other.T)
    return np.maximum(squares, 0)


def compared(samples: Any, splits: Mapping[str, Arrays], mirror: bool) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Of the first samples: rows for a strip, themselves and the nearest training image, and what is said of them.

    Args:
        samples: uint8 [N, H, W, C].
        splits: "train" and "validation", of which the latter says what is usual.
        mirror: whether the training saw mirrored images too.
    """
    shown, training = np.asarray(samples[:SHOWN]), splits["train"]
    rows = looked_at(training)
    held_out = np.asarray(splits["validation"].image[some(len(splits["validation"]), HELD_OUT)])
    both = nearest(np.concatenate([shown, held_out]), training.image, rows, mirror)  # those are decoded once
    found, usual = Nearest(*(one[: len(shown)] for one in both)), both.rms[len(shown) :]
    images = [
        np.asarray(training.image[np.array([row])])[0][:, :: -1 if turned else 1]
        for row, turned in zip(found.row, found.mirrored, strict=True)
    ]
    said = {
        "rms": [float(one) for one in found.rms],
        "name": [training.name[row] if training.name else f"number {row}" for row in found.row],
        "held_out": usual_of(usual),
        "compared": len(rows),
        "images": len(training),
    }
    return [shown, np.stack(images)], said


def usual_of(rms: np.ndarray) -> dict[str, Any]:
    """How near held-out images are; a tenth of them is within `tenth`, whatever a few duplicates are."""
    tenth, median = np.quantile(rms, (0.1, 0.5))
    return {"median": float(median), "tenth": float(tenth), "least": float(rms.min()), "count": len(rms)}


def looked_at(training: Arrays) -> np.ndarray:
    """Rows of all, or of so many at random."""
    return some(len(training), STREAMED if isinstance(under(training.image)[0], Lazy) else MOST)


def some(count: int, most: int) -> np.ndarray:
    """Rows of all, or so many at random: sets are often sorted."""
    return np.sort(np.random.default_rng(0).permutation(count)[:most])
