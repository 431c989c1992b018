"""Images decoded once into a uint8 memory map, which every later run only opens."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vqvae_jax.devices import CACHE, cache_dir
from vqvae_jax.files import atomically
from vqvae_jax.progress import progress_bar
from vqvae_jax.types import UserError

FITS = 4 << 30  # bytes of decoded images up to which a split is kept decoded; larger ones are streamed
STALE = 3600  # seconds since a temporary file was last written to
CHUNK = 256  # images between two looks at the progress


class Unreadable(Exception):
    """Why one image cannot be used."""


class Decoded(NamedTuple):
    """What came of all images."""

    image: np.ndarray  # uint8 [M, H, W, C], a memory map
    kept: np.ndarray  # int [M], which of the images these are, ascending
    skipped: tuple[tuple[int, str], ...]  # the others, and why


def fits(count: int, shape: tuple[int, int, int]) -> bool:
    """Whether so many images [H, W, C] are to be decoded once, rather than streamed."""
    return count * int(np.prod(shape)) <= FITS


def decode_once(
    key: Mapping[str, Any], count: int, shape: tuple[int, int, int], read: Callable[[int], np.ndarray], name: str
) -> Decoded:
    """`read(0)` … `read(count - 1)` as one memory map, in the cache folder; made by the first call with this key.

    Args:
        key: plain data that says what the images are; another key, other images.
        count: images.
        shape: (H, W, C).
        read: a number → uint8 [H, W, C]; called from several threads. Unreadable skips the image.
        name: of the data set, for progress.

    Raises:
        UserError: the cache folder cannot be written.
    """
    folder = cache_dir("images")
    path = folder / hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=12).hexdigest()
    found = _open(path)
    if found is None:
        try:
            _write(path, count, shape, read, name)
        except OSError as error:
            raise UserError(f"{folder} cannot be written: {error}; set {CACHE} to a folder with room") from error
        found = _open(path)
    if found is None:
        raise UserError(f"{path}.npy is damaged; delete it and run again")
    return found


def _open(path: Path) -> Decoded | None:
    """None where it is missing or not whole."""
    try:
        facts = json.loads(path.with_suffix(".json").read_text("utf-8"))
        count, skipped = facts["count"], tuple((row, why) for row, why in facts["skipped"])
        image = np.load(path.with_suffix(".npy"), mmap_mode="r")
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return None
    kept = np.setdiff1d(np.arange(count), [row for row, _ in skipped])
    return Decoded(image[: len(kept)], kept, skipped) if len(image) == count else None


def _write(path: Path, count: int, shape: Sequence[int], read: Callable[[int], np.ndarray], name: str) -> None:
    skipped: list[tuple[int, str]] = []
    _remove_leftovers(path)
    with atomically(path.with_suffix(".npy")) as temporary, temporary.open("wb") as file:
        # Written, not mapped: a full disk raises OSError here, and there would end the process.
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
        np.lib.format.write_array_header_1_0(file, header)
        end = file.tell() + count * int(np.prod(shape))
        for row, image in _all(count, read, name):
            if isinstance(image, Unreadable):
                skipped.append((row, str(image)))
            else:
                file.write(np.broadcast_to(image, tuple(shape)).astype(np.uint8, copy=False).tobytes())
        file.truncate(end)  # zeros in place of the skipped
    with atomically(path.with_suffix(".json")) as temporary:  # last: where it stands, both stand
        temporary.write_text(json.dumps({"count": count, "skipped": skipped}), "utf-8")


def _remove_leftovers(path: Path) -> None:
    """What killed calls left, of any images: up to 4 GB each. Another process' file is touched all the time."""
    for old in path.parent.glob(".*.npy.*"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > STALE:
                old.unlink()


def _all(count: int, read: Callable[[int], np.ndarray], name: str) -> Iterator[tuple[int, np.ndarray | Unreadable]]:
    """(number, image or why there is none), in order, read by as many threads as there are cores."""

    def one(row: int) -> np.ndarray | Unreadable:
        try:
            return read(row)
        except Unreadable as why:
            return why
        except OSError as error:  # else it would be taken for one of writing
            raise UserError(f"image {row} of {name} cannot be read: {error}; run again") from error

    bar = progress_bar(count, 0, f"decoding {name}", "image")
    try:
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for start in range(0, count, CHUNK):
                rows = range(start, min(start + CHUNK, count))
                yield from zip(rows, threads.map(one, rows), strict=True)
                bar.show(rows.stop, "")
    finally:
        bar.close()
