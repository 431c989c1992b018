"""What a trained workdir is worth, on the test split: metrics.json."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vqvae_jax import config as configs
from vqvae_jax import data, logs, parts
from vqvae_jax.data import tokens as token_files
from vqvae_jax.data.augment import normalise
from vqvae_jax.tasks.autoencode import AutoencodeTask, reconstructions
from vqvae_jax.tasks.prior import PriorTask
from vqvae_jax.types import Model

FILE = "metrics.json"
BATCH = 64  # images
SHOWN = 16  # images in the strip


def evaluate(workdir: Path, split: str | None = None) -> dict[str, Any]:
    """Metrics of every trained stage over a split, the config's test split unless another is said.

    Writes metrics.json, or metrics_SPLIT.json for another split, and reconstructions.png.

    mse in the units of `dataset.range`; PSNR and SSIM on clipped images rounded to uint8, mean over images (see
    `networks.measure`); usage and perplexity over the whole split; nll in nats a token, `position_entropy` beside it,
    and bits a pixel: nats of all tokens / ln 2 / pixels.

    Raises:
        UserError: nothing is trained here, or the data are not to be had.
    """
    workdir = Path(workdir)
    config, facts = configs.load(workdir), parts.read_facts(workdir)
    asked = config["dataset"] | ({"test_split": split} if split else {})
    arrays = data.load(asked, "test")
    autoencoder, model = parts.load_autoencoder(workdir, config, facts)
    task = AutoencodeTask(autoencoder, None, {}, config["dataset"]["range"])
    metrics: dict[str, Any] = {
        "split": asked["test_split"],
        "images": len(arrays),
        "autoencoder": over(task, model, data.ArrayData(arrays, BATCH, 0)),
    }
    maps = encode_all(autoencoder, config["dataset"]["range"], model, arrays.image)
    priors = {level: _prior(workdir, config, facts, level, maps, arrays.label) for level in _trained(workdir, config)}
    if priors:
        metrics["priors"] = priors
    if len(priors) == len(configs.levels(config)):
        metrics["bits_per_pixel"] = sum(prior["bits_per_pixel"] for prior in priors.values())
    shown = arrays.image[np.linspace(0, len(arrays) - 1, min(SHOWN, len(arrays))).astype(int)]
    rows = [shown, *reconstructions(autoencoder, config["dataset"]["range"], model, shown)]
    name = "" if asked == config["dataset"] else f"_{split}"
    logs.save_png(workdir / f"reconstructions{name}.png", logs.strip(rows, scale=max(1, 64 // shown.shape[1])))
    write(metrics, workdir / f"metrics{name}.json")
    return metrics


def over(task: Any, model: Model, split: data.ArrayData) -> dict[str, float]:
    """A task's metrics over a whole split, without those that only training needs."""
    step = jax.jit(task.eval_step)
    sums: Any = None
    for batch in split.evaluation():
        new = step(model, batch)
        sums = new if sums is None else jax.tree.map(jnp.add, sums, new)
    return {name: value for name, value in task.summary(jax.device_get(sums)).items() if name != "loss"}


def encode_all(autoencoder, value_range, model: Model, images: np.ndarray) -> tuple[np.ndarray, ...]:
    """uint8 [N, H, W, C] → token maps int32 [N, h, w], coarse to fine."""
    step = jax.jit(
        lambda model, x: autoencoder.apply(
            {"params": model.params}, normalise(x, value_range), model.codebooks, method="encode"
        )
    )
    chunks = []
    for start in range(0, len(images), BATCH):
        part = images[start : start + BATCH]
        padded = np.pad(part, ((0, BATCH - len(part)), (0, 0), (0, 0), (0, 0)))
        chunks.append([np.asarray(tokens)[: len(part)] for tokens in step(model, padded)])
    return tuple(np.concatenate(level) for level in zip(*chunks, strict=True))


def _trained(workdir: Path, config: Mapping[str, Any]) -> list[str]:
    levels = [level for level in configs.stages(config) if level != "autoencoder"]
    return [level for level in levels if (workdir / level / "checkpoints").is_dir()]


def _prior(workdir: Path, config, facts, level: str, maps, label) -> dict[str, float]:
    """nll of one level's test tokens, and what it is to be compared with."""
    prior, model = parts.load_prior(workdir, config, facts, level)
    names = configs.levels(config)
    number = names.index(level)
    seen = token_files.read(workdir / "tokens", "train", names).maps[number]
    task = PriorTask(prior, number, None)
    split = data.ArrayData(token_files.TokenArrays(maps, label), BATCH, 0)
    nll = over(task, model, split)["nll"]
    yardstick = token_files.position_entropy(maps[number], seen, prior.vocab_size)
    pixels = facts["image_size"] ** 2
    return {
        "nll": nll,
        "entropy": token_files.entropy(maps[number], prior.vocab_size),
        "position_entropy": yardstick,
        "nll_over_position_entropy": nll / yardstick,
        "bits_per_pixel": nll * maps[number][0].size / math.log(2) / pixels,
    }


def write(metrics: Mapping[str, Any], path: Path) -> None:
    """A JSON file, whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(finite(metrics), indent=2, allow_nan=False) + "\n")
    os.replace(draft, path)


def finite(value: Any) -> Any:
    """NaN and infinity become None, which JSON knows: the SSIM of pictures below 11 pixels."""
    if isinstance(value, Mapping):
        return {name: finite(one) for name, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def lines(metrics: Mapping[str, Any], name: str = "") -> list[str]:
    """The metrics as text, a line each."""
    out = []
    for key, value in metrics.items():
        here = f"{name}{key}"
        if isinstance(value, Mapping):
            out += lines(value, f"{here}/")
        else:
            out.append(f"{here:45} {value:.4f}" if isinstance(value, float) else f"{here:45} {value}")
    return out
