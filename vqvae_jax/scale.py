"""The scale of maps of numbers, measured when a training ends.

While an autoencoder trains, its running mean and deviation are of some hundred images, by an encoder that was another
one, and where an average of the weights is kept it is not that one's either: a few per cent off. So that maps have mean
0 and deviation 1, the model that a training ends with gets those of the training images, by its own weights. The
decoder sees the same numbers as before. A number that is as good as constant gets a deviation below 1, see LEAST.

Legend: N images, D numbers a place.
"""

import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vqvae_jax import codec
from vqvae_jax.quantizers.kl import KLBottleneck, mean_and_deviation, statistics
from vqvae_jax.types import Codebook, Model, by_level

LOOKED = 8192  # images, evenly spread over the training set where that has more: the deviation to about 1 %
CHUNK = 1024  # images whose maps are in memory at once
LEAST = 1.2e-3  # of a mean: what varies less is not read back to 5 % from means and mean squares in float32


def has_scale(autoencoder: Any) -> bool:
    """Whether any of its maps holds numbers."""
    return any(isinstance(quantizer, KLBottleneck) for quantizer in autoencoder.quantizers)


def measured(autoencoder: Any, value_range: codec.Range, model: Model, images: Any) -> Model:
    """The model with the means and deviations of uint8 images [N, H, W, C], by its own weights."""
    here = jax.tree.map(on_this_host, model)
    sums: dict[str, Any] = {}
    for chunk in chunks(images):
        for level, maps in encoded(autoencoder, value_range, here, chunk):
            flat = maps.reshape(-1, maps.shape[-1]).astype(np.float64)
            new = np.stack([np.full(flat.shape[-1], len(flat)), flat.sum(0), np.square(flat).sum(0)])
            sums[level] = sums.get(level, 0.0) + new
    books = {level: rescaled(level, here.codebooks[level], *sums[level]) for level in sums}
    placed = {level: jax.tree.map(like_before, books[level], model.codebooks[level]) for level in books}
    return Model(model.params, {**model.codebooks, **placed})


def chunks(images: Any) -> Iterator[np.ndarray]:
    """LOOKED of them at most, so many at once."""
    count = len(images)
    rows = np.arange(count) if count <= LOOKED else np.linspace(0, count - 1, LOOKED).astype(int)
    for start in range(0, len(rows), CHUNK):
        yield np.asarray(images[rows[start : start + CHUNK]])


def encoded(
    autoencoder: Any, value_range: codec.Range, model: Model, images: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """(level, map [N, h, w, D]) of each level of numbers."""
    size = codec.batch_size(*images.shape[1:3])
    tokens = codec.in_batches(lambda some: codec.encode(autoencoder, value_range, model, some), images, size=size)
    each = by_level(tokens, autoencoder.quantizers)
    for level, quantizer, maps in zip(autoencoder.level_names, autoencoder.quantizers, each, strict=True):
        if isinstance(quantizer, KLBottleneck):
            yield level, np.asarray(maps[0])


def rescaled(level: str, codebook: Codebook, count: np.ndarray, total: np.ndarray, square: np.ndarray) -> Codebook:
    """With the mean and deviation of numbers of which count, sum and sum of squares are those of maps, [D] each."""
    shift, scale = (np.asarray(one, np.float64) for one in mean_and_deviation(codebook))
    inside = total / count
    mean = shift + scale * inside
    deviation = scale * np.sqrt(np.maximum(square / count - np.square(inside), 1e-12))
    if (still := deviation < LEAST * np.abs(mean)).any() and jax.process_index() == 0:
        print(constant(level, still, mean, deviation), file=sys.stderr, flush=True)
    held = np.maximum(deviation, LEAST * np.abs(mean))
    return codebook.replace(stats=codebook.stats | statistics(jnp.float32(mean), jnp.float32(held)))


def constant(level: str, still: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> str:
    """What is said of numbers, bool [D], that hardly vary beside their mean."""
    first = int(np.argmax(still))
    what = f"{still.sum()} of {len(still)} numbers a place are as good as constant and tell nothing"
    example = f"number {first + 1} is {mean[first]:.3g} ± {deviation[first]:.2g}"
    return (
        f"{level}: {what}, {example}: a larger --config.loss_weights.kl draws them to 0, or take fewer, a smaller "
        "--config.autoencoder.quantizer.code_dim"
    )


def on_this_host(array: Any) -> Any:
    """A copy that is whole here, where all devices have it."""
    return array.addressable_data(0) if isinstance(array, jax.Array) else array


def like_before(new: Any, old: Any) -> Any:
    """On the devices where it was."""
    return jax.device_put(np.asarray(new), old.sharding) if isinstance(old, jax.Array) else np.asarray(new)
