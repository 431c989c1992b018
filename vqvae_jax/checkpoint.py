"""Checkpoints of a training, through Orbax: nothing else in the package touches it.

A step is a folder `DIRECTORY/<step>` with two items. `model` is what sampling needs; it is read without optax. `train`
is the whole train state. Both are guarded by checksums, because Orbax does not notice a flipped bit, and so is what is
noted beside them: the config, the step, the loss.
Writing happens in the background; a step appears under its name only once it is complete, and is given another name
before it is removed: a run that is killed leaves no half step.
"""

import contextlib
import json
import logging
import math
import os
import shutil
import sys
import textwrap
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import jax

from vqvae_jax.backend import wait_for_all
from vqvae_jax.finite import check_finite
from vqvae_jax.leaves import check_fits, checksum, empty, filled, on_host, placed, without_empty
from vqvae_jax.types import UserError

Step = int | str | None  # a number, "best", or None for the latest
Steps = Step | Mapping[str, Step]  # of all stages, or by stage; of one that is not named the best
REMOVED = ".removed"  # of the name of a step that is being removed
GOES_ON = "--stage={stage} --from_step={step}"  # of a training, which goes back to a step before a damaged one
WHAT = {"model": "model", "train": "train state"}


class Damaged(Exception):
    """What is wrong with the files of a step."""


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
        with _one_line(f"saving {self.directory}/{step}"):
            orbax = self._open()
            if step in self._losses:
                return
            loss = None if loss is None or not math.isfinite(loss) else float(loss)
            notes = {"config": config, "loss": loss, "model_crc32": checksum(model), "model_empty": empty(model)}
            notes |= {"step": step, "train_crc32": checksum(train), "train_empty": empty(train)}
            items = {"model": without_empty(model), "train": without_empty(train)}
            response = orbax.save_checkpointables_async(
                step,
                {name: item for name, item in items.items() if jax.tree.leaves(item)},
                force=True,
                custom_metadata={**notes, "notes_crc32": _notes_checksum(notes)},
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
            return _read(self._metadata(step), "train", abstract_state)

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
            model = _read(self._metadata(step), "model", abstract)
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
            _check_fits(self._metadata(step), "model", abstract)

    def wait(self) -> None:
        """Returns once everything is on disk.

        Raises:
          UserError: the last save failed; the line ends with its innermost cause.
        """
        saving, self._saving = self._saving, None
        with _one_line(f"saving to {self.directory}"):
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
            self._orbax = _orbax().training.Checkpointer(self.directory, cleanup_tmp_directories=True)
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
            return self._metadata(step).custom_metadata

    def _metadata(self, step: int) -> Any:
        return _metadata(self.directory / str(step))

    @contextlib.contextmanager
    def _told(self, step: int, item: str = "model", flag: str | None = None) -> Iterator[None]:
        """Turns damage into one line with a step that is whole."""
        name = f"{self.directory}/{step}"
        try:
            with _one_line(f"reading {name}"):
                yield
        except Damaged as damage:
            instead = self._instead(step, item, self.flag if flag is None else flag)
            if not Path(name).is_dir():
                raise UserError(f"{name} was removed by the training that goes on; type the same once more") from damage
            raise UserError(f"{name} is damaged: {damage}; {instead}") from damage

    def _instead(self, step: int, item: str, flag: str) -> str:
        """What to type where a step cannot be used: every step that is named has been read."""
        whole = [other for other in self.steps() if other != step and _is_whole(self.directory / str(other), item)]
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


def _is_whole(path: Path, item: str) -> bool:
    try:
        _read(_metadata(path), item, None)
        return True
    except Exception:
        return False


def _metadata(path: Path) -> Any:
    """What Orbax knows of a step; `custom_metadata` holds the notes, checked. Raises Damaged."""
    return _read_metadata(path, _stamp(path))


def _stamp(path: Path) -> tuple:
    """Of all files of a step: it changes when one of them does."""
    return tuple(sorted((str(file), *_times(file)) for file in path.rglob("*")))


def _times(file: Path) -> tuple[int, ...]:
    told = file.stat()
    return told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns


@lru_cache(maxsize=64)
def _read_metadata(path: Path, stamp: tuple) -> Any:
    """A save asks for the notes of every step, and each stage for those of others: Orbax takes a fifth of a second."""
    with _damage("what is noted in it cannot be read"):
        metadata = _orbax().checkpointables_metadata(path)
        notes = dict(metadata.custom_metadata)
        told = notes.pop("notes_crc32", None)
    if not {"config", "loss", "model_crc32"} <= notes.keys() or told not in (None, _notes_checksum(notes)):
        raise Damaged("the checksum of its config and notes differs")
    if notes.get("step", int(path.name)) != int(path.name):
        there = notes["step"]
        raise UserError(
            f"{path} is the checkpoint of step {there} under another name; name it {there} again, or remove it"
        )
    return metadata


def _read(metadata: Any, item: str, abstract: Any) -> Any:
    """An item, checked against its checksum; Damaged, or UserError where it is whole and does not fit."""
    notes = metadata.custom_metadata
    _check_there(metadata, item)
    if abstract is not None:
        _check_fits(metadata, item, abstract)
    with _damage(f"its {WHAT[item]} cannot be read"):
        saved = metadata.metadata[item]
        empties = notes.get(f"{item}_empty", notes["model_empty"])
        wanted = on_host(saved, empties) if abstract is None else jax.tree.map(placed, abstract)
        loaded = _orbax().load_checkpointables(metadata.path, {item: without_empty(wanted)})[item]
        tree = jax.tree.map(filled, wanted, loaded)
    if checksum(tree) != notes.get(f"{item}_crc32", checksum(tree)):
        raise Damaged(f"the checksum of its {WHAT[item]} differs")
    if not jax.tree.all(jax.tree.map(lambda a, b: a.dtype == b.dtype, wanted, tree)):
        raise Damaged(f"a type in its {WHAT[item]} differs")  # of a key, which has the checksum of its numbers
    return tree


def _check_fits(metadata: Any, item: str, abstract: Any) -> None:
    """As `check_fits`; but files that are missing or changed look like another model, too."""
    _check_there(metadata, item)
    try:
        return check_fits(str(metadata.path), metadata.metadata[item], abstract)
    except UserError as error:
        misfit = error
    _read(metadata, item, None)  # raises Damaged where that is why
    raise misfit


def _check_there(metadata: Any, item: str) -> None:
    if item in metadata.metadata:
        return
    if item == "train" and metadata.custom_metadata.get("train_crc32", 0) == checksum({}):
        raise UserError(
            f"{metadata.path} has no item {item!r}: these weights were imported, a training did not save them"
        )
    raise Damaged(f"its {WHAT[item]} is missing")


@contextlib.contextmanager
def _damage(what: str) -> Iterator[None]:
    """Turns the errors of unreadable files into Damaged; not those of a device, of memory or of forbidden files."""
    try:
        with _silent():
            yield
    except Exception as error:
        cause = _innermost(error)
        missing = isinstance(cause, FileNotFoundError | NotADirectoryError | IsADirectoryError)
        if isinstance(cause, OSError | MemoryError | jax.errors.JaxRuntimeError) and not missing:
            raise
        raise Damaged(f"{what} ({type(cause).__name__}: {_first_line(cause)})") from error


def _notes_checksum(notes: dict[str, Any]) -> int:
    """CRC32 of what JSON gives back of the notes."""
    return zlib.crc32(json.dumps(notes, sort_keys=True).encode())


def _orbax() -> Any:
    from orbax.checkpoint import v1  # 0.4 s: paid by those who read or write checkpoints only

    _quieten()
    return v1


def _not_orbax_chatter(record: logging.LogRecord) -> bool:
    said_again = bool(record.exc_info)  # by a thread whose error is raised, and said in one line
    return "orbax" not in record.pathname or (record.levelno > logging.INFO and not said_again)


def _not_said_already(record: logging.LogRecord) -> bool:
    """A damaged file fails once an array; the first failure is raised, the others would be printed."""
    text = record.getMessage()
    return not ("never retrieved" in text and ("tensorstore" in text or "orbax" in text))


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """What Orbax logs of files that it cannot read is said in one line instead."""
    logger = logging.getLogger("absl")
    logger.addFilter(_not_of_orbax)
    try:
        yield
    finally:
        logger.removeFilter(_not_of_orbax)


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname


@cache
def _quieten() -> None:
    logging.getLogger("absl").addFilter(_not_orbax_chatter)
    logging.getLogger("asyncio").addFilter(_not_said_already)
    for said in ("Sharding info not provided when restoring", r"coroutine '\S*_get_array_metadatas' was never awaited"):
        warnings.filterwarnings("ignore", said)
    hook = sys.unraisablehook
    sys.unraisablehook = lambda what: None if _comes_late(what) else hook(what)


def _comes_late(what: Any) -> bool:
    """Where one array cannot be read, the others that are still being read find their loop closed."""
    code = getattr(what.object, "cr_code", None)
    return str(what.exc_value) == "Event loop is closed" or (code is not None and "orbax" in code.co_filename)


@contextlib.contextmanager
def _one_line(doing: str) -> Iterator[None]:
    """Turns Orbax' errors into one line with the innermost cause, which they hide."""
    try:
        yield
    except (UserError, Damaged):
        raise
    except Exception as error:
        cause = _innermost(error)
        if isinstance(cause, UserError):  # said already
            raise cause from None
        room = "; make room there, the same command goes on" if isinstance(cause, OSError) else ""
        raise UserError(f"{doing} failed: {type(cause).__name__}: {_first_line(cause)}{room}") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return textwrap.shorten(lines[0], 200, placeholder=" …")


def _innermost(error: BaseException) -> BaseException:
    chain = [error]
    while inner := chain[-1].__cause__ or (None if chain[-1].__suppress_context__ else chain[-1].__context__):
        if any(inner is one for one in chain):  # threads that raise one error anew make rings of causes
            return next((one for one in chain if isinstance(one, OSError)), chain[-1])
        chain.append(inner)
    return chain[-1]
