"""One step as it lies on disk: its notes and its two items, checked against their checksums."""

import contextlib
import json
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax

from vqvae_jax.checkpoint.quiet import Damaged, first_line, innermost, orbax, silent
from vqvae_jax.leaves import check_fits, checksum, filled, on_host, placed, without_empty
from vqvae_jax.types import UserError

WHAT = {"model": "model", "train": "train state"}


def is_whole(path: Path, item: str) -> bool:
    """Whether an item of a step can be read."""
    try:
        read(metadata_of(path), item, None)
        return True
    except Exception:
        return False


def metadata_of(path: Path) -> Any:
    """What Orbax knows of a step; `custom_metadata` holds the notes, checked. Raises Damaged."""
    return _read_metadata(path, _stamp(path))


def _stamp(path: Path) -> tuple:
    """Of all files of a step: it changes when one of them does. Raises Damaged where one goes meanwhile."""
    try:
        return tuple(sorted((str(file), *_times(file)) for file in path.rglob("*")))
    except FileNotFoundError as error:
        raise Damaged(f"{error.filename} is missing") from error


def _times(file: Path) -> tuple[int, ...]:
    told = file.stat()
    return told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns


@lru_cache(maxsize=64)
def _read_metadata(path: Path, stamp: tuple) -> Any:
    """A save asks for the notes of every step, and each stage for those of others: Orbax takes a fifth of a second."""
    with _damage("what is noted in it cannot be read"):
        metadata = orbax().checkpointables_metadata(path)
        notes = dict(metadata.custom_metadata)
        told = notes.pop("notes_crc32", None)
    if not {"config", "loss", "model_crc32"} <= notes.keys() or told not in (None, notes_checksum(notes)):
        raise Damaged("the checksum of its config and notes differs")
    if notes.get("step", int(path.name)) != int(path.name):
        there = notes["step"]
        raise UserError(
            f"{path} is the checkpoint of step {there} under another name; name it {there} again, or remove it"
        )
    return metadata


def read(metadata: Any, item: str, abstract: Any) -> Any:
    """An item, checked against its checksum; Damaged, or UserError where it is whole and does not fit."""
    notes = metadata.custom_metadata
    _check_there(metadata, item)
    if abstract is not None:
        check_item(metadata, item, abstract)
    with _damage(f"its {WHAT[item]} cannot be read"):
        saved = metadata.metadata[item]
        empties = notes.get(f"{item}_empty", notes["model_empty"])
        wanted = on_host(saved, empties) if abstract is None else jax.tree.map(placed, abstract)
        loaded = orbax().load_checkpointables(metadata.path, {item: without_empty(wanted)})[item]
        tree = jax.tree.map(filled, wanted, loaded)
    if checksum(tree) != notes.get(f"{item}_crc32", checksum(tree)):
        raise Damaged(f"the checksum of its {WHAT[item]} differs")
    if not jax.tree.all(jax.tree.map(lambda a, b: a.dtype == b.dtype, wanted, tree)):
        raise Damaged(f"a type in its {WHAT[item]} differs")  # of a key, which has the checksum of its numbers
    return tree


def check_item(metadata: Any, item: str, abstract: Any) -> None:
    """As `check_fits`; but files that are missing or changed look like another model, too."""
    _check_there(metadata, item)
    try:
        return check_fits(str(metadata.path), metadata.metadata[item], abstract)
    except UserError as error:
        misfit = error
    read(metadata, item, None)  # raises Damaged where that is why
    raise misfit


def _check_there(metadata: Any, item: str) -> None:
    if item in metadata.metadata:
        return
    if item == "train" and metadata.custom_metadata.get("train_crc32", 0) == checksum({}):
        raise UserError(
            f"{metadata.path} has no item {item!r}: these weights were imported, a training did not save them"
        )
    raise Damaged(f"its {WHAT[item]} is missing")


@contextlib.contextmanager
def _damage(what: str) -> Iterator[None]:
    """Turns the errors of unreadable files into Damaged; not those of a device, of memory or of forbidden files."""
    try:
        with silent():
            yield
    except Exception as error:
        cause = innermost(error)
        missing = isinstance(cause, FileNotFoundError | NotADirectoryError | IsADirectoryError)
        if isinstance(cause, OSError | MemoryError | jax.errors.JaxRuntimeError) and not missing:
            raise
        raise Damaged(f"{what} ({type(cause).__name__}: {first_line(cause)})") from error


def notes_checksum(notes: dict[str, Any]) -> int:
    """CRC32 of what JSON gives back of the notes."""
    return zlib.crc32(json.dumps(notes, sort_keys=True).encode())
