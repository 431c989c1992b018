"""The benchmark of text priors, on a teller of which all is known."""

import numpy as np
import pytest

from benchmarks.ridge import Ridge
from benchmarks.texts import Drawings, Teller, cost_of_another, first_among, one_word, tokens_of
from vqvae_jax.types import Level

COLOURS = ("red", "green", "blue", "brown")
NAMES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in ("heart", "book", "circle", "square", "star"))


def drawings():
    """Each of one number, that of its name."""
    return Drawings(np.arange(len(NAMES)), NAMES)


def knowing(right, wrong=0.0):
    """Who scores a drawing by whether the text is its name."""

    def score(images, texts):
        return np.array([right if NAMES[i] == text else wrong for i, text in zip(images, texts, strict=True)])

    return Teller("knowing", score, lambda texts, best_of: None)


def test_who_knows_names_is_always_right_and_who_knows_nothing_never_first():
    for teller, share in ((knowing(1.0), 1.0), (knowing(0.0), 0.0), (knowing(-1.0), 0.0)):
        assert first_among(teller, drawings()).value == share
        assert one_word(teller, drawings(), COLOURS).value == share


def test_another_text_costs_what_the_score_falls_by_a_token():
    others = np.random.default_rng(0).permutation(len(NAMES)) != np.arange(len(NAMES))
    found = cost_of_another(knowing(8.0, 2.0), drawings(), 12)
    assert found.value == pytest.approx(0.5 * others.mean()) and found.low <= found.value <= found.high


def test_tokens_are_places_of_codes_and_a_mean_of_numbers_is_of_none():
    codes, numbers = Level("top", (2, 3), 5), Level("codes", (8, 8), None, 4)
    assert tokens_of([codes, codes]) == 12 and tokens_of([numbers]) == 1


def test_ridge_puts_together_what_it_saw_apart():
    rng = np.random.default_rng(0)
    parts = {word: rng.uniform(0, 120, (32, 32, 3)) for word in {one for name in NAMES for one in name.split()}}
    images = np.stack([sum(parts[word] for word in name.split()) for name in NAMES]).astype(np.uint8)
    new = np.array([name in ("red star", "blue heart") for name in NAMES])
    ridge = Ridge(images[~new], [name for name, one in zip(NAMES, new, strict=True) if not one])
    scores = np.stack([ridge.score(images[new], [name] * 2) for name in NAMES])
    assert [NAMES[i] for i in scores.argmax(axis=0)] == [name for name, one in zip(NAMES, new, strict=True) if one]
