"""Masks: which part of a picture is drawn anew, in pixels and in tokens. Pure functions of numpy arrays.

Legend: N pictures, H W pixels, C channels, h w a token map; the cell of a token is the H/h × W/w pixels that it stands
for. A mask is bool [N, H, W], True where it is drawn anew; the pixels there are the hole.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from vqvae_jax.sample import is_whole
from vqvae_jax.types import Level, UserError

GREY = 128  # of a picture that is a hole altogether


def checked(mask: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A mask of each picture, bool [N, H, W], from one for all, [H, W] or [1, H, W], or one for each.

    Args:
        mask: as a user gives it.
        shape: of the pictures, (N, H, W, C).

    Raises:
        UserError: it is no array of bools, of another size, or leaves nothing to be drawn anew.
    """
    count, height, width = shape[:3]
    try:
        mask = np.asarray(mask)
    except ValueError as error:
        raise UserError("mask is an array of bools; its rows are not of one length") from error
    if mask.dtype != bool or mask.shape not in ((height, width), (1, height, width), (count, height, width)):
        want = f"bool [{height}, {width}], [1, {height}, {width}] or [{count}, {height}, {width}]"
        raise UserError(f"mask is {want}, True where it is drawn anew; got {mask.dtype} {list(mask.shape)}")
    mask = np.broadcast_to(mask, (count, height, width))
    if len(black := np.flatnonzero(~mask.any((1, 2)))):
        raise UserError(f"mask: nothing is to be drawn anew in picture {black[0]}; True is what is drawn")
    return mask


def check_widths(size: int, **widths: Any) -> None:
    """UserError unless each, by name, is a whole number from 0 to the pictures' size, in pixels."""
    for name, value in widths.items():
        if not is_whole(value) or not 0 <= value <= size:
            raise UserError(f"{name} is a whole number from 0 to {size}; got {value!r}")


def middle(pixels: np.ndarray) -> np.ndarray:
    """The square in the middle of [H, W] or [H, W, C], as `data.pictures.read` cuts it."""
    side = min(pixels.shape[:2])
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def resized(mask: np.ndarray, size: int) -> np.ndarray:
    """A square mask, bool, as [size, size]: a place is True where any pixel that lies in it, if only in part, is."""
    for axis in (0, 1):
        mask = np.stack([mask.take(cell, axis).any(axis) for cell in _cells(mask.shape[axis], size)], axis)
    return mask


