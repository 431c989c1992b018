"""An .npz of arrays: `<split>_image` uint8 [N, H, W, C] or [N, H, W], and optionally `<split>_label` integers [N].

Keras', MedMNIST's and other plain names are taken for what they say, see `roles.py`, channels that come first are moved
last, and both are told on standard error.
"""

import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from vqvae_jax.data.arrays import TEST, Arrays, laid_out, share
from vqvae_jax.data.roles import KEYS, OURS, WHOLE, Role, Roles, guess, roles_of, split_named
from vqvae_jax.types import UserError

LABELS = 1_000_000
Shapes = dict[str, tuple[tuple[int, ...], np.dtype]]  # of arrays, by name


def read(path: str, split: str, image_size: int, keys: str = "") -> Arrays:
    """One split of the file; no other split's images are decompressed.

    Where the file has one set of images and no splits, a twentieth of them, by hash, is "test", the others "train".

    Args:
        path: of the file.
        split: as the file names it.
        image_size: pixels; images of another size are refused.
        keys: which arrays are which, "train_image=A,train_label=B"; "" as their names say.

    Raises:
        UserError: the file does not fit.
    """
    with _opened(path) as file:
        shapes = _shapes(file)
        roles = roles_of(_described(shapes), keys, path)
        _tell_roles(path, roles, shapes)
        key = _split_of(roles, split, path, shapes)
        image = _image(file[(name := roles[Role(key, "image")])], f"{path}: {name}", image_size)
        labels = {role.split: _label(file[name], path, name) for role, name in roles.items() if role.kind == "label"}
    arrays = Arrays(image)
    if labels.get(key) is not None:
        arrays = _labelled(image, key, labels, f"{path}: {roles[Role(key, 'label')]}")
    return arrays.take(_share(image, split)) if key == WHOLE else arrays


def _split_of(roles: Roles, split: str, path: str, shapes: Shapes) -> str:
    """The split under which the roles have it. UserError where they do not."""
    there = [role.split for role in roles if role.kind == "image"]
    for key in (split, split_named(split)):
        if key in there:
            return key
    if there == [WHOLE] and split in ("train", "test"):
        return WHOLE
    if there:
        raise UserError(f"{path} has no array '{split}_image'; its splits: {', '.join(filter(None, there))}")
    listed = ", ".join(_described(shapes).values()) or "nothing"
    typed = guess(shapes) or f"it wants uint8 [N, H, W, C] called {split}_image"
    raise UserError(f"{path} has no array '{split}_image'; it has: {listed}; {typed}")


def _shapes(file: Any) -> Shapes:
    """Of each array, from its header alone; a shape () where that cannot be read."""
    found: Shapes = {}
    for name in file.files:
        try:
            with file.zip.open(f"{name}.npy") as array:
                old = np.lib.format.read_magic(array) == (1, 0)
                header = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
                shape, _, dtype = header(array)
            found[name] = shape, dtype
        except (KeyError, ValueError):
            found[name] = (), np.dtype(object)
    return found


def _described(shapes: Shapes) -> dict[str, str]:
    return {name: f"{name} {dtype} {list(shape)}" for name, (shape, dtype) in shapes.items()}


def _tell_roles(path: str, roles: Roles, shapes: Shapes) -> None:
    """What is taken for what, where names or axes are not ours."""
    said = _described(shapes)
    taken = []
    for role, name in roles.items():
        turned = role.kind == "image" and laid_out(shapes[name][0])
        if turned or not OURS.fullmatch(name):
            foreign = f" for {role}" if name != str(role) else ""
            taken.append(f"{said[name]}{foreign}{', its channels moved last' if turned else ''}")
    if taken:
        _tell(f"{path}: taken are {'; '.join(taken)}; others are said by {KEYS}=train_image=…,train_label=…")


@cache
def _tell(line: str) -> None:
    """Once, though every part of the data is read by itself."""
    print(line, file=sys.stderr)


def _labelled(image: np.ndarray, key: str, labels: Mapping[str, np.ndarray | None], name: str) -> Arrays:
    """Named over all splits, so that each part of the data agrees on how many labels there are."""
    own = labels[key]
    if own is None or len(own) != len(image):
        raise UserError(f"{name} has {0 if own is None else len(own)} labels for {len(image)} images; give each one")
    most = max(label.max(initial=-1) for label in labels.values() if label is not None)
    return Arrays(image, own, tuple(map(str, range(most + 1))))


def _share(image: np.ndarray, split: str) -> np.ndarray:
    """Rows of a twentieth for "test", of the others for "train"; equal images are on the same side."""
    test = np.array([share(b"test " + one.tobytes()) < TEST for one in image], np.bool_)
    return np.flatnonzero(test if split == "test" else ~test)


@contextmanager
def _opened(path: str) -> Iterator[np.lib.npyio.NpzFile]:
    if not path:
        raise UserError("data set 'npz' needs a file: --config.dataset.path=FILE.npz")
    if not Path(path).is_file():
        raise UserError(f"--config.dataset.path={path}: there is no such file")
    try:
        with open(path, "rb") as binary:  # np.load would leave a broken file open
            file = np.load(binary, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise UserError(f"{path} holds one array without a name; save it with np.savez(path, train_image=...)")
            with file:
                yield file
    except UserError:
        raise
    except (ValueError, EOFError, OSError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read as an .npz of plain arrays: {error}") from error


def _image(image: np.ndarray, name: str, image_size: int) -> np.ndarray:
    """[N, H, W], [N, H, W, C] or [N, C, H, W] → [N, H, W, C], checked."""
    if image.dtype != np.uint8:
        raise UserError(f"{name} is {image.dtype}; it must be uint8, 0 to 255")
    if image.ndim not in (3, 4):
        raise UserError(f"{name} has shape {image.shape}; it must be [N, H, W, C] or [N, H, W]")
    if laid_out(image.shape):
        image = np.ascontiguousarray(np.moveaxis(image, 1, -1))
    height, width = image.shape[1:3]
    if height != width:
        raise UserError(f"{name} is {height} x {width} pixels; crop or resize the images to squares before saving them")
    if height != image_size:
        raise UserError(f"{name} is {height} x {width} pixels, not {image_size}: --config.dataset.image_size={height}")
    image = image if image.ndim == 4 else image[..., None]
    if image.shape[3] not in (1, 3):
        raise UserError(f"{name} has {image.shape[3]} channels; it must have 1 (grey) or 3 (colour)")
    return image


def _label(label: np.ndarray, path: str, name: str) -> np.ndarray | None:
    """int32 [N] of [N] or [N, 1]; None for several an image, under a name that is not ours."""
    if label.ndim == 2 and label.shape[1] == 1:
        label = label[:, 0]
    if label.ndim == 2 and not OURS.fullmatch(name):
        _tell(f"{path}: {name} has {label.shape[1]} labels an image and is left out; a model is told one")
        return None
    if label.ndim != 1 or label.dtype.kind not in "iu" or (label.size and label.min() < 0):
        raise UserError(f"{path}: {name} is {label.dtype} {label.shape}; it must be integers from 0 up, [N]")
    if label.max(initial=0) >= LABELS:
        raise UserError(f"{path}: {name} goes up to {label.max()}; labels are counted from 0, below {LABELS}")
    return label.astype(np.int32)
