"""The stages of a config in order, and what each takes from the ones before.

    autoencoder ──► tokens of the training images ──► top ──► bottom, given top ──► metrics, samples, report

Each stage is skipped where it is finished and goes on where it was interrupted. Where the data are tokens already there
is no autoencoder to train.
"""

import math
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vqvae_jax import codec, data, evaluate, parts, report, room, sample, train
from vqvae_jax import config as configs
from vqvae_jax.backend import wait_for_all
from vqvae_jax.checkpoint import GOES_ON, Checkpoints, set_aside
from vqvae_jax.data import tokens as token_files
from vqvae_jax.data.augment import normalise, view
from vqvae_jax.files import write_checked_json
from vqvae_jax.lock import alone_in
from vqvae_jax.tasks.autoencode import AutoencodeTask
from vqvae_jax.tasks.optimize import make_optimizer
from vqvae_jax.tasks.prior import PriorTask
from vqvae_jax.trained import TRAINING, Trained
from vqvae_jax.types import UserError

TOKENS = "tokens"
PARTS = ("train", "validation")
VERSIONS = 2  # of an image in a training step, at the least: itself and its reconstruction


def run(config: Mapping[str, Any], workdir: Path, stage: str | None = None) -> None:
    """Trains every stage of the config, or one; where all are finished, evaluates, samples and reports.

    Args:
        config: as `config.read` gives it.
        workdir: where everything is written; nothing there is overwritten by a run of another config.
        stage: the only one to train.

    Raises:
        UserError: something that the user can put right; another process is at it.
        SystemExit: a signal stopped the training; everything is saved.
    """
    workdir = Path(workdir)
    with _alone_in(workdir):
        recipe = Recipe(config, workdir)
        recipe.check(stage)
        trained = [recipe.train(name) for name in configs.stages(config) if stage in (None, name)]
        if recipe.finished():
            recipe.conclude(again=any(trained))


def _alone_in(workdir: Path) -> AbstractContextManager[None]:
    """For all processes of this run."""
    return nullcontext() if jax.process_index() else alone_in(workdir)


def rewind(config: Mapping[str, Any], workdir: Path, stage: str, step: int) -> None:
    """Sets a stage's checkpoints after `step` aside, so that `run` goes on from there.

    Raises:
        UserError: there is no such step, the workdir is of another config, or priors have learned the codes.
    """
    if jax.process_count() > 1:
        raise UserError("--from_step is for a single process; call it without --distributed once, then go on")
    with alone_in(Path(workdir)):
        _rewind(config, Path(workdir), stage, step)


def _rewind(config: Mapping[str, Any], workdir: Path, stage: str, step: int) -> None:
    configs.differs(config, workdir)
    priors = [level for level in config["priors"] if (workdir / level).exists()]
    if stage == "autoencoder" and priors:
        folders = " ".join(str(workdir / name) for name in (*priors, TOKENS))
        raise UserError(f"{', '.join(priors)} learned the codes of the autoencoder's last step; first: rm -r {folders}")
    later = set_aside(workdir / stage / "checkpoints", step)
    said = f"; steps {', '.join(map(str, later))} are in {workdir}/{stage}/checkpoints.after_{step}" if later else ""
    say(f"{stage}: goes back to step {step}{said}")


