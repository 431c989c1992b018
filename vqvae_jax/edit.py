"""Own pictures in part drawn anew by the priors: a lower half, what a mask shows, what lies beyond an edge, details;
or all of them, from themselves with noise."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vqvae_jax import logs, masks, sample
from vqvae_jax.data import folder, pictures
from vqvae_jax.data.decoded import Unreadable
from vqvae_jax.files import printable
from vqvae_jax.flags import flags_in_place_of
from vqvae_jax.reconstruct import found, read
from vqvae_jax.trained import Trained
from vqvae_jax.types import UserError

RASTER = (
    "in raster order, so that a place sees, of what is kept on its level, only what lies above it and to its left; a "
    "maskgit prior sees all"
)
WHITE = 128  # grey value of a mask from which on it is white


def complete(model: Trained, images: Path, output: Path, count: int, seed: int, label: str | None, **pick: Any) -> int:
    """Draws `count` lower halves for the upper half of each picture.

    Args:
        model: with its priors.
        images: a folder, or one file; cropped to squares as in training.
        output: x.png, a row a picture: the picture | its upper half | what was drawn; x.npz, uint8 `arr_0`
            [N * count, H, W, C]; else a new folder of single pictures.
        count, seed, label, pick: as in `Trained.sample`.

    Returns:
        How many pictures were continued.

    Raises:
        UserError: no picture there that can be used; the others are named on standard error.
    """
    *_, originals = _usable(model, images)
    drawn = model.complete(originals, count, seed, label, **pick)
    return _write(output, [originals, upper_halves(originals)], drawn)


def edit(
    model: Trained,
    images: Path,
    mask: Path | None,
    output: Path,
    count: int,
    seed: int,
    label: str | None,
    shift: tuple[int, int] = (0, 0),
    **asked: Any,
) -> int:
    """Draws the masked part of each picture anew, `count` times. What the priors do not see is said on standard error.

    Args:
        model, images, count, seed, label: as for `complete`.
        mask: a picture for all, or a folder with one of each picture's name: white, or transparent, is drawn anew. Of
            the picture's size, then it is cropped as this is, or already of the training's. None: nothing of the
            picture itself is.
        output: as for `complete`, in the second place the picture with the hole grey.
        shift: pixels of the training, down and right, that picture and mask are moved by, see `masks.shifted`.
        asked: grow, seam, text and the rest, as in `Trained.edit`.

    Returns:
        How many pictures were edited.

    Raises:
        UserError: no picture that can be used; one without a mask; a mask of another size, or a black one.
    """
    root, names, originals = _usable(model, images)
    known, hole = originals, np.zeros(originals.shape[:3], bool)
    if mask is not None:
        pairs = zip(names, _masks_of(names, mask), strict=True)
        each = [_with_mask(root / name, white, model.facts) for name, white in pairs]
        known, hole = (np.stack(arrays) for arrays in zip(*each, strict=True))
    known, hole = masks.shifted(known, hole, *shift)
    drawn = model.edit(known, hole, count, seed, label, **asked)
    _tell_order(model)
    return _write(output, [originals, greyed(known, hole)], drawn)


def variations(
    model: Trained, images: Path, output: Path, count: int, seed: int, label: str | None, **pick: Any
) -> int:
    """Draws all below the top level of each picture anew, `count` times: as `complete`, in a row picture | drawn."""
    *_, originals = _usable(model, images)
    return _write(output, [originals], model.variations(originals, count, seed, label, **pick))


def redraw(
    model: Trained, images: Path, output: Path, strength: float, count: int, seed: int, label: str | None, **pick: Any
) -> int:
    """Draws each picture anew from itself with so much noise, `count` times: as `complete`, picture | drawn."""
    *_, originals = _usable(model, images)
    return _write(output, [originals], model.redraw(originals, strength, count, seed, label, **pick))


def upper_halves(images: np.ndarray) -> np.ndarray:
    """Pictures whose lower halves are grey."""
    return greyed(images, ~masks.upper_half(images.shape[:3]))


def greyed(images: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Pictures uint8 [N, H, W, C] with the hole, bool [N, H, W] or [H, W] for all, grey."""
    return np.where(hole[..., None], np.uint8(logs.GREY), images)


