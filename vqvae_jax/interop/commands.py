"""The commands `import` and `export`."""

import argparse
from pathlib import Path
from typing import Any

from vqvae_jax.flags import add_workdir, positive, step

FIRST = {"autoencoder": "reconstruct"}  # what to do with a stage; the others sample


def add_import(under: Any) -> None:
    """PyTorch's weights in."""
    one = under.add_parser(
        "import",
        help="weights of PyTorch in",
        description="Weights of PyTorch as a workdir: .pt, .pth, .safetensors or .npz (arrays param/NAME), read "
        "without torch and without executing what is in it. Known: the hierarchical VAE, MNIST generator, TopPrior, "
        "BottomPrior and any stack of PixelConv layers of unixpickle/vq-vae-2, and rosinality's VQ-VAE-2. A prior "
        "joins the workdir of its autoencoder.",
    )
    add_workdir(one, import_)
    one.add_argument("--checkpoint", type=Path, required=True, help="the file")
    one.add_argument(
        "--image_size", type=positive, default=0, help="pixels, which weights do not show (default: 28 or 256)"
    )
    one.add_argument("--heads", type=positive, help="of attention, which weights do not show (default: 2)")
    one.add_argument("--key", help="which state dict, where the file holds several")


def add_export(under: Any) -> None:
    """And out."""
    one = under.add_parser(
        "export",
        help="weights for PyTorch out",
        description="One stage under the names of its PyTorch reference: model.load_state_dict(load_file(F)) reads it.",
    )
    add_workdir(one, export)
    one.add_argument("--output", type=Path, required=True, help="x.safetensors or x.npz")
    one.add_argument(
        "--stage", default="", help="autoencoder, top, bottom … (default: the autoencoder, or the only one)"
    )
    one.add_argument("--step", type=step, default="best", help="a number, best or latest (default best)")


def import_(given: argparse.Namespace) -> None:
    """A file becomes a stage of a workdir."""
    from vqvae_jax import config as configs
    from vqvae_jax.interop import importing
    from vqvae_jax.interop.stages import STACK

    stage, title = importing.import_weights(
        given.checkpoint, given.workdir, given.image_size, given.heads or importing.HEADS, given.key
    )
    print(f"{given.workdir / stage}: {title}")
    if stage == STACK:
        print("layers alone: they can be compared and exported")
        return
    config = configs.load(given.workdir)
    print(f"made for {config['dataset']['image_size']} pixels; weights do not show it: --image_size=N")
    print(f"try it: python -m vqvae_jax {FIRST.get(stage, 'sample')} --workdir={given.workdir} --help")
    print(
        f"train on, with a fresh optimizer: python launch.py --config={given.workdir / configs.FILE} --workdir=NEW "
        f"--config.{section(stage)}train.init_from={given.workdir} --config.{section(stage)}train.steps=1000 "
        "--config.dataset.name=… --config.dataset.path=…"
    )


def section(stage: str) -> str:
    return "" if stage == "autoencoder" else f"priors.{stage}."


def export(given: argparse.Namespace) -> None:
    """A stage becomes a file."""
    from vqvae_jax.interop import exporting

    stage, count = exporting.export_weights(given.workdir, given.output, given.stage, given.step)
    print(f"{given.output}: {stage}, {count} tensors")
