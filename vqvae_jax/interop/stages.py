"""What a match becomes in a workdir: a stage, the config, and the facts that data.json holds. No images were seen."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vqvae_jax import config as configs
from vqvae_jax import parts
from vqvae_jax.interop.matches import Match, usual_size
from vqvae_jax.types import UserError

STACK = "stack"  # the stage of bare layers

New = tuple[str, dict[str, Any], dict[str, Any]]  # stage, config, facts


def autoencoder(match: Match, image_size: int, workdir: Path) -> New:
    """Of a new workdir."""
    size = image_size or match.facts["image_size"]
    check_size(match.section, size)
    config = {
        "dataset": {"name": "folder", "image_size": size, "range": match.facts["range"]},
        "autoencoder": match.section,
        "loss_weights": match.facts["loss_weights"],
        "train": {"init_from": str(workdir.absolute())},
    }
    return "autoencoder", configs.complete(config), facts_of(size, match.facts["channels"])


def prior(match: Match, image_size: int, workdir: Path) -> New:
    """Of a workdir whose data are tokens: the autoencoder is not there, only described."""
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
    names, known = configs.levels(config), [one.vocab_size for one in parts.token_levels(config, facts)]
    if "levels" in facts and len(known) < len(wanted) and known == wanted[: len(known)]:
        side = facts["levels"][-1][1][0] * 2
        facts = {**facts, "levels": [*facts["levels"], [names[len(known)], [side, side], wanted[-1]]]}
    elif known[: len(wanted)] != wanted:
        said = ", ".join(f"{name} {size}" for name, size in zip(names, known, strict=False))
        raise UserError(f"{match.title} models codes of {wanted} a level, coarse to fine; {workdir} has {said}")
    labels = facts["label_names"]
    if match.facts["num_labels"] and labels and len(labels) != match.facts["num_labels"]:
        raise UserError(f"{match.title} knows {match.facts['num_labels']} labels, {workdir} has {len(labels)}")
    numbered = list(map(str, range(match.facts["num_labels"])))
    return facts if labels or not numbered else {**facts, "label_names": numbered, "label_counts": [1] * len(numbered)}


def prior_section(match: Match, workdir: Path) -> dict[str, Any]:
    """Of a config; a new run starts from these weights and trains as the reference does, or takes them as they are."""
    rate = 1e-3 if match.section["merge"] == "sum" else 1e-4
    return {
        **match.section,
        "optimizer": {"learning_rate": rate},
        "train": {"init_from": str(workdir.absolute())},
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
