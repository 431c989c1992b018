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
from vqvae_jax.interop.stages import NEW, fitting_facts, prior_section
from vqvae_jax.interop.state_dicts import unwrapped
from vqvae_jax.types import UserError

UNUSED = "unused.npz"  # in a stage: tensors that came along and that nothing uses, kept for `export`
HEADS = 2  # of the reference's attention


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
