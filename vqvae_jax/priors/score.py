"""How well maps fit a text, by the prior that draws them: how much likelier it finds them told of it than told nothing.

    score = log p(maps | text) - log p(maps | no text)

of nothing but the prior's own loss, told nothing less told the text. Where that is in nats a token the score is in nats
a map, of a likelihood (transformer, PixelCNN) or of its bound (MaskGIT); else it is a difference of squared errors, a
number (diffusion). What is hidden and which noise is added comes from keys that are the same with the text and without,
so that it falls out of the difference: https://arxiv.org/abs/2303.16203 does so for diffusion.

Legend: B maps, L looks.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from vqvae_jax.backend import memory
from vqvae_jax.priors.condition import check_told
from vqvae_jax.priors.draw import maps_at_once
from vqvae_jax.types import Array, Condition, Model, Pick, Prior, Tokens, UserError

LOOKS = 4  # keys that an example is looked at with


def scores(
    prior: Prior, model: Model, maps: Tokens, condition: Condition, keys: Array, looks: int = LOOKS, size: int = 0
) -> Array:
    """float32 [B], higher where a map fits its text better.

    Args:
        prior: one that is told texts.
        model: what it learned.
        maps: its own.
        condition: the text, int32 [B, T], and the coarser maps. A label is told with the text and without, and only to
            a prior that never learned to do without one.
        keys: one a map. Those of the same map under several texts are the same.
        looks: drawn from each key; the score is their mean. A prior whose loss needs no key looks once.
        size: maps in one program, 0 as many as memory is thought to hold.

    Raises:
        UserError: the prior is told no texts, or never learned to do without one.
    """
    check_scored(prior)
    condition = _without_label(prior, condition)
    size = min(len(keys), size or maps_at_once_scored(looks))
    given = jax.tree.map(jnp.asarray, (maps, condition, keys))
    rows = [jax.tree.map(partial(_rows, start=start, size=size), given) for start in range(0, len(keys), size)]
    return jnp.concatenate([_scores(prior, looks, model, *few) for few in rows])[: len(keys)]


def check_scored(prior: Any, level: str = "LEVEL") -> None:
    """UserError for a prior that has no score: not told texts, or never without one."""
    if not getattr(prior, "text", None):
        raise UserError(f"the prior {level!r} was trained without text_condition, so that no text fits better or worse")
    if not prior.text_dropout:
        raise UserError(
            f"a score weighs the text against none, but with text_dropout=0 the prior {level!r} never learned to do "
            f"without one; train it with --config.priors.{level}.text_dropout=0.1"
        )


def maps_at_once_scored(looks: int) -> int:
    """How many the device is thought to hold."""
    return max(1, maps_at_once(memory()) // looks)


def _without_label(prior: Any, condition: Condition) -> Condition:
    """UserError where the prior wants a label and has none."""
    if not prior.label_condition or prior.label_dropout:
        return condition._replace(label=None)
    check_told(prior, Pick(), {"text"} if condition.label is None else {"text", "label"})
    return condition


@partial(jax.jit, static_argnums=(0, 1))
def _scores(prior: Any, looks: int, model: Model, maps: Tokens, condition: Condition, keys: Array) -> Array:
    def of_keys(keys: Array) -> Array:
        cost = lambda told: _cost(prior, prior.apply({"params": model.params}, maps, told, keys, method="loss"))  # noqa: E731
        return cost(condition._replace(text=None)) - cost(condition)

    every = jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (None, 0))(keys, jnp.arange(looks))  # [L, B]
    return jnp.mean(jax.vmap(of_keys)(every), axis=0)  # what no key goes into vmap computes once


def _cost(prior: Any, losses: dict[str, Array]) -> Array:
    """What maps cost, float32 [B]: nats of all their tokens, or squared errors as they are."""
    if "nll" in losses:
        return losses["nll"] * sum(math.prod(level.shape) for level in prior.maps)
    return sum(losses.values(), jnp.zeros(()))


def _rows(x: Array, start: int, size: int) -> Array:
    """So many rows, from the last on the first ones again."""
    return jnp.take(x, (start + jnp.arange(size)) % len(x), axis=0)
