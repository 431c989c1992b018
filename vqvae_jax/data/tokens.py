"""Token maps as a data set: what a prior learns from, without the autoencoder in memory.

A folder of plain arrays, one a part and level: `train_top.npy`, [M, h, w], coarse to fine. With `views` the training
part holds so many augmented copies of each image, one after the other.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vqvae_jax.data.arrays import Arrays
from vqvae_jax.types import UserError

FILE = "tokens.json"  # written last: without it the folder is unfinished


@dataclass(frozen=True)
class TokenArrays:
    """The token maps of one part, coarse to fine, each uint [M, h, w], and the labels int32 [M] or None."""

    maps: tuple[np.ndarray, ...]
    label: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.maps[0])

    def rows(self, index: np.ndarray) -> dict[str, Any]:
        """A batch: `tokens`, int32 [B, h, w] a level, and `label` int32 [B] if there are labels."""
        batch: dict[str, Any] = {"tokens": tuple(tokens[index].astype(np.int32) for tokens in self.maps)}
        return batch if self.label is None else {**batch, "label": self.label[index]}


def write(
    folder: Path,
    parts: Mapping[str, tuple[Arrays, int]],
    levels: Sequence[str],
    vocab_sizes: Sequence[int],
    encode: Callable[[np.ndarray, int], tuple[np.ndarray, ...]],
    batch_size: int,
    source: Mapping[str, Any],
) -> None:
    """Encodes all parts into `folder`, which is whole once it has its tokens.json.

    Args:
        folder: made if missing.
        parts: by name, images and how many views of them.
        levels: names of the maps, coarse to fine.
        vocab_sizes: codes of each.
        encode: (uint8 [batch_size, H, W, C], number of the view) → maps [batch_size, h, w].
        batch_size: of the images given to `encode`; the last batch is padded.
        source: what the tokens were made from; `is_written` compares it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).unlink(missing_ok=True)
    for name, (arrays, views) in parts.items():
        files: list[np.memmap] = []
        for start, maps in _encoded(arrays, views, encode, batch_size):
            if not files:
                files = [
                    _create(folder / f"{name}_{level}.npy", size, (views * len(arrays), *one.shape[1:]))
                    for level, size, one in zip(levels, vocab_sizes, maps, strict=True)
                ]
            for file, one in zip(files, maps, strict=True):
                file[start : start + len(one)] = one
        for file in files:
            file.flush()
        if arrays.label is not None:
            np.save(folder / f"{name}_label.npy", np.tile(arrays.label, views))
    temporary = folder / f".{FILE}.{os.getpid()}"
    temporary.write_text(json.dumps({"levels": list(levels), "source": dict(source)}, indent=2))
    os.replace(temporary, folder / FILE)


def is_written(folder: Path, source: Mapping[str, Any]) -> bool:
    """Whether the folder is whole and was made from this source."""
    try:
        return json.loads((folder / FILE).read_text())["source"] == dict(source)
    except (OSError, ValueError, KeyError):
        return False


def read(folder: Path, part: str, levels: Sequence[str]) -> TokenArrays:
    """One part of a whole folder, memory-mapped."""
    if not (folder / FILE).is_file():
        raise UserError(f"{folder} holds no tokens: restore it, or train the priors again in another --workdir")
    label = folder / f"{part}_label.npy"
    maps = tuple(np.load(folder / f"{part}_{level}.npy", mmap_mode="r") for level in levels)
    return TokenArrays(maps, np.load(label) if label.is_file() else None)


def _encoded(arrays: Arrays, views: int, encode, batch_size: int) -> Iterator[tuple[int, list[np.ndarray]]]:
    """(first row, maps of the rows) of every view of every image."""
    for view in range(views):
        for start in range(0, len(arrays), batch_size):
            images = arrays.image[start : start + batch_size]
            padded = np.pad(images, ((0, batch_size - len(images)), (0, 0), (0, 0), (0, 0)))
            maps = [np.asarray(tokens)[: len(images)] for tokens in encode(padded, view)]
            yield view * len(arrays) + start, maps


def _create(path: Path, vocab_size: int, shape: tuple[int, ...]) -> np.memmap:
    smallest = next(t for t in (np.uint8, np.uint16, np.uint32) if vocab_size - 1 <= np.iinfo(t).max)
    return np.lib.format.open_memmap(path, "w+", smallest, shape)


def entropy(tokens: np.ndarray, vocab_size: int) -> float:
    """Entropy of the tokens' frequencies, in nats a token, wherever they stand."""
    share = np.bincount(tokens.reshape(-1), minlength=vocab_size) / tokens.size
    return float(-np.sum(share[share > 0] * np.log(share[share > 0])))


def position_entropy(tokens: np.ndarray, seen: np.ndarray, vocab_size: int) -> float:
    """Cross-entropy of `tokens` [M, h, w] under the frequencies of `seen` [N, h, w] at each position, nats a token.

    What a prior has to beat that knows where it is and nothing else. Frequencies are smoothed by adding the same number
    to each count; the one of a few numbers that serves `tokens` best is taken, so the yardstick errs on the hard side.
    """
    places = np.arange(tokens[0].size)
    counts = np.zeros((len(places), vocab_size))
    np.add.at(counts, (np.tile(places, len(seen)), seen.reshape(-1)), 1)
    hits = counts[np.tile(places, len(tokens)), tokens.reshape(-1)]
    return min(
        float(np.mean(np.log(len(seen) + extra * vocab_size) - np.log(hits + extra)))
        for extra in (1, 0.3, 0.1, 0.03, 0.01)
    )
