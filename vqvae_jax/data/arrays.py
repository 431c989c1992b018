"""Images that fit in memory, and batches of them as a pure function of (seed, step).

Legend: N images, B images in a batch, H W C the image.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from vqvae_jax.types import UserError

HELD_OUT = 0.05  # share of the training groups that validation gets
Batch = dict[str, Any]  # arrays by name


@dataclass(frozen=True)
class Arrays:
    """A split, in an order that never changes."""

    image: np.ndarray  # uint8 [N, H, W, C]; may be a memory map
    label: np.ndarray | None = None  # int32 [N]
    label_names: tuple[str, ...] = ()
    text: tuple[str, ...] | None = None  # N names
    group: tuple[str, ...] | None = None  # N keys; images of one group are held out together. None: equal images are

    def __len__(self) -> int:
        return len(self.image)

    @property
    def num_labels(self) -> int:
        """How many labels there are; 0 where images have none."""
        if self.label_names or self.label is None or not len(self.label):
            return len(self.label_names)
        return int(self.label.max()) + 1

    def rows(self, index: np.ndarray) -> Batch:
        """A batch: image uint8 [B, H, W, C], label int32 [B] if there are labels."""
        batch = {"image": self.image[index]}
        return batch if self.label is None else {**batch, "label": self.label[index]}

    def take(self, rows: np.ndarray) -> "Arrays":
        """The images at `rows`, int [M], copied into memory."""
        return replace(
            self,
            image=self.image[rows],
            label=None if self.label is None else self.label[rows],
            text=self.text and tuple(self.text[row] for row in rows),
            group=self.group and tuple(self.group[row] for row in rows),
        )


def held_out(arrays: Arrays) -> np.ndarray:
    """Which images are kept for validation, bool [N]: about 5 % of the groups, by hash, so the same ones everywhere."""
    keys = map(str.encode, arrays.group) if arrays.group else (image.tobytes() for image in arrays.image)
    return np.fromiter((share(b"validation " + key) < HELD_OUT for key in keys), bool, len(arrays))


def share(key: bytes) -> float:
    """A number in [0, 1) that depends on `key` alone, on any machine and in any year."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") / 2**64


class Rows(Protocol):
    """A split that is read by row numbers: Arrays here, TokenArrays in `tokens.py`."""

    def __len__(self) -> int: ...

    def rows(self, index: np.ndarray) -> dict[str, Any]: ...


class ArrayData:
    """Shuffled batches for training, and a split covered exactly once for evaluation.

    Batch sizes are global: with several processes each gets its own rows of the same batch, in order. `index` is the
    row in `arrays`. Raises UserError where batches cannot be made.
    """

    def __init__(
        self, arrays: Rows, batch_size: int, seed: int, process_index: int = 0, process_count: int = 1
    ) -> None:
        if not len(arrays):
            raise UserError("the split holds no images; choose another dataset.split or dataset.test_split")
        self.arrays, self.batch_size, self.seed = arrays, batch_size, seed
        self.process_index, self.process_count = process_index, process_count
        self._rows(batch_size)

    def __len__(self) -> int:
        return len(self.arrays)

    @property
    def steps_per_epoch(self) -> float:
        """Steps that use every image once: N / batch size, not rounded, so that e epochs are ceil(e * this) steps."""
        return len(self) / self.batch_size

    def batch(self, step: int) -> Batch:
        """The batch of a step: image uint8 [B, H, W, C], label int32 [B] if there are labels, index int32 [B].

        The stream of images is one permutation after another; a batch may reach over the end of an epoch.
        """
        position = step * self.batch_size + self._rows(self.batch_size)
        epoch, place = np.divmod(position, len(self))
        index = np.empty_like(place)
        for number in np.unique(epoch):
            index[epoch == number] = _order(self.seed, int(number), len(self))[place[epoch == number]]
        return self._gather(index)

    def evaluation(self, batch_size: int | None = None) -> Iterator[Batch]:
        """Batches that cover the split once, in order; `mask` bool [B] is False where the last repeats row 0."""
        batch_size = batch_size or self.batch_size
        rows = self._rows(batch_size)
        for start in range(0, len(self), batch_size):
            mask = start + rows < len(self)
            yield {**self._gather(np.where(mask, start + rows, 0)), "mask": mask}

    def _rows(self, batch_size: int) -> np.ndarray:
        """The places in a batch that this process fills, int [B of this process]."""
        if batch_size < 1 or batch_size % self.process_count:
            fit = max(1, round(batch_size / self.process_count)) * self.process_count
            raise UserError(
                f"batch size {batch_size} does not divide among {self.process_count} processes; "
                f"set train.batch_size to {fit}"
            )
        size = batch_size // self.process_count
        return self.process_index * size + np.arange(size)

    def _gather(self, index: np.ndarray) -> Batch:
        return {**self.arrays.rows(index), "index": index.astype(np.int32)}


@lru_cache(maxsize=8)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    # Sorting raw bits, because NumPy promises that those, unlike Generator.permutation, never change.
    bits = np.random.PCG64(np.random.SeedSequence([seed % 2**64, epoch])).random_raw(count)
    return np.argsort(bits, kind="stable")
