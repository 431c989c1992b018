"""What a match becomes in a workdir: a stage, the config, and the facts that data.json holds. No images were seen."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vqvae_jax import config as configs
from vqvae_jax.facts import as_list
from vqvae_jax.interop.matches import Match, usual_size
from vqvae_jax.parts import Parts
from vqvae_jax.types import UserError

STACK = "stack"  # the stage of bare layers

New = tuple[str, dict[str, Any], dict[str, Any]]  # stage, config, facts


def autoencoder(match: Match, image_size: int, workdir: Path) -> New:
    """Of a new workdir."""
    size = image_size or match.facts["image_size"]
    check_size(match.section, size)
    dataset = match.facts.get("dataset", {"name": "folder"})
    config = {
        "dataset": {**dataset, "image_size": size, "range": match.facts["range"]},
        "autoencoder": match.section,
        "loss_weights": match.facts["loss_weights"],
        "optimizer": match.facts.get("optimizer", {}),
        "train": taken(match.facts.get("train", {}), workdir),
    }
    return "autoencoder", configs.complete(config), labelled(facts_of(size, match.facts["channels"]), match)


def prior(match: Match, image_size: int, workdir: Path) -> New:
    """Of a workdir whose data are tokens: the autoencoder is not there, only described."""
    if match.told:
        return told_prior(match, image_size, workdir)
    if "shape" in match.facts:
        return prior_of_one_map(match, image_size, workdir)
    coarse = match.facts["coarse_sizes"]
    count = 1 if match.section["merge"] == "sum" and not coarse else max(2, len(coarse) + 1)
    section = described(count, [*coarse, match.facts["vocab_size"]])
    size = image_size or usual_size(count)
    check_size(section, size)
    names = configs.levels({"autoencoder": section})
    config = {
        "dataset": {"name": "tokens", "image_size": size},
        "autoencoder": section,
        "priors": {names[len(coarse)]: prior_section(match, workdir)},
    }
    sides = [size // 4 // 2 ** (count - 1 - i) for i in range(len(coarse) + 1)]
    sizes = [*coarse, match.facts["vocab_size"]]
    levels = [[name, [side, side], k] for name, side, k in zip(names, sides, sizes, strict=False)]
    labels = list(map(str, range(match.facts["num_labels"])))
    facts = facts_of(size, 3, labels) | {"levels": levels, "autoencoder": None}
    return names[len(coarse)], configs.complete(config), facts


def told_prior(match: Match, image_size: int, workdir: Path) -> New:
    """The same where the file describes the autoencoder.

    Raises:
        UserError: its images are of another size.
    """
    facts = {name: match.facts[name] for name in ("image_size", "channels", "label_names", "label_counts", "levels")}
    if image_size not in (0, facts["image_size"]):
        raise UserError(f"--image_size={image_size}: it is of images of {facts['image_size']} pixels; leave it out")
    level = configs.levels({"autoencoder": match.facts["autoencoder"]})[len(match.facts["coarse_sizes"])]
    config = {
        "dataset": {"name": "tokens", "image_size": facts["image_size"], "range": match.facts["range"]},
        "autoencoder": match.facts["autoencoder"],
        "priors": {level: prior_section(match, workdir)},
        "text": match.facts.get("text", {}),
        "sample": match.facts["sample"],
    }
    return level, configs.complete(config), facts | {"autoencoder": None}


def prior_of_one_map(match: Match, image_size: int, workdir: Path) -> New:
    """The same where the shape of its only map is known, and the published autoencoder.

    Raises:
        UserError: its images are of another size.
    """
    size, section = match.facts["image_size"], match.facts["autoencoder"]
    if image_size not in (0, size):
        raise UserError(
            f"--image_size={image_size}: {match.title} is of images of {size} pixels with the published tokenizer; "
            "leave it out, or import the tokenizer into this --workdir first"
        )
    (level,) = configs.levels({"autoencoder": section})
    config = {
        "dataset": {"name": "tokens", "image_size": size},
        "autoencoder": section,
        "priors": {level: prior_section(match, workdir)},
        "text": match.facts.get("text", {}),
    }
    facts = facts_of(size, 3, list(map(str, range(match.facts["num_labels"]))))
    levels = [[level, *as_list(match.module.maps[0])[1:]]]
    return level, configs.complete(config), facts | {"levels": levels, "autoencoder": None}


def described(levels: int, sizes: list[int]) -> dict[str, Any]:
    """An autoencoder with codebooks of these sizes, coarse to fine."""
    quantizer = {"name": "vq", "codebook_size": sizes[0]}
    section = {"name": "hierarchical", "levels": levels, "quantizer": quantizer}
    each = zip(configs.levels({"autoencoder": section}), sizes, strict=False)
    return section | {"quantizers": {name: {**quantizer, "codebook_size": k} for name, k in each if k != sizes[0]}}


def stack(match: Match, image_size: int, workdir: Path) -> New:
    """Bare layers: there is nothing but them."""
    return STACK, match.section, {}


NEW = {"autoencoder": autoencoder, "prior": prior, "stack": stack}


def fitting_facts(match: Match, config: Mapping[str, Any], facts: dict[str, Any], workdir: Path) -> dict[str, Any]:
    """The workdir's facts with what the prior adds: labels, and the size of its map where only priors are there.

    Raises:
        UserError: it is a prior over other codes.
    """
    wanted = [*match.facts["coarse_sizes"], match.facts["vocab_size"]]
    levels = Parts(config, facts).levels
    names, known = configs.levels(config), [one.vocab_size for one in levels]
    shape, there = match.facts.get("shape"), levels[0].shape
    if shape and shape != there:
        raise UserError(f"{match.title} is of a map of {shape[0]}x{shape[1]}, {workdir} makes {there[0]}x{there[1]}")
    if wanted == [None] and levels[0][2:] != match.module.maps[0][2:]:
        raise UserError(
            f"{match.title} is of {match.module.maps[0].channels} numbers a place, {workdir} has {levels[0]}"
        )
    if "levels" in facts and len(known) < len(wanted) and known == wanted[: len(known)]:
        side = facts["levels"][-1][1][0] * 2
        facts = {**facts, "levels": [*facts["levels"], [names[len(known)], [side, side], wanted[-1]]]}
    elif known[: len(wanted)] != wanted:
        said = ", ".join(f"{name} {size}" for name, size in zip(names, known, strict=False))
        raise UserError(f"{match.title} models codes of {wanted} a level, coarse to fine; {workdir} has {said}")
    labels = facts["label_names"]
    if match.facts["num_labels"] and labels and len(labels) != match.facts["num_labels"]:
        raise UserError(f"{match.title} knows {match.facts['num_labels']} labels, {workdir} has {len(labels)}")
    check_labels(match, labels, workdir)
    numbered = list(map(str, range(match.facts["num_labels"])))
    if labels or not numbered:
        return facts
    return labelled({**facts, "label_names": numbered, "label_counts": [1] * len(numbered)}, match)


def check_labels(match: Match, labels: list[str], workdir: Path) -> None:
    """UserError where the file names its labels otherwise than the workdir: a number would mean another label."""
    if not (match.told and match.facts["num_labels"] and labels):
        return
    for number, (own, there) in enumerate(zip(match.facts["label_names"], labels, strict=False)):
        if own != there:
            raise UserError(
                f"{match.title} learned label {number} as {own!r}, in {workdir} it is {there!r}; import it into the "
                "--workdir of its own autoencoder, or into a new one"
            )


def labelled(facts: dict[str, Any], match: Match) -> dict[str, Any]:
    """With the labels that the file names."""
    return facts | {name: match.facts[name] for name in ("label_names", "label_counts") if name in match.facts}


def taken(train: Mapping[str, Any], workdir: Path) -> dict[str, Any]:
    """A section `train` that takes the weights of the workdir as they are; numbers as wide as they were."""
    return {"init_from": str(workdir.absolute()), **{name: train[name] for name in ("dtype",) if name in train}}


def prior_section(match: Match, workdir: Path) -> dict[str, Any]:
    """Of a config; a new run starts from these weights and trains as the reference does, or takes them as they are."""
    usual = {"learning_rate": 1e-3 if match.section.get("merge") == "sum" else 1e-4}
    return {
        **match.section,
        "optimizer": match.section.get("optimizer", usual),
        "train": taken(match.section.get("train", {}), workdir),
    }


def facts_of(size: int, channels: int, labels: list[str] | None = None) -> dict[str, Any]:
    """data.json: no images were seen."""
    labels = labels or []
    return {"image_size": size, "channels": channels, "label_names": labels, "label_counts": [1] * len(labels)}


def check_size(section: Mapping[str, Any], size: int) -> None:
    """UserError unless the levels come out even."""
    stride = configs.autoencoder_kind({"autoencoder": section}).stride(section)
    nearest = configs.nearest_size(size, stride)
    if size != nearest:
        raise UserError(f"--image_size={size} must be a multiple of {stride}; nearest: {nearest}")
