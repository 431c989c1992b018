"""A stage of a workdir under its reference's names, for load_state_dict; MaskGIT's for Flax's apply."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vqvae_jax import __version__
from vqvae_jax import config as configs
from vqvae_jax import facts as facts_file
from vqvae_jax.autoencoders.dvae import DVAE
from vqvae_jax.autoencoders.vqgan import LEVEL, VQGAN
from vqvae_jax.checkpoint import Checkpoints, Step
from vqvae_jax.files import check_file, read_json
from vqvae_jax.interop import (
    diffusers,
    diffusion,
    files,
    latents,
    maskgit,
    metadata,
    pixelcnn,
    stacks,
    unet,
    var,
    var_prior,
)
from vqvae_jax.interop.importing import DIFFUSERS, UNUSED
from vqvae_jax.interop.places import Places, to_torch
from vqvae_jax.interop.stages import STACK
from vqvae_jax.interop.twins import averages, places_of
from vqvae_jax.parts import Parts
from vqvae_jax.priors.diffusion import DiffusionPrior
from vqvae_jax.priors.maskgit import MaskGITPrior
from vqvae_jax.priors.published import MNISTGenerator
from vqvae_jax.priors.var import VARPrior
from vqvae_jax.types import Model, UserError, unknown

# Quantizers that no class of the references has.
ELSEWHERE = {"bsq", "cosine", "fsq", "gumbel", "kl", "lfq", "residual", "simvq"}
IMPORT = "`import` reads this from the file itself"


class Exported(NamedTuple):
    """A stage by others' names."""

    tensors: dict[str, np.ndarray]
    statistics: dict[str, dict[str, Any]] = {}  # of its codebooks, by level and name, which have no names there
    config: dict[str, Any] | None = None  # diffusers' config.json, where the names are diffusers'


def export_weights(workdir: Path, output: Path, stage: str = "", step: Step = "", names: str = "") -> tuple[str, int]:
    """Writes one stage, and beside its tensors what they do not show, see metadata.py.

    Args:
        workdir: of a training, or of an import.
        output: x.safetensors, x.npz, or x.msgpack, which has no room for the words.
        stage: "autoencoder", or the level of a prior; "": the autoencoder, else the only one.
        step: of the checkpoint: a number, "best", or None for the latest; "": the autoencoder's latest, a prior's best.
        names: "original", or of an autoencoder of latent diffusion "diffusers", then with a config.json beside; "": as
            they came, else original.

    Returns:
        The stage, and how many tensors.

    Raises:
        UserError: nothing of that stage is there, or PyTorch's references have no names for it.
    """
    check_file("--output", output)
    stage = chosen(workdir, stage)
    if step == "":
        step = None if stage == "autoencoder" else "best"
    if stage == "autoencoder":
        made = of_autoencoder(workdir, stage, step, names)
    else:
        if names == "diffusers":
            raise UserError(f"--names=diffusers is for autoencoders of latent diffusion, not for {stage}; leave it out")
        made = Exported((of_stack if stage == STACK else of_prior)(workdir, stage, step))
    if made.statistics and output.suffix == ".msgpack":
        raise UserError(f"{output}: no room for the scale of the latents; --output={output.stem}.safetensors, or .npz")
    if made.config is not None:
        diffusers.check_beside(output)
    files.write(output, made.tensors, {} if stage == STACK else said_of(workdir, stage, made))
    if made.config is not None:
        diffusers.write_beside(output, made.config)
    return stage, len(made.tensors)


def said_of(workdir: Path, stage: str, made: Exported) -> dict[str, str]:
    """The words beside the tensors."""
    told = metadata.Told(stage, configs.load(workdir), facts_file.read(workdir), made.statistics)
    return metadata.words(told, made.tensors, __version__)


def asks_for(workdir: Path, stage: str, output: Path) -> str:
    """One line for users of PyTorch, or of MaskGIT's code: what goes into the network, which no tensor says."""
    if stage == STACK:
        return "layers, or a network, alone; what goes into them the file does not say"
    config, facts = configs.load(workdir), facts_file.read(workdir)
    parts = Parts(config, facts)
    told = "" if output.suffix == ".msgpack" else f"; {IMPORT}"
    if stage != "autoencoder":
        if isinstance(prior := parts.prior(stage), MaskGITPrior):
            return f"the network wants words: {maskgit.words_of(prior)}{told}"
        if isinstance(prior, VARPrior):
            return f"the network wants numbers: {var_prior.numbers_of(prior)}{told}"
        if isinstance(prior, DiffusionPrior):
            return f"the network wants numbers: {diffusion.numbers_of(prior)}{told}"
        return f"the network wants tokens (Long, [N, h, w]) of the autoencoder that it was trained with{told}"
    (low, high), size, channels = config["dataset"]["range"], facts["image_size"], facts["channels"]
    last = maskgit.is_tokenizer(parts.autoencoder)
    shape = [size, size, channels] if last else [channels, size, size]
    images = f"float32 [N, {', '.join(map(str, shape))}], x / 255 * {high - low:g} + {low:g} of uint8 x"
    section = config["autoencoder"]
    kinds = {one["name"] for one in (section["quantizer"], *section["quantizers"].values())}
    numbers = {"kl"} if isinstance(parts.autoencoder, VQGAN) else set()  # of which latent diffusion has a class
    drawn = {"gumbel"} if isinstance(parts.autoencoder, VQGAN | DVAE) else set()  # taming and OpenAI have it
    other = sorted((kinds & ELSEWHERE) - numbers - drawn)
    besides = f"; PyTorch's class looks codes up otherwise than {', '.join(other)}" if other else ""
    besides += "; the latents' scale is not in its tensors but in its metadata, `statistics`" if kinds & numbers else ""
    return f"the network wants {images}: from {low:g} to {high:g}{besides}{told}"


