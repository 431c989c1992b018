"""uint8 images to token maps and back with a trained autoencoder, in batches of one size, compiled once each."""

import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import jax
import numpy as np

from vqvae_jax.backend import memory, power_of_two
from vqvae_jax.data.arrays import laid_out
from vqvae_jax.data.augment import normalise, to_uint8
from vqvae_jax.types import Array, Level, Model, Tokens, UserError

BATCH = 64  # images at once on CPU
PIXELS = 64 * 64 * BATCH  # at once on CPU, at most, or one image
MOST = 1024  # images at once where memory allows
PIXEL_BYTES = 4096  # memory that a pixel may take
AHEAD = 2  # programs that wait for the device while the result of another is fetched

Range = tuple[float, float]
T = TypeVar("T")


@partial(jax.jit, static_argnums=(0, 1))
def encode(autoencoder: Any, value_range: Range, model: Model, images: Array) -> Tokens:
    """uint8 [B, H, W, C] → int32 maps [B, h, w], coarse to fine."""
    images = normalise(images, value_range)
    return autoencoder.apply({"params": model.params}, images, model.codebooks, method="encode")


@partial(jax.jit, static_argnums=(0, 1))
def decode(autoencoder: Any, value_range: Range, model: Model, tokens: Tokens) -> Array:
    """Token maps, or the upper ones alone → uint8 [B, H, W, C]."""
    images = autoencoder.apply({"params": model.params}, tokens, model.codebooks, method="decode")
    return to_uint8(images, value_range)


@partial(jax.jit, static_argnums=(0, 1))
def reconstruct(autoencoder: Any, value_range: Range, model: Model, images: Array) -> list[Array]:
    """uint8 images → uint8 images from the top alone, the top two, …, all."""
    tokens = encode(autoencoder, value_range, model, images)
    return [decode(autoencoder, value_range, model, tokens[: i + 1]) for i in range(len(tokens))]


def in_batches(function: Callable[[Any], Any], *arrays: Any, size: int = BATCH) -> Any:
    """What a function of [B, …] makes of [N, …] arrays, as numpy; the last batch is padded, so that nothing is
    compiled twice. Whatever the function's result holds is put together again along the first axis.

    The device is given the next batches before a result is fetched. Batches that its memory does not hold are halved.
    """
    count = len(arrays[0])

    def run(size: int) -> Any:
        made = (function(*_batch(arrays, start, size)) for start in range(0, count, size))
        return jax.tree.map(lambda *several: np.concatenate(several)[:count], *fetched(made))

    return halving(run, no_more(size, count))


def _batch(arrays: tuple[Any, ...], start: int, size: int) -> list[np.ndarray]:
    """So many rows of each, the last ones 0 where there are no more."""
    taken = [np.asarray(array[start : start + size]) for array in arrays]
    return [np.pad(part, ((0, size - len(part)), *[(0, 0)] * (part.ndim - 1))) for part in taken]


def fetched(results: Iterable[Any], ahead: int = AHEAD) -> Iterator[Any]:
    """Each as numpy, in order. So many more are taken, that is dispatched, before one is waited for."""
    waiting: deque[Any] = deque()
    for result in results:
        waiting.append(result)
        if len(waiting) > ahead:
            yield jax.tree.map(np.asarray, waiting.popleft())
    while waiting:
        yield jax.tree.map(np.asarray, waiting.popleft())


def halving(run: Callable[[int], T], size: int) -> T:
    """run(size), with half the size as often as the device's memory does not do."""
    while True:
        try:
            return run(size)
        except jax.errors.JaxRuntimeError as error:
            if size == 1 or "RESOURCE_EXHAUSTED" not in str(error):
                raise
        size //= 2  # here, where the error is gone and with it the arrays that it held


def no_more(size: int, count: int) -> int:
    """The size of batches of so many rows: less where these are few, but BATCH or a power of two above it."""
    return min(size, max(BATCH, 1 << (count - 1).bit_length()))


def batch_size(height: int, width: int) -> int:
    """Images of so many pixels that are taken at once on this device."""
    return images_at_once(height, width, memory())


