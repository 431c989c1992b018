"""Drawing token maps from any prior, compiled once for a number of maps, a pick and a prior."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from vqvae_jax.backend import choices, power_of_two
from vqvae_jax.networks import fast
from vqvae_jax.priors.condition import check_kept
from vqvae_jax.types import Array, Condition, Model, Pick, Prior, Tokens

CHUNK = 64  # maps drawn at once on CPU: everywhere the same, so that nothing is compiled twice
MOST = 1024  # maps at once where memory allows
MAP_BYTES = 32 << 20  # memory that a map may take
GROUP = 8  # maps that a core of the CPU draws at least


def draw(
    prior: Prior,
    pick: Pick,
    model: Model,
    keys: Array,
    condition: Condition,
    known: Tokens | None = None,
    keep: Tokens | None = None,
    noise: Array | None = None,
) -> Tokens:
    """New maps of one level, one of each a key; where `keep`, bool [B, h, w] a map, is True, copied from `known`.

    A prior whose maps begin as noise may be given that, [B, h, w, C], or `known` without `keep`, see `types.Prior`.

    On CPU the cores draw a group of the maps each: the products of one pixel are too small to be shared among cores.
    Inside of another jit they are drawn all at once.

    Raises:
        UserError: `known` and `keep` are not of the maps' shapes.
    """
    check_kept(prior, known, keep, len(keys))
    groups = _groups(len(keys))
    given = keys, condition, known, keep, noise
    traced = any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((model, given)))
    if groups == 1 or traced:
        return draw_group(prior, pick, model, *given)

    plainly = fast.is_plain()  # a thread begins with the defaults

    def one(group: int) -> Tokens:
        here = slice(group * len(keys) // groups, (group + 1) * len(keys) // groups)
        with fast.plain(plainly):
            return jax.block_until_ready(draw_group(prior, pick, model, *jax.tree.map(lambda x: x[here], given)))

    with ThreadPoolExecutor(groups) as pool:
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), *pool.map(one, range(groups)))


def maps_at_once(memory: int | None) -> int:
    """Maps that a device with so many bytes draws at once, a power of two; None is a CPU.

    A pixel's products are too small for an accelerator: as many maps as fit take hardly longer than a few.
    """
    if memory is None:
        return CHUNK
    return max(CHUNK, min(MOST, power_of_two(memory // MAP_BYTES)))


@partial(jax.jit, static_argnums=(0, 1))
def draw_group(
    prior: Any,
    pick: Pick,
    model: Model,
    keys: Array,
    condition: Condition,
    known: Tokens | None,
    keep: Tokens | None,
    noise: Array | None = None,
) -> Tokens:
    """As `draw`, all maps at once in one compiled program."""
    variables, given = {"params": model.params}, (keys, condition, pick, known, keep)
    if noise is None:
        return prior.apply(variables, *given, method="sample")
    return prior.apply(variables, noise, *given, method="sample_from")


def _groups(count: int) -> int:
    """How many groups of the same size the cores share; 1 on accelerators."""
    if not choices().cores_share_maps:
        return 1
    most = max(1, min(os.cpu_count() or 1, count // GROUP))
    return next(groups for groups in range(most, 0, -1) if count % groups == 0)
