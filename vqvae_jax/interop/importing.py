"""PyTorch's weights as a workdir that every command takes: config.json, data.json, an Orbax checkpoint of step 0."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vqvae_jax import config as configs
from vqvae_jax import parts
from vqvae_jax.checkpoint import Checkpoints
from vqvae_jax.files import write_json
from vqvae_jax.interop import files
from vqvae_jax.interop.matches import Match
from vqvae_jax.interop.places import from_torch
from vqvae_jax.interop.recognise import recognise
from vqvae_jax.interop.state_dicts import unwrapped
from vqvae_jax.types import UserError

STACK = "stack"  # the stage of bare layers
UNUSED = "unused.npz"  # in a stage: tensors that came along and that nothing uses, kept for `export`
HEADS = 2  # of the reference's attention
ONE_LEVEL = 28  # pixels, where nothing says otherwise
MORE_LEVELS = 256


def import_weights(
    checkpoint: Path, workdir: Path, image_size: int = 0, heads: int = HEADS, key: str | None = None
) -> tuple[str, str]:
    """Writes the workdir, or adds a prior to one that holds its autoencoder.

    Args:
        checkpoint: a PyTorch file, .safetensors or .npz; nothing in it is executed.
        workdir: new; for a prior also that of its autoencoder, trained or imported.
        image_size: pixels, height and width; 0: the workdir's, else 28 for one level and 256 for more.
        heads: of attention; no shape shows them.
        key: which state dict, where the file holds several.

    Returns:
        The stage it became, and what was recognised.

    Raises:
        UserError: the file cannot be read or is no architecture that is known; the workdir holds something else.
    """
    tensors = unwrapped(files.read(checkpoint, key))
    match = recognise(tensors, checkpoint, heads)
    kept = {name: np.asarray(tensors[name]) for name in match.unused}
    if match.kind == "prior" and (workdir / configs.FILE).is_file():
        return add_prior(match, tensors, kept, workdir, image_size), match.title
    stage, config, facts = NEW[match.kind](match, image_size)
    with new_folder(workdir) as folder:
        write_stage(folder / stage, from_torch(tensors, match.places, match.like), config, kept)
        if facts:
            write_json(folder / parts.FACTS, facts)
        write_json(folder / configs.FILE, config)
    return stage, match.title


def autoencoder(match: Match, image_size: int) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Stage, config and facts of a new workdir."""
    size = image_size or match.facts["image_size"]
    check_size(match.section, size)
    config = {
        "dataset": {"name": "folder", "image_size": size, "range": match.facts["range"]},
        "autoencoder": match.section,
        "loss_weights": match.facts["loss_weights"],
    }
    return "autoencoder", configs.complete(config), facts_of(size, match.facts["channels"])


def prior(match: Match, image_size: int) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Stage, config and facts of a workdir whose data are tokens: the autoencoder is not there, only described."""
    coarse, size = match.facts["coarse_sizes"], image_size
    count = 1 if match.section["merge"] == "sum" and not coarse else max(2, len(coarse) + 1)
    vocabularies = [*coarse, match.facts["vocab_size"]]
    quantizer = {"name": "vq", "codebook_size": vocabularies[0]}
    section = {"name": "hierarchical", "levels": count, "quantizer": quantizer}
    size = size or (ONE_LEVEL if count == 1 else MORE_LEVELS)
    check_size(section, size)
    names = configs.levels({"autoencoder": section})
    each = zip(names, vocabularies, strict=False)
    section["quantizers"] = {name: quantizer | {"codebook_size": k} for name, k in each if k != vocabularies[0]}
    level = names[len(coarse)]
    sides = [size // 4 // 2 ** (count - 1 - i) for i in range(len(vocabularies))]
    levels = [[name, [side, side], k] for name, side, k in zip(names, sides, vocabularies, strict=False)]
    config = {
        "dataset": {"name": "tokens", "image_size": size},
        "autoencoder": section,
        "priors": {level: prior_section(match)},
    }
    labels = list(map(str, range(match.facts["num_labels"])))
    facts = facts_of(size, 3, labels) | {"levels": levels, "autoencoder": None}
    return level, configs.complete(config), facts


def stack(match: Match, image_size: int) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Bare layers: there is nothing but them."""
    return STACK, match.section, {}


NEW = {"autoencoder": autoencoder, "prior": prior, "stack": stack}


def add_prior(match: Match, tensors: Mapping[str, Any], kept: dict[str, Any], workdir: Path, image_size: int) -> str:
    """A stage more in a workdir. Its config names the stage once all of it is there."""
    config, facts = configs.load(workdir), parts.read_facts(workdir)
    if image_size not in (0, facts["image_size"]):
        raise UserError(
            f"--image_size={image_size}: images of {workdir} have {facts['image_size']} pixels; leave it out"
        )
    levels, number = configs.levels(config), len(match.facts["coarse_sizes"])
    if number >= len(levels):
        raise UserError(f"{match.title} is for {number + 1} levels, {workdir} has {len(levels)}: {', '.join(levels)}")
    level = levels[number]
    if level in config["priors"] or (workdir / level).exists():
        raise UserError(f"{workdir} has a prior {level!r} already; use another --workdir")
    facts = fitting_facts(match, config, facts, workdir)
    config = configs.complete({**config, "priors": {**config["priors"], level: prior_section(match)}})
    with new_folder(workdir / level) as folder:
        write_stage(folder, from_torch(tensors, match.places, match.like), config, kept)
    write_json(workdir / parts.FACTS, facts)
    configs.save(config, workdir)
    return level


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


def prior_section(match: Match) -> dict[str, Any]:
    """Of a config; it is trained as the reference trains its own."""
    rate = 1e-3 if match.section["merge"] == "sum" else 1e-4
    return {**match.section, "optimizer": {"learning_rate": rate}}


def facts_of(size: int, channels: int, labels: list[str] | None = None) -> dict[str, Any]:
    """data.json: no images were seen."""
    labels = labels or []
    return {"image_size": size, "channels": channels, "label_names": labels, "label_counts": [1] * len(labels)}


def check_size(section: Mapping[str, Any], size: int) -> None:
    """UserError unless the levels come out even."""
    stride = configs.autoencoder_kind({"autoencoder": section}).stride(section)
    if size % stride:
        raise UserError(
            f"--image_size={size} must be a multiple of {stride}; nearest: {max(1, round(size / stride)) * stride}"
        )


def write_stage(folder: Path, model: Any, config: Mapping[str, Any], kept: Mapping[str, Any]) -> None:
    """A checkpoint of step 0, without a train state: the optimizer's moments are in no such file."""
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(0, model, {}, dict(config))
    if kept:
        files.write(folder / UNUSED, kept)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside it that becomes it when all went well.

    Raises:
        UserError: something is there already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder} holds something already; import into a new --workdir, so that nothing is overwritten"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
