"""A workdir's model on the inputs of a recording, tensor by tensor."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vqvae_jax import config as configs
from vqvae_jax import facts as facts_file
from vqvae_jax.autoencoders import VQGAN, VQVAE2, HierarchicalVAE
from vqvae_jax.checkpoint import Step, Steps
from vqvae_jax.compare import diffusion, dvae, first_stage, maskgit, rows, var
from vqvae_jax.compare.recording import HOW, Recording
from vqvae_jax.compare.sections import by_cotangents, gradients, index_row, outputs, weights, without
from vqvae_jax.interop import hierarchical, vqgan, vqvae2
from vqvae_jax.interop.exporting import load_stack, places_of, stack_or_stages
from vqvae_jax.interop.places import Places, to_torch
from vqvae_jax.interop.reading import plain
from vqvae_jax.interop.var import is_tokenizer
from vqvae_jax.networks import fast
from vqvae_jax.networks.unet import UNet
from vqvae_jax.parts import Parts
from vqvae_jax.quantizers.codebook import measured_from_zero
from vqvae_jax.quantizers.multiscale import MultiscaleQuantizer
from vqvae_jax.quantizers.told import Told
from vqvae_jax.tasks.autoencode import AutoencodeTask
from vqvae_jax.tasks.optimize import make_optimizer, new_state
from vqvae_jax.types import Condition, Model, UserError

Row = rows.Row
TWINS: dict[type, Any] = {HierarchicalVAE: hierarchical, VQVAE2: vqvae2, VQGAN: vqgan}  # what their outputs are called
ADAM = {
    "b1": 0.9,
    "b2": 0.999,
    "eps": 1e-8,
    "weight_decay": 0.0,
    "clip": 0.0,
    "schedule": "constant",
    "warmup_steps": 0,
}


def compare(
    workdir: Path, reference: Path, step: Steps = "best", autoencoder_step: Step = None, key: str = ""
) -> list[Row]:
    """Every output, gradient and step of training that the recording has.

    Args:
        workdir: of a training, or of an import.
        reference: what was recorded, .npz.
        step, autoencoder_step: of a prior's checkpoint and of an autoencoder's.
        key: which recording, where the file holds several.

    Raises:
        UserError: the recording is of another kind of model, or lacks what is needed.
    """
    recording = Recording(reference, key)
    check_kind(workdir, recording)
    recording.check()
    # Float32 parity is judged: on an accelerator products and convolutions have fewer bits unless told otherwise.
    with fitting(recording), jax.default_matmul_precision("highest"), measured_from_zero():
        asked = autoencoder_step if recording.kind == "autoencoder" else step
        found = KINDS[recording.kind](workdir, recording, asked)
    if not any(row.tensor.startswith("output/") for row in found):
        there = ", ".join(list(recording.of("output"))[:8])
        raise UserError(f"{reference} has none of the outputs of this model; it has {there}; {HOW}")
    return found + not_compared(recording, {row.tensor for row in found})


@contextlib.contextmanager
def fitting(recording: Recording) -> Iterator[None]:
    """Whatever the recorded arrays make impossible is one UserError."""
    try:
        yield
    except UserError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        reason = plain(str(error).split("\n")[0])
        raise UserError(f"{recording.path} does not fit this model: {reason}; {HOW}") from error


def not_compared(recording: Recording, compared: set[str]) -> list[Row]:
    """Outputs, gradients and trained tensors that were recorded and passed over: each fails."""
    parted = "train/losses" in compared and not any(name.startswith("trained/") for name in compared)
    sections = ("output", "grad") if parted else ("output", "grad", "trained")
    every = {f"{section}/{name}": array for section in sections for name, array in recording.of(section).items()}
    return [rows.missing(name, array) for name, array in every.items() if name not in compared]


def check_kind(workdir: Path, recording: Recording) -> None:
    """UserError unless the workdir holds such a model."""
    stages = stack_or_stages(workdir)
    what = {"autoencoder": "an autoencoder", "prior": "a prior", "stack": "layers without embedding"}
    there = {"autoencoder": "autoencoder" in stages, "stack": "stack" in stages}
    there["prior"] = bool(set(stages) - {"autoencoder", "stack"})
    if not there[recording.kind]:
        raise UserError(f"{recording.path} records {what[recording.kind]}, and {workdir} holds {' and '.join(stages)}")


def autoencoder(workdir: Path, recording: Recording, step: Any) -> list[Row]:
    """Outputs, gradients, a training. Where a tie fell the other way, what lies behind it is taken from the record."""
    config, facts = configs.load(workdir), facts_file.read(workdir)
    parts = Parts(config, facts)
    module, model = parts.autoencoder, parts.load(workdir, configs.AUTOENCODER, step, "--autoencoder_step={step}")
    drawn, scaled = dvae.is_one(module), is_tokenizer(module)
    twin: Any = None if drawn or scaled else twin_of(module)
    flax = maskgit.is_one(module, recording)
    name = "input/image" if drawn or flax else "input/images"
    check_images(name, facts["channels"], config, recording, flax)
    places = places_of(module, model)
    if flax:
        return maskgit.tokenizer(module, model, places, recording)
    if drawn:
        return of_dvae(module, model, places, recording)
    if first_stage.is_one(module):
        return of_first_stage(module, model, places, recording)
    if scaled:
        return var.tokenizer(module, model, places, recording)
    images = jnp.asarray(recording[name], jnp.float32)
    names = twin.index_names(module)
    ours, z_e, grads = run(twin, module, model, images)
    every = (index_row(names[level], ours, recording, z_e[level], model.codebooks[level]) for level in names)
    codes = [row for row in every if row is not None]
    if any(row.largest > 0 for row in codes) and all(row.passed for row in codes):
        told = {level: recording[f"output/{name}"] for level, name in names.items() if f"output/{name}" in recording}
        ours, _, grads = run(twin, module, model, images, told)
    ours = {name: value for name, value in ours.items() if name not in names.values()}
    found = weights(model, places, recording) + codes + outputs(ours, recording)
    found += gradients(grads, places, recording)
    found = without(found, twin.left_out(module), recording)
    if "train/batches" in recording:
        found += training_at_best(twin, module, model, places, recording, any(row.largest > 0 for row in codes))
    return found


def of_first_stage(module: Any, model: Model, places: Places, recording: Recording) -> list[Row]:
    """As `autoencoder`, of numbers in place of codes: outputs, gradients of the loss and of its divergence alone."""
    ours, grads = first_stage.computed(module, model.params, recording)
    found = weights(model, places, recording) + outputs(ours, recording)
    for section, of_params in grads.items():
        found += gradients(Model(of_params, {}), places, recording, section)
    return without(found, vqgan.left_out(module), recording)


def of_dvae(module: Any, model: Model, places: Places, recording: Recording) -> list[Row]:
    """As `autoencoder`, of codes by their logits: outputs, mixtures of codes, gradients through these."""
    ours, soft, grads = dvae.computed(module, model, recording)
    tokens = recording["output/tokens"]
    every = np.eye(ours["logits"].shape[-1], dtype=np.float32)  # the likeliest code is the nearest of these to logits
    found = [rows.indices("output/tokens", ours.pop("tokens"), tokens, ours["logits"], every)]
    found += weights(model, places, recording) + outputs(ours, recording) + outputs(soft, recording, "soft")
    return found + gradients(grads, places, recording)


def run(twin: Any, module: Any, model: Model, images: Any, told: Mapping[str, Any] | None = None):
    """Outputs by name, encodings by level, gradients like the model; `told`: indices by level, used as they are."""
    seen: dict[str, Any] = {}
    quantizers = tuple(
        Told(quantizer, level, seen, (told or {}).get(level))
        for quantizer, level in zip(module.quantizers, module.level_names, strict=True)
    )

    @jax.jit
    def forward(model):
        def loss(params, codes):
            books = {level: book.replace(codes=codes[level]) for level, book in model.codebooks.items()}
            seen.clear()
            out = module.clone(quantizers=quantizers).apply({"params": params}, images, books)
            return AutoencodeTask(module, None, twin.LOSS_WEIGHTS).total(weighed(twin, out.losses)), (out, dict(seen))

        codes = {level: book.codes for level, book in model.codebooks.items()}
        (params, of_codes), (out, z_e) = jax.grad(loss, (0, 1), has_aux=True)(model.params, codes)
        books = {level: book.replace(codes=of_codes[level]) for level, book in model.codebooks.items()}
        return twin.outputs(module, model, images, out), z_e, Model(params, books)

    return jax.tree.map(np.asarray, forward(model))


def weighed(twin: Any, losses: Mapping[str, Any]) -> dict[str, Any]:
    """The terms that the twin knows: its codes may move without a loss."""
    return {term: value for term, value in losses.items() if term.split("/")[0] in twin.LOSS_WEIGHTS}


def training_at_best(
    twin: Any, module: Any, model: Model, places: Places, recording: Recording, parted: bool
) -> list[Row]:
    """The recorded training; once more with sums in another order where only a tie on its way can be to blame."""
    found = training(twin, module, model, places, recording, parted)
    if all(row.passed for row in found) or not found[0].passed:
        return found
    with fast.plain():
        again = training(twin, module, model, places, recording, parted)
    return again if all(row.passed for row in again) else found


def training(twin: Any, module: Any, model: Model, places: Places, recording: Recording, parted: bool) -> list[Row]:
    """The recorded steps of Adam; `parted`: codes differ from the start, so that weights need not end alike."""
    batches, losses = recording["train/batches"], recording["train/losses"]
    tx = make_optimizer(ADAM | {"learning_rate": twin.LEARNING_RATE}, len(losses))
    task = AutoencodeTask(module, tx, twin.LOSS_WEIGHTS)
    state = new_state(jax.random.key(0), model.params, model.codebooks, tx, 0.0)
    learn = jax.jit(task.learn)
    ours = []
    for i in range(len(losses)):
        state, metrics = learn(state, jnp.asarray(batches[i % len(batches)]), jax.random.key(i))
        ours.append([float(loss) for loss in twin.training_losses(metrics)])
    found = [rows.stepwise("train/losses", ours, losses)]
    if parted:
        return [found[0]._replace(note="trained weights are left out: a tie between two codes fell the other way")]
    before, after = to_torch(model, places), to_torch(task.model(state), places)
    ends = recording.of("trained")
    return found + [end(twin, name, after[name], ends[name], before[name]) for name in ends if name in after]


def end(twin: Any, name: str, ours: np.ndarray, recorded: np.ndarray, before: np.ndarray) -> Row:
    """One tensor after a training."""
    if re.match(twin.COUNTED, name):
        return rows.counted(f"trained/{name}", ours, recorded)
    if re.match(twin.AVERAGED, name):
        return rows.near(f"trained/{name}", ours, recorded, rows.AVERAGES)
    return rows.trained(f"trained/{name}", ours, recorded, before)


def prior(workdir: Path, recording: Recording, step: Any) -> list[Row]:
    """Logits, and gradients of Σ logits · cotangent."""
    config, facts = configs.load(workdir), facts_file.read(workdir)
    parts = Parts(config, facts)
    for name, room in OWN.items():
        if name in recording:
            level = configs.levels(config)[0]
            return room(parts.prior(level), parts.load(workdir, level, step), recording)
    tokens, *coarse = (jnp.asarray(one, jnp.int32) for one in recording.several("input"))
    levels = configs.levels(config)
    if len(coarse) >= len(levels) or levels[len(coarse)] not in config["priors"]:
        there = ", ".join(config["priors"])
        raise UserError(
            f"{recording.path} records a prior under {len(coarse)} coarser maps; {workdir} holds {there} of {levels}"
        )
    level = levels[len(coarse)]
    module, model = parts.prior(level), parts.load(workdir, level, step)
    sizes = [level.vocab_size for level in (*module.above, *module.maps)]
    for one, size in zip((*coarse, tokens), sizes, strict=True):
        if jnp.max(one) >= size or jnp.min(one) < 0:
            raise UserError(f"{recording.path} has tokens up to {jnp.max(one)}, the model knows {size}")
    if len({one.shape[0] for one in (tokens, *coarse)}) > 1:
        raise UserError(f"{recording.path}: input/0 and input/1 are of different numbers of maps")
    condition = Condition(coarse=tuple(coarse))
    forward = lambda params: [module.apply({"params": params}, tokens, condition)]  # noqa: E731
    return by_cotangents(forward, model, places_of(module, model), recording)


def stack(workdir: Path, recording: Recording, step: Any) -> list[Row]:
    """Both stacks, and gradients of Σ stack · cotangent."""
    module, model, places = load_stack(workdir)
    if INPUTS.get(type(module), "input/0") not in recording:
        raise UserError(f"{recording.path} is of another network than {workdir}, {type(module).__name__}; {HOW}")
    if isinstance(module, UNet):
        return diffusion.unet(module, model, places, recording)
    if isinstance(module, MultiscaleQuantizer):
        return var.quantizer(module, model, places, recording)
    inputs = [jnp.asarray(one, jnp.float32) for one in recording.several("input")]
    if inputs[0].ndim != 4 or inputs[0].shape[-1] != module.layers[0].depth_in:
        raise UserError(
            f"{recording.path}: input/0 wants {module.layers[0].depth_in} channels, it is {inputs[0].shape}"
        )
    wanted = 2 if module.layers[0].cond_depth else 1
    if len(inputs) != wanted:
        raise UserError(f"{recording.path}: these layers want {wanted} inputs, map and condition; it has {len(inputs)}")
    forward = lambda params: list(module.apply({"params": params}, *inputs))  # noqa: E731
    return by_cotangents(forward, model, places, recording)


INPUTS: dict[type, str] = {UNet: "input/x", MultiscaleQuantizer: "input/f"}  # of networks alone; others have numbers
# Of priors that tokens alone do not ask.
OWN = {"input/teacher": var.transformer, "input/words": maskgit.transformer, "input/y": diffusion.dit}
KINDS = {"autoencoder": autoencoder, "prior": prior, "stack": stack}


def twin_of(module: Any) -> Any:
    """How the PyTorch twin of an autoencoder calls its outputs."""
    for kind, twin in TWINS.items():
        if isinstance(module, kind):
            return twin
    raise UserError(
        f"there is no PyTorch reference of {type(module).__name__}; compare it with another workdir: --against"
    )


def check_images(name: str, channels: int, config: Mapping[str, Any], recording: Recording, flax: bool) -> None:
    """UserError unless the recording has such images as the model takes; `flax`: with channels last."""
    if name not in recording:
        raise UserError(f"{recording.path} is of another network than this autoencoder's, which wants {name}; {HOW}")
    stride = configs.autoencoder_kind(config).stride(config["autoencoder"])
    images = recording.arrays[name]
    sides, there = (images.shape[1:3], images.shape[3:]) if flax else (images.shape[2:], images.shape[1:2])
    if images.ndim != 4 or there != (channels,) or any(side % stride for side in sides):
        shape = f"H, W, {channels}" if flax else f"{channels}, H, W"
        wanted = f"[B, {shape}], sides multiples of {stride}"
        raise UserError(f"{recording.path}: {name} wants {wanted}; it is {images.shape}")
