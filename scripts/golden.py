"""Tiny trained workdirs in tests/golden, packed, and beside each what this code makes of it, for tests/test_golden.py.

They are NOT to be made anew. They stand for the workdirs that people have: what was trained at version 0.1 is to load,
to give the same tokens and pictures, and to be trained on, for ever. Where the test fails, the code that reads them is
to be put right. A workdir of a later version gets another name beside them; this script never writes over one.

python scripts/golden.py                     # what is not there yet: trains it, records what it gives
python scripts/golden.py --output=FOLDER     # somewhere else
"""

import argparse
import contextlib
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import vqvae_jax
from vqvae_jax import config as configs
from vqvae_jax import data, evaluate
from vqvae_jax.recipe import Recipe

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"
DATA = "data.npz"  # beside the workdirs; configs name it so, relative to the current folder
STEPS = 3  # of each stage
IMAGES = 8  # that are encoded, decoded, drawn
PRUNED = ("tensorboard", "pictures")  # of each stage

# Adam's denominator is large, so that rounding on another processor does not decide a step's direction.
TRAINED = {
    "optimizer": {"eps": 1e-3},
    "train": {"batch_size": 8, "steps": STEPS, "evaluate_every": STEPS, "checkpoint_every": STEPS, "keep": 1},
}
PIXELCNN = {"name": "pixelcnn", "depth": 4, "layers": 1, "condition_blocks": 1, "dropout": 0.1, "label_condition": True}
TRANSFORMER = {"name": "transformer", "width": 8, "layers": 1, "heads": 2, "label_condition": True}
PATCHES = {"name": "patch_vqvae", "width": 4, "groups": 2}
SMALL = {"width": 4, "residual_width": 4, "residual_blocks": 1}
CODES = {"codebook_size": 12, "code_dim": 4}
RECONSTRUCTION, COMMITMENT = {"reconstruction": 1.0}, {"reconstruction": 1.0, "commitment": 0.25}
CODEBOOK = {**COMMITMENT, "codebook": 1.0}
# Each quantizer, each autoencoder, both kinds of prior: (autoencoder, quantizer, loss weights, priors).
CASES: dict[str, tuple[dict, dict, dict, dict]] = {
    "vq": ({"name": "vqvae2", **SMALL}, {"name": "vq", **CODES, "revive_after": 2}, CODEBOOK, {}),
    "ema": (
        {"name": "hierarchical", "width": 4},
        {"name": "ema", **CODES, "revive_after": 2, "kmeans_iterations": 3},
        {**COMMITMENT, "feature": 1.0},
        {"top": {**PIXELCNN, "optimizer": {"eps": 1e-3, "ema_rate": 0.5}}, "bottom": PIXELCNN},
    ),
    "cvq": ({"name": "vqvae", **SMALL}, {"name": "cvq", **CODES}, CODEBOOK, {}),
    "cosine": (
        PATCHES,
        {"name": "cosine", **CODES, "revive_after": 2, "kmeans_iterations": 3},
        CODEBOOK,
        {},
    ),
    "fsq": (PATCHES, {"name": "fsq", "levels": (4, 3, 3)}, RECONSTRUCTION, {}),
    "residual": (
        {"name": "vqvae", **SMALL},
        {"name": "residual", "depth": 2, "inner": {"name": "ema", **CODES, "revive_after": 2}},
        COMMITMENT,
        {"codes": TRANSFORMER},
    ),
}


def write_data(path: Path) -> None:
    """Pictures of 16 big pixels with three labels; numpy promises that RandomState gives the same numbers for ever."""
    noise, arrays = np.random.RandomState(0), {}
    for split, count in (("train", 40), ("test", 8)):
        label = noise.randint(0, 3, count)
        pixels = noise.randint(0, 128, (count, 4, 4, 3)) + 60 * label[:, None, None, None]
        arrays[f"{split}_image"] = pixels.astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
        arrays[f"{split}_label"] = label.astype(np.int64)
    np.savez_compressed(path, **arrays)


def config_of(name: str) -> dict[str, Any]:
    """The whole config of a case; its data lie in the current folder."""
    autoencoder, quantizer, weights, priors = CASES[name]
    config = {
        "dataset": {"name": "npz", "path": DATA, "image_size": 16, "flip": True, "range": (-1.0, 1.0)},
        "autoencoder": {**autoencoder, "quantizer": quantizer},
        "loss_weights": weights,
        **TRAINED,
        "optimizer": {
            **TRAINED["optimizer"],
            "learning_rate": 0.03 if name == "fsq" else 1e-3,
        },  # its codes spread late
        "priors": {level: {**TRAINED, **section} for level, section in priors.items()},
    }
    config = configs.complete(config)
    configs.check(config)
    return config


