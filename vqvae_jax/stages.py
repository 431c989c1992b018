"""The stages of a recipe: the training of the autoencoder, and of each prior.

A stage named S has the folder DIR/S, the sections `optimizer` and `train` of the config or of config.priors.S, and the
flag --stage=S.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vqvae_jax import code_features, data, room, scale, text_weights, train
from vqvae_jax import config as configs
from vqvae_jax.checkpoint import GOES_ON, Checkpoints, Step
from vqvae_jax.config import AUTOENCODER
from vqvae_jax.data.entropy import entropies
from vqvae_jax.data.token_arrays import TokenArrays
from vqvae_jax.doctor import Doctor
from vqvae_jax.parts import Parts, arguments, checkpoints_of, known
from vqvae_jax.sample import pick_of
from vqvae_jax.tasks import TASKS
from vqvae_jax.tasks.optimize import make_optimizer
from vqvae_jax.tasks.prior import PriorTask
from vqvae_jax.trained import TRAINING, Trained
from vqvae_jax.types import Model, Observer, Task, UserError

Splits = Mapping[str, Any]  # "train" and "validation": Arrays of images, or TokenArrays


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training of a recipe.

    Attributes:
        name: "autoencoder", or the level of a prior.
        parts: what config and data make.
        workdir: of the run.
        examples: that an epoch has.
        number: of the stage in a whole run, 0 the autoencoder; it is added to the seed.
        splits: what it is trained on; nothing is read or encoded before it is called.
        task: (steps, the splits) → what a step is.
        takes: the step that others take of it: None the latest, "best".
        given: shapes of its model → the part of it that a new training begins with, where it has such a part.
        observer, conclude: see `train.fit`.
    """

    name: str
    parts: Parts
    workdir: Path
    examples: int
    number: int
    splits: Callable[[], Splits]
    task: Callable[[int, Splits], Task]
    takes: Step
    given: Callable[[Model], Model] | None = None
    observer: Callable[..., Observer] | None = None
    conclude: Callable[[Model], Model] | None = None

    @property
    def section(self) -> Mapping[str, Any]:
        """Its section `train`."""
        return configs.of_stage(self.parts.config, self.name)["train"]

    @property
    def path(self) -> str:
        """The same as it is typed: "config.train", "config.priors.top.train"."""
        return f"{configs.path_of(self.name)}.train"

    @property
    def folder(self) -> Path:
        """Where its checkpoints, metrics and pictures go."""
        return self.workdir / self.name

    @property
    def steps(self) -> int:
        """How many its whole training has."""
        return self.section["steps"] or math.ceil(self.section["epochs"] * self.examples / self.section["batch_size"])

    @property
    def latest(self) -> int | None:
        """The step of its last checkpoint."""
        with checkpoints_of(self.workdir, self.name, "") as checkpoints:
            return checkpoints.latest()

    @property
    def finished(self) -> bool:
        """Whether it has taken all its steps."""
        return (latest := self.latest) is not None and latest >= self.steps

    def check(self) -> None:
        """UserError for what can be known before anything is computed or written."""
        if self.latest == 0 and self.steps:
            field = f"--{self.path}.init_from={self.workdir}"
            raise UserError(f"{self.folder} holds imported weights; to train on: --workdir=NEW {field}")
        if self.latest is None and self.name != AUTOENCODER:
            text_weights.check(self.parts.config, self.name)
            code_features.check(self.parts, self.name)
        check_parts(self.path, self.section["batch_size"], self.section["accumulate"])
        if self.section["init_from"] and self.latest is None:
            with checkpoints_of(self.section["init_from"], self.name, "") as checkpoints:
                checkpoints.check_model(self.parts.abstract(self.name))
        size = self.parts.facts["image_size"]
        task_of(self.parts, self.name).check(self.parts.loss_terms(self.name), self.steps, size)
        room.check_weights(self.name, self.parts.abstract(self.name))
        if self.steps > configs.WHOLE:
            raise UserError(f"{self.steps} steps are more than {configs.WHOLE}: --{self.path}.epochs=N, fewer")

    def check_saved(self) -> None:
        """UserError unless the config is the one that its checkpoint was saved with."""
        with checkpoints_of(self.workdir, self.name, GOES_ON) as checkpoints:
            if checkpoints.latest() is not None:
                folder = str(checkpoints.directory)
                configs.check_saved(self.parts.config, checkpoints.config(), self.name, folder)

    def begins(self) -> str:
        """How its training starts or goes on, in words."""
        origin, latest = self.section["init_from"], self.latest
        fresh = f"starts from the weights of {origin}, with a fresh optimizer" if origin else "starts"
        return f"{fresh if latest is None else f'goes on at step {latest}'}, {self.steps} steps in {self.folder}"

    def train(self) -> None:
        """To its end, from its last checkpoint if there is one."""
        splits, config = self.splits(), self.parts.config
        batches, held_out = (batches_of(splits[part], self.section, config["seed"]) for part in ("train", "validation"))
        settings = {**self.section, "steps": self.steps}
        origin = self.origin if self.section["init_from"] else self.given
        seed = config["seed"] + self.number
        task, ends = self.task(self.steps, splits), (self.observer, self.conclude)
        train.fit(task, batches, held_out, self.folder, settings, config, seed, origin, *ends)

    def origin(self, like: Model) -> Model:
        """What the stage of the same name learned in the run that `init_from` names."""
        with checkpoints_of(self.section["init_from"], self.name, "") as checkpoints:
            return checkpoints.restore_model(known(checkpoints, self.takes), like)

    def take(self) -> None:
        """These weights as they are, as step 0."""
        with Checkpoints(self.folder / "checkpoints") as here:
            here.save(0, self.origin(self.parts.abstract(self.name)), {}, dict(self.parts.config))


