"""Token maps in memory, or mapped from files, and what belongs to their images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from vqvae_jax.data.text import Tokenizer, numbers_of

CHUNK = 4096  # maps counted at once


@dataclass(frozen=True)
class TokenArrays:
    """The maps of one part, coarse to fine, uint [M, h, w] or float [M, h, w, C], and what belongs to them."""

    maps: tuple[Any, ...]  # arrays, or Shards
    label: np.ndarray | None = None  # int32 [M]
    name: tuple[str, ...] | None = None  # M file names
    share: np.ndarray | None = None  # float [M], in [0, 1): where the image's hash lies, see arrays.shares
    text: tuple[str, ...] | None = None  # M texts, as they were written, a line a caption
    # The captions as a prior reads them, int32 [M, T]; where an image has several [M, n, T]. See `told`.
    numbers: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.maps[0])

    def rows(self, index: np.ndarray) -> dict[str, Any]:
        """A batch: `tokens`, int32 [B, h, w] or float32 [B, h, w, C] a level; perhaps `label`, [B], `text`, of the form
        of `numbers`.
        """
        beside = {"label": self.label, "text": self.numbers}
        told = {name: values[index] for name, values in beside.items() if values is not None}
        return {"tokens": tuple(_as_read(tokens[index]) for tokens in self.maps), **told}

    def beside(self, index: np.ndarray) -> dict[str, Any]:
        """`another_text`, that of another image of the part, of the form of `numbers`; nothing where there are none."""
        return {} if self.numbers is None else {"another_text": self.numbers[self._another[index]]}

    @cached_property
    def _another(self) -> np.ndarray:
        """Another row for each, int [M], at random, all in one circle; the same at every evaluation."""
        order = np.random.default_rng(0).permutation(len(self))
        found = np.empty_like(order)
        found[order] = np.roll(order, 1)
        return found

    def told(self, tokenizer: Tokenizer | None) -> "TokenArrays":
        """With the texts as numbers, where a prior is told them."""
        if tokenizer is None:
            return self
        return replace(self, numbers=numbers_of(tokenizer, self.text or [""] * len(self)))

    def take(self, rows: np.ndarray) -> "TokenArrays":
        """The maps at `rows`, int [K], copied into memory."""
        some = lambda values: None if values is None else values[rows]  # noqa: E731
        words = lambda values: values and tuple(values[row] for row in rows)  # noqa: E731
        maps = tuple(tokens[rows] for tokens in self.maps)
        label, share, numbers = map(some, (self.label, self.share, self.numbers))
        return TokenArrays(maps, label, words(self.name), share, words(self.text), numbers)


def _as_read(maps: np.ndarray) -> np.ndarray:
    """Maps as the models take them."""
    return maps.astype(np.float32 if maps.dtype.kind == "f" else np.int32)


class Shards:
    """Arrays one after the other as one array [M, …], read where it is asked."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self.arrays = arrays
        self.starts = np.cumsum([0, *map(len, arrays)])
        self.shape = (int(self.starts[-1]), *arrays[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        rows = np.arange(len(self))[index]
        shard = np.searchsorted(self.starts, rows, side="right") - 1
        if not rows.ndim:
            return self.arrays[shard][rows - self.starts[shard]]
        out = np.empty((len(rows), *self.shape[1:]), self.arrays[0].dtype)
        for number in np.unique(shard):
            here = shard == number
            out[here] = self.arrays[number][rows[here] - self.starts[number]]
        return out


def chunks(tokens: Any) -> Iterator[np.ndarray]:
    """Maps [M, …], so many at once, in memory: they may lie in files."""
    for start in range(0, len(tokens), CHUNK):
        yield np.asarray(tokens[start : start + CHUNK])
