"""Which colour a drawing is said to have: the nearest of those that real drawings of such names have.

Near in hue first: a blue heart is darker than a blue book.
"""

import colorsys
import math
from collections.abc import Sequence

import numpy as np

NAMES = ("red", "orange", "yellow", "green", "blue", "purple", "brown")
GREY = 40  # between the largest and smallest of a pixel's three numbers: below it a pixel is no colour
ENOUGH = 0.04  # share of pixels with a colour; a drawing with fewer has none


class Colours:
    """The colour of a drawing, one of NAMES.

    Args:
        images: uint8 [N, H, W, 3].
        names: N; of those that begin with a colour the typical one is taken.
    """

    def __init__(self, images: np.ndarray, names: Sequence[str]):
        self._typical = np.stack([self._of(images, names, colour) for colour in NAMES])

    def __call__(self, images: np.ndarray) -> list[str]:
        """Of each drawing; "" where it has none."""
        return [self._nearest(one) for one in map(ink, images)]

    @staticmethod
    def _of(images: np.ndarray, names: Sequence[str], colour: str) -> np.ndarray:
        rows = [i for i, name in enumerate(names) if name.split()[0] == colour]
        return seen(np.median([found for found in map(ink, images[rows]) if found is not None], axis=0))

    def _nearest(self, colour: np.ndarray | None) -> str:
        if colour is None:
            return ""
        return NAMES[int(np.argmin(np.linalg.norm(self._typical - seen(colour), axis=1)))]


def seen(colour: np.ndarray) -> np.ndarray:
    """Numbers of 0 to 255 → a point, [3]: the hue on a circle of radius 1, the value at half of its scale."""
    hue, _, value = colorsys.rgb_to_hsv(*colour / 255)
    return np.array([math.cos(2 * math.pi * hue), math.sin(2 * math.pi * hue), value / 2])


def ink(image: np.ndarray) -> np.ndarray | None:
    """The median of the pixels that have a colour, [3]; None where there are too few."""
    pixels = image.reshape(-1, 3).astype(int)
    coloured = pixels[np.ptp(pixels, axis=1) > GREY]
    return np.median(coloured, axis=0) if len(coloured) > ENOUGH * len(pixels) else None
