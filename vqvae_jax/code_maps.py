"""Token maps as pictures, a colour a code: where a map is calm, where it repeats, which places share a code."""

from collections.abc import Sequence

import numpy as np

from vqvae_jax.types import Level

GOLDEN = 0.6180339887498949  # of the circle of hues from one code to the next: neighbours in number are far apart
DARKEST, SPREAD = 0.55, 0.45  # of the brightness, which goes its own way, so that more codes differ
OWN_WAY = 0.7548776662466927


def rows_of(maps: Sequence[np.ndarray], levels: Sequence[Level], size: int) -> list[np.ndarray]:
    """One row a map of codes, uint8 [N, size, size, 3], coarse to fine; maps of numbers are left out."""
    return [pictures(one, size) for one, level in zip(maps, levels, strict=True) if level.vocab_size is not None]


def pictures(codes: np.ndarray, size: int) -> np.ndarray:
    """int [N, h, w] → uint8 [N, size, size, 3]; a map of any size, each place a rectangle."""
    down, across = (np.arange(size) * side // size for side in codes.shape[1:])
    return colours(np.asarray(codes)[:, down][:, :, across])


def colours(codes: np.ndarray) -> np.ndarray:
    """int […] → uint8 […, 3], the same code always in the same colour."""
    hue, value = (codes[..., None] * share % 1 for share in (GOLDEN, OWN_WAY))
    rgb = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return np.rint(255 * rgb * (DARKEST + SPREAD * value)).astype(np.uint8)
