"""The stages of a config in order, and what each takes from the ones before.

    autoencoder ──► tokens of the training images ──► top ──► bottom, given top ──► metrics.json, samples.png

Each stage is skipped where it is finished and goes on where it was interrupted.
"""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vqvae_jax import config as configs
from vqvae_jax import data, evaluate, parts, sample, train
from vqvae_jax.checkpoint import Checkpoints
from vqvae_jax.data import tokens as token_files
from vqvae_jax.data.augment import normalise, view
from vqvae_jax.tasks.autoencode import AutoencodeTask
from vqvae_jax.tasks.optimize import make_optimizer
from vqvae_jax.tasks.prior import PriorTask
from vqvae_jax.types import UserError

TOKENS = "tokens"
BATCH = 64  # images encoded at once


def run(config: Mapping[str, Any], workdir: Path, stage: str | None = None) -> None:
    """Trains every stage of the config, or one; where all are finished, evaluates and samples.

    Args:
        config: as `config.read` gives it.
        workdir: where everything is written; nothing there is overwritten by a run of another config.
        stage: the only one to train.

    Raises:
        UserError: something that the user can put right.
        SystemExit: a signal stopped the training; everything is saved.
    """
    workdir = Path(workdir)
    recipe = Recipe(config, workdir)
    recipe.check(stage)
    trained = [recipe.train(name) for name in configs.stages(config) if stage in (None, name)]
    if recipe.finished() and jax.process_index() == 0:
        recipe.conclude(again=any(trained))


