"""Images as arrays. To add a data set: write a file with `read`, add its line here, a config that uses it, a test.

`read(path, split, image_size)` returns the whole split as Arrays, in an order that never changes.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from vqvae_jax.data import npz, openmoji
from vqvae_jax.data.arrays import ArrayData, Arrays, held_out
from vqvae_jax.types import UserError

__all__ = ["DATASETS", "PARTS", "ArrayData", "Arrays", "load"]

DATASETS = {"openmoji": openmoji.read, "npz": npz.read}
PARTS = ("train", "validation", "test")


def load(dataset: Mapping[str, Any], part: str) -> Arrays:
    """One part of the data set that a config's section `dataset` names.

    "test" is all of `dataset.test_split`. "train" and "validation" divide `dataset.split`: 5 % of its groups are held
    out by hash, the same ones whatever the order, the seed or the machine.
    """
    if part not in PARTS:
        raise ValueError(f"there is no part {part!r}; there are: {', '.join(PARTS)}")
    read = _reader(dataset["name"])
    split = dataset["test_split" if part == "test" else "split"]
    arrays = read(dataset["path"], split, dataset["image_size"])
    if part == "test":
        return arrays
    held = held_out(arrays)
    return arrays.take((held if part == "validation" else ~held).nonzero()[0])


def _reader(name: str) -> Callable[[str, str, int], Arrays]:
    if name in DATASETS:
        return DATASETS[name]
    near = get_close_matches(str(name), DATASETS, 1, 0.0)[0]
    names = ", ".join(DATASETS)
    raise UserError(f"dataset.name: there is no data set {name!r}; did you mean {near!r}? There are: {names}")