def images_at_once(height: int, width: int, memory: int | None) -> int:
    """The same for a device with so many bytes, a power of two; None is a CPU."""
    if memory is None:
        return max(1, min(BATCH, PIXELS // (height * width)))
    return power_of_two(min(MOST, max(PIXELS, memory // PIXEL_BYTES) // (height * width)))


def check_images(images: Any, channels: int, stride: int) -> None:
    """UserError unless these are uint8 [N, H, W, channels], at least one, H and W multiples of `stride` pixels."""
    if not hasattr(images, "shape"):
        raise UserError(f"images are an array, uint8 [N, H, W, {channels}]; got {type(images).__name__}")
    if getattr(images, "dtype", np.uint8) != np.uint8 or len(images.shape) != 4 or images.shape[3] != channels:
        got = f"{getattr(images, 'dtype', '')} {list(images.shape)}"
        raise UserError(f"images are uint8 [N, H, W, {channels}], 0 to 255; got {got}{laid_out(images.shape)}")
    if not len(images) or any(side % stride or not side for side in images.shape[1:3]):
        raise UserError(f"at least one image, H and W multiples of {stride}; got {list(images.shape)}")


def check_tokens(tokens: Sequence[Any], levels: Sequence[Level]) -> None:
    """UserError unless these are maps of the levels, or of the upper ones alone, that belong to images of one size.

    They may be so many times as large as in training, of which `levels` tell.
    """
    levels = levels[: len(tokens)]
    shapes: list[Any] = [np.shape(one) for one in tokens]
    wrong = [
        (len(shape), *shape[3:]) != (1 + len(level.form), *level.form[2:]) or 0 in shape
        for shape, level in zip(shapes, levels, strict=False)
    ]
    if len(levels) != len(shapes) or not shapes or any(wrong):
        raise UserError(
            f"tokens are maps [N, h, w] of {len(levels)} levels or fewer, coarse to fine, [N, h, w, C] of numbers; "
            f"got {shapes}, where training has {', '.join(map(str, levels))}"
        )
    sizes = {
        (count, height / level.shape[0], width / level.shape[1])
        for (count, height, width, *_), level in zip(shapes, levels, strict=True)
    }
    if len(sizes) > 1:
        raise UserError(f"the maps do not belong together: {shapes}, here {[level.shape for level in levels]}")
    for one, level in zip(tokens, levels, strict=True):
        _check_values(np.asarray(one), level)


def as_map(one: Any) -> np.ndarray:
    """A map as an array, of lists too. UserError for lists of several lengths."""
    try:
        return np.asarray(one)
    except ValueError as error:
        raise UserError("a map is an array [N, h, w]; its rows are not of one length") from error


def check_level(tokens: Sequence[Any], levels: Sequence[Level], size: Sequence[Any] | None) -> None:
    """UserError for upper maps alone that are, in training, the maps of other levels: [bottom] in place of [top].

    Args:
        tokens: as `check_tokens` has passed them.
        levels: of the model.
        size: (pixels of the training's images, H, W), what is said of the maps' images; None where nothing is.
    """
    shapes, forms = [np.shape(one)[1:] for one in tokens], [level.form for level in levels]
    if size is not None:
        trained, *sides = size
        wanted = tuple(side * one // trained for side, one in zip(forms[0][:2], sides, strict=True))
        if shapes[0][:2] != wanted:
            raise UserError(f"size={tuple(sides)} is of maps {levels[0].name} {wanted}; got {shapes[0][:2]}")
        return
    count = len(shapes)
    others = [i for i in range(1, len(forms) - count + 1) if shapes == forms[i : i + count]]
    if shapes != forms[:count] and others:
        which = ", ".join(level.name for level in levels[others[0] : others[0] + count])
        raise UserError(
            f"maps begin with the coarsest, {levels[0]}, and {shapes} are those of {which}; give the upper ones too, "
            "or where they are upper ones of larger images, their size: decode(tokens, size=(H, W))"
        )


def checked_size(size: Any) -> tuple[int, int]:
    """(H, W). UserError for what is none."""
    try:
        height, width = (operator.index(side) for side in size)
    except (TypeError, ValueError) as error:
        raise UserError(f"size is (H, W), two whole numbers of pixels; got {size!r}") from error
    return height, width


def _check_values(one: np.ndarray, level: Level) -> None:
    """UserError unless a map holds what its level does."""
    if level.vocab_size is None:
        if one.dtype.kind not in "iuf":
            raise UserError(f"{level.name}: maps are finite numbers; got {one.dtype}")
        if not np.isfinite(one).all():
            raise UserError(f"{level.name}: maps are finite numbers; in this one there is NaN or infinity")
        return
    if one.dtype.kind not in "iu":
        raise UserError(f"{level.name}: tokens are whole numbers; got {one.dtype}")
    wrong = one[(one < 0) | (one >= level.vocab_size)]
    if wrong.size:
        raise UserError(f"{level.name}: tokens are from 0 to {level.vocab_size - 1}; got {wrong[0]}")
