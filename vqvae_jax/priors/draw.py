"""Drawing token maps from any prior, compiled once for a number of maps, a pick and a prior."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from vqvae_jax.backend import choices, power_of_two
from vqvae_jax.networks import fast
from vqvae_jax.types import Array, Condition, Model, Pick

CHUNK = 64  # maps drawn at once on CPU: everywhere the same, so that nothing is compiled twice
MOST = 1024  # maps at once where memory allows
MAP_BYTES = 32 << 20  # memory that a map may take
GROUP = 8  # maps that a core of the CPU draws at least


def draw(
    prior: Any,
    pick: Pick,
    model: Model,
    keys: Array,
    condition: Condition,
    known: Array | None = None,
    keep: Array | None = None,
) -> Array:
    """New maps of one level, one a key, int32 [B, h, w]; where `keep` is True, with the tokens of `known`.

    On CPU the cores draw a group of the maps each: the products of one pixel are too small to be shared among cores.
    Inside of another jit they are drawn all at once.
    """
    groups = _groups(len(keys))
    traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((model, keys, condition, known, keep)))
    if groups == 1 or traced:
        return draw_group(prior, pick, model, keys, condition, known, keep)

    plainly = fast.is_plain()  # a thread begins with the defaults

    def one(group: int) -> Array:
        here = slice(group * len(keys) // groups, (group + 1) * len(keys) // groups)
        rows = jax.tree.map(lambda x: x[here], (keys, condition, known))
        own = keep if keep is None or keep.ndim == 2 else keep[here]
        with fast.plain(plainly):
            return jax.block_until_ready(draw_group(prior, pick, model, *rows, own))

    with ThreadPoolExecutor(groups) as pool:
        return jnp.concatenate(list(pool.map(one, range(groups))))


def maps_at_once(memory: int | None) -> int:
    """Maps that a device with so many bytes draws at once, a power of two; None is a CPU.

    A pixel's products are too small for an accelerator: as many maps as fit take hardly longer than a few.
    """
    if memory is None:
        return CHUNK
    return max(CHUNK, min(MOST, power_of_two(memory // MAP_BYTES)))


@partial(jax.jit, static_argnums=(0, 1))
def draw_group(prior: Any, pick: Pick, model: Model, keys: Array, condition: Condition, known: Any, keep: Any) -> Array:
    """The same, all maps at once."""
    return prior.apply({"params": model.params}, keys, condition, pick, known, keep, method="sample")


def _groups(count: int) -> int:
    """How many groups of the same size the cores share; 1 on accelerators."""
    if not choices().cores_share_maps:
        return 1
    most = max(1, min(os.cpu_count() or 1, count // GROUP))
    return next(groups for groups in range(most, 0, -1) if count % groups == 0)