class Recipe:
    """A config in a workdir, with its data."""

    def __init__(self, config: Mapping[str, Any], workdir: Path):
        self.config, self.workdir = config, workdir
        self.images = {part: data.load(config["dataset"], part) for part in ("train", "validation")}
        self.facts = facts_of(self.images["train"])

    def check(self, stage: str | None = None) -> None:
        """All that can go wrong is found before anything is trained or written."""
        for part, images in self.images.items():
            if not len(images):
                raise UserError(
                    f"the {part} part of {self.config['dataset']['split']!r} holds no images: 5 % of them are kept for "
                    "validation, so that a few dozen are needed; choose another dataset.split, or add images"
                )
        task = self._autoencoder()[0]
        task.check(parts.loss_terms(task.autoencoder, self.facts))
        for level in self.config["priors"]:
            parts.abstract_prior(parts.build_prior(self.config, self.facts, level))
        for name in configs.stages(self.config):
            train.make_mesh(self._section(name)["train"]["batch_size"])
        sample.pick_of(self.config["sample"])
        self._check_test_split()
        configs.differs(self.config, self.workdir)
        check_facts(self.facts, self.workdir)
        self._check_codes()
        if stage not in (None, "autoencoder"):
            self._check_autoencoder()
        if jax.process_index() == 0:
            configs.agree(self.config, self.workdir)
            write_facts(self.facts, self.workdir)

    def train(self, name: str) -> bool:
        """Trains a stage to its end; False where it was finished already."""
        step, steps = self._latest(name), self._steps(name)
        if step is not None and step >= steps:
            say(f"{name}: finished, {step} steps")
            return False
        say(f"{name}: {f'goes on at step {step}' if step else 'starts'}, {steps} steps in {self.workdir / name}")
        for stale in (evaluate.FILE, "samples.png"):
            (self.workdir / stale).unlink(missing_ok=True)
        task, split, held_out = self._autoencoder() if name == "autoencoder" else self._prior(name)
        section = self._section(name)
        settings = section["train"] | {"steps": steps}
        seed = self.config["seed"] + configs.stages(self.config).index(name)
        train.fit(task, split, held_out, self.workdir / name, settings, self.config, seed)
        return True

    def finished(self) -> bool:
        """Whether every stage is."""
        latest = {name: self._latest(name) for name in configs.stages(self.config)}
        return all(step is not None and step >= self._steps(name) for name, step in latest.items())

    def conclude(self, again: bool) -> None:
        """metrics.json, and samples.png where there are priors."""
        if again or not (self.workdir / evaluate.FILE).is_file():
            say("evaluating on the test split")
            print("\n".join(evaluate.lines(evaluate.evaluate(self.workdir))))
        path = self.workdir / "samples.png"
        if self.config["priors"] and (again or not path.is_file()):
            section = self.config["sample"]
            images = sample.Sampler(self.workdir).images(self.config["seed"], section["count"], sample.pick_of(section))
            sample.save(images, path)
        say(f"look at {path if path.is_file() else self.workdir / 'reconstructions.png'}")

    def _section(self, name: str) -> Mapping[str, Any]:
        return self.config if name == "autoencoder" else self.config["priors"][name]

    def _examples(self, name: str) -> int:
        """Training examples of a stage; a prior sees every view of an image."""
        views = 1 if name == "autoencoder" else self.config["dataset"]["views"]
        return views * len(self.images["train"])

    def _steps(self, name: str) -> int:
        section = self._section(name)["train"]
        return section["steps"] or math.ceil(section["epochs"] * self._examples(name) / section["batch_size"])

    def _latest(self, name: str) -> int | None:
        with Checkpoints(self.workdir / name / "checkpoints") as checkpoints:
            return checkpoints.latest()

    def _autoencoder(self):
        config, section = self.config, self.config["train"]
        task = AutoencodeTask(
            parts.build_autoencoder(config, self.facts),
            make_optimizer(config["optimizer"], self._steps("autoencoder")),
            config["loss_weights"],
            config["dataset"]["range"],
            config["dataset"]["flip"],
            config["dataset"]["crop"],
            config["optimizer"]["ema_rate"],
        )
        return task, self._data(self.images["train"], section), self._data(self.images["validation"], section)

    def _prior(self, level: str):
        names = configs.levels(self.config)
        self._write_tokens(names)
        section, number = self.config["priors"][level], names.index(level)
        split, held_out = (token_files.read(self.workdir / TOKENS, part, names) for part in ("train", "validation"))
        prior = parts.build_prior(self.config, self.facts, level)
        seen, unseen, size = split.maps[number], held_out.maps[number], prior.vocab_size
        entropies = {
            "entropy": token_files.entropy(seen, size),
            "position_entropy": token_files.position_entropy(unseen, seen, size),
        }
        task = PriorTask(
            prior,
            number,
            make_optimizer(section["optimizer"], self._steps(level)),
            self._decode,
            entropies,
            sample.pick_of(self.config["sample"]),
            section["optimizer"]["ema_rate"],
        )
        return task, self._data(split, section["train"]), self._data(held_out, section["train"])

    def _data(self, arrays, section: Mapping[str, Any]) -> data.ArrayData:
        return data.ArrayData(
            arrays, section["batch_size"], self.config["seed"], jax.process_index(), jax.process_count()
        )

    def _decode(self, maps) -> np.ndarray:
        autoencoder, model = self._trained_autoencoder()
        return np.asarray(sample.decode(autoencoder, self.config["dataset"]["range"], model, tuple(maps)))

    def _trained_autoencoder(self):
        return parts.load_autoencoder(self.workdir, self.config, self.facts)

    def _write_tokens(self, names: tuple[str, ...]) -> None:
        """The training and held-out images as codes, written once; the first process writes, the others wait."""
        folder, source = self.workdir / TOKENS, self._source()
        self._check_autoencoder()
        if jax.process_index() == 0 and not token_files.is_written(folder, source):
            self._encode_into(folder, source, names)
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices("tokens")

    def _check_test_split(self) -> None:
        """It is read by evaluation only, but that it is there and fits is found before hours of training."""
        test = data.load(self.config["dataset"], "test").image.shape[1:]
        train_shape = self.images["train"].image.shape[1:]
        if test != train_shape:
            raise UserError(
                f"images of the test split are {list(test)}, those of training {list(train_shape)}; use one size"
            )

    def _check_autoencoder(self) -> None:
        """A prior is trained on the codes of a finished autoencoder."""
        if (self._latest("autoencoder") or 0) < self._steps("autoencoder"):
            raise UserError(
                "the priors learn the codes of the autoencoder, whose training is not finished; "
                f"first: --stage=autoencoder --workdir={self.workdir}"
            )

    def _encode_into(self, folder: Path, source: Mapping[str, Any], names: tuple[str, ...]) -> None:
        say("encoding the training images")
        autoencoder, model = self._trained_autoencoder()
        dataset = self.config["dataset"]
        key = jax.random.key(self.config["seed"])

        def encode(images, number):
            images = normalise(view(images, number, dataset["flip"], dataset["crop"], key), dataset["range"])
            return autoencoder.apply({"params": model.params}, images, model.codebooks, method="encode")

        token_files.write(
            folder,
            {"train": (self.images["train"], dataset["views"]), "validation": (self.images["validation"], 1)},
            names,
            parts.vocab_sizes(autoencoder),
            jax.jit(encode, static_argnums=1),
            BATCH,
            source,
        )

    def _source(self) -> dict[str, Any]:
        return {"autoencoder_step": self._latest("autoencoder")}

    def _check_codes(self) -> None:
        """Training an autoencoder on would change the codes under the priors that were trained on them."""
        started = [level for level in self.config["priors"] if self._latest(level) is not None]
        step, steps = self._latest("autoencoder"), self._steps("autoencoder")
        if started and (step is None or step < steps):
            folders = " ".join(str(self.workdir / name) for name in (*started, TOKENS))
            raise UserError(
                f"the autoencoder would be trained from step {step} to {steps}, and {', '.join(started)} learned its "
                f"codes of step {step}; use another --workdir, or remove what depends on them: rm -r {folders}"
            )


def facts_of(images: data.Arrays) -> dict[str, Any]:
    """What a config cannot know of the data, as plain values."""
    names = images.label_names or tuple(map(str, range(images.num_labels)))
    counts = [] if images.label is None else np.bincount(images.label, minlength=len(names)).tolist()
    return {
        "image_size": images.image.shape[1],
        "channels": images.image.shape[3],
        "train_images": len(images),
        "label_names": list(names),
        "label_counts": counts,
    }


def check_facts(facts: Mapping[str, Any], workdir: Path) -> None:
    """UserError where the data are not those that the run began with."""
    if not (workdir / parts.FACTS).is_file():
        return
    before = parts.read_facts(workdir)
    changed = [f"{name}: {before.get(name)} → {facts[name]}" for name in facts if before.get(name) != facts[name]]
    if changed:
        raise UserError(f"the data have changed since {workdir} was begun, use another --workdir; {'; '.join(changed)}")


def write_facts(facts: Mapping[str, Any], workdir: Path) -> None:
    """DIR/data.json, once."""
    path = workdir / parts.FACTS
    if not path.is_file():
        evaluate.write(facts, path)


def say(text: str) -> None:
    """A line about the whole run, from the first process."""
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)