def _cells(pixels: int, count: int) -> list[range]:
    """The pixels that lie in each of so many cells; one that lies in two belongs to both."""
    return [range(i * pixels // count, -(-(i + 1) * pixels // count)) for i in range(count)]


def filled(images: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Pictures with the hole filled from what is around it, so that nothing of what was there reaches an encoder.

    A pixel is the mean of the known ones in the smallest block around it that holds any: of 2×2, 4×4, … pixels, counted
    from the upper left corner. A picture without any is grey.

    Args:
        images: uint8 [N, H, W, C].
        mask: bool [N, H, W].

    Returns:
        uint8 [N, H, W, C]; outside of the hole as they were.
    """
    known = (~mask[..., None]).astype(np.float32)
    means = _means(images * known, known)
    return np.where(mask[..., None], np.rint(means).astype(np.uint8), images)


def _means(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Of the known pixels of each block, or of a larger one: float32 [N, H, W, C] of those and of [N, H, W, 1]."""
    height, width = sums.shape[1:3]
    here = np.where(counts, sums / np.maximum(counts, 1), GREY)
    if counts.all() or height == width == 1:
        return here
    wider = _means(_halved(sums), _halved(counts)).repeat(2, 1).repeat(2, 2)
    return np.where(counts, here, wider[:, :height, :width])


def _halved(x: np.ndarray) -> np.ndarray:
    """Sums of blocks of 2×2."""
    x = np.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
    return x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]


def kept_of(mask: np.ndarray, levels: Sequence[Level], grow: int = 0) -> list[np.ndarray]:
    """Which tokens of each map stay, as `kept` says it; of those that a larger map of their level mends, others.

    Such a token stays where at least half of its cell does: a hole in the middle would else draw a first map of one
    place, which is of all of the picture, anew, and what stays on larger maps mends another sum than it did.

    Args:
        mask: bool [N, H, W].
        levels: of the maps, coarse to fine.
        grow: as there, of the maps that none mends.
    """
    return [
        _holes(mask, level.shape) <= 0.5 if mended else kept(mask, level.shape, grow)
        for level, mended in zip(levels, _mended(levels), strict=True)
    ]


def grows(levels: Sequence[Level]) -> bool:
    """Whether a map is mended by a larger one of its level."""
    return any(_mended(levels))


def _mended(levels: Sequence[Level]) -> list[bool]:
    """Of each map, whether a larger one of its level is there."""
    place = [(level.name.partition(".")[0], math.prod(level.shape)) for level in levels]
    return [any(other == name and larger > size for other, larger in place) for name, size in place]


def kept(mask: np.ndarray, shape: tuple[int, int], grow: int = 0) -> np.ndarray:
    """Which tokens of a map stay, bool [N, h, w]: those whose cell holds nothing of the hole.

    Args:
        mask: bool [N, H, W].
        shape: (h, w), no larger; where H and W are no multiples of it, cells share the pixels between them.
        grow: tokens around these that are drawn anew as well, in each direction.
    """
    return ~grown(_holes(mask, shape) > 0, grow)


def _holes(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Which share of each cell is hole: bool [N, H, W] → float64 [N, h, w]."""
    share = mask.astype(np.float64)
    for axis, cells in enumerate(shape, start=1):
        share = np.stack([share.take(cell, axis).mean(axis) for cell in _cells(mask.shape[axis], cells)], axis)
    return share


def grown(mask: np.ndarray, by: int) -> np.ndarray:
    """A mask [N, H, W] with so many places more in each direction, the diagonals too."""
    for axis in (1, 2):
        wide = min(by, mask.shape[axis])
        around = np.pad(mask, [(wide, wide) if i == axis else (0, 0) for i in range(3)])
        mask = np.any(np.lib.stride_tricks.sliding_window_view(around, 2 * wide + 1, axis), axis=-1)
    return mask


def pasted(images: np.ndarray, drawn: np.ndarray, mask: np.ndarray, seam: int = 0) -> np.ndarray:
    """The pictures, with what was drawn in the hole.

    Args:
        images: uint8 [N, H, W, C].
        drawn: uint8 [N, count, H, W, C], whole pictures.
        mask: bool [N, H, W].
        seam: pixels around the hole over which what was drawn goes over into the picture. They lie outside of the hole,
            for inside of it nothing of the picture may show.

    Returns:
        uint8 [N, count, H, W, C]: in the hole drawn, more than `seam` pixels from it the picture.
    """
    wider, count = mask, mask.astype(np.float32)
    for _ in range(seam):
        wider = grown(wider, 1)
        count += wider
    here = (count / (seam + 1))[:, None, ..., None]  # 1 in the hole, around it less and less
    return np.rint(here * drawn + (1 - here) * images[:, None]).astype(np.uint8)


def shifted(images: np.ndarray, mask: np.ndarray, down: int = 0, right: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pictures moved in their frame, so that what lies beyond an edge comes into it: that is to be drawn anew.

    Args:
        images: uint8 [N, H, W, C].
        mask: bool [N, H, W], which moves with them; none of it True where only the new edge is wanted.
        down, right: pixels, below 0 up and left.

    Returns:
        The pictures, black where they are uncovered, and the mask, True there: as `images` and `mask`.

    Raises:
        UserError: nothing of the picture would be left.
    """
    height, width = mask.shape[1:]
    if not (abs(down) < height and abs(right) < width):
        raise UserError(f"shift={down},{right} leaves nothing of a picture of {height}x{width} pixels; take less")
    moved, new = np.zeros_like(images), np.ones_like(mask)
    (to_rows, rows), (to_columns, columns) = _moved(down), _moved(right)
    moved[:, to_rows, to_columns], new[:, to_rows, to_columns] = images[:, rows, columns], mask[:, rows, columns]
    return moved, new


def _moved(by: int) -> tuple[slice, slice]:
    """Where pixels come to lie along an axis, and where they come from."""
    return slice(max(by, 0), min(by, 0) or None), slice(max(-by, 0), min(-by, 0) or None)


def upper_half(shape: tuple[int, int, int]) -> np.ndarray:
    """bool [N, h, w]: True in the upper half; the middle row of an odd number belongs to the lower one."""
    return np.broadcast_to(np.arange(shape[1])[:, None] < shape[1] // 2, shape)
