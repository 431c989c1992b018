"""How well pictures, as maps, fit what is said of them: the scores of all priors that are told texts, in one number;
and the best of several that are drawn."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vqvae_jax import codec, room
from vqvae_jax.asked import Asked, Priors, Told, check_looks, check_seed
from vqvae_jax.drawn import Maps, condition_of, in_chunks, key_of, own_maps
from vqvae_jax.priors.score import LOOKS, check_scored, maps_at_once_scored, scores
from vqvae_jax.sample import is_whole
from vqvae_jax.types import UserError

UNDRAWN = 2**32 - 1  # number of an image that is never drawn: its key is that of the scores


def scored(priors: Priors, maps: tuple[Any, ...], text: Any, seed: int, looks: int, label: Any = None) -> np.ndarray:
    """The sum over the levels, float32 [N]; higher is better.

    All are looked at with the same keys: what a picture scores depends on it and its text, not on those beside it.

    Args:
        priors: coarse to fine; those that are told no text say nothing.
        maps: of all their levels, checked.
        text: int32 [N, T].
        seed, looks: of the keys, see `priors.score`.
        label: int32 [N], for priors that never learned to do without one.
    """
    total, size = np.zeros(len(text), np.float32), maps_at_once_scored(looks)
    key = jax.random.fold_in(key_of(seed), UNDRAWN)
    keys = jnp.repeat(key[None], len(text), axis=0)
    for prior, model in told_texts(priors).values():
        own, condition = maps[own_maps(prior)], condition_of(prior, Told(label, text), maps)
        total += codec.halving(partial(_fetched, prior, model, own, condition, keys, looks), size)
    return total


def _fetched(*given: Any) -> np.ndarray:
    """The scores of one level; they are waited for, so that what fails fails here."""
    return np.asarray(scores(*given))


def best_drawn(asked: Asked, told: Told, best_of: int) -> Maps:
    """Maps of as many images as are told of: of so many that are drawn of each the one with the highest score.

    What is drawn of image i are those with the numbers i * best_of and on: of one each, what `in_chunks` draws.
    """
    several = jax.tree.map(lambda said: np.repeat(said, best_of, axis=0), told)
    maps = in_chunks(asked, several)
    if best_of == 1:
        return maps
    found = scored(asked.priors, maps, several.text, asked.seed, LOOKS, several.label).reshape(-1, best_of)
    rows = np.arange(len(found)) * best_of + found.argmax(axis=1)
    return tuple(one[rows] for one in maps)


def check_best_of(best_of: Any, asked: Asked, text: Any, facts: Mapping[str, Any], workdir: Any) -> None:
    """UserError where the best of so many cannot be told."""
    if not is_whole(best_of) or best_of < 1:
        raise UserError(f"best_of is a whole number of at least 1; got {best_of!r}")
    if best_of == 1:
        return
    if text is None:
        raise UserError(f"best_of={best_of} keeps the picture that fits its text best; say a text, or leave it out")
    check_scores(asked.priors, asked.seed, LOOKS, workdir)
    room.check_pictures("count times best_of", asked.size * int(best_of), facts["image_size"], facts["channels"])


def told_texts(priors: Priors) -> dict[str, Any]:
    """Those of the priors that are told texts, by level."""
    return {level: one for level, one in priors.items() if getattr(one[0], "text", None)}


def check_scores(priors: Mapping[str, Any], seed: Any, looks: Any, workdir: Any) -> None:
    """UserError where nothing can be scored."""
    check_seed(seed)
    check_looks(looks)
    if not (told := told_texts(priors)):
        raise UserError(f"the priors of {workdir} were trained without text_condition, so no text fits better or worse")
    for level, (prior, _) in told.items():
        check_scored(prior, level)
