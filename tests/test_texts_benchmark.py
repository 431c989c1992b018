"""The table of `benchmarks/texts.py`: who hears everything has 1 in each row, who hears nothing a guess."""

import itertools

import numpy as np
import pytest

from benchmarks import texts
from benchmarks.colours import NAMES, Colours
from benchmarks.ridge import Ridge
from vqvae_jax.types import Level

RGB = dict(zip(NAMES, itertools.product((40, 130, 220), repeat=3), strict=False)) | {
    **{"red": (220, 40, 40), "orange": (235, 140, 50), "yellow": (250, 235, 40), "green": (60, 180, 60)},
    **{"blue": (60, 120, 240), "purple": (140, 60, 200), "brown": (110, 70, 45)},
}
PLACES = {"circle": (0, 0), "heart": (0, 32), "square": (32, 0), "book": (32, 32)}
EVERY = [f"{colour} {shape}" for colour in NAMES for shape in PLACES]


def drawn(names):
    """Squares of a colour, on white, where the second word says."""
    images = np.full((len(names), 64, 64, 3), 255, np.uint8)
    for image, name in zip(images, names, strict=True):
        colour, place = name.split()
        row, column = PLACES[place]
        image[row : row + 32, column : column + 32] = RGB[colour]
    return images


def listener():
    """Scores and draws a text as it is meant."""
    far = lambda images, said: -np.abs(images - drawn(said).astype(float)).mean(axis=(1, 2, 3))  # noqa: E731
    return texts.Teller("listener", far, lambda said, best_of: drawn(said))


def deaf():
    """Scores by the picture alone, draws the same always."""
    brightness = lambda images, said: images.mean(axis=(1, 2, 3)) + np.random.default_rng(0).random(len(said))  # noqa: E731
    return texts.Teller("deaf", brightness, lambda said, best_of: drawn(["red circle"] * len(said)))


@pytest.mark.parametrize("teller, right", [(listener(), True), (deaf(), False)], ids=["listener", "deaf"])
def test_rows_tell_who_listens(teller, right):
    some, colours = texts.Drawings(drawn(EVERY), tuple(EVERY)), Colours(drawn(EVERY), EVERY)
    first, word = texts.first_among(teller, some), texts.one_word(teller, some, NAMES)
    colour, images = texts.of_that_colour(teller, colours, EVERY, 2, 1)
    assert images.shape == (2 * len(EVERY), 64, 64, 3) and (first.chance, word.chance) == (1 / 16, 0.5)
    cost = texts.cost_of_another(teller, some, 64)
    if right:
        assert (first.value, word.value, colour.value) == (1, 1, 1) and first.low == first.high == 1
        assert cost.low > 0
    else:
        assert first.value < 0.25 and 0.3 < word.value < 0.7 and colour.value == pytest.approx(1 / 7)
        assert cost.low <= 0 <= cost.high


def test_another_text_costs_what_the_score_falls_by_a_token():
    """Of scores of 8 under the own text and 2 under others."""
    some = texts.Drawings(np.arange(len(EVERY)), tuple(EVERY))
    knows = lambda images, said: np.where([EVERY[i] == one for i, one in zip(images, said, strict=True)], 8.0, 2.0)  # noqa: E731
    others = np.random.default_rng(0).permutation(len(EVERY)) != np.arange(len(EVERY))
    found = texts.cost_of_another(texts.Teller("knows", knows, lambda said, best_of: said), some, 12)
    assert found.value == pytest.approx(0.5 * others.mean()) and found.low <= found.value <= found.high


def test_tokens_are_places_of_codes_and_a_mean_of_numbers_is_of_none():
    codes, numbers = Level("top", (2, 3), 5), Level("codes", (8, 8), None, 4)
    assert texts.tokens_of([codes, codes]) == 12 and texts.tokens_of([numbers]) == 1


def test_ridge_puts_together_what_it_never_saw():
    """Of colours at places it draws each pair that was left out as it ranks it: first, and in its colour."""
    left_out = EVERY[::5]
    told = [name for name in EVERY if name not in left_out]
    ridge = Ridge(drawn(told), told)
    assert ridge.sample(["blue book"]).shape == (1, 16, 16, 3)
    scores = np.stack([ridge.score(drawn(left_out), [said] * len(left_out)) for said in left_out], axis=1)
    assert (scores.argmax(axis=1) == np.arange(len(left_out))).mean() > 0.6
    np.testing.assert_array_equal(
        ridge.score(drawn(["red book"]), ["red book unheard"]), ridge.score(drawn(["red book"]), ["red book"])
    )


def test_a_figure_is_a_mean_and_what_other_drawings_would_have_given():
    one = texts.figure([0, 1] * 50, 0.5)
    assert one.value == 0.5 and 0.38 < one.low < 0.45 and 0.55 < one.high < 0.62 and one.count == 100
