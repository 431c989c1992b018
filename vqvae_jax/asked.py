"""What is asked of the priors: how many maps, from which seed, how they are drawn, what is told; checked beforehand."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vqvae_jax import config as configs
from vqvae_jax import prompts, room
from vqvae_jax.data.text import Tokenizer
from vqvae_jax.priors.condition import check_pick, check_told
from vqvae_jax.sample import find_label, is_whole, label_numbers, pick_of, say_spare_steps, text_numbers
from vqvae_jax.types import Model, Pick, UserError, unknown

SEEDS = range(-(2**63), 2**64)  # what 64 bits hold, with a sign or without
ASKED = ("count", "seed", "label", "text")  # what every drawing takes besides
SAMPLER = "sample_"  # how the fields of a prior begin that only its sampler takes
STRENGTH = "sample_strength"  # one of them, where maps begin as noise
Label = str | int | None  # one for all images
Texts = str | Sequence[str] | None  # one for all, or one for each
Priors = Mapping[str, tuple[Any, Model]]  # by level, coarse to fine: the module and what it learned


class Asked(NamedTuple):
    """What is to be drawn."""

    size: int  # maps of each level
    seed: int
    pick: Pick
    priors: Priors  # as they are to sample


class Told(NamedTuple):
    """What is said of each picture."""

    label: Any  # int32 [N]; the number of labels says none
    text: Any = None  # int32 [N, T]


def check_asked(facts: Mapping[str, Any], count: Any, seed: Any, said: Mapping[str, Any]) -> None:
    """UserError for what no priors draw, before they are read.

    Args:
        facts: of the data.
        count: images, each of a size that the machine must hold.
        seed: of all randomness.
        said: fields of `Pick`, and of priors' samplers.
    """
    for name in said:
        if name not in Pick._fields and not name.startswith(SAMPLER):
            valid = (*ASKED, *Pick._fields, f"{SAMPLER}… of priors")
            raise UserError(unknown("nothing that is drawn takes", name, valid, "There are"))
    if not is_whole(count) or count < 1:
        raise UserError(f"count is a whole number of at least 1; got {count!r}")
    check_seed(seed)
    room.check_pictures("count", int(count), facts["image_size"], facts["channels"])


def check_seed(seed: Any) -> None:
    """UserError for one that is no whole number of 64 bits."""
    if not is_whole(seed) or int(seed) not in SEEDS:
        raise UserError(f"seed is a whole number from {SEEDS[0]} to {SEEDS[-1]}; got {seed!r}")


def check_looks(looks: Any) -> None:
    """UserError unless it is how often a prior that hides tokens does so."""
    if not is_whole(looks) or looks < 1:
        raise UserError(f"looks is a whole number of at least 1; got {looks!r}")


def asked_of(section: Mapping[str, Any], priors: Priors, count: int, seed: int, said: Mapping[str, Any]) -> Asked:
    """What `check_asked` has passed, over the config's section `sample`."""
    own = {name: value for name, value in said.items() if name.startswith(SAMPLER)}
    pick = pick_of(section, **{name: value for name, value in said.items() if name not in own})
    for level, (prior, _) in priors.items():
        check_pick(prior, pick, level)
    return Asked(int(count), int(seed), pick, with_fields(priors, own))


def with_fields(priors: Priors, fields: Mapping[str, Any]) -> Priors:
    """The priors with other fields of their samplers: the same weights fit."""
    found = {level: prior for level, (prior, _) in priors.items()}
    for name, value in fields.items():
        able = [level for level, prior in found.items() if hasattr(prior, name)]
        said = dict(value) if isinstance(value, Mapping) else {"": value}
        if not able or set(said) - {*able, ""}:
            near = _near(name, found.values())
            where = ", ".join(map(str, set(said) - {*able, ""})) or "here"
            raise UserError(f"{name}: no such field of the prior {where}{near}")
        said = dict.fromkeys(able, said[""]) | said if "" in said else said
        said.pop("", None)
        said = {level: one.item() if isinstance(one, np.generic) else one for level, one in said.items()}
        for level, one in said.items():
            configs.check_part(level, type(found[level]), {name: one})
        found |= {level: found[level].clone(**{name: one}) for level, one in said.items()}
    for prior in found.values():
        if hasattr(prior, "check_sampler"):
            prior.check_sampler()
    say_spare_steps(found)
    return {level: (prior, priors[level][1]) for level, prior in found.items()}


