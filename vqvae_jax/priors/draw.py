"""Drawing token maps from any prior, compiled once for a count, a pick and a prior."""

from functools import partial
from typing import Any

import jax

from vqvae_jax.types import Array, Condition, Model, Pick

CHUNK = 64  # maps drawn at once: everywhere the same, so that nothing is compiled twice


@partial(jax.jit, static_argnums=(0, 1, 2))
def draw(
    prior: Any,
    count: int,
    pick: Pick,
    model: Model,
    key: Array,
    condition: Condition,
    known: Array | None = None,
    keep: Array | None = None,
) -> Array:
    """New maps of one level, int32 [count, h, w]; where `keep` is True, with the tokens of `known`."""
    return prior.apply({"params": model.params}, key, count, condition, pick, known, keep, method="sample")
