"""New images from a trained workdir: each prior in turn, coarse to fine, then the decoder."""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vqvae_jax import config as configs
from vqvae_jax import logs, parts
from vqvae_jax.data.augment import to_uint8
from vqvae_jax.priors.draw import CHUNK, draw
from vqvae_jax.types import Array, Condition, Model, Pick, Tokens, UserError


class Sampler:
    """A workdir's autoencoder and priors, loaded.

    Args:
        workdir: of a finished training.
        step: of the priors' checkpoints: a number, "best" or None for the latest.
    """

    def __init__(self, workdir: Path, step: int | str | None = "best"):
        self.config, self.facts = configs.load(workdir), parts.read_facts(workdir)
        self.autoencoder, self.model = parts.load_autoencoder(workdir, self.config, self.facts)
        self.priors = [
            parts.load_prior(workdir, self.config, self.facts, level, step)
            for level in configs.levels(self.config)
            if level in self.config["priors"]
        ]
        if not self.priors:
            raise UserError(f"{workdir} was trained without priors, so it cannot sample; evaluate it instead")

    def tokens(self, key: Array, count: int, pick: Pick, label: Array) -> Tokens:
        """Token maps of `count` new images, coarse to fine; `label` int32 [count], the number of labels for none."""
        maps: Tokens = ()
        for i, (prior, model) in enumerate(self.priors):
            condition = Condition(label if prior.num_labels else None, maps)
            maps += (draw(prior, count, pick, model, jax.random.fold_in(key, i), condition),)
        return maps

    def images(self, seed: int, count: int, pick: Pick, label: str | int | None = None) -> np.ndarray:
        """New images, uint8 [count, H, W, C]. The same seed and count give the same bytes.

        Args:
            seed: of all randomness.
            count: images.
            pick: how tokens are picked.
            label: a name or number of the data set's labels; None draws labels as often as the training data have them.
        """
        labels = self._labels(seed, count, label)
        drawn = []
        for start in range(0, count, CHUNK):
            part = np.resize(labels[start : start + CHUNK], min(count, CHUNK))
            key = jax.random.fold_in(jax.random.key(seed), start)
            maps = self.tokens(key, len(part), pick, jnp.asarray(part))
            drawn.append(np.asarray(decode(self.autoencoder, self.value_range, self.model, maps)))
        return np.concatenate(drawn)[:count]

    @property
    def value_range(self) -> tuple[float, float]:
        return self.config["dataset"]["range"]

    def _labels(self, seed: int, count: int, label: str | int | None) -> np.ndarray:
        names = self.facts["label_names"]
        if label is not None:
            if names and not any(getattr(prior, "label_condition", False) for prior, _ in self.priors):
                raise UserError("the priors were trained without label_condition; leave --label out")
            return np.full(count, find_label(label, names), np.int32)
        if not names:
            return np.zeros(count, np.int32)
        share = np.asarray(self.facts["label_counts"], np.float64)
        return np.random.default_rng(seed % 2**64).choice(len(names), count, p=share / share.sum()).astype(np.int32)


def find_label(label: str | int, names: list[str]) -> int:
    """The number of a label that was given by name or number.

    Raises:
        UserError: there is none such; the message lists them.
    """
    if not names:
        raise UserError("the data set has no labels; leave --label out")
    if str(label).isdecimal() and int(label) < len(names):
        return int(label)
    if label in names:
        return names.index(str(label))
    raise UserError(configs.unknown("--label: there is no label", str(label), names, "There are"))


def pick_of(section: Mapping[str, Any], **said: Any) -> Pick:
    """The Pick of a config's section `sample`, with what was said on the command line over it."""
    values: dict[str, Any] = {name: section[name] if said.get(name) is None else said[name] for name in Pick._fields}
    if not values["temperature"] >= 0 or not 0 < values["top_p"] <= 1 or values["top_k"] < 0:
        raise UserError(f"temperature and top_k are at least 0, top_p is above 0 and at most 1; got {values}")
    if not math.isfinite(values["guidance"]) or not math.isfinite(values["temperature"]):
        raise UserError(f"temperature and guidance are plain numbers; got {values}")
    return Pick(**values)


def check_output(output: Path) -> None:
    """UserError for a name that says no known kind of file; to be called before anything is computed."""
    if output.suffix not in ("", ".png", ".npz"):
        raise UserError(f"--output={output}: the name ends in .png (a grid) or .npz (arrays), or is a folder")


def save(images: np.ndarray, output: Path) -> None:
    """Writes .png (a grid), .npz (uint8 `arr_0` [N, H, W, C], as FID suites read it), or a folder of pictures."""
    check_output(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".npz":
        np.savez(output, images)
    elif output.suffix == ".png":
        columns = max(1, round(len(images) ** 0.5))
        logs.save_png(output, logs.grid(images, columns=columns, scale=max(1, 64 // images.shape[1])))
    else:
        for i, image in enumerate(images):
            logs.save_png(output / f"{i:06d}.png", image)


@partial(jax.jit, static_argnums=(0, 1))
def decode(autoencoder, value_range: tuple[float, float], model: Model, tokens: Tokens) -> Array:
    images = autoencoder.apply({"params": model.params}, tokens, model.codebooks, method="decode")
    return to_uint8(images, value_range)
