"""The stages of a config in order, and what each takes from the ones before.

    autoencoder ──► tokens of the training images ──► top ──► bottom, given top ──► metrics, samples, report

Each stage is skipped where it is finished and goes on where it was interrupted. Where the data are tokens already there
is no autoencoder to train.
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import jax

from vqvae_jax import codec, data, evaluate, logs, memorised, report, room, sample, stages, text_weights
from vqvae_jax import config as configs
from vqvae_jax import facts as facts_file
from vqvae_jax.backend import wait_for_all
from vqvae_jax.checkpoint import GOES_ON, set_aside
from vqvae_jax.config import AUTOENCODER
from vqvae_jax.config.sections import TEXT_ENCODER
from vqvae_jax.data import text as text_files
from vqvae_jax.data import tokens as token_files
from vqvae_jax.data.augment import normalise, view
from vqvae_jax.files import atomically, write_json
from vqvae_jax.lock import alone_in
from vqvae_jax.parts import Parts, autoencoder_checksum, facts_of_tokens
from vqvae_jax.report.words import metrics_of
from vqvae_jax.trained import TRAINING, Trained
from vqvae_jax.types import UserError

TOKENS = "tokens"
SPLITS = ("train", "validation")
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
    if stage == AUTOENCODER and priors:
        folders = " ".join(str(workdir / name) for name in (*priors, TOKENS))
        raise UserError(f"{', '.join(priors)} learned the codes of the autoencoder's last step; first: rm -r {folders}")
    later = set_aside(workdir / stage / "checkpoints", step)
    said = f"; steps {', '.join(map(str, later))} are in {workdir}/{stage}/checkpoints.after_{step}" if later else ""
    say(f"{stage}: goes back to step {step}{said}")


class Recipe:
    """A config in a workdir, with its data."""

    def __init__(self, config: Mapping[str, Any], workdir: Path):
        self.config, self.workdir = config, workdir
        self.from_tokens = AUTOENCODER not in configs.stages(config)
        if not self.from_tokens:  # before images are read, of whose number of channels nothing is known yet
            size, batch = config["dataset"]["image_size"], config["train"]["batch_size"]
            what = f"images of {size} x {size} pixels"
            room.check_batch("config.train", batch, VERSIONS * room.FLOAT * size**2, what)
        here = located(config, workdir)
        self.dataset = here["dataset"]
        self.splits: dict[str, Any] = {split: self._load(split) for split in SPLITS}
        if not self.from_tokens:
            names = label_order(config, workdir)
            self.splits = {split: images.with_labels(names) for split, images in self.splits.items()}
        self.facts = facts_of_tokens(here) if self.from_tokens else facts_file.facts_of(self.splits["train"])
        self.facts["train_images"] = len(self.splits["train"])
        self.tokenizer = tokenizer_of(config, workdir, self.splits["train"].text)
        if self.tokenizer:
            self.facts["tokenizer"] = self.tokenizer.crc32
        if checksums := text_weights.checksums(config, workdir):
            self.facts[TEXT_ENCODER] = checksums
        if self.from_tokens:
            self.splits = {split: arrays.told(self.tokenizer) for split, arrays in self.splits.items()}
        self.parts = Parts(config, self.facts)
        self.stages = {name: self._stage(name) for name in configs.stages(config)}

    def _load(self, split: str) -> Any:
        load: Any = token_files.load if self.from_tokens else data.load
        return load(self.dataset, split)

    def _stage(self, name: str) -> stages.Stage:
        if name == AUTOENCODER:
            return stages.of_autoencoder(self.parts, self.workdir, self.splits)
        views = 1 if self.from_tokens else self.config["dataset"]["views"]  # a prior sees every view of an image
        examples = views * len(self.splits["train"])
        maps = lambda: self.splits if self.from_tokens else self._encoded  # noqa: E731
        return stages.of_prior(self.parts, self.workdir, name, examples, maps)

    def check(self, only: str | None = None) -> None:
        """All that can go wrong is found before anything is trained; then the workdir is this run's."""
        self.inspect(only)
        if jax.process_index() == 0:
            self._keep_tokenizer()
            self._forget_other_samples()
            configs.agree(self.config, self.workdir)
            facts_file.write(self.facts, self.workdir)

    def inspect(self, only: str | None = None) -> None:
        """UserError for all that can go wrong; nothing is written."""
        for split, images in self.splits.items():
            if not len(images):
                raise UserError(
                    f"the {split} part of {self.config['dataset']['split']!r} holds no images: 5 % of them are kept "
                    "for validation, so that a few dozen are needed; choose another --config.dataset.split, or add "
                    "images"
                )
        self._check_test_split()
        if self.from_tokens and not self.config["priors"]:
            raise UserError("the data are tokens and the config has no priors, so there is nothing to train")
        for stage in self.stages.values():
            stage.check()
        self._check_priors()
        sample.pick_of(self.config["sample"])
        configs.differs(self.config, self.workdir)
        for stage in self.stages.values():
            stage.check_saved()
        facts_file.check_same(self.facts, self.workdir)
        if not self.from_tokens:
            self._check_codes()
            if only not in (None, AUTOENCODER):
                self._check_autoencoder()

    def train(self, name: str) -> bool:
        """Trains a stage to its end; False where it was finished already."""
        stage = self.stages[name]
        if stage.latest is None and not stage.steps:
            say(f"{name}: the weights of {stage.section['init_from']}, as they are")
            stage.take()
            return True
        if stage.finished:
            say(f"{name}: finished, {stage.latest} steps")
            return False
        say(f"{name}: {stage.begins()}")
        if jax.process_index() == 0:
            for stale in (evaluate.FILE, "samples.png", report.FILE):
                (self.workdir / stale).unlink(missing_ok=True)
        stage.train()
        return True

    def finished(self) -> bool:
        """Whether every stage is."""
        return all(stage.finished for stage in self.stages.values())

    def conclude(self, again: bool) -> None:
        """metrics.json, samples.png where there are priors and a decoder, report.html."""
        model = Trained(self.workdir, flags=TRAINING)
        model.load()  # by every process: Orbax reads with all of them or not at all
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

    def _keep_tokenizer(self) -> None:
        """In the workdir, from the beginning, and which words its captions have."""
        texts = self.splits["train"].text or ()
        if self.tokenizer and not (self.workdir / text_files.FILE).is_file():
            for remark in text_files.remarks(self.tokenizer, texts):
                say(remark)
            with atomically(self.workdir / text_files.FILE) as path:
                path.write_text(self.tokenizer.json, "utf-8")
        if self.tokenizer and not (self.workdir / text_files.WORDS).is_file():
            heard = [*texts, *(map(text_files.mirrored, texts) if self.config["dataset"]["flip"] else ())]
            with atomically(self.workdir / text_files.WORDS) as path:
                path.write_text("\n".join(sorted(text_files.words(heard))), "utf-8")

    def _sample(self, model: Trained) -> bool:
        """Draws samples.png, under held-out texts where priors are told some; False where there is no decoder."""
        if self.from_tokens or not self.config["priors"]:
            return False
        say("sampling")
        count = self.config["sample"]["count"]
        held_out, seen = (self.splits[split].text or () for split in ("validation", "train"))
        first = text_files.first_captions
        texts = list(islice(cycle(first(held_out) or first(seen) if self.tokenizer else []), count))
        images = model.sample(count, self.config["seed"], text=texts or None)
        self._say_of(model, images, texts)
        sample.save(images, self.workdir / "samples.png")
        return True

    def _say_of(self, model: Trained, images: Any, texts: Sequence[str]) -> None:
        """What the samples were told, and the nearest training images: samples.json, nearest.png."""
        told, conditional = texts, any(prior.label_condition for prior, _ in model.priors.values())
        if not texts and conditional and model.label_names:
            numbers = sample.label_numbers(model.facts, self.config["seed"], len(images), None, True)
            told = [model.label_names[number] for number in numbers]
        rows, nearest = memorised.compared(images, self.splits, self.config["dataset"]["flip"])
        scale = max(1, 64 // images.shape[1])
        logs.save_png(self.workdir / "nearest.png", logs.strip(rows, scale))
        write_json(self.workdir / "samples.json", {"told": list(told), "nearest": nearest})

    @cached_property
    def _encoded(self) -> dict[str, Any]:
        """The training and held-out images as maps, written once; the first process writes, the others wait."""
        self._check_autoencoder()
        folder = self.workdir / TOKENS
        source = {"autoencoder": autoencoder_checksum(self.workdir, flag=GOES_ON)}
        if self.tokenizer:  # whoever changes captions wants the new ones told
            source["texts"] = text_files.checksum(self.splits[split].text for split in SPLITS)
        model = self.parts.load(self.workdir, AUTOENCODER, flag=GOES_ON)
        if jax.process_index() == 0 and not token_files.is_written(folder, source):
            say("encoding the training images")
            self._encode_into(folder, source, model)
        wait_for_all("tokens are written")
        return {split: token_files.read(folder, split).told(self.tokenizer) for split in SPLITS}

    def _encode_into(self, folder: Path, source: Mapping[str, Any], model: Any) -> None:
        dataset, key, autoencoder = self.config["dataset"], jax.random.key(self.config["seed"]), self.parts.autoencoder

        def encode(images, number):
            images = normalise(view(images, number, dataset["flip"], dataset["crop"], key), dataset["range"])
            return autoencoder.apply({"params": model.params}, images, model.codebooks, method="encode")

        jitted = jax.jit(encode, static_argnums=1)
        size = max(codec.BATCH, codec.batch_size(*self.splits["train"].image.shape[1:3]))  # on CPU BATCH
        views = {"train": dataset["views"], "validation": 1}
        token_files.write(
            folder,
            {split: token_files.Part(self.splits[split], views[split], dataset["flip"]) for split in SPLITS},
            self.parts.levels,
            lambda images, number: codec.in_batches(lambda x: jitted(x, number), images, size=size),
            self.facts,
            source,
        )

    def _forget_other_samples(self) -> None:
        """Where pictures are drawn otherwise than before, samples.png and what was measured of samples are others."""
        known = (self.workdir / configs.FILE).is_file()
        differing = configs.changed(configs.load(self.workdir), self.config) if known else {}
        otherwise = set(filter(configs.of_drawing, differing))
        stale = {"samples.png", report.FILE} if otherwise else set()
        if otherwise - {"config.sample.count"}:  # as many are measured whatever it is
            distances = metrics_of(self.workdir / evaluate.FILE).get("distances", {})
            stale |= {evaluate.FILE} if "samples" in distances else set()
        for name in stale:
            (self.workdir / name).unlink(missing_ok=True)

    def _check_test_split(self) -> None:
        """What is measured after the training is to be there before it."""
        images = self._load("test")
        if not len(images):
            split = self.config["dataset"]["test_split"]
            raise UserError(
                f"the split {split!r} holds no images, on which the finished training is measured; "
                "choose another --config.dataset.test_split, or add images"
            )
        if self.from_tokens:
            return
        test, trained = (tuple(split.image.shape[1:]) for split in (images, self.splits["train"]))
        if test != trained:
            raise UserError(
                f"images of the test split are {list(test)}, those of training {list(trained)}; "
                "use images of one size; --config.dataset.channels=1 takes all as grey, 3 all in colour"
            )

    def _check_priors(self) -> None:
        """What their logits and the samples take has room."""
        for level in self.config["priors"]:
            stages.check_logits(self.stages[level])
        if self.config["priors"]:
            count = self.config["sample"]["count"]
            room.check_pictures("--config.sample.count", count, self.facts["image_size"], self.facts["channels"])

    def _check_autoencoder(self) -> None:
        """A prior is trained on the codes of a finished autoencoder."""
        if not self.stages[AUTOENCODER].finished:
            raise UserError(
                "the priors learn the codes of the autoencoder, whose training is not finished; "
                f"first: --stage=autoencoder --workdir={self.workdir}"
            )

    def _check_codes(self) -> None:
        """Training an autoencoder on would change the codes under the priors that were trained on them."""
        started = [level for level in self.config["priors"] if self.stages[level].latest is not None]
        first = self.stages[AUTOENCODER]
        if started and not first.finished:
            folders = " ".join(str(self.workdir / name) for name in (*started, TOKENS))
            raise UserError(
                f"the autoencoder would be trained from step {first.latest} to {first.steps}, and "
                f"{', '.join(started)} learned its codes of step {first.latest}; use another --workdir, or remove what "
                f"depends on them: rm -r {folders}"
            )


def label_order(config: Mapping[str, Any], workdir: Path) -> Sequence[str]:
    """The labels as the run counts them, or that run whose weights a prior starts from; empty: as the data do."""
    begun = list(filter(facts_file.are_written, origins(config, workdir)))
    return facts_file.read(begun[0])["label_names"] if begun else ()


def tokenizer_of(config: Mapping[str, Any], workdir: Path, texts: Sequence[str] | None) -> text_files.Tokenizer | None:
    """Of the run, or of that run whose weights a prior starts from; None where no prior is told texts."""
    return text_files.of_run(config["text"], origins(config, workdir), texts) if configs.told_texts(config) else None


def origins(config: Mapping[str, Any], workdir: Path) -> list[Path]:
    """The workdir, and those of the runs whose weights priors start from."""
    return [workdir, *(Path(one) for p in config["priors"].values() if (one := p["train"]["init_from"]))]


def located(config: Mapping[str, Any], workdir: Path) -> dict[str, Any]:
    """The config with its data where they lie; a run that goes on may be called from another folder."""
    begun = facts_file.read(workdir) if facts_file.are_written(workdir) else {}
    return configs.located(config, workdir, begun.get(configs.BEGUN_IN))


def say(text: str) -> None:
    """A line about the whole run, from the first process."""
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)