def train_on(config: dict[str, Any], workdir: Path, stages: Iterable[str]) -> None:
    """These stages to the steps that the config says; nothing is drawn or reported at the end."""
    recipe = Recipe(config, workdir)
    recipe.check()
    for name in stages:
        recipe.train(name)


def more_steps(config: dict[str, Any], stages: Iterable[str]) -> dict[str, Any]:
    """The same config with one step more of these stages."""
    for name in stages:
        (config if name == "autoencoder" else config["priors"][name])["train"]["steps"] = STEPS + 1
    return config


def results(workdir: Path) -> dict[str, np.ndarray]:
    """What the code makes of a workdir: used as it is, then trained on. It writes there: give it a copy."""
    config = configs.load(workdir)
    first, *priors = configs.stages(config)
    found = named("loaded", used(workdir)) | named("metrics", metrics(workdir))
    if priors:
        train_on(more_steps(configs.load(workdir), priors), workdir, priors)
        found |= named("priors trained on", drawn(vqvae_jax.load(workdir, step=None)))
    for stale in (*priors, "tokens"):  # the autoencoder is not trained on under its priors
        shutil.rmtree(workdir / stale, ignore_errors=True)
    train_on(more_steps(configs.load(workdir), [first]), workdir, [first])
    return found | named("autoencoder trained on", coded(vqvae_jax.load(workdir)))


def used(workdir: Path) -> dict[str, Any]:
    """What `vqvae_jax.load` gives."""
    model = vqvae_jax.load(workdir)
    return coded(model) | (drawn(model) if model.priors else {})


def coded(model: Any) -> dict[str, Any]:
    """Test images as tokens, and back; and pictures of every code."""
    images = data.load(model.config["dataset"], "test").image[:IMAGES]
    tokens = model.encode(images)
    levels = model.parts.levels
    every = [
        np.arange(one.size).reshape(one.shape) % level.vocab_size for one, level in zip(tokens, levels, strict=True)
    ]
    return {
        **numbered("tokens", tokens),
        **numbered("reconstructed", model.reconstruct(images)),
        "decoded": model.decode(tokens),
        "codes": model.decode(every),
    }


def drawn(model: Any) -> dict[str, Any]:
    """New images, and test images continued."""
    images = data.load(model.config["dataset"], "test").image[:2]
    label = "1" if any(prior.label_condition for prior, _ in model.priors.values()) else None
    return {
        **numbered("drawn", model.sample_tokens(IMAGES, seed=1, label=label)),
        "samples": model.sample(IMAGES, seed=1, label=label),
        "completed": model.complete(images, count=1, seed=2, label=label, temperature=0.5),
    }


def metrics(workdir: Path) -> dict[str, Any]:
    """Every number of metrics.json."""
    return {name: value for name, value in evaluate.flat(evaluate.evaluate(workdir)) if isinstance(value, float)}


def named(what: str, arrays: dict[str, Any]) -> dict[str, np.ndarray]:
    """All names below one."""
    return {f"{what}/{name}": np.asarray(array) for name, array in arrays.items()}


def numbered(name: str, arrays: Iterable[Any]) -> dict[str, Any]:
    """name/0, name/1, …"""
    return {f"{name}/{i}": array for i, array in enumerate(arrays)}


def make(name: str, folder: Path) -> None:
    """Trains one workdir, packs it without what is for people to look at, and records what it gives."""
    config = config_of(name)
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary) / name
        train_on(config, made, configs.stages(config))
        prune(made)
        with tarfile.open(folder / f"{name}.tar.xz", "w:xz") as archive:
            archive.add(made, name)
        np.savez_compressed(folder / f"{name}.npz", **results(made))


def unpacked(name: str, folder: Path) -> Path:
    """A workdir of tests/golden, in `folder` with its data."""
    with tarfile.open(GOLDEN / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    shutil.copy(GOLDEN / DATA, folder)
    return folder / name


def prune(workdir: Path) -> None:
    """Keeps what loading and going on need."""
    for path in [path for what in PRUNED for path in workdir.glob(f"*/{what}")]:
        shutil.rmtree(path)


def main() -> int:
    """Makes what is missing."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--output", type=Path, default=GOLDEN, help="folder (default: tests/golden)")
    folder = flags.parse_args().output.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(folder):
        if not Path(DATA).is_file():
            write_data(Path(DATA))
        for name in CASES:
            if not Path(f"{name}.tar.xz").exists():
                make(name, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
