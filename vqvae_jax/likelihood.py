"""How likely maps are to the priors that would draw them, in nats a picture: all levels in one number."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vqvae_jax import codec
from vqvae_jax.asked import Priors, Told, check_looks, check_seed
from vqvae_jax.drawn import Maps, condition_of, key_of, own_maps
from vqvae_jax.priors.condition import check_told
from vqvae_jax.priors.score import maps_at_once_scored
from vqvae_jax.sample import find_label, is_whole
from vqvae_jax.types import Array, Pick, UserError

UNDRAWN = 2**32 - 2  # number of an image that is never drawn: its key is that of the losses
NAME = "nll"  # of the loss term, in nats a token


def nll(priors: Priors, maps: Maps, told: Told, seed: int, looks: int) -> np.ndarray:
    """-log p(maps | what is told), the sum over the levels, float32 [N]; of a prior that bounds it, the bound.

    All are looked at with the same keys: what a picture has depends on it and what is told, not on those beside it.

    Args:
        priors: coarse to fine, see `check_likely`.
        maps: of all their levels, checked.
        told: of each picture.
        seed, looks: a prior that hides tokens does so so many times, by keys of the seed; the mean is taken.
    """
    total = np.zeros(len(maps[0]), np.float32)
    keys = jax.random.split(jax.random.fold_in(key_of(seed), UNDRAWN), looks)
    for prior, model in priors.values():
        leaves, form = jax.tree.flatten((maps[own_maps(prior)], condition_of(prior, told, maps)))
        of_batch = partial(_of_batch, prior, form, model.params, keys)
        total += codec.in_batches(of_batch, *leaves, size=min(codec.BATCH, maps_at_once_scored(looks)))
    return total


@partial(jax.jit, static_argnums=(0, 1))
def _of_batch(prior: Any, form: Any, params: Any, keys: Array, *leaves: Any) -> Array:
    """float32 [B], nats a map, the mean over the keys."""
    maps, condition = jax.tree.unflatten(form, leaves)

    def look(key: Array) -> Array:
        same = jnp.repeat(key[None], len(maps[0]), axis=0)
        return prior.apply({"params": params}, maps, condition, same, method="loss")[NAME]

    return jnp.mean(jax.vmap(look)(keys), axis=0) * sum(math.prod(level.shape) for level in prior.maps)


def check_likely(priors: Priors, terms: Mapping[str, Sequence[str]], seed: Any, looks: Any) -> None:
    """UserError where a prior says nothing of how likely maps are; `terms` are its losses, by level."""
    check_seed(seed)
    check_looks(looks)
    for level, (prior, _) in priors.items():
        if NAME not in terms[level]:
            raise UserError(
                f"the prior {level!r}, a {type(prior).__name__}, has no likelihood: its losses are "
                f"{', '.join(terms[level])}; priors of codes have one"
            )


def told_each(priors: Priors, names: Sequence[str], count: int, label: Any, text: Any) -> Told:
    """What is said of each picture: one label for all, or one for each.

    Raises:
        UserError: no such label, not as many as pictures, or a prior that never learned to do without.
    """
    said = {name for name, value in (("label", label), ("text", text)) if value is not None}
    for level, (prior, _) in priors.items():
        check_told(prior, Pick(), said, level)
    conditional = any(prior.label_condition for prior, _ in priors.values())
    if label is None:
        return Told(np.full(count, len(names), np.int32), text)
    labels = [label] * count if isinstance(label, str) or is_whole(label) else list(_listed(label))
    if len(labels) != count:
        raise UserError(f"label is one for all {count} images, or one for each; got {len(labels)}")
    return Told(np.array([find_label(one, list(names), conditional) for one in labels], np.int32), text)


def _listed(label: Any) -> Any:
    if not isinstance(label, Sequence | np.ndarray) or not np.shape(label):
        raise UserError(f"label is the name of a label or its number, or one for each image; got {label!r}")
    return label