def _near(name: str, priors: Iterable[Any]) -> str:
    """The fields of samplers that there are, for a message; nothing where there are none."""
    there = sorted({field for prior in priors for field in vars(type(prior)) if field.startswith(SAMPLER)})
    return unknown(", in place of", name, there, "There are") if there and name not in there else ""


def check_all(asked: Asked, told: Collection[str]) -> None:
    """UserError where a prior would have to do without what it always was told, "label" or "text"."""
    for level, (prior, _) in asked.priors.items():
        check_told(prior, asked.pick, told, level)


def told_of(
    asked: Asked, facts: Mapping[str, Any], tokenizer: Tokenizer | None, count: int, label: Label, text: Texts
) -> Told:
    """What is said of so many images, and nothing else."""
    check_all(asked, {name for name, said in (("label", label), ("text", text)) if said is not None})
    names = facts["label_names"]
    number = len(names) if label is None else find_label(label, names, _conditional(asked))
    numbers = text_numbers(tokenizer, count, text)
    if tokenizer is not None and text is not None:
        prompts.tell(tokenizer, text)
    return Told(np.full(count, number, np.int32), numbers)


def told_anew(
    asked: Asked, facts: Mapping[str, Any], tokenizer: Tokenizer | None, count: int, label: Label, text: Texts
) -> Told:
    """The same of new images: with neither label nor text they have labels as often as the training data."""
    if text is not None:
        return told_of(asked, facts, tokenizer, count, label, text)
    check_all(asked, {"label"})
    return Told(label_numbers(facts, asked.seed, count, label, _conditional(asked)))


def told_alike(asked: Asked, names: Sequence[str], one: Told, other: Told) -> Told:
    """What two images are told, by the names of labels; UserError where each is told another one and hears it."""
    if _conditional(asked) and one.label[0] != other.label[0]:
        both = [names[told.label[0]] for told in (one, other)]
        raise UserError(
            f"the two seeds draw pictures of the labels {both[0]!r} and {both[1]!r}, and on the way all are told one; "
            f"say it: label={both[0]}"
        )
    return one


def _conditional(asked: Asked) -> bool:
    """Whether any prior knows labels."""
    return any(prior.label_condition for prior, _ in asked.priors.values())


def begins_as_noise(asked: Asked) -> bool:
    """Whether all maps can be given where to begin: diffusion priors alone."""
    return _of_codes(asked) is None


def check_strength(strength: Any) -> None:
    """UserError unless it is a number from 0 to 1."""
    number = isinstance(strength, int | float | np.integer | np.floating) and not isinstance(strength, bool)
    if not number or not 0 <= strength <= 1:
        raise UserError(f"strength is from 0, the picture as it is, to 1, nothing of it; got {strength!r}")


def begun_with(asked: Asked, strength: float) -> Asked:
    """The same from given maps with so much noise.

    Raises:
        UserError: a prior's maps do not begin as noise.
    """
    if level := _of_codes(asked):
        raise UserError(
            f"strength is how much noise a picture begins with, and the prior {level!r} draws codes, which have none: "
            "take a diffusion prior, or say which part is drawn anew: edit(images, mask), or variations(images)"
        )
    fields = {STRENGTH: float(strength)}
    return asked._replace(priors=with_fields(asked.priors, fields))


def check_between(asked: Asked) -> None:
    """UserError unless a way leads from one seed to another, of two pictures or more."""
    if level := _of_codes(asked):
        raise UserError(
            "from seed to seed goes the noise that a diffusion prior begins with, and the prior "
            f"{level!r} draws codes; leave to_seed out"
        )
    if asked.size < 2:
        raise UserError(f"count is at least 2, for both ends; got {asked.size}")
    if any(prior.sample_eta for prior, _ in asked.priors.values()):
        raise UserError("with fresh noise in each step no way leads from seed to seed; add sample_eta=0")


def _of_codes(asked: Asked) -> str | None:
    """The first level whose maps do not begin as noise."""
    return next((level for level, (prior, _) in asked.priors.items() if not hasattr(prior, STRENGTH)), None)
