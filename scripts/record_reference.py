"""Records what your PyTorch model computes, as an .npz that ours can be set beside. Needs torch and numpy, no JAX.

    git clone https://github.com/unixpickle/vq-vae-2 PATH
    pip install torch --index-url https://download.pytorch.org/whl/cpu
    python scripts/record_reference.py --path=PATH --model=vq_vae_2.examples.mnist.model:make_vq_vae \\
        --weights=vae.pt --input=images.npz --train_steps=20 --output=recording.npz
    python -m vqvae_jax compare --workdir=DIR --reference=recording.npz

--input holds `images`, uint8 [N, H, W, C], which become floats [N, C, H, W] in --range; or `0`, `1`, …, which the model
is handed as they are, in that order: integer token maps, floats [N, C, H, W]. --batches holds the same for training
with one more axis in front, [n, B, H, W, C], and is used in turn.

All is recorded on CPU, in evaluation mode, as PyTorch has it: param/NAME by its name in the state dict, input/…,
output/… and grad/NAME; then train/batches, train/losses (a row a step, taken before its update) and trained/NAME.

    unixpickle/vq-vae-2           losses, reconstructions, z_e, z_q and indices of each level (0 is the bottom);
                                  gradients of its loss; Adam 1e-3, dead codes revived; rows: total, one a decoder
    rosinality/vq-vae-2-pytorch   what encode, decode and decode_code return; gradients of mse + 0.25 diff; Adam 3e-4;
                                  rows: mse, diff
    taming-transformers, LlamaGen what their VQModel does on its way; gradients of L1 (LlamaGen: squared error) + the
                                  codes' loss; no training. record_vqgan.py has small ones
    latent-diffusion              of its AutoencoderKL the moments and a sample, of noise that is recorded too, both
                                  decoded; its sums without LPIPS; gradients of the sample's total; no training
    anything else, as priors      0, 1, …: each tensor that it returns; gradients of the sum of output x cotangent, for
                                  cotangent/0 … from N(0, 1); no training
"""

from __future__ import annotations  # torch may be missing

import argparse
import importlib
import json
import os
import random
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

try:
    import torch
except ModuleNotFoundError:  # --help works without; see run
    torch = None

np.int = int  # type: ignore[attr-defined]  # unixpickle's code says np.int, which NumPy 1.24 took away
INSTALL = "pip install torch --index-url https://download.pytorch.org/whl/cpu"


class UserError(ValueError):
    """Something the user can put right, in one line."""


@contextmanager
def naming(what: str) -> Iterator[None]:
    """What fails inside is the user's file or the user's code: a UserError that begins with `what`."""
    try:
        yield
    except Exception as error:
        reason = textwrap.shorten(str(error), 200, placeholder=" …")
        raise UserError(f"{what}: {type(error).__name__}: {reason}") from error


class Known(NamedTuple):
    """An autoencoder of one of these repositories. All functions take the model and images [N, C, H, W]."""

    attributes: tuple[str, ...]  # that no other model has
    learning_rate: float  # of Adam; 0: no training
    outputs: Callable[..., dict[str, Any]]
    losses: Callable[..., list[torch.Tensor]]  # what is differentiated, then a row of train/losses
    more: Callable[..., dict[str, torch.Tensor]] = lambda model, images: {}  # inputs beside the images


def unixpickle_outputs(model: torch.nn.Module, images: torch.Tensor) -> dict[str, Any]:
    found = {name: value for name, value in model(images).items() if name != "embedded"}
    found |= {"full_reconstructions": model.full_reconstructions(images), "z_e": [], "z_q": [], "indices": []}
    for encoder in model.encoders:
        images = encoder.encode(images)  # the level above reads what is not quantized
        _, z_q, indices = encoder.vq(images)
        found["z_e"].append(images)
        found["z_q"].append(z_q)
        found["indices"].append(indices)
    return found


