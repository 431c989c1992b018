"""A split of images, and batches of it as a pure function of (seed, step).

Legend: N images, B images in a batch, H W C the image.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from vqvae_jax.types import UserError

HELD_OUT = 0.05  # share of the training groups that validation gets
TEST = 0.05  # share of the images that is the split "test" where the data have none
Batch = dict[str, Any]  # arrays by name


class Images(Protocol):
    """What stands for uint8 [N, H, W, C]: a numpy array, a memory map, a View, or `stream.Lazy`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> Any: ...  # a number, a slice, or int [B]


def laid_out(shape: Sequence[int]) -> str:
    """For a message: that images of this shape have their channels first, as PyTorch has them; else nothing."""
    if len(shape) != 4 or shape[1] not in (1, 3) or shape[3] in (1, 3):
        return ""
    return "; they are [N, C, H, W], the channels go last: np.moveaxis(images, 1, -1)"


def wants(channels: int) -> str:
    """For a message: what a trained model takes."""
    kind = "1 channel, grey" if channels == 1 else f"{channels} channels, colour"
    return f"the model was trained on images of {kind}"


class View:
    """Some rows of images, in the given order, not copied."""

    def __init__(self, images: Images, rows: np.ndarray) -> None:
        self.base: Any = images
        self.rows = np.asarray(rows)  # int [M]
        if isinstance(images, View):
            self.base, self.rows = images.base, images.rows[rows]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.rows), *self.base.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.base[self.rows[index]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


class Grey:
    """Colour images as grey ones, [N, H, W, 1] of [N, H, W, 3], weighed as Pillow does (ITU-R 601-2)."""

    def __init__(self, images: Images) -> None:
        self.base = images
        self.shape = (*images.shape[:3], 1)

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: Any) -> np.ndarray:
        colour = np.asarray(self.base[index]).astype(np.uint32)
        grey = (colour @ np.array([19595, 38470, 7471], np.uint32) + 0x8000) >> 16
        return grey[..., None].astype(np.uint8)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


class Coloured:
    """Grey images as colour ones, [N, H, W, 3] of [N, H, W, 1]: the same three times."""

    def __init__(self, images: Images) -> None:
        self.base = images
        self.shape = (*images.shape[:3], 3)

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.repeat(np.asarray(self.base[index]), 3, axis=-1)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


def in_channels(images: Images, channels: int) -> Images:
    """The same in so many channels, 1 or 3; 0 leaves them."""
    if channels in (0, images.shape[3]):
        return images
    return Grey(images) if channels == 1 else Coloured(images)


def under(images: Any, rows: np.ndarray | None = None) -> tuple[Any, Any]:
    """What is seen through views and changes of channels, and which rows of it these are."""
    while isinstance(images, View | Grey | Coloured):
        rows = images.rows[rows] if isinstance(images, View) and rows is not None else rows
        images = images.base
    return images, rows


@dataclass(frozen=True)
class Arrays:
    """A split, in an order that never changes."""

    image: Images  # uint8 [N, H, W, C]
    label: np.ndarray | None = None  # int32 [N]
    label_names: tuple[str, ...] = ()
    name: tuple[str, ...] | None = None  # N file names, each once
    text: tuple[str, ...] | None = None  # N texts: what is to be seen, a line a caption
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

    def beside(self, index: np.ndarray) -> Batch:
        """What an evaluation reads beside `rows`: nothing."""
        return {}

    def with_labels(self, names: Sequence[str]) -> "Arrays":
        """With the labels counted in the order of these names; as it is, unless they are its own in another order."""
        if self.label is None or sorted(names) != sorted(self.label_names) or tuple(names) == self.label_names:
            return self
        number = np.array([list(names).index(name) for name in self.label_names], np.int32)
        return replace(self, label=number[self.label], label_names=tuple(names))

    def take(self, rows: np.ndarray) -> "Arrays":
        """The images at `rows`, int [M]; nothing is copied but labels and texts."""
        return replace(
            self,
            image=View(self.image, rows),
            label=None if self.label is None else self.label[rows],
            name=self.name and tuple(self.name[row] for row in rows),
            text=self.text and tuple(self.text[row] for row in rows),
            group=self.group and tuple(self.group[row] for row in rows),
        )


def held_out(arrays: Arrays) -> np.ndarray:
    """Which images are kept for validation, bool [N]: about 5 % of the groups, by hash, so the same ones everywhere."""
    return shares(arrays) < HELD_OUT


def shares(arrays: Arrays) -> np.ndarray:
    """A number in [0, 1) an image, float [N], by the hash of its group, or of itself where there are no groups."""
    keys = map(str.encode, arrays.group) if arrays.group else (arrays.image[i].tobytes() for i in range(len(arrays)))
    return np.fromiter((share(b"validation " + key) for key in keys), float, len(arrays))


def share(key: bytes) -> float:
    """A number in [0, 1) that depends on `key` alone, on any machine and in any year."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") / 2**64


class Rows(Protocol):
    """A split that is read by row numbers: Arrays here, TokenArrays in `tokens.py`."""

    def __len__(self) -> int: ...

    def rows(self, index: np.ndarray) -> dict[str, Any]: ...

    def beside(self, index: np.ndarray) -> dict[str, Any]: ...  # what an evaluation reads as well


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
        return self._gather(self.index(step))

    def index(self, step: int) -> np.ndarray:
        """The rows in the batch of a step, int [B of this process]."""
        position = step * self.batch_size + self._rows(self.batch_size)
        epoch, place = np.divmod(position, len(self))
        index = np.empty_like(place)
        for number in np.unique(epoch):
            index[epoch == number] = _order(self.seed, int(number), len(self))[place[epoch == number]]
        return index

    def evaluation(self, batch_size: int | None = None) -> Iterator[Batch]:
        """Batches that cover the split once, in order; `mask` bool [B] is False where the last repeats row 0."""
        for index, mask in self.cover(batch_size):
            yield {**self._gather(index), **self.arrays.beside(index), "mask": mask}

    def cover(self, batch_size: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The rows and the mask of each batch of `evaluation`, both [B of this process]."""
        batch_size = batch_size or self.batch_size
        rows = self._rows(batch_size)
        for start in range(0, len(self), batch_size):
            mask = start + rows < len(self)
            yield np.where(mask, start + rows, 0), mask

    def close(self) -> None:
        """There is nothing to let go of."""

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
