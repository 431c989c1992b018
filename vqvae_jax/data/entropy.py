"""What a prior of tokens is measured against: entropies of their frequencies, nats a token."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from vqvae_jax.data.token_arrays import chunks


def entropies(unseen: Sequence[Any], seen: Sequence[Any], vocab_size: int | None) -> dict[str, float]:
    """What the nll of a level stands beside, nats a token, means over all its tokens; of numbers nothing."""
    if vocab_size is None:
        return {}
    position = mean_position_entropy(unseen, seen, vocab_size)
    return {"entropy": mean_entropy(seen, vocab_size), "position_entropy": position}


def mean_entropy(maps: Sequence[Any], vocab_size: int) -> float:
    """`entropy` of each map, the mean over all tokens of an image."""
    return over_tokens([entropy(one, vocab_size) for one in maps], maps)


def mean_position_entropy(unseen: Sequence[Any], seen: Sequence[Any], vocab_size: int) -> float:
    """`position_entropy` of each map, the mean over all tokens of an image."""
    return over_tokens([position_entropy(*both, vocab_size) for both in zip(unseen, seen, strict=True)], unseen)


def over_tokens(values: Sequence[float], maps: Sequence[Any]) -> float:
    """The mean of one number a map, each as often as the map has tokens: a prior's nll is such a mean."""
    return float(np.average(values, weights=[math.prod(one.shape[1:]) for one in maps]))


def entropy(tokens: Any, vocab_size: int) -> float:
    """Entropy of the tokens' frequencies, in nats a token, wherever they stand."""
    counts = np.sum([np.bincount(part.reshape(-1), minlength=vocab_size) for part in chunks(tokens)], axis=0)
    share = counts[counts > 0] / np.sum(counts)
    return float(-np.sum(share * np.log(share)))


def position_entropy(tokens: Any, seen: Any, vocab_size: int) -> float:
    """Cross-entropy of `tokens` [M, h, w] under the frequencies of `seen` [N, h, w] at each position, nats a token.

    What a prior has to beat that knows where it is and nothing else. Frequencies are smoothed by adding the same number
    to each count; the one of a few numbers that serves `tokens` best is taken, so the yardstick errs on the hard side.
    """
    places = np.arange(math.prod(tokens.shape[1:]))
    counts = np.zeros((len(places), vocab_size))
    for part in chunks(seen):
        np.add.at(counts, (np.tile(places, len(part)), part.reshape(-1)), 1)
    hits = np.concatenate([counts[np.tile(places, len(part)), part.reshape(-1)] for part in chunks(tokens)])
    return min(
        float(np.mean(np.log(len(seen) + extra * vocab_size) - np.log(hits + extra)))
        for extra in (1, 0.3, 0.1, 0.03, 0.01)
    )
