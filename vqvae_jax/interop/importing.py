"""Weights of others as a workdir that every command takes: config.json, data.json, an Orbax checkpoint of step 0."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vqvae_jax import config as configs
from vqvae_jax import facts as facts_file
from vqvae_jax.checkpoint import Checkpoints
from vqvae_jax.data.text import Tokenizer
from vqvae_jax.files import check_place, write_checked_json, write_json
from vqvae_jax.finite import check_finite
from vqvae_jax.interop import clip, files, latents, metadata, stable_diffusion, var, var_prior
from vqvae_jax.interop.matches import Match
from vqvae_jax.interop.places import from_torch
from vqvae_jax.interop.recognise import recognise
from vqvae_jax.interop.stages import NEW, fitting_facts, prior_section
from vqvae_jax.interop.state_dicts import SCALE, first_stage, unwrapped
from vqvae_jax.interop.texts import check_texts, keep, tokenizer_of
from vqvae_jax.lock import LOCK, alone_in
from vqvae_jax.parts import Parts
from vqvae_jax.types import Model, UserError

UNUSED = "unused.npz"  # in a stage: tensors that came along and that nothing uses, kept for `export`
DIFFUSERS = "diffusers.json"  # in a stage: what came by diffusers' names, and its config.json

Tensors = Mapping[str, np.ndarray]


def import_weights(
    checkpoint: Path,
    workdir: Path,
    image_size: int = 0,
    heads: int = 0,
    key: str | None = None,
    value_range: tuple[float, float] | None = None,
    scale: float | None = None,
    tokenizer: Path | None = None,
    text_encoder: Path | None = None,
    scales: tuple[int, ...] | None = None,
) -> tuple[str, Match]:
    """Writes the workdir, or adds a prior to one that holds its autoencoder.

    Args:
        checkpoint: a PyTorch file, .safetensors, .npz or .msgpack of Flax; nothing in it is executed. Or a folder of
            diffusers with all of Stable Diffusion 1.
        workdir: new; for a prior also that of its autoencoder, trained or imported.
        image_size: pixels, height and width; 0: the workdir's, else 28 for one level and 256 for more.
        heads: of attention; no shape shows them. 0: as the code that it comes from has it.
        key: which state dict, where the file holds several.
        value_range: of the values that the network wants in place of uint8 0 and 255; None: as the file says, else as
            the code that it comes from does it.
        scale: of an autoencoder over numbers, what its means are times to be latents of deviation 1; None: as the
            file or a config.json of diffusers beside it says, else as usual, see latents.py.
        tokenizer: of a prior that is told texts, its tokenizer.json.
        text_encoder: of a U-Net that is told texts: CLIP's file, where its own has none.
        scales: of VAR's tokenizer, the sides of its maps; None: as published.

    Returns:
        The stage it became, and what was recognised.

    Raises:
        UserError: the file cannot be read or is no architecture that is known, is an exported one with other tensors or
            another range; the workdir holds something else.
    """
    check_place("--workdir", workdir)
    given = Given(checkpoint, workdir, image_size, heads, value_range, scale, tokenizer, scales)
    if checkpoint.is_dir():
        return import_whole(given, stable_diffusion.in_folder(checkpoint, text_encoder))
    tensors = files.read(checkpoint, key or None)
    told = None if key else metadata.read(checkpoint, tensors)
    factor = None
    if told:
        match = metadata.match(told, tensors, checkpoint)
    else:
        tensors = unwrapped(tensors)
        if whole := stable_diffusion.in_file(tensors, checkpoint, text_encoder):
            return import_whole(given, whole)
        if trained := var.in_trainer(tensors):
            return import_trained(given, *trained)
        tensors = first_stage(tensors)
        factor = tensors.pop(SCALE, None)
        if text_encoder:
            tensors = stable_diffusion.with_encoder(tensors, checkpoint, text_encoder)
        match = recognised(tensors, given, text_encoder)
    check_used(match, tensors, checkpoint)
    match = var.with_scales(match, scales, image_size, checkpoint)
    match = latents.scaled(in_range(match, value_range, checkpoint), checkpoint, factor, scale)
    words = tokenizer_of(match, tokenizer)
    if match.kind == "prior" and (workdir / configs.FILE).is_file():
        match = of_the_codes(match, workdir)
        return add_prior(match, tensors, workdir, image_size, words), match
    if var_prior.wants_tokenizer(match):
        raise var_prior.refused(match, workdir)
    stage, config, facts = NEW[match.kind](match, image_size, workdir)
    with new_folder(workdir) as folder:
        write_stage(folder / stage, match, tensors, config)
        if facts:
            write_checked_json(folder / facts_file.FILE, facts | keep(words, folder))
        write_json(folder / configs.FILE, config)
    return stage, match


class Given(NamedTuple):
    """What the user says, see `import_weights`."""

    checkpoint: Path
    workdir: Path
    image_size: int
    heads: int
    value_range: tuple[float, float] | None
    scale: float | None
    tokenizer: Path | None
    scales: tuple[int, ...] | None = None


def recognised(tensors: Tensors, given: Given, text_encoder: Path | None) -> Match:
    """What a file from outside is.

    Raises:
        UserError: nothing that is known, or a text encoder alone.
    """
    if clip.encoder_in(tensors):
        raise UserError(
            f"{given.checkpoint} is {clip.TITLE}: it goes beside a U-Net, --checkpoint=UNET "
            f"--text_encoder={given.checkpoint}, or into a training: text_encoder.weights of a diffusion prior"
        )
    match = recognise(tensors, given.checkpoint, given.heads)
    if match.title.startswith(stable_diffusion.TITLE):
        match = stable_diffusion.as_told(match, text_encoder or given.checkpoint)
        if (given.workdir / configs.FILE).is_file():
            parts = Parts(configs.load(given.workdir), facts_file.read(given.workdir))
            match = stable_diffusion.with_shape(match, parts.levels[0].shape)
    return match


def import_whole(given: Given, whole: stable_diffusion.Whole) -> tuple[str, Match]:
    """An autoencoder and its prior, which came together: a new workdir; the prior's stage and match.

    Raises:
        UserError: as `import_weights`.
    """
    source, workdir = given.checkpoint, given.workdir
    first = in_range(recognise(whole.first_stage, source, given.heads), given.value_range, source)
    first = latents.scaled(first, whole.first_stage_file, whole.factor, given.scale)
    size = given.image_size or stable_diffusion.SIDE * stable_diffusion.STRIDE
    stage, config, facts = NEW[first.kind](first, size, workdir)
    match = stable_diffusion.as_told(recognise(whole.prior, source, given.heads), whole.encoder_file)
    match = stable_diffusion.with_shape(match, Parts(config, facts).levels[0].shape)
    words = tokenizer_of(match, given.tokenizer or whole.tokenizer)
    check_used(first, whole.first_stage, source)
    check_used(match, whole.prior, source)
    with new_folder(workdir) as folder:
        write_stage(folder / stage, first, whole.first_stage, config)
        level = joined(match, whole.prior, (config, facts), folder, workdir, words)
    return level, match._replace(facts=match.facts | {"scale": first.facts["scale"], "tokenizer": words is not None})


def import_trained(given: Given, tokenizer: Tensors, transformer: Tensors) -> tuple[str, Match]:
    """What VAR's trainer saved: a new workdir; the transformer's stage and match, which says the tokenizer's scales.

    Raises:
        UserError: as `import_weights`.
    """
    source, workdir = given.checkpoint, given.workdir
    match = recognise(transformer, source, given.heads)
    first = in_range(recognise(tokenizer, source, given.heads), given.value_range, source)
    first = var.with_scales(first, given.scales or match.facts["sides"], given.image_size, source)
    first = latents.scaled(first, source, None, given.scale)
    stage, config, facts = NEW[first.kind](first, given.image_size, workdir)
    words = tokenizer_of(match, given.tokenizer)
    check_used(first, tokenizer, source)
    check_used(match, transformer, source)
    with new_folder(workdir) as folder:
        write_stage(folder / stage, first, tokenizer, config)
        return joined(match, transformer, (config, facts), folder, workdir, words), match


def check_used(match: Match, tensors: Tensors, source: Path) -> None:
    """UserError where a tensor that becomes a parameter or a code is not finite."""
    used = {name: tensors[name] for name in match.places if name in tensors}
    check_finite(str(source), used, "take an earlier checkpoint of that training")


def in_range(match: Match, value_range: tuple[float, float] | None, checkpoint: Path) -> Match:
    """With the range that was asked for.

    Raises:
        UserError: the file says another one, or the architecture has no other.
    """
    if value_range is None:
        return match
    if match.told and tuple(match.facts["range"]) != value_range:
        low, high = match.facts["range"]
        raise UserError(f"{checkpoint} says itself that its values go from {low} to {high}; leave --range out")
    if match.range_shown not in (None, value_range):
        raise UserError(f"{checkpoint} is {match.title}: its values go from 0 to 1; leave --range out")
    return match._replace(facts=match.facts | {"range": value_range})


def of_the_codes(match: Match, workdir: Path) -> Match:
    """Where the file alone does not show which of its words are codes: as many as the workdir's autoencoder has."""
    if match.told or match.of_codes is None:
        return match
    codes = Parts(configs.load(workdir), facts_file.read(workdir)).levels[0].vocab_size
    return match.of_codes(codes) if codes else match  # a map of numbers is refused as others are


