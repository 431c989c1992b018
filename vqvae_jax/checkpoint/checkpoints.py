"""All steps of one stage: written, listed, read again, removed."""

import contextlib
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from vqvae_jax.backend import wait_for_all
from vqvae_jax.checkpoint.quiet import Damaged, one_line, orbax
from vqvae_jax.checkpoint.saved import check_item, is_whole, metadata_of, notes_checksum, read
from vqvae_jax.finite import check_finite
from vqvae_jax.leaves import checksum, empty, without_empty
from vqvae_jax.types import UserError

Step = int | str | None  # a number, "best", or None for the latest
Steps = Step | Mapping[str, Step]  # of all stages, or by stage; of one that is not named the best
REMOVED = ".removed"  # of the name of a step that is being removed
GOES_ON = "--stage={stage} --from_step={step}"  # of a training, which goes back to a step before a damaged one


class Checkpoints:
    """The checkpoints of one stage, in `directory`.

    Every process of a training calls the same methods, in the same order: Orbax waits for all. Reading never writes,
    so a run can be sampled while it trains.

    Args:
      directory: made by the first `save`; one writer at a time, whose first `save` clears what a killed one left there.
      keep: how many of the last steps stay; the best one stays besides.
      flag: what the user types for another step, as messages name it, with {step} and perhaps {stage} in it; "" where
        nothing can be typed.
    """

    def __init__(self, directory: Path, keep: int = 2, flag: str = "--step={step}"):
        if keep < 1:
            raise UserError(f"keep={keep}: at least one checkpoint must stay; say keep=1 or more")
        self.directory = Path(directory).absolute()
        if os.name == "posix" and "\\" in str(self.directory):  # the arrays would lie elsewhere
            raise UserError(
                f"{self.directory} has a backslash in its name, which Orbax takes for a /; name it otherwise"
            )
        self.keep, self.flag = keep, flag
        self._orbax: Any = None
        self._losses: dict[int, float | None] = {}  # of what lies there, once this has written
        self._saving: tuple[Any, int, float | None] | None = None  # of what is being written: Orbax' answer, step, loss

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def save(self, step: int, model: Any, train: Any, config: dict[str, Any], loss: Any = None) -> None:
        """Begins to write a step; returns as soon as every array has been copied to the host, so both may be donated.

        Waits for the save before it, and raises its error. A step that is already there is left as it is.

        Args:
          step: number of training steps made.
          model: pytree that sampling needs.
          train: pytree of the whole train state; {} where there is none, as for imported weights.
          config: plain data that JSON can hold.
          loss: on held-out data, lower is better. None, NaN and infinity are never best.

        Raises:
          UserError: the step before this one, or this one, could not be written; the model has NaN or infinity.
        """
        check_finite(f"the model of {self.directory}/{step}", model, "it is not saved")
        self.wait()
        with one_line(f"saving {self.directory}/{step}"):
            writer = self._open()
            if step in self._losses:
                return
            loss = None if loss is None or not math.isfinite(loss) else float(loss)
            notes = {"config": config, "loss": loss, "model_crc32": checksum(model), "model_empty": empty(model)}
            notes |= {"step": step, "train_crc32": checksum(train), "train_empty": empty(train)}
            items = {"model": without_empty(model), "train": without_empty(train)}
            response = writer.save_checkpointables_async(
                step,
                {name: item for name, item in items.items() if jax.tree.leaves(item)},
                force=True,
                custom_metadata={**notes, "notes_crc32": notes_checksum(notes)},
            )
            self._saving = response, step, loss

    def steps(self) -> tuple[int, ...]:
        """All complete steps, ascending."""
        self.wait()
        names = [path.name for path in self.directory.glob("[0-9]*") if path.is_dir()]
        return tuple(sorted(int(name) for name in names if name.isdecimal() and name == str(int(name))))

    def latest(self) -> int | None:
        """The last complete step, or None."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The step with the lowest loss, the later one of equals; None where no step has a loss.

        Raises:
          UserError: a step is damaged, so that nobody knows its loss.
        """
        return _best({step: self._noted(step)["loss"] for step in self.steps()})

    def config(self, step: Step = None) -> dict[str, Any]:
        """The config that was saved with a step.

        Raises:
          UserError: there is no such step, or it is damaged.
        """
        return self._noted(self._resolve(step))["config"]

    def restore_train(self, abstract_state: Any, step: Step = None) -> Any:
        """The train state of a step.

        Args:
          abstract_state: pytree of `jax.ShapeDtypeStruct`s; a leaf goes onto its sharding, or, where it has none, onto
            JAX's default device, which is this process' first. The number of devices need not be that of the run that
            saved.
          step: a number, "best", or None for the latest.

        Raises:
          UserError: there is no such step, it does not fit `abstract_state`, or it is damaged. Checkpoints of earlier
            versions have no checksum of their train state: these are believed.
        """
        step = self._resolve(step)
        with self._told(step, "train", GOES_ON):
            return read(metadata_of(self.directory / str(step)), "train", abstract_state)

    def restore_model(self, step: Step = None, abstract: Any = None) -> Any:
        """The model of a step, checked against its checksum. Needs no optax.

        Args:
          step: a number, "best", or None for the latest.
          abstract: as in `restore_train`; the result has its structure, dataclasses included. None gives nested dicts
            of numpy arrays.

        Raises:
          UserError: there is no such step, it does not fit `abstract`, it is damaged, or it has NaN or infinity.
        """
        step = self._resolve(step)
        with self._told(step):
            model = read(metadata_of(self.directory / str(step)), "model", abstract)
        check_finite(f"the model of {self.directory}/{step}", model, self._instead(step, "model", self.flag))
        return model

    def model_checksum(self, step: Step = None) -> int:
        """CRC32 of the model of a step, as it was saved.

        Raises:
          UserError: there is no such step, or it is damaged.
        """
        return self._noted(self._resolve(step))["model_crc32"]

    def check_model(self, abstract: Any, step: Step = None) -> None:
        """UserError unless there is such a step and its model has these shapes."""
        step = self._resolve(step)
        with self._told(step):
            check_item(metadata_of(self.directory / str(step)), "model", abstract)

    def wait(self) -> None:
        """Returns once everything is on disk.

        Raises:
          UserError: the last save failed; the line ends with its innermost cause.
        """
        saving, self._saving = self._saving, None
        with one_line(f"saving to {self.directory}"):
            if saving is not None:
                response, step, loss = saving
                response.result()  # asked for it, it lets go of a thread and three descriptors
            if self._orbax is not None:
                self._orbax.wait()
            if saving is not None:
                self._losses[step] = loss
                self._keep_some()

    def close(self) -> None:
        """Waits, then lets go of Orbax' threads."""
        try:
            self.wait()
        finally:
            if self._orbax is not None:
                self._orbax.close()
            self._orbax = None

    def _open(self) -> Any:
        """For writing: what a killed save left is cleared. A reader must not: it may be another process' save."""
        if self._orbax is None:
            self._losses = {step: self._noted(step)["loss"] for step in self.steps()}
            self._orbax = orbax().training.Checkpointer(self.directory, cleanup_tmp_directories=True)
        return self._orbax

    def _keep_some(self) -> None:
        """Removes what is neither among the last steps nor the best; Orbax would remove a step where it lies."""
        stay = {*sorted(self._losses)[-self.keep :], _best(self._losses)}
        self._losses = {step: loss for step, loss in self._losses.items() if step in stay}
        if jax.process_index() == 0:
            _remove(self.directory, [step for step in self.steps() if step not in stay])
        wait_for_all("checkpoints are removed")

    def _resolve(self, step: Step) -> int:
        steps = self.steps()
        if not steps:
            raise UserError(
                f"{self.directory} has no checkpoint; train it first: python launch.py --config=… --workdir=…"
            )
        found = steps[-1] if step is None else self.best() if step == "best" else step
        if found is None:
            raise UserError(f"{self.directory} has no best checkpoint: none has a loss; {self._say(steps[-1:])}")
        if found not in steps:
            raise UserError(f"{self.directory} has no step {step}; {self._say(steps)}")
        return int(found)

    def _say(self, steps: tuple[int, ...]) -> str:
        if not self.flag:
            return f"there are: {', '.join(map(str, steps))}"
        return f"say {self._typed(self.flag, steps)}"

    def _typed(self, flag: str, steps: Iterable[int]) -> str:
        return " or ".join(flag.format(stage=self.directory.parent.name, step=step) for step in steps)

    def _noted(self, step: int) -> dict[str, Any]:
        with self._told(step):
            return metadata_of(self.directory / str(step)).custom_metadata

    def metadata_of(self, step: int) -> Any:
        return metadata_of(self.directory / str(step))

    @contextlib.contextmanager
    def _told(self, step: int, item: str = "model", flag: str | None = None) -> Iterator[None]:
        """Turns damage into one line with a step that is whole."""
        name = f"{self.directory}/{step}"
        try:
            with one_line(f"reading {name}"):
                yield
        except Damaged as damage:
            instead = self._instead(step, item, self.flag if flag is None else flag)
            if not Path(name).is_dir():
                raise UserError(f"{name} was removed by the training that goes on; type the same once more") from damage
            raise UserError(f"{name} is damaged: {damage}; {instead}") from damage

    def _instead(self, step: int, item: str, flag: str) -> str:
        """What to type where a step cannot be used: every step that is named has been read."""
        whole = [other for other in self.steps() if other != step and is_whole(self.directory / str(other), item)]
        back = flag == GOES_ON  # from a step after the damaged one nothing would change
        usable = [other for other in whole if other < step or not back] if flag else []
        if usable:
            return f"say {self._typed(flag, usable)}"
        if whole:
            name = f"{self.directory}/{step}"
            return f"without it step {whole[-1]} is the last one: mv {name} {name}.damaged"
        return "there is no other whole step, so train again"