def stack_or_stages(workdir: Path) -> list[str]:
    """What is there: "autoencoder", levels of priors, or "stack".

    Raises:
        UserError: nothing.
    """
    if not (workdir / configs.FILE).is_file():
        there = []
    elif (workdir / STACK).is_dir():
        there = [STACK]
    else:
        stages = configs.stages(configs.load(workdir))
        there = [stage for stage in stages if (workdir / stage / "checkpoints").is_dir()]
    if not there:
        raise UserError(f"{workdir} holds no trained model; train or import one: python -m vqvae_jax import --help")
    return there


def chosen(workdir: Path, stage: str) -> str:
    """The stage that is meant."""
    there = stack_or_stages(workdir)
    if stage in there:
        return stage
    if stage:
        raise UserError(unknown(f"{workdir} has no stage", stage, there))
    if "autoencoder" in there or len(there) == 1:
        return "autoencoder" if "autoencoder" in there else there[0]
    raise UserError(f"{workdir} has several stages, say which: {' or '.join(f'--stage={one}' for one in there)}")


def of_autoencoder(workdir: Path, stage: str, step: Step, names: str = "") -> Exported:
    """The reference's names; its codebooks know no moving averages, so those of an `ema` quantizer stay behind."""
    config, facts = configs.load(workdir), facts_file.read(workdir)
    parts = Parts(config, facts)
    module, model = parts.autoencoder, parts.load(workdir, stage, step)
    came = workdir / stage / DIFFUSERS
    if names == "diffusers" or (not names and came.is_file()):
        return of_diffusers(module, model, facts["image_size"], read_json(came) if came.is_file() else {})
    places = places_of(module, model)
    tensors = to_torch(model, places) | averages(module, model) | came_along(workdir, stage)
    return Exported(tensors, latents.statistics_beside(model, places))


def of_diffusers(module: Any, model: Model, image_size: int, came: Mapping[str, Any]) -> Exported:
    """Diffusers' names and config.json, with what came along in one.

    Raises:
        UserError: its class is another network.
    """
    diffusers.check(module)
    places = diffusers.places(module, model)
    scale = latents.of_config_from(model.codebooks[LEVEL])
    config = {**diffusers.described(module, image_size), **came, **latents.NO_SCALE, **scale}
    return Exported(to_torch(model, places), latents.statistics_beside(model, places), config)


def of_prior(workdir: Path, stage: str, step: Step) -> dict[str, np.ndarray]:
    """The reference's names, with what its generator carries along unused."""
    config, facts = configs.load(workdir), facts_file.read(workdir)
    parts = Parts(config, facts)
    module, model = parts.prior(stage), parts.load(workdir, stage, step)
    tensors = to_torch(model, places_of(module, model)) | diffusion.fixed(module) | var_prior.fixed(module)
    if others := came_along(workdir, stage):
        return tensors | others
    if isinstance(module, MNISTGenerator):  # PyTorch wants them: load_state_dict is strict
        unused = pixelcnn.unused_by_generator(module)
        return tensors | {name: np.zeros(shape, np.float32) for name, shape in unused.items()}
    return tensors


def came_along(workdir: Path, stage: str) -> dict[str, np.ndarray]:
    """Tensors of an imported file that nothing uses."""
    path = workdir / stage / UNUSED
    return dict(files.read(path)) if path.is_file() else {}


def of_stack(workdir: Path, stage: str, step: Step) -> dict[str, np.ndarray]:
    """Bare layers."""
    _, model, places = load_stack(workdir)
    return to_torch(model, places)


def load_stack(workdir: Path) -> tuple[Any, Model, Places]:
    """(module, Model, Places) of imported layers, or of a network alone."""
    try:
        config = read_json(workdir / configs.FILE)
        kind: Any = next((one for one in (unet, var) if one.is_one(config)), stacks)
        module, like, places = kind.loaded(config)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{workdir / configs.FILE} is damaged ({error}); import the file again") from error
    with Checkpoints(workdir / STACK / "checkpoints", flag="") as checkpoints:
        return module, checkpoints.restore_model(None, like), places