class Recipe:
    """A config in a workdir, with its data."""

    def __init__(self, config: Mapping[str, Any], workdir: Path):
        self.config, self.workdir = config, workdir
        self.from_tokens = "autoencoder" not in configs.stages(config)
        if not self.from_tokens:  # before images are read, of whose number of channels nothing is known yet
            size, batch = config["dataset"]["image_size"], config["train"]["batch_size"]
            what = f"images of {size} x {size} pixels"
            room.check_batch("config.train", batch, VERSIONS * room.FLOAT * size**2, what)
        load: Any = token_files.load if self.from_tokens else data.load
        here = located(config, self.workdir)
        self.dataset = here["dataset"]
        self.splits = {part: load(self.dataset, part) for part in PARTS}
        if not self.from_tokens:
            names = label_order(config, self.workdir)
            self.splits = {part: images.with_labels(names) for part, images in self.splits.items()}
        self.facts = parts.facts_of_tokens(here) if self.from_tokens else parts.facts_of(self.splits["train"])
        self.facts["train_images"] = len(self.splits["train"])

    def check(self, stage: str | None = None) -> None:
        """All that can go wrong is found before anything is trained or written."""
        for part, images in self.splits.items():
            if not len(images):
                raise UserError(
                    f"the {part} part of {self.config['dataset']['split']!r} holds no images: 5 % of them are kept for "
                    "validation, so that a few dozen are needed; choose another --config.dataset.split, or add images"
                )
        if not self.from_tokens:
            self._check_autoencoder_task()
        elif not self.config["priors"]:
            raise UserError("the data are tokens and the config has no priors, so there is nothing to train")
        else:
            self._test_split()
        for name in configs.stages(self.config):
            self._check_not_imported(name)
            train.make_mesh(self._section(name)["train"]["batch_size"], self._path(name))
            self._check_init_from(name)
        self._check_room()
        sample.pick_of(self.config["sample"])
        configs.differs(self.config, self.workdir)
        for name in configs.stages(self.config):
            self._check_saved(name)
        check_facts(self.facts, self.workdir)
        if not self.from_tokens:
            self._check_codes()
            if stage not in (None, "autoencoder"):
                self._check_autoencoder()
        if jax.process_index() == 0:
            self._forget_other_samples()
            configs.agree(self.config, self.workdir)
            write_facts(self.facts, self.workdir)

    def train(self, name: str) -> bool:
        """Trains a stage to its end; False where it was finished already."""
        step, steps = self._latest(name), self._steps(name)
        if step is None and not steps:
            self._take(name)
            return True
        if step is not None and step >= steps:
            say(f"{name}: finished, {step} steps")
            return False
        origin = self._section(name)["train"]["init_from"]
        begins = f"starts from the weights of {origin}, with a fresh optimizer" if origin else "starts"
        say(f"{name}: {f'goes on at step {step}' if step else begins}, {steps} steps in {self.workdir / name}")
        if jax.process_index() == 0:
            for stale in (evaluate.FILE, "samples.png", report.FILE):
                (self.workdir / stale).unlink(missing_ok=True)
        task, split, held_out = self._autoencoder() if name == "autoencoder" else self._prior(name)
        section = self._section(name)
        settings = section["train"] | {"steps": steps}
        seed = self.config["seed"] + ("autoencoder", *configs.levels(self.config)).index(name)
        train.fit(task, split, held_out, self.workdir / name, settings, self.config, seed)
        return True

    def _take(self, name: str) -> None:
        """The weights of another run as they are, as step 0."""
        origin = Path(self._section(name)["train"]["init_from"])
        say(f"{name}: the weights of {origin}, as they are")
        with Checkpoints(origin / name / "checkpoints", flag="") as there, Checkpoints(self._folder(name)) as here:
            step = None if name == "autoencoder" or there.best() is None else "best"
            here.save(0, there.restore_model(step, self._abstract(name)), {}, dict(self.config))

    def finished(self) -> bool:
        """Whether every stage is."""
        latest = {name: self._latest(name) for name in configs.stages(self.config)}
        return all(step is not None and step >= self._steps(name) for name, step in latest.items())

    def conclude(self, again: bool) -> None:
        """metrics.json, samples.png where there are priors and a decoder, report.html."""
        model = Trained(self.workdir, flags=TRAINING)
        _ = model.priors, self.from_tokens or model.autoencoder  # by every process, as above
        if jax.process_index():
            return
        if again or not (self.workdir / evaluate.FILE).is_file():
            say("evaluating on the test split")
            print("\n".join(evaluate.lines(evaluate.measure(model))))
            again = True
        if again or not (self.workdir / "samples.png").is_file():
            again = self._sample(model) or again
        if again or not (self.workdir / report.FILE).is_file():
            try:
                say(f"look at {report.write(self.workdir)}")
            except UserError as missing:  # a library, which the training did not need
                say(f"no report: {missing}")

    def _sample(self, model: Trained) -> bool:
        """Draws samples.png; False where there is nothing to draw it with."""
        if self.from_tokens or not self.config["priors"]:
            return False
        say("sampling")
        images = model.sample(self.config["sample"]["count"], self.config["seed"])
        sample.save(images, self.workdir / "samples.png")
        return True

    def _check_room(self) -> None:
        """What no memory holds, and steps that no 32 bits count."""
        for name in configs.stages(self.config):
            room.check_weights(name, self._abstract(name))
            if (steps := self._steps(name)) > configs.WHOLE:
                raise UserError(f"{steps} steps are more than {configs.WHOLE}: --{self._path(name)}.epochs=N, fewer")
        for level, section in self.config["priors"].items():
            self._check_logits(parts.build_prior(self.config, self.facts, level), level, section["train"]["batch_size"])
        if self.config["priors"]:
            count = self.config["sample"]["count"]
            room.check_pictures("--config.sample.count", count, self.facts["image_size"], self.facts["channels"])

    def _check_logits(self, prior: Any, level: str, batch_size: int) -> None:
        """They are the largest that a step of a prior cannot do without."""
        numbers = sum(math.prod(one.form) * (one.vocab_size or 1) for one in prior.maps)
        example = numbers * jnp.dtype(prior.dtype).itemsize
        what = f"maps {', '.join(map(str, prior.maps))}"
        room.check_batch(self._path(level), batch_size, example, what)

    def _path(self, name: str) -> str:
        """Of a stage's section `train`, as it is typed."""
        return "config.train" if name == "autoencoder" else f"config.priors.{name}.train"

    def _section(self, name: str) -> Mapping[str, Any]:
        return self.config if name == "autoencoder" else self.config["priors"][name]

    def _examples(self, name: str) -> int:
        """Training examples of a stage; a prior sees every view of an image."""
        views = 1 if name == "autoencoder" or self.from_tokens else self.config["dataset"]["views"]
        return views * len(self.splits["train"])

    def _steps(self, name: str) -> int:
        section = self._section(name)["train"]
        return section["steps"] or math.ceil(section["epochs"] * self._examples(name) / section["batch_size"])

    def _latest(self, name: str) -> int | None:
        with Checkpoints(self._folder(name)) as checkpoints:
            return checkpoints.latest()

    def _folder(self, name: str) -> Path:
        return self.workdir / name / "checkpoints"

    def _abstract(self, name: str) -> Any:
        """Shapes of a stage's model."""
        if name == "autoencoder":
            return parts.abstract_autoencoder(parts.build_autoencoder(self.config, self.facts), self.facts)
        return parts.abstract_prior(parts.build_prior(self.config, self.facts, name))

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
        return task, *(self._batches(self.splits[part], section) for part in PARTS)

    def _prior(self, level: str):
        split, held_out = self._tokens()
        section, maps = self.config["priors"][level], parts.maps_of(parts.token_levels(self.config, self.facts), level)
        prior, trained = parts.build_prior(self.config, self.facts, level), Trained(self.workdir, flags=TRAINING)
        _ = self.from_tokens or trained.autoencoder  # by every process: Orbax reads with all of them or not at all
        entropies = token_files.entropies(held_out.maps[maps], split.maps[maps], prior.maps[0].vocab_size)
        task = PriorTask(
            prior,
            maps,
            make_optimizer(section["optimizer"], self._steps(level)),
            None if self.from_tokens else trained.decode,
            entropies,
            sample.pick_of(self.config["sample"]),
            section["optimizer"]["ema_rate"],
        )
        return task, self._batches(split, section["train"]), self._batches(held_out, section["train"])

    def _batches(self, arrays: Any, section: Mapping[str, Any]) -> Any:
        hosts = jax.process_index(), jax.process_count()
        if isinstance(arrays, token_files.TokenArrays):
            return data.ArrayData(arrays, section["batch_size"], self.config["seed"], *hosts)
        return data.batches(arrays, section["batch_size"], self.config["seed"], *hosts)

    def _tokens(self) -> Sequence[token_files.TokenArrays]:
        """The training and held-out images as codes, written once; the first process writes, the others wait."""
        if self.from_tokens:
            return [self.splits[part] for part in PARTS]
        self._check_autoencoder()
        folder, source = self.workdir / TOKENS, {"autoencoder": parts.autoencoder_checksum(self.workdir, flag=GOES_ON)}
        trained = parts.load_autoencoder(self.workdir, self.config, self.facts, flag=GOES_ON)
        if jax.process_index() == 0 and not token_files.is_written(folder, source):
            self._encode_into(folder, source, *trained)
        wait_for_all("tokens are written")
        return [token_files.read(folder, part) for part in PARTS]

    def _encode_into(self, folder: Path, source: Mapping[str, Any], autoencoder: Any, model: Any) -> None:
        say("encoding the training images")
        dataset, key = self.config["dataset"], jax.random.key(self.config["seed"])

        def encode(images, number):
            images = normalise(view(images, number, dataset["flip"], dataset["crop"], key), dataset["range"])
            return autoencoder.apply({"params": model.params}, images, model.codebooks, method="encode")

        jitted = jax.jit(encode, static_argnums=1)
        size = max(codec.BATCH, codec.batch_size(*self.splits["train"].image.shape[1:3]))  # on CPU BATCH
        views = {"train": dataset["views"], "validation": 1}
        token_files.write(
            folder,
            {part: token_files.Part(self.splits[part], views[part]) for part in PARTS},
            parts.token_levels(self.config, self.facts),
            lambda images, number: codec.in_batches(lambda x: jitted(x, number), images, size=size),
            self.facts,
            source,
        )

    def _forget_other_samples(self) -> None:
        """Where the section `sample` has changed, samples.png is to be drawn anew."""
        if (self.workdir / configs.FILE).is_file() and configs.load(self.workdir)["sample"] != self.config["sample"]:
            for stale in ("samples.png", report.FILE):
                (self.workdir / stale).unlink(missing_ok=True)

    def _check_autoencoder_task(self) -> None:
        task = self._autoencoder()[0]
        task.check(parts.loss_terms(task.autoencoder, self.facts))
        test = self._test_split().image.shape[1:]
        train_shape = self.splits["train"].image.shape[1:]
        if tuple(test) != tuple(train_shape):
            raise UserError(
                f"images of the test split are {list(test)}, those of training {list(train_shape)}; "
                "use images of one size, all grey or all in colour"
            )

    def _test_split(self) -> Any:
        """What is measured after the training, which is to be there before it."""
        load: Any = token_files.load if self.from_tokens else data.load
        images = load(self.dataset, "test")
        if not len(images):
            split = self.config["dataset"]["test_split"]
            raise UserError(
                f"the split {split!r} holds no images, on which the finished training is measured; "
                "choose another --config.dataset.test_split, or add images"
            )
        return images

    def _check_autoencoder(self) -> None:
        """A prior is trained on the codes of a finished autoencoder."""
        step = self._latest("autoencoder")
        if step is None or step < self._steps("autoencoder"):
            raise UserError(
                "the priors learn the codes of the autoencoder, whose training is not finished; "
                f"first: --stage=autoencoder --workdir={self.workdir}"
            )

    def _check_not_imported(self, name: str) -> None:
        """Imported weights are of step 0, and no training may write over them."""
        if self._latest(name) == 0 and self._steps(name):
            field = f"--config.{'' if name == 'autoencoder' else f'priors.{name}.'}train.init_from={self.workdir}"
            raise UserError(f"{self.workdir / name} holds imported weights; to train on: --workdir=NEW {field}")

    def _check_saved(self, name: str) -> None:
        """The config is the one that a stage's checkpoint was saved with."""
        with Checkpoints(self._folder(name), flag=GOES_ON) as checkpoints:
            if checkpoints.latest() is not None:
                configs.check_saved(self.config, checkpoints.config(), name, str(self._folder(name)))

    def _check_init_from(self, name: str) -> None:
        folder = self._section(name)["train"]["init_from"]
        if not folder or self._latest(name) is not None:
            return
        with Checkpoints(Path(folder) / name / "checkpoints", flag="") as checkpoints:
            checkpoints.check_model(self._abstract(name))

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


def label_order(config: Mapping[str, Any], workdir: Path) -> Sequence[str]:
    """The labels as the run counts them, or that run whose weights a prior starts from; empty: as the data do."""
    origins = [workdir, *(section["train"]["init_from"] for section in config["priors"].values())]
    begun = [Path(origin) for origin in origins if origin and (Path(origin) / parts.FACTS).is_file()]
    return parts.read_facts(begun[0])["label_names"] if begun else ()


def located(config: Mapping[str, Any], workdir: Path) -> dict[str, Any]:
    """The config with its data where they lie; a run that goes on may be called from another folder."""
    begun = (workdir / parts.FACTS).is_file()
    return configs.located(config, workdir, parts.read_facts(workdir).get(configs.BEGUN_IN) if begun else None)


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
    if not (workdir / parts.FACTS).is_file():
        here = os.path.relpath(Path.cwd(), workdir)
        write_checked_json(workdir / parts.FACTS, {**facts, configs.BEGUN_IN: here})


def say(text: str) -> None:
    """A line about the whole run, from the first process."""
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)