def of_autoencoder(parts: Parts, workdir: Path, splits: Splits) -> Stage:
    """Stage one: images to maps and back."""
    task = lambda steps, _: task_of(parts, AUTOENCODER, steps)  # noqa: E731
    images, ends = splits["train"].image, None
    if scale.has_scale(parts.autoencoder):
        ends = lambda model: scale.measured(parts.autoencoder, parts.config["dataset"]["range"], model, images)  # noqa: E731
    examples = len(splits["train"])
    return Stage(AUTOENCODER, parts, workdir, examples, 0, lambda: splits, task, None, None, Doctor, ends)


def of_prior(parts: Parts, workdir: Path, level: str, examples: int, maps: Callable[[], Splits]) -> Stage:
    """Stage two and on: a distribution over one level's maps, which are encoded when they are asked for."""

    def task(steps: int, splits: Splits) -> Task:
        own, codes = parts.maps_of(level), parts.prior(level).maps[0].vocab_size
        beside = entropies(splits["validation"].maps[own], splits["train"].maps[own], codes)
        return task_of(parts, level, steps, decode=decoder(parts, workdir), entropies=beside)

    number = 1 + configs.levels(parts.config).index(level)
    given = text_weights.given(parts, level) or code_features.given(parts, workdir, level)
    return Stage(level, parts, workdir, examples, number, maps, task, "best", given)


def task_of(parts: Parts, stage: str, steps: int | None = None, **more: Any) -> Any:
    """What a stage's step and evaluation are; without `steps` only the latter, which needs no optimizer."""
    section, config = configs.of_stage(parts.config, stage), parts.config
    tx = None if steps is None else make_optimizer(section["optimizer"], steps)
    own = {"ema_rate": section["optimizer"]["ema_rate"], "accumulate": section["train"]["accumulate"]}
    if stage != AUTOENCODER:
        fields = {"pick": pick_of(config["sample"]), "loss_weights": section["loss_weights"]}
        return PriorTask(parts.prior(stage), parts.maps_of(stage), tx, **fields, **own, **more)
    images = {name: config["dataset"][name] for name in ("range", "flip", "crop")}
    kind, fields = TASKS[config["task"]["name"]], arguments(config["task"])
    return kind(parts.autoencoder, tx, config["loss_weights"], **images, **own, **fields, **more)


def decoder(parts: Parts, workdir: Path) -> Callable[[Sequence[Any]], Any] | None:
    """Maps → uint8 images by the trained autoencoder; None where the data are maps, and there is none."""
    if AUTOENCODER not in configs.stages(parts.config):
        return None
    trained = Trained(workdir, flags=TRAINING)
    _ = trained.autoencoder  # by every process: Orbax reads with all of them or not at all
    return trained.decode


def check_logits(stage: Stage) -> None:
    """UserError where the largest arrays that a prior's step cannot do without have no room: its logits."""
    prior = stage.parts.prior(stage.name)
    numbers = sum(math.prod(one.form) * (one.vocab_size or 1) for one in prior.maps)
    example = numbers * jnp.dtype(prior.dtype).itemsize
    room.check_batch(stage.path, stage.section["batch_size"], example, f"maps {', '.join(map(str, prior.maps))}")


def check_parts(path: str, batch_size: int, parts: int) -> None:
    """UserError unless a batch divides among the devices, and each one's share into so many parts."""
    devices = train.make_mesh(batch_size, path).size
    if batch_size % (parts * devices):
        fit = next(n for n in range(parts, 0, -1) if not batch_size % (n * devices))
        raise UserError(
            f"{path}.accumulate={parts}: a batch of {batch_size} on {devices} devices does not divide into so many "
            f"parts; --{path}.accumulate={fit}"
        )


def batches_of(arrays: Any, section: Mapping[str, Any], seed: int) -> Any:
    """This process's batches of images or of maps."""
    hosts = jax.process_index(), jax.process_count()
    if isinstance(arrays, TokenArrays):
        return data.ArrayData(arrays, section["batch_size"], seed, *hosts)
    return data.batches(arrays, section["batch_size"], seed, *hosts)