def add_prior(match: Match, tensors: Tensors, workdir: Path, image_size: int, words: Tokenizer | None = None) -> str:
    """A stage more in a workdir. Its config names the stage once all of it is there."""
    with alone_in(workdir):
        config, facts = configs.load(workdir), facts_file.read(workdir)
        if image_size not in (0, facts["image_size"]):
            size = facts["image_size"]
            raise UserError(f"--image_size={image_size}: images of {workdir} have {size} pixels; leave it out")
        return joined(match, tensors, (config, facts), workdir, workdir, words)


def joined(
    match: Match,
    tensors: Tensors,
    there: tuple[dict[str, Any], dict[str, Any]],
    folder: Path,
    workdir: Path,
    words: Tokenizer | None,
) -> str:
    """A prior beside its autoencoder, in `folder`, which is or becomes the workdir; there: its config and facts.

    Raises:
        UserError: the prior is of other maps, or told other texts than those that are there.
    """
    config, facts = there
    level = level_of(match, config, workdir)
    facts = fitting_facts(match, config, facts, workdir)
    check_texts(match, words, (config, facts), workdir)
    if var_prior.wants_tokenizer(match):
        if not (folder / configs.AUTOENCODER).is_dir():
            raise var_prior.refused(match, workdir)
        parts = Parts(config, facts)
        model = parts.load(folder, configs.AUTOENCODER, None)
        match = var_prior.with_tokenizer(match, level, parts, model, workdir)
    priors = {**config["priors"], level: prior_section(match, workdir)}
    # How pictures are drawn is said by the first prior that came, or by the training.
    brought = ("text",) if config["priors"] else ("text", "sample")
    more = {name: match.facts[name] for name in brought if name in match.facts}
    config = configs.complete({**config, **more, "priors": priors})
    shutil.rmtree(folder / level, ignore_errors=True)  # what the config does not name, a killed import left
    with new_folder(folder / level) as inside:
        write_stage(inside, match, tensors, config)
    write_checked_json(folder / facts_file.FILE, facts | keep(words, folder))
    configs.save(config, folder)
    return level