def set_aside(directory: Path, step: int) -> list[int]:
    """Moves the steps after this one to DIRECTORY.after_STEP, unread: they may be damaged. Gives their numbers.

    Raises:
        UserError: there is no such step, or an earlier call's steps are in the way.
    """
    steps = sorted(int(path.name) for path in directory.glob("[0-9]*") if path.name.isdigit())
    later, aside = [s for s in steps if s > step], directory.with_name(f"{directory.name}.after_{step}")
    if step not in steps:
        raise UserError(f"{directory} has no step {step}; there are: {', '.join(map(str, steps)) or 'none'}")
    if later and aside.exists():
        raise UserError(f"{aside} holds steps that were set aside before; remove it, if nobody needs them")
    for name in map(str, later):
        aside.mkdir(exist_ok=True)
        (directory / name).rename(aside / name)
    return later


def _best(losses: dict[int, float | None]) -> int | None:
    known = {step: loss for step, loss in losses.items() if loss is not None}
    return min(known, key=lambda step: (known[step], -step), default=None)


def _remove(directory: Path, steps: list[int]) -> None:
    """These steps, and what an earlier call was killed over."""
    for name in map(str, steps):
        (directory / name).rename(directory / f"{name}{REMOVED}")
    for path in directory.glob(f"*{REMOVED}"):
        shutil.rmtree(path)
