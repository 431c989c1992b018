"""Images that do not fit in memory: decoded when they are asked for, and for training ahead of time by Grain's threads.

Legend: N images, B images in a batch of this process, H W C the image.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import numpy as np

from vqvae_jax.data.arrays import ArrayData, Arrays, Batch, under
from vqvae_jax.data.decoded import Unreadable
from vqvae_jax.types import UserError

THREADS = min(32, 2 * (os.cpu_count() or 1))  # that decode; two a core, because they also wait for files
AHEAD = 2  # batches decoded ahead
ENDLESS = 2**62  # images of a stream for training


class Lazy:
    """Images [N, H, W, C] that are decoded on access: a number, a slice or int [B].

    For an image that cannot be read stands the next one that can, always the same; it is named once on standard error.

    Args:
        count: N.
        shape: (H, W, C).
        read: a number → uint8 [H, W, C]; called from several threads. Raises Unreadable.
    """

    def __init__(self, count: int, shape: tuple[int, int, int], read: Callable[[int], np.ndarray]) -> None:
        self.shape = (count, *shape)
        self._read = read
        self._unreadable: dict[int, str] = {}  # row → why
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, int | np.integer):
            return self._image(range(len(self))[index])
        rows = self._rows(index)
        if not len(rows):
            return np.empty((0, *self.shape[1:]), np.uint8)
        with ThreadPoolExecutor(min(THREADS, len(rows))) as threads:
            return np.stack(list(threads.map(self._image, rows)))

    def readable(self, rows: np.ndarray) -> np.ndarray:
        """Which of these rows showed their own image, bool [B]; asked after they were accessed."""
        return ~np.isin(rows, list(self._unreadable))

    def _rows(self, index: Any) -> list[int]:
        every = range(len(self))
        if isinstance(index, slice):
            return list(every[index])
        index = np.asarray(index)
        return [every[row] for row in (index.nonzero()[0] if index.dtype == bool else index)]

    def _image(self, row: int) -> np.ndarray:
        for i in range(len(self)):
            place = (row + i) % len(self)
            if place in self._unreadable:
                continue
            try:
                return self._read(place)
            except Unreadable as error:
                self._name(place, str(error))
        raise UserError(f"none of the {len(self)} images can be read; the first: {self._unreadable[row]}")

    def _name(self, row: int, why: str) -> None:
        with self._lock:
            new = row not in self._unreadable
            self._unreadable[row] = why
        if new:
            print(f"image {row} cannot be read, the next one stands for it: {why}", file=sys.stderr)


class StreamData:
    """What ArrayData is, batch for batch, with the images of the coming steps decoded ahead.

    `batch` is for steps in their order, by one thread; another step starts a new stream there.
    """

    def __init__(
        self, arrays: Arrays, batch_size: int, seed: int, process_index: int = 0, process_count: int = 1
    ) -> None:
        _check_grain()
        self.arrays = arrays
        self._data = ArrayData(arrays, batch_size, seed, process_index, process_count)
        self.batch_size, self.seed = batch_size, seed
        self.process_index, self.process_count = process_index, process_count
        self._next = 0
        self._stream: Iterator[np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._data)

    @property
    def steps_per_epoch(self) -> float:
        """As ArrayData's."""
        return self._data.steps_per_epoch

    def batch(self, step: int) -> Batch:
        """As ArrayData's."""
        index = self._data.index(step)
        if self._stream is None or step != self._next:
            self.close()
            self._stream = decoded_ahead(self.arrays.image, self._data.index, len(index), step, ENDLESS // len(index))
        self._next = step + 1
        return self._batch(*self._stood_in(next(self._stream), index))

    def evaluation(self, batch_size: int | None = None) -> Iterator[Batch]:
        """As ArrayData's; `mask` is False also where an image cannot be read."""
        cover = list(self._data.cover(batch_size))
        size = len(cover[0][0])
        images = decoded_ahead(self.arrays.image, lambda step: cover[step][0], size, 0, len(cover))
        for (index, mask), image in zip(cover, images, strict=True):
            yield {**self._batch(image, index), "mask": mask & self._readable(index)}

    def close(self) -> None:
        """Ends the threads; the next batch starts new ones."""
        if self._stream is not None:
            self._stream.close()  # type: ignore[attr-defined]  # it is a generator
        self._stream = None

    def _batch(self, image: np.ndarray, index: np.ndarray) -> Batch:
        label = {} if self.arrays.label is None else {"label": self.arrays.label[index]}
        return {"image": image, **label, "index": index.astype(np.int32)}

    def _stood_in(self, image: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For what cannot be read another of the batch, label and all: it is of the same part of the data."""
        good = np.flatnonzero(self._readable(index))
        if len(good) == len(index):
            return image, index
        if not len(good):
            return self._elsewhere(image, index)
        rows = np.where(self._readable(index), np.arange(len(index)), good[np.arange(len(index)) % len(good)])
        return image[rows], index[rows]

    def _elsewhere(self, image: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where nothing of a batch can be read: the next row of the part that can, for all of them."""
        for row in (int(index[0]) + np.arange(1, len(self.arrays))) % len(self.arrays):
            found = self.arrays.image[row]
            if self._readable(np.array([row])).all():
                return np.broadcast_to(found, image.shape), np.full_like(index, row)
        return image, index

    def _readable(self, index: np.ndarray) -> np.ndarray:
        return readable(self.arrays.image, index)


def readable(images: Any, index: np.ndarray) -> np.ndarray:
    """Which of these rows showed their own image, bool [B]; asked after they were accessed."""
    base, rows = under(images, index)
    return base.readable(rows) if isinstance(base, Lazy) else np.ones(len(rows), bool)


def _check_grain() -> None:
    if find_spec("grain") is None:
        raise UserError("images that do not fit in memory want the package grain, which is missing: pip install grain")


class _Places:
    """One image after another, batch after batch: what Grain reads."""

    def __init__(self, images: Any, index: Callable[[int], np.ndarray], size: int, steps: int) -> None:
        self.images, self.index, self.size, self.steps = images, index, size, steps

    def __len__(self) -> int:
        return self.steps * self.size

    def __getitem__(self, place: Any) -> np.ndarray:
        step, slot = divmod(int(place), self.size)
        return self.images[int(self.index(step)[slot])]


def decoded_ahead(
    images: Any, index: Callable[[int], np.ndarray], size: int, start: int, stop: int
) -> Iterator[np.ndarray]:
    """Images of the steps start … stop - 1, uint8 [B, H, W, C] each; its threads end with it.

    Args:
        images: uint8 [N, H, W, C], read one by one.
        index: a step → the rows in its batch, int [B].
        size: B.
        start: the first step.
        stop: the step after the last.
    """
    import grain  # takes two seconds

    places = grain.MapDataset.source(_Places(images, index, size, stop))[start * size :]
    options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=max(THREADS, AHEAD * size))
    stream = iter(places.to_iter_dataset(options))
    try:
        for _ in range(start, stop):
            yield np.stack([next(stream) for _ in range(size)])
    finally:
        stream.close()
