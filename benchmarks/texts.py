"""Are texts heard? Runs that were told names of drawings, beside a ridge regression on the words, for docs/texts.md.

    python benchmarks/texts.py --workdir=runs/openmoji_dalle --json=texts.json

The runs were trained on the split "told" of OpenMoji, so that the names of the split "composed" are new, though each of
their words is not. A score is log p(drawing | text) - log p(drawing | no text), see `vqvae_jax.priors.score`. Each
figure has the chance of a guess beside it, and a 95 % interval: drawings, or prompts, drawn again at random.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.colours import NAMES, Colours
from benchmarks.results import keep
from benchmarks.ridge import Ridge
from vqvae_jax import data
from vqvae_jax.data.text import words
from vqvae_jax.devices import use_compilation_cache
from vqvae_jax.endings import ended
from vqvae_jax.flags import Parser, natural, positive
from vqvae_jax.trained import Trained
from vqvae_jax.types import Level, UserError

AMONG = 16  # names that a drawing's own is among
SHAPES = ("circle", "heart", "square", "book")
RESAMPLED = 1000


class Teller(NamedTuple):
    """What is told texts."""

    name: str
    score: Callable[[np.ndarray, Sequence[str]], np.ndarray]  # of drawings under texts, [N]; higher is better
    sample: Callable[[Sequence[str], int], np.ndarray]  # texts, and of how many the best is kept → a drawing each


@dataclasses.dataclass(frozen=True)
class Drawings:
    """Some drawings, and what they are called."""

    images: np.ndarray
    names: tuple[str, ...]

    def of(self, chosen: Callable[[str], bool]) -> "Drawings":
        rows = [i for i, name in enumerate(self.names) if chosen(name)]
        return Drawings(self.images[rows], tuple(self.names[i] for i in rows))


class Figure(NamedTuple):
    """A mean over drawings or prompts, its 95 % interval, and what a guess comes to."""

    value: float
    low: float
    high: float
    count: int
    chance: float


def figure(each: Sequence[float], chance: float) -> Figure:
    """Of one number a drawing."""
    values, rng = np.asarray(each, float), np.random.default_rng(0)
    again = values[rng.integers(0, len(values), (RESAMPLED, len(values)))].mean(axis=1)
    low, high = np.quantile(again, (0.025, 0.975))
    return Figure(float(values.mean()), float(low), float(high), len(values), chance)


def first_among(teller: Teller, drawings: Drawings) -> Figure:
    """How often the own name has the best score among AMONG, the others names of the same kind at random."""
    rng, asked = np.random.default_rng(0), []
    for name in drawings.names:
        others = sorted({*drawings.names} - {name})
        asked += [*rng.choice(others, AMONG - 1, replace=False), name]
    scores = teller.score(np.repeat(drawings.images, AMONG, axis=0), asked).reshape(-1, AMONG)
    return figure(scores[:, -1] > scores[:, :-1].max(axis=1), 1 / AMONG)


def one_word(teller: Teller, drawings: Drawings, instead: Sequence[str]) -> Figure:
    """How often the own name has a better score than the same with another first word, a mean a drawing."""
    own = drawings.of(lambda name: name.split()[0] in instead)
    rows, asked = [], []
    for i, name in enumerate(own.names):
        first, _, rest = name.partition(" ")
        for other in instead:
            if other != first:
                rows, asked = [*rows, i], [*asked, f"{other} {rest}"]
    right = teller.score(own.images, own.names)[rows] > teller.score(own.images[rows], asked)
    return figure([right[np.array(rows) == i].mean() for i in range(len(own.names))], 0.5)


def of_that_colour(
    teller: Teller, colours: Colours, prompts: Sequence[str], each: int, best_of: int
) -> tuple[Figure, np.ndarray]:
    """How often a drawing has the colour that its prompt says, a mean a prompt, and the drawings."""
    drawn = teller.sample([prompt for prompt in prompts for _ in range(each)], best_of)
    said = [prompt.split()[0] for prompt in prompts]
    found = np.reshape(colours(drawn), (len(prompts), each))
    right = [np.mean(row == colour) for row, colour in zip(found, said, strict=True)]
    return figure(right, 1 / len(NAMES)), drawn


def cost_of_another(teller: Teller, drawings: Drawings, tokens: int) -> Figure:
    """What the text of another drawing costs more than the own one, a token."""
    others = [drawings.names[i] for i in np.random.default_rng(0).permutation(len(drawings.names))]
    cost = teller.score(drawings.images, drawings.names) - teller.score(drawings.images, others)
    return figure(cost / tokens, 0.0)


class Parts(NamedTuple):
    """The drawings by what a run was told."""

    told: Drawings
    composed: Drawings  # names that are new, of words that are not
    test: Drawings  # all of the test split
    known: Drawings  # those of them whose words are not new


def parts_of(dataset: dict[str, Any]) -> Parts:
    """Of a section `dataset` whose split is "told".

    Raises:
        UserError: the run was told the names that it has to put together.
    """
    if (dataset["name"], dataset["split"]) != ("openmoji", "told"):
        raise UserError(
            f"the run was trained on {dataset['name']} {dataset['split']!r}; this wants one on names of which some "
            "were left out: --config.dataset.name=openmoji --config.dataset.split=told"
        )
    some = [data.load(dataset, "train"), data.read(dataset, "composed"), data.read(dataset, "test")]
    told, composed, test = (Drawings(np.asarray(one.image[:]), tuple(one.text or ())) for one in some)
    heard = set(words(told.names))
    known = lambda name: heard.issuperset(words([name]))  # noqa: E731
    return Parts(told, composed.of(known), test, test.of(known))


def rows_of(teller: Teller, parts: Parts, tokens: int, given: argparse.Namespace) -> Iterator[tuple[str, Figure]]:
    """Name and figure of each row of the table."""
    colours = Colours(parts.told.images, parts.told.names)
    new = Drawings(
        np.concatenate([parts.composed.images, parts.known.images]), parts.composed.names + parts.known.names
    )
    some = Drawings(parts.told.images[:: len(parts.told.names) // 64], parts.told.names[:: len(parts.told.names) // 64])
    if tokens:
        yield "another's text costs, a token: test", cost_of_another(teller, parts.test, tokens)
        yield "another's text costs, a token: composed", cost_of_another(teller, parts.composed, tokens)
    yield "first among 16: composed", first_among(teller, parts.composed)
    yield "first among 16: test, known words", first_among(teller, parts.known)
    yield "first among 16: told", first_among(teller, some)
    yield "one word changed: colour", one_word(teller, new, NAMES)
    yield "one word changed: gender", one_word(teller, new, ("man", "woman"))
    coloured = lambda name: name.split()[0] in NAMES and name.split()[-1] in SHAPES  # noqa: E731
    held, seen = (sorted(part.of(coloured).names) for part in (parts.composed, parts.told))
    yield "colour drawn: composed", of_that_colour(teller, colours, held, given.each, 1)[0]
    yield "colour drawn: told", of_that_colour(teller, colours, seen, given.each, 1)[0]
    if given.best_of > 1 and tokens:
        best = of_that_colour(teller, colours, held, given.few, given.best_of)[0]
        yield f"colour drawn: composed, best of {given.best_of}", best


def teller_of(model: Trained, seed: int, looks: int) -> Teller:
    """A run as one that is told texts."""

    def sample(texts: Sequence[str], best_of: int) -> np.ndarray:
        return model.sample(len(texts), seed, text=list(texts), best_of=best_of)

    return Teller(model.workdir.name, lambda images, texts: model.score(images, list(texts), looks=looks), sample)


def run(given: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    models = [Trained(workdir) for workdir in given.workdir]
    for model in models:
        if not any(getattr(prior, "text", None) for prior, _ in model.priors.values()):
            raise UserError(
                f"{model.workdir} has no prior that is told texts: --config.priors.LEVEL.text_condition=true"
            )
    every = [parts_of(model.config["dataset"]) for model in models]
    ridge = Ridge(every[0].told.images, every[0].told.names)
    table = {"ridge": measured(Teller("ridge", ridge.score, lambda texts, _: ridge.sample(texts)), every[0], 0, given)}
    for model, parts in zip(models, every, strict=True):
        told = [prior for prior, _ in model.priors.values() if getattr(prior, "text", None)]
        tokens = tokens_of([level for prior in told for level in prior.maps])
        table[model.workdir.name] = measured(teller_of(model, given.seed, given.looks), parts, tokens, given)
    return table


def tokens_of(maps: Sequence[Level]) -> int:
    """That the nats of a score are of; 1 where maps are of numbers, whose score is a mean of squared errors already."""
    return sum(int(np.prod(one.shape)) for one in maps if one.vocab_size is not None) or 1


def measured(teller: Teller, parts: Parts, tokens: int, given: argparse.Namespace) -> dict[str, dict[str, float]]:
    """All rows of one teller, printed as they come."""
    found = {}
    for name, one in rows_of(teller, parts, tokens, given):
        interval = f"{one.value:7.3f}  [{one.low:.3f}, {one.high:.3f}]  chance {one.chance:.2f}  n {one.count}"
        print(f"{teller.name:24} {name:44} {interval}", flush=True)
        found[name] = one._asdict()
    return found


def main() -> int:
    """0, or 2 where the user has something to put right."""
    flags = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--workdir", type=Path, nargs="+", required=True, help="finished runs whose priors know texts")
    flags.add_argument("--each", type=positive, default=16, help="drawings of a prompt (default 16)")
    flags.add_argument("--best_of", type=positive, default=32, help="of how many one is kept (default 32)")
    flags.add_argument("--few", type=positive, default=4, help="drawings of a prompt that are the best (default 4)")
    flags.add_argument("--looks", type=positive, default=4, help="orders or noises that a score is the mean of (4)")
    flags.add_argument("--seed", type=natural, default=0, help="of the drawings")
    flags.add_argument("--json", metavar="FILE", type=Path, help="all figures")
    given = flags.parse_args()
    use_compilation_cache()
    return ended(lambda: keep(run(given), given.json))


if __name__ == "__main__":
    sys.exit(main())
