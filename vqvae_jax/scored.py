"""How well pictures, as maps, fit what is said of them: the scores of all priors that are told texts, in one number."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vqvae_jax import codec
from vqvae_jax.asked import Priors, check_seed
from vqvae_jax.priors.score import check_scored, maps_at_once_scored, scores
from vqvae_jax.sample import is_whole
from vqvae_jax.types import Condition, UserError


def scored(priors: Priors, maps: tuple[Any, ...], text: Any, seed: int, looks: int) -> np.ndarray:
    """The sum over the levels, float32 [N]; higher is better.

    All are looked at with the same keys: what a picture scores depends on it and its text, not on those beside it.

    Args:
        priors: coarse to fine; those that are told no text say nothing.
        maps: of all their levels, checked.
        text: int32 [N, T].
        seed, looks: of the keys, see `priors.score`.
    """
    total, size = np.zeros(len(text), np.float32), maps_at_once_scored(looks)
    keys = jnp.repeat(jax.random.key(seed)[None], len(text), axis=0)
    for prior, model in told_texts(priors).values():
        start = len(prior.above)
        own, condition = maps[start : start + len(prior.maps)], Condition(None, maps[:start], text)
        total += codec.halving(partial(_fetched, prior, model, own, condition, keys, looks), size)
    return total


def _fetched(*given: Any) -> np.ndarray:
    """The scores of one level; they are waited for, so that what fails fails here."""
    return np.asarray(scores(*given))


def told_texts(priors: Priors) -> dict[str, Any]:
    """Those of the priors that are told texts, by level."""
    return {level: one for level, one in priors.items() if getattr(one[0], "text", None)}


def check_scores(priors: Mapping[str, Any], seed: Any, looks: Any, workdir: Any) -> None:
    """UserError where nothing can be scored."""
    check_seed(seed)
    if not is_whole(looks) or looks < 1:
        raise UserError(f"looks is a whole number of at least 1; got {looks!r}")
    if not (told := told_texts(priors)):
        raise UserError(f"the priors of {workdir} were trained without text_condition, so no text fits better or worse")
    for level, (prior, _) in told.items():
        check_scored(prior, level)
