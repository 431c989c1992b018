"""The maps of many images drawn by their priors, level by level, in chunks as large as memory allows."""

from contextlib import closing
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vqvae_jax import codec
from vqvae_jax.asked import Asked, Told
from vqvae_jax.backend import memory
from vqvae_jax.priors.draw import draw, maps_at_once
from vqvae_jax.priors.noise import between
from vqvae_jax.progress import Bar, watched
from vqvae_jax.types import Array, Condition, Tokens

Maps = tuple[np.ndarray, ...]  # coarse to fine


class Given(NamedTuple):
    """What the drawing begins with, [N, …] each, coarse to fine."""

    known: Any = ()  # maps
    keep: Any = ()  # where they are copied; without it priors begin with them
    noise: Any = ()  # a level, which priors begin with


def in_chunks(asked: Asked, told: Told, given: Given = Given()) -> Maps:
    """Maps of as many images as are told of."""
    count = len(told.label)

    def chunk(start: int, size: int, bar: Bar) -> Tokens:
        rows = lambda x: jnp.asarray(whole_chunk(x[start : start + size], size))  # noqa: E731
        said, begun = jax.tree.map(rows, (told, given))
        return draw_levels(asked, image_keys(asked.seed, start, size), said, begun, bar)

    def run(size: int) -> Maps:
        starts = range(0, count, size)
        with closing(watched(len(starts) * size * len(asked.priors), "drawing", "map")) as bar:
            drawn = codec.fetched(chunk(start, size, bar) for start in starts)
            return tuple(np.concatenate(level)[:count] for level in zip(*drawn, strict=True))

    return codec.halving(run, min(count, maps_at_once(memory())))


def draw_levels(asked: Asked, keys: Array, told: Told, given: Given, bar: Bar) -> Tokens:
    """The maps of one image a key; where the bar is seen, a level is waited for before it moves on."""
    maps: Tokens = ()
    for i, (prior, weights) in enumerate(asked.priors.values()):
        own = own_maps(prior)
        if given.keep and all(map(np.all, given.keep[own])):  # nothing of it is drawn
            maps += given.known[own]
            bar.add(len(keys))
            continue
        condition = condition_of(prior, told, maps)
        known, keep = given.known[own] or None, given.keep[own] or None
        if keep is None and getattr(prior, "sample_strength", 1) == 1:  # nothing of it is left: as without
            known = None
        noise = given.noise[i] if given.noise else None
        maps += draw(prior, asked.pick, weights, level_keys(keys, i), condition, known, keep, noise)
        if bar.seen:
            jax.block_until_ready(maps)
        bar.add(len(keys))
    return maps


def on_the_way(asked: Asked, to_seed: int, told: Told) -> Maps:
    """From one seed's maps to another's, all told what one is: the ends as they are drawn alone."""
    parts = [in_chunks(asked, told), in_chunks(asked._replace(seed=to_seed), told)]
    if (count := asked.size - 2) > 0:
        every = Told(*(said if said is None else np.repeat(said, count, axis=0) for said in told))
        parts.insert(1, in_chunks(asked, every, Given(noise=noise_between(asked, to_seed))))
    return tuple(np.concatenate(level) for level in zip(*parts, strict=True))


def own_maps(prior: Any) -> slice:
    """Which of the maps of all levels are a prior's."""
    return slice(len(prior.above), len(prior.above) + len(prior.maps))


def condition_of(prior: Any, told: Told, maps: tuple[Any, ...]) -> Condition:
    """What a prior hears of all that is told, and of the maps above its own: of `maps`, which begin with those."""
    text = told.text if getattr(prior, "text", None) else None
    return Condition(told.label if prior.num_labels else None, maps[: len(prior.above)], text)


def noise_between(asked: Asked, to_seed: int) -> Maps:
    """What the maps begin as between two seeds, without the ends: float32 [size - 2, h, w, C] a level."""
    shares, found = np.linspace(0, 1, asked.size)[1:-1], []
    for i, (prior, _) in enumerate(asked.priors.values()):
        keys = [level_keys(image_keys(seed, 0, 1), i) for seed in (asked.seed, to_seed)]
        one, other = (np.asarray(prior.apply({}, key, asked.pick, method="noise")[0][0]) for key in keys)
        found.append(between(one, other, shares))
    return tuple(found)


def key_of(seed: int) -> Array:
    """Of a whole number of up to 64 bits. What lies beyond 32 is folded in: JAX would cut it off."""
    high, low = divmod(int(seed) + 2**31, 2**32)
    key = jax.random.key(low - 2**31)
    return jax.random.fold_in(key, np.uint32(high % 2**32)) if high else key


def image_keys(seed: int, start: int, count: int) -> Array:
    """The keys of the images from number `start` on, [count]."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key_of(seed), jnp.arange(start, start + count))


def level_keys(keys: Array, number: int) -> Array:
    """Those of a level, counted from the coarsest."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def whole_chunk(rows: np.ndarray, size: int) -> np.ndarray:
    """So many rows, the given ones again and again."""
    return np.take(rows, np.arange(size) % len(rows), axis=0)