def unixpickle_losses(model: torch.nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    terms = model(images)
    return [terms["loss"], terms["loss"], *terms["losses"]]


def rosinality_outputs(model: torch.nn.Module, images: torch.Tensor) -> dict[str, Any]:
    found = dict(zip(("quant_t", "quant_b", "diff", "id_t", "id_b"), model.encode(images), strict=True))
    found["dec"] = model.decode(found["quant_t"], found["quant_b"])
    found["decode_code"] = model.decode_code(found["id_t"], found["id_b"])
    return found


def rosinality_losses(model: torch.nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    dec, diff = model(images)
    mse = torch.nn.functional.mse_loss(dec, images)
    return [mse + 0.25 * diff.mean(), mse, diff.mean()]


def vqgan_codes(model: torch.nn.Module, z_e: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """z_q, indices [N, h, w] and the codes' loss, which LlamaGen computes in training only."""
    z_q, loss, (_, _, indices) = model.quantize.train()(z_e)
    return z_q, indices.reshape(len(z_e), *z_e.shape[2:]), loss[0] + loss[1] if isinstance(loss, tuple) else loss


def vqgan_outputs(model: torch.nn.Module, images: torch.Tensor) -> dict[str, Any]:
    encoded = model.encoder(images)
    z_e = model.quant_conv(encoded)
    z_q, indices, of_codes = vqgan_codes(model, z_e)
    found = {"encoder": encoded, "z_e": z_e, "indices": indices, "z_q": z_q, "reconstruction": model.decode(z_q)}
    return found | {"codebook_loss": of_codes, "loss": vqgan_losses(model, images)[0]}


def vqgan_losses(model: torch.nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    z_q, _, of_codes = vqgan_codes(model, model.quant_conv(model.encoder(images)))
    away = model.decode(z_q) - images
    return [(away.square() if hasattr(model.quantize, "l2_norm") else away.abs()).mean() + of_codes]


def first_stage_noise(model: torch.nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"noise": normal(0, model.encode(images).mode())}


def first_stage_outputs(model: torch.nn.Module, images: torch.Tensor) -> dict[str, Any]:
    moments, noise = model.encode(images), first_stage_noise(model, images)["noise"]
    sample = moments.mean + moments.std * noise
    found = {"mean": moments.mean, "logvar": moments.logvar, "std": moments.std, "kl": moments.kl(), "sample": sample}
    found |= {"reconstruction": model.decode(moments.mode()), "reconstruction_of_sample": model.decode(sample)}
    made = {"mode": found["reconstruction"], "sample": found["reconstruction_of_sample"]}
    losses = {of: first_stage_sums(moments, images, one) for of, one in made.items()}
    return found | {f"loss/logvar_0.0/{of}/{term}": value for of, one in losses.items() for term, value in one.items()}


def first_stage_sums(moments: Any, images: torch.Tensor, made: torch.Tensor) -> dict[str, torch.Tensor]:
    """Sums over an image, means over images: ldm/modules/losses/contperceptual.py with a log-variance of 0."""
    nll, kl = (images - made).abs().sum() / len(images), moments.kl().sum() / len(images)
    return {"total": nll + 1e-6 * kl, "nll": nll, "kl": kl, "mean_l1": (images - made).abs().mean()}


def first_stage_losses(model: torch.nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    moments, noise = model.encode(images), first_stage_noise(model, images)["noise"]
    return [first_stage_sums(moments, images, model.decode(moments.mean + moments.std * noise))["total"]]


UNIXPICKLE = Known(("full_reconstructions", "encoders"), 1e-3, unixpickle_outputs, unixpickle_losses)
ROSINALITY = Known(("decode_code", "quantize_t", "quantize_b"), 3e-4, rosinality_outputs, rosinality_losses)
VQGAN = Known(("quant_conv", "post_quant_conv", "quantize"), 0.0, vqgan_outputs, vqgan_losses)
FIRST_STAGE = Known(
    ("quant_conv", "post_quant_conv", "embed_dim"), 0.0, first_stage_outputs, first_stage_losses, first_stage_noise
)


def known(model: torch.nn.Module) -> Known | None:
    for kind in (UNIXPICKLE, ROSINALITY, VQGAN, FIRST_STAGE):
        if all(hasattr(model, name) for name in kind.attributes):
            return kind
    return None


def record(model: torch.nn.Module, inputs: dict[str, torch.Tensor], seed: int) -> dict[str, np.ndarray]:
    """Weights, inputs, outputs and gradients, in evaluation mode."""
    model.eval()
    kind, cotangents = known(model), {}
    if kind:
        (images,) = inputs.values()
        with torch.no_grad():
            inputs = {"images": images, **kind.more(model, images)}
        loss = kind.losses(model, images)[0]
        with torch.no_grad():
            outputs = kind.outputs(model, images)
    else:
        outputs = {str(i): one for i, one in enumerate(tensors(model(*inputs.values())))}
        cotangents = {i: normal(seed + int(i), one) for i, one in outputs.items() if one.requires_grad}
        loss = sum(((outputs[i] * cotangents[i]).sum() for i in cotangents), start=torch.zeros(()))
    if loss.requires_grad:
        loss.backward()
    grads = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    sections = {"input": inputs, "output": outputs, "grad": grads, "cotangent": cotangents}
    return dict(arrays({"param": model.state_dict(), **sections}))


def train(model: torch.nn.Module, kind: Known, steps: int, batches: torch.Tensor) -> dict[str, np.ndarray]:
    """Adam on the batches in turn."""
    model.train()
    adam, rows = torch.optim.Adam(model.parameters(), lr=kind.learning_rate), []
    for step in range(steps):
        loss, *row = kind.losses(model, batches[step % len(batches)])
        rows.append([one.item() for one in row])
        adam.zero_grad()
        loss.backward()
        adam.step()
        if kind is UNIXPICKLE:
            model.revive_dead_entries()
    trained = dict(arrays({"trained": model.state_dict()}))
    return {"train/batches": batches.numpy(), "train/losses": np.array(rows), **trained}


def normal(seed: int, like: torch.Tensor) -> torch.Tensor:
    """N(0, 1), the same in every version of NumPy and PyTorch."""
    return torch.as_tensor(np.random.RandomState(seed).standard_normal(like.shape), dtype=like.dtype)


def tensors(returned: Any) -> list[torch.Tensor]:
    """All that a model returns, however it is wrapped."""
    if isinstance(returned, torch.Tensor):
        return [returned]
    several = returned.values() if isinstance(returned, Mapping) else returned
    return [one for part in several for one in tensors(part)] if isinstance(returned, Mapping | list | tuple) else []


def arrays(value: Any, name: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """A copy of each tensor, with its path: output/losses/0."""
    if isinstance(value, torch.Tensor):
        yield name, value.detach().numpy().copy()
        return
    for key, one in value.items() if isinstance(value, Mapping) else enumerate(value):
        yield from arrays(one, f"{name}/{key}" if name else str(key))


def read(flag: str, path: Path, value_range: str, axes: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz as the model takes them. `axes` are those of its images."""
    with naming(f"{flag}={path} is no readable .npz"), np.load(path) as file:
        found = dict(file)
    has = ", ".join(f"{name} {array.dtype} {list(array.shape)}" for name, array in found.items()) or "nothing"
    names = ["images"] if "images" in found else [str(i) for i in range(max(1, len(found)))]
    if set(found) != set(names):
        raise UserError(f"{flag}={path} holds {has}; it takes images alone, or 0, 1, …")
    if names != ["images"]:
        return {name: found[name] for name in names}
    if found["images"].dtype != np.uint8 or found["images"].ndim != len(axes.split()):
        raise UserError(f"{flag}={path} holds {has}; images are uint8 [{axes}], call floats 0")
    low, high = map(np.float32, value_range.split(","))
    floats = np.moveaxis(found["images"], -1, -3) / np.float32(255) * (high - low) + low
    return {"images": np.ascontiguousarray(floats)}


def build(given: argparse.Namespace) -> torch.nn.Module:
    """The user's model with the user's weights, or fresh ones from the seed."""
    sys.path.insert(0, str(given.path))
    module_name, _, name = given.model.partition(":")
    with naming(f"--model={given.model} cannot be imported; is MODULE below --path={given.path}?"):
        module = importlib.import_module(module_name)
    if not callable(getattr(module, name, None)):
        has = ", ".join(key for key, one in vars(module).items() if callable(one) and not key.startswith("_"))
        raise UserError(f"--model={given.model}: type MODULE:CALLABLE; {module_name} has no {name!r}, but {has}")
    random.seed(given.seed)  # revival draws from it
    torch.manual_seed(given.seed)
    with naming(f"--model={given.model} with --arguments={given.arguments!r} fails; --arguments is a JSON object"):
        model = getattr(module, name)(**json.loads(given.arguments))
    if not isinstance(model, torch.nn.Module):
        raise UserError(f"--model={given.model} returns a {type(model).__name__}; name what returns a torch.nn.Module")
    if given.weights:
        with naming(f"--weights={given.weights} is not what torch.save(model.state_dict(), FILE) writes"):
            model.load_state_dict(torch.load(given.weights, map_location="cpu", weights_only=True))
    return model


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; --help shows all flags\n")


def parser() -> Parser:
    flags = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    flags.add_argument("--path", type=Path, default=Path("."), help="folder that MODULE is below; default: this one")
    flags.add_argument("--model", metavar="MODULE:CALLABLE", required=True, help="what returns the nn.Module")
    flags.add_argument("--arguments", metavar="JSON", default="{}", help="""for CALLABLE, such as '{"depth": 32}'""")
    flags.add_argument("--weights", metavar="FILE", type=Path, help="a saved state dict; default: fresh weights")
    flags.add_argument("--input", metavar="FILE", type=Path, required=True, help="an .npz")
    flags.add_argument("--range", choices=["0,1", "-1,1"], default="0,1", help="of images; default: 0,1")
    flags.add_argument("--output", metavar="FILE", type=Path, required=True, help="the .npz to write")
    flags.add_argument("--train_steps", metavar="N", type=number, default=0, help="default: 0, no training")
    flags.add_argument("--batches", metavar="FILE", type=Path, help="an .npz; default: the input is the only batch")
    flags.add_argument("--seed", metavar="N", type=number, default=0, help="of weights and cotangents; default: 0")
    return flags


def number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number; type one such as 20")
    return int(text)


def write(path: Path, recorded: Mapping[str, Any]) -> None:
    """The whole file, or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        np.savez_compressed(Path(folder, "whole.npz"), **recorded)
        os.replace(Path(folder, "whole.npz"), path)


def summary(recorded: Mapping[str, np.ndarray]) -> Iterator[str]:
    """A line an array; of weights and gradients only how many there are."""
    for section, names in groupby(recorded, lambda name: name.partition("/")[0]):
        if section in ("param", "grad", "trained"):
            yield f"{section}/…  {len(list(names))} arrays"
        else:
            yield from (f"{name}  {recorded[name].dtype} {list(recorded[name].shape)}" for name in names)


def run(given: argparse.Namespace) -> None:
    if given.batches and not given.train_steps:
        raise UserError("--batches are for training; type --train_steps=20 too, or leave them out")
    inputs = read("--input", given.input, given.range, "N, H, W, C")
    batches = {name: array[None] for name, array in inputs.items()}
    if given.batches:
        batches = read("--batches", given.batches, given.range, "n, B, H, W, C")
    if [array.ndim for array in batches.values()] != [array.ndim + 1 for array in inputs.values()]:
        raise UserError(f"--batches={given.batches}: arrays take one axis more than those of --input, [n, B, …]")
    if torch is None:
        raise UserError(f"torch is not installed here; {INSTALL}")
    model = build(given)
    with naming(f"--input={given.input} is not what the model takes"):
        recorded = record(model, {name: torch.from_numpy(array) for name, array in inputs.items()}, given.seed)
    kind = known(model)
    if given.train_steps and kind and kind.learning_rate:
        with naming(f"--batches={given.batches or given.input} are not what the model trains on"):
            recorded |= train(model, kind, given.train_steps, *map(torch.from_numpy, batches.values()))
    elif given.train_steps:
        print("no training is recorded: only those of two autoencoders are known here, see --help")
    with naming(f"--output={given.output} cannot be written"):
        write(given.output, recorded)
    print(*summary(recorded), f"{given.output}: {given.output.stat().st_size / 1e6:.2f} MB", sep="\n")


def main() -> int:
    """0, or 2 where the user has something to put right."""
    try:
        run(parser().parse_args())
    except UserError as error:
        print("error:", error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