def rows_of(shown: Sequence[np.ndarray], drawn: np.ndarray) -> np.ndarray:
    """A row a picture: what is shown of it, each uint8 [N, H, W, C] | what was drawn, [N, count, H, W, C]."""
    rows = np.concatenate([*(one[:, None] for one in shown), drawn], axis=1)
    return logs.grid(rows, columns=rows.shape[1], scale=max(1, 64 // rows.shape[2]))


def _write(output: Path, shown: Sequence[np.ndarray], drawn: np.ndarray) -> int:
    """How many pictures that are of."""
    if output.suffix == ".png":
        logs.save_png(output, rows_of(shown, drawn))
    else:
        sample.save(drawn.reshape(-1, *drawn.shape[2:]), output)
    return len(drawn)


def _usable(model: Trained, images: Path) -> tuple[Path, list[str], np.ndarray]:
    """The folder, names in it, and pictures uint8 [N, S, S, C] of those that can be read; cropped as in training."""
    root, names = found(images)
    able = [(name, image) for name, _, image in read(model, root, names, model.facts["image_size"])]
    if not able:
        raise UserError(f"no picture in {images} can be used; what is wrong with them stands above")
    return root, [name for name, _ in able], np.stack([image for _, image in able])


def _masks_of(names: Sequence[str], mask: Path) -> list[Path]:
    """The mask of each picture: the file, or what has the picture's name in the folder, whatever the ending."""
    if mask.is_file():
        return [mask] * len(names)
    with flags_in_place_of({folder.TYPE: "--mask"}):
        there = folder.pictures_in(mask)
    stems = {os.path.splitext(name)[0]: name for name in there}
    own = [name if name in there else stems.get(os.path.splitext(name)[0]) for name in names]
    if None in own:
        name = printable(names[own.index(None)])
        wish = os.path.splitext(name)[0] + ".png"
        raise UserError(f"--mask={mask}: there is no mask of {name}; name it {wish}, or give one file for all")
    return [mask / name for name in own if name]


def _with_mask(path: Path, mask: Path, facts: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """A picture, the hole filled, and the hole: uint8 [S, S, C], bool [S, S].

    It is filled before the picture is made smaller, which would carry what was there into the pixels around.
    """
    whole, white, size = pictures.whole(path, facts["channels"]), _white(mask), facts["image_size"]
    if white.shape not in (whole.shape[:2], (size, size)):
        sizes = [f"{width}x{height}" for height, width in (white.shape, whole.shape[:2])]
        raise UserError(
            f"--mask: {mask} has {sizes[0]} pixels and {path} {sizes[1]}; give the mask the picture's size, or "
            f"{size}x{size} for the square in its middle"
        )
    image, white = masks.middle(whole), masks.middle(white)
    if not white.any():
        raise UserError(
            f"--mask: in {mask} nothing is to be drawn anew; white is what is drawn, in the square in the middle"
        )
    filled = masks.filled(image[None], masks.resized(white, len(image))[None])[0]
    return pictures.resized(filled, size), masks.resized(white, size)


def _white(mask: Path) -> np.ndarray:
    """bool [H, W] of a picture's file; what is transparent lies on white."""
    try:
        return pictures.whole(mask, channels=1)[..., 0] >= WHITE
    except Unreadable as why:
        raise UserError(
            f"--mask: {mask} cannot be used: {why}; give a picture that is white where it is drawn"
        ) from why


def _tell_order(model: Trained) -> None:
    """One line on standard error, where priors are not told of all that is kept; of another order another line."""
    orders: dict[str, list[str]] = {}
    for level, (prior, _) in model.priors.items():
        if not prior.any_order:
            orders.setdefault(getattr(prior, "sees", RASTER), []).append(level)
    for sees, levels in orders.items():
        print(f"{' and '.join(levels)}: the prior draws {sees}", file=sys.stderr)
