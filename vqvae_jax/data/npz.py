"""An .npz of arrays: `<split>_image` uint8 [N, H, W, C] or [N, H, W], and optionally `<split>_label` integers [N]."""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from vqvae_jax.data.arrays import Arrays, laid_out
from vqvae_jax.types import UserError

LABELS = 1_000_000


def read(path: str, split: str, image_size: int) -> Arrays:
    """One split of the file; no other split's images are decompressed. Raises UserError where the file does not fit."""
    with _opened(path) as file:
        splits = [name.removesuffix("_image") for name in file.files if name.endswith("_image")]
        if split not in splits:
            there = f"its splits: {', '.join(splits)}" if splits else f"it has: {', '.join(file.files) or 'nothing'}"
            raise UserError(f"{path} has no array '{split}_image'; {there}{_renamed(file.files)}")
        image = _image(file[f"{split}_image"], f"{path}: {split}_image", image_size)
        labels = {name: _label(file[f"{name}_label"], path, name) for name in splits if f"{name}_label" in file.files}
    if split not in labels:
        return Arrays(image)
    if len(labels[split]) != len(image):
        raise UserError(f"{path}: {split}_label has {len(labels[split])} labels for {len(image)} images; give each one")
    # Named over all splits, so that each part of the data agrees on how many labels there are.
    names = tuple(str(number) for number in range(max(label.max(initial=-1) for label in labels.values()) + 1))
    return Arrays(image, labels[split], names)


def _renamed(names: Sequence[str]) -> str:
    """For arrays under Keras' names: what to type."""
    if "x_train" not in names:
        return ""
    return "; x_train, y_train, x_test, y_test are called train_image, train_label, test_image, test_label here"


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
    """[N, H, W] or [N, H, W, C] → [N, H, W, C], checked."""
    if image.dtype != np.uint8:
        raise UserError(f"{name} is {image.dtype}; it must be uint8, 0 to 255")
    if image.ndim not in (3, 4):
        raise UserError(f"{name} has shape {image.shape}; it must be [N, H, W, C] or [N, H, W]")
    if turned := laid_out(image.shape):
        raise UserError(f"{name} has shape {image.shape}; it must be [N, H, W, C]{turned}")
    height, width = image.shape[1:3]
    if height != width:
        raise UserError(f"{name} is {height} x {width} pixels; crop or resize the images to squares before saving them")
    if height != image_size:
        raise UserError(f"{name} is {height} x {width} pixels, not {image_size}: --config.dataset.image_size={height}")
    image = image if image.ndim == 4 else image[..., None]
    if image.shape[3] not in (1, 3):
        raise UserError(f"{name} has {image.shape[3]} channels; it must have 1 (grey) or 3 (colour)")
    return image


def _label(label: np.ndarray, path: str, split: str) -> np.ndarray:
    if label.ndim != 1 or label.dtype.kind not in "iu" or (label.size and label.min() < 0):
        raise UserError(f"{path}: {split}_label is {label.dtype} {label.shape}; it must be integers from 0 up, [N]")
    if label.max(initial=0) >= LABELS:
        raise UserError(f"{path}: {split}_label goes up to {label.max()}; labels are counted from 0, below {LABELS}")
    return label.astype(np.int32)
