"""How a distance is measured, so that two numbers of it can be compared: docs/distances.md says it in words.

Of the training images as many as are measured are set aside, at random by a seed; the others are the reference. Those
set aside are measured too: the floor, what real images come to at this count. A spread is the standard error that other
images of the same kind would show: shares of the images, at random, are left out in turn (a jackknife).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vqvae_jax.distance.kernel import kernel_distances
from vqvae_jax.distance.moments import frechet, moments
from vqvae_jax.distance.neighbours import precision_and_recall
from vqvae_jax.types import UserError

FEWEST = 500  # images a side for a Fréchet distance: below, its bias is larger than what it is to show
FEW = 20  # images a side for anything
MOST = 5000  # images of a side for the kernel distance and for neighbours, whose cost is quadratic
GROUPS = 20  # of images, that are left out in turn
TIE = 2.0  # standard errors of the difference: a smaller one is none


class Sides(NamedTuple):
    """Which images are which, int rows each."""

    reference: np.ndarray  # of the training images
    aside: np.ndarray  # of the training images, as many as are measured
    measured: np.ndarray  # of the images


def sides(training: int, images: int, seed: int = 0, most: int = 2 * MOST) -> Sides:
    """Rows of so many training images and images, at random: sets in the order of their names would be no fair share.

    As many are set aside as are measured, at most half of the training images; the others, at most `most`, are the
    reference.

    Raises:
        UserError: there are too few of either.
    """
    count = min(images, training // 2)
    if count < FEW:
        raise UserError(f"distances want {FEW} images and {2 * FEW} training images; there are {images} and {training}")
    rows = np.random.default_rng((seed, 1)).permutation(training)
    return Sides(rows[count:][:most], rows[:count], np.random.default_rng((seed, 0)).permutation(images)[:count])


def distances(net: str, reference: np.ndarray, made: np.ndarray, scale: float = 1.0, seed: int = 0) -> dict[str, float]:
    """What is said of images, by features [N, D] of the reference and [M, D] of them.

    fd_NET and kd_NET with fd_NET_spread and kd_NET_spread, precision and recall. fd_NET is left out where a side has
    fewer than FEWEST. The kernel distance is that of features / scale.
    """
    found: dict[str, float] = {}
    groups = np.random.default_rng((seed, 2)).permutation(len(made)) % GROUPS
    if min(len(made), len(reference)) >= FEWEST:
        fixed = moments(reference)
        found |= _said(f"fd_{net}", lambda rows: frechet(moments(made[rows]), fixed), groups)
    real, some = reference[:MOST] / scale, made[:MOST] / scale
    found |= _said(f"kd_{net}", kernel_distances(some, real), groups[:MOST])
    equal = min(len(real), len(some))
    pair = precision_and_recall(real[:equal], some[:equal])
    return found | dict(zip(("precision", "recall"), pair, strict=True))


def _said(name: str, distance: Callable[[np.ndarray], float], groups: np.ndarray) -> dict[str, float]:
    """A distance of chosen rows: of all of them, and its spread."""
    without = np.array([distance(np.flatnonzero(groups != group)) for group in range(GROUPS)])
    spread = math.sqrt((GROUPS - 1) * np.mean((without - without.mean()) ** 2))
    return {name: distance(np.arange(len(groups))), f"{name}_spread": spread}


def is_tie(one: float, other: float, spreads: tuple[float, float]) -> bool:
    """Whether two distances differ by less than TIE standard errors of a difference of independent samples."""
    return abs(one - other) < TIE * math.hypot(*spreads)
