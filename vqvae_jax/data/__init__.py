"""Images as arrays. To add a data set: write a file with `read`, add its line here, a config that uses it, a test.

`read(path, split, image_size)` returns the whole split as Arrays, in an order that never changes. A name that is not in
the table is one of TFDS.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from vqvae_jax.data import folder, npz, openmoji, tfds
from vqvae_jax.data.arrays import ArrayData, Arrays, held_out, in_channels, under
from vqvae_jax.data.stream import Lazy, StreamData
from vqvae_jax.types import UserError, unknown

__all__ = ["DATASETS", "PARTS", "ArrayData", "Arrays", "StreamData", "batches", "changed", "check_name", "load", "read"]

DATASETS: dict[str, Callable[[str, str, int], Arrays]] = {
    "openmoji": openmoji.read,
    "npz": npz.read,
    "folder": folder.read,
}
TOKENS = "tokens"  # read by data/tokens.py, because they are no images
PARTS = ("train", "validation", "test")


def load(dataset: Mapping[str, Any], part: str) -> Arrays:
    """One part of the data set that a config's section `dataset` names.

    "test" is all of `dataset.test_split`. "train" and "validation" divide `dataset.split`: 5 % of its groups are held
    out by hash, the same ones whatever the order, the seed or the machine.
    """
    if part not in PARTS:
        raise ValueError(f"there is no part {part!r}; there are: {', '.join(PARTS)}")
    arrays = read(dataset, dataset["test_split" if part == "test" else "split"])
    if part == "test":
        return arrays
    held = held_out(arrays)
    return arrays.take((held if part == "validation" else ~held).nonzero()[0])


def batches(arrays: Arrays, batch_size: int, seed: int, process_index: int = 0, process_count: int = 1):
    """ArrayData, or StreamData where the images are decoded as they are needed."""
    kind: Any = StreamData if isinstance(under(arrays.image)[0], Lazy) else ArrayData
    return kind(arrays, batch_size, seed, process_index, process_count)


def changed(dataset: Mapping[str, Any], changes: Mapping[str, Any] | None) -> dict[str, Any]:
    """A section `dataset` of other images: what names the arrays of one file says nothing of another."""
    keys = {"keys": ""} if {"name", "path"} & set(changes or ()) else {}
    return {**dataset, **keys, **(changes or {})}


def check_name(name: str, path: str = "") -> None:
    """UserError unless there is such a data set, here, in TFDS, or prepared by TFDS in the folder `path`."""
    if name not in (*DATASETS, TOKENS) and not tfds.knows(name, path):
        raise UserError(unknown("config.dataset.name: there is no data set", name, _names(name), "There are"))


def _names(name: str) -> list[str]:
    """Ours, and of TFDS' five hundred those that begin like it."""
    return [*DATASETS, TOKENS, *(one for one in tfds.names() if one[:3] == name[:3])]


def read(dataset: Mapping[str, Any], split: str) -> Arrays:
    """A whole split of the data set that a section `dataset` names, in as many channels as it says."""
    arrays, channels = _read(dataset, split), dataset.get("channels", 0)  # not there in sections of before
    return replace(arrays, image=in_channels(arrays.image, channels))


def _read(dataset: Mapping[str, Any], split: str) -> Arrays:
    name, path, size = dataset["name"], dataset["path"], dataset["image_size"]
    if name == "npz":
        return npz.read(path, split, size, dataset.get("keys", ""))
    if dataset.get("keys"):
        raise UserError(f"config.dataset.keys names arrays of an .npz, and the data set is {name!r}; leave it out")
    if name == "folder":
        return folder.read(path, split, size, dataset.get("channels", 0))
    if name in DATASETS:
        return DATASETS[name](path, split, size)
    check_name(name, path)
    return tfds.read(name, path, split, size, dataset.get("label", ""), dataset.get("text", ""))