def level_of(match: Match, config: Mapping[str, Any], workdir: Path) -> str:
    """Which level's prior it is, by how many maps it is told.

    Raises:
        UserError: there is no such level, or it has a prior already.
    """
    levels, number = configs.levels(config), len(match.facts["coarse_sizes"])
    if number >= len(levels):
        raise UserError(f"{match.title} is for {number + 1} levels, {workdir} has {len(levels)}: {', '.join(levels)}")
    if levels[number] in config["priors"]:
        raise UserError(f"{workdir} has a prior {levels[number]!r} already; use another --workdir")
    return levels[number]


def write_stage(folder: Path, match: Match, tensors: Tensors, config: Mapping[str, Any]) -> None:
    """A checkpoint of step 0, without a train state: the optimizer's moments are in no such file."""
    with Checkpoints(folder / "checkpoints") as checkpoints:
        model = from_torch(tensors, match.places, match.like)
        model = Model({**model.params, **match.borrowed}, with_averages(model, match))
        checkpoints.save(0, model, {}, dict(config))
    if match.unused:
        files.write(folder / UNUSED, {name: tensors[name] for name in match.unused})
    if match.diffusers is not None:
        write_json(folder / DIFFUSERS, match.diffusers)


def with_averages(model: Model, match: Match) -> dict[str, Any]:
    """The codebooks; averages that neither a tensor held nor the match begin as if each code stood for one vector."""
    given = {place.path for place in match.places.values()}
    books = {}
    for level, book in model.codebooks.items():
        ones = {name: np.ones_like(book.stats[name]) for name in ("count", "started") if name in book.stats}
        fresh = ones | ({"sum": book.codes.copy()} if "sum" in book.stats else {})
        fresh = {name: one for name, one in fresh.items() if ("codebooks", level, "stats", name) not in given}
        books[level] = book.replace(stats=book.stats | fresh | dict(match.statistics.get(level, {})))
    return books


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside it that becomes it when all went well; one process at a time.

    Raises:
        UserError: something is there already, or another process is at it.
    """
    folder = Path(os.path.realpath(folder))  # of "." the name, of a link the folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder} holds something already; import into a new --workdir, so that nothing is overwritten"
        )
    temporary = folder.with_name(f".{folder.name}.importing")
    with alone_in(temporary):
        try:
            empty(temporary)  # what a killed import left
            yield temporary
            (temporary / LOCK).unlink(missing_ok=True)
            os.replace(temporary, folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def empty(folder: Path) -> None:
    """Without all that is in it but the lock."""
    for inside in folder.iterdir():
        if inside.is_dir():
            shutil.rmtree(inside)
        elif inside.name != LOCK:
            inside.unlink()
