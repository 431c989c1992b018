"""Checkpoints of a training, through Orbax: nothing else in the package touches it.

A step is a folder `DIRECTORY/<step>` with two items. `model` is what sampling needs; it is read without optax. `train`
is the whole train state. Both are guarded by checksums, because Orbax does not notice a flipped bit, and so is what is
noted beside them: the config, the step, the loss.
Writing happens in the background; a step appears under its name only once it is complete.
"""

import contextlib
import json
import logging
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vqvae_jax.backend import device
from vqvae_jax.finite import check_finite
from vqvae_jax.types import UserError

Step = int | str | None  # a number, "best", or None for the latest


class Checkpoints:
    """The checkpoints of one stage, in `directory`.

    Every process of a training calls the same methods, in the same order: Orbax waits for all. Reading never writes,
    so a run can be sampled while it trains.

    Args:
      directory: made by the first `save`; one writer at a time, whose first `save` clears what a killed one left there.
      keep: how many of the last steps stay; the best one stays besides.
    """

    def __init__(self, directory: Path, keep: int = 2):
        if keep < 1:
            raise UserError(f"keep={keep}: at least one checkpoint must stay; say keep=1 or more")
        self.directory = Path(directory).absolute()
        self.keep = keep
        self._orbax: Any = None
        self._writing = False

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
        with _one_line(f"saving {self.directory}/{step}"):
            orbax = self._open(writing=True)
            if step in [c.step for c in orbax.checkpoints]:
                return
            loss = None if loss is None or not math.isfinite(loss) else float(loss)
            notes = {"config": config, "loss": loss, "model_crc32": checksum(model), "model_empty": _empty(model)}
            notes |= {"step": step, "train_crc32": checksum(train)}
            items = {"model": _without_empty(model), "train": _without_empty(train)}
            orbax.save_checkpointables_async(
                step,
                {name: item for name, item in items.items() if jax.tree.leaves(item)},
                force=True,
                metrics=None if loss is None else {"loss": loss},
                custom_metadata={**notes, "notes_crc32": _notes_checksum(notes)},
            )

    def steps(self) -> tuple[int, ...]:
        """All complete steps, ascending."""
        return tuple(self._losses())

    def latest(self) -> int | None:
        """The last complete step, or None."""
        return max(self._losses(), default=None)

    def best(self) -> int | None:
        """The step with the lowest loss, the later one of equals; None where no step has a loss."""
        losses = {step: loss for step, loss in self._losses().items() if loss is not None}
        return min(losses, key=lambda step: (losses[step], -step), default=None)

    def config(self, step: Step = None) -> dict[str, Any]:
        """The config that was saved with a step.

        Raises:
          UserError: there is no such step.
        """
        return self._metadata(self._resolve(step)).custom_metadata["config"]

    def restore_train(self, abstract_state: Any, step: Step = None) -> Any:
        """The train state of a step.

        Args:
          abstract_state: pytree of `jax.ShapeDtypeStruct`s; a leaf goes onto its sharding, or, where it has none, onto
            JAX's default device, which is this process' first. The number of devices need not be that of the run that
            saved.
          step: a number, "best", or None for the latest.

        Raises:
          UserError: there is no such step, it does not fit `abstract_state`, or its bytes have changed.
        """
        metadata = self._metadata(self._resolve(step))
        state = self._restore("train", metadata, abstract_state)
        self._check_sum("train", state, metadata, f"--stage={self.directory.parent.name} --from_step")
        return state

    def restore_model(self, step: Step = None, abstract: Any = None) -> Any:
        """The model of a step, checked against its checksum. Needs no optax.

        Args:
          step: a number, "best", or None for the latest.
          abstract: as in `restore_train`; the result has its structure, dataclasses included. None gives nested dicts
            of numpy arrays.

        Raises:
          UserError: there is no such step, it does not fit `abstract`, its bytes have changed since it was saved, or it
            has NaN or infinity.
        """
        metadata = self._metadata(self._resolve(step))
        model = self._restore("model", metadata, abstract)
        self._check_sum("model", model, metadata)
        check_finite(f"the model of {self.directory}/{metadata.step}", model, self._others(metadata.step))
        return model

    def _check_sum(self, item: str, tree: Any, metadata: Any, flag: str = "--step") -> None:
        """Checkpoints of earlier versions have no checksum of their train state: these are believed."""
        saved = metadata.custom_metadata.get(f"{item}_crc32")
        if saved is not None and checksum(tree) != saved:
            what = "its model's checksum" if item == "model" else "the checksum of its train state"
            others = self._others(metadata.step, flag)
            raise UserError(f"{self.directory}/{metadata.step} is damaged: {what} differs; {others}")

    def model_checksum(self, step: Step = None) -> int:
        """CRC32 of the model of a step, as it was saved.

        Raises:
          UserError: there is no such step.
        """
        return self._metadata(self._resolve(step)).custom_metadata["model_crc32"]

    def check_model(self, abstract: Any, step: Step = None) -> None:
        """UserError unless there is such a step and its model has these shapes."""
        metadata = self._metadata(self._resolve(step))
        _check_fits(f"{self.directory}/{metadata.step}", metadata.metadata["model"], abstract)

    def wait(self) -> None:
        """Returns once everything is on disk.

        Raises:
          UserError: the last save failed; the line ends with its innermost cause.
        """
        if self._orbax is not None:
            with _one_line(f"saving to {self.directory}"):
                self._orbax.wait()

    def close(self) -> None:
        """Waits, then lets go of Orbax' threads."""
        try:
            self.wait()
        finally:
            if self._orbax is not None:
                self._orbax.close()
            self._orbax, self._writing = None, False

    def _open(self, writing: bool = False) -> Any:
        # A reader must not clean up: the temporary folder that it sees may be another process' save.
        if self._orbax is None or writing > self._writing:
            self.close()
            self._orbax, self._writing = _checkpointer(self.directory, self.keep, cleanup=writing), writing
        return self._orbax

    def _losses(self) -> dict[int, float | None]:
        self.wait()
        if not self.directory.is_dir():  # opening it would make it
            return {}
        with _one_line(f"reading {self.directory}"):
            return {c.step: (c.metrics or {}).get("loss") for c in self._open().checkpoints}

    def _resolve(self, step: Step) -> int:
        steps, best = self.steps(), self.best()
        if not steps:
            raise UserError(
                f"{self.directory} has no checkpoint; train it first: python launch.py --config=… --workdir=…"
            )
        if step == "best" and best is None:
            raise UserError(f"{self.directory} has no best checkpoint: none has a loss; say --step={steps[-1]}")
        found = steps[-1] if step is None else best if step == "best" else step
        if found not in steps:
            raise UserError(f"{self.directory} has no step {step}; {self._others()}")
        return int(found)

    def _others(self, but: int | None = None, flag: str = "--step") -> str:
        others = [f"{flag}={step}" for step in self.steps() if step != but]
        return f"say {' or '.join(others)}" if others else "there is no other step, so train again"

    def _metadata(self, step: int) -> Any:
        name = f"{self.directory}/{step}"
        with _one_line(f"reading {name}"):
            metadata = self._open().checkpointables_metadata(step)
            notes = dict(metadata.custom_metadata)
            told = notes.pop("notes_crc32", None)
        if not {"config", "model_crc32"} <= notes.keys() or told not in (None, _notes_checksum(notes)):
            others = self._others(step)
            raise UserError(f"{name} is damaged: the checksum of its config and notes differs; {others}")
        if notes.get("step", step) != step:
            there = notes["step"]
            raise UserError(
                f"{name} is the checkpoint of step {there} under another name; name it {there} again, or remove it"
            )
        return metadata

    def _restore(self, item: str, metadata: Any, abstract: Any) -> Any:
        name = f"{self.directory}/{metadata.step}"
        if item not in metadata.metadata:
            raise UserError(f"{name} has no item {item!r}: these weights were imported, a training did not save them")
        saved = metadata.metadata[item]
        if abstract is None:
            wanted = _on_host(saved, metadata.custom_metadata["model_empty"])
        else:
            _check_fits(name, saved, abstract)
            wanted = jax.tree.map(_placed, abstract)
        with _one_line(f"reading {name}"):
            loaded = self._open().load_checkpointables(metadata.step, {item: _without_empty(wanted)})[item]
        return jax.tree.map(_filled, wanted, loaded)


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


def checksum(tree: Any) -> int:
    """CRC32 over the paths, types, shapes and bytes of all leaves: one for a dataclass and for a dict of its fields."""
    crc = 0
    for path, leaf in sorted(_by_path(tree).items()):
        array = _host(leaf)
        crc = zlib.crc32(f"{path} {array.dtype} {array.shape}".encode(), crc)
        crc = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, crc)
    return crc


def _notes_checksum(notes: dict[str, Any]) -> int:
    """CRC32 of what JSON gives back of the notes."""
    return zlib.crc32(json.dumps(notes, sort_keys=True).encode())


def _checkpointer(directory: Path, keep: int, cleanup: bool) -> Any:
    from orbax.checkpoint import v1 as ocp  # 0.4 s: paid by those who read or write checkpoints only

    _quieten()
    policies = ocp.training.preservation_policies
    best = policies.BestN(
        get_metric_fn=lambda metrics: metrics["loss"], reverse=True, n=1, keep_checkpoints_without_metrics=False
    )
    return ocp.training.Checkpointer(
        directory,
        preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
        cleanup_tmp_directories=cleanup,
    )


def _not_orbax_chatter(record: logging.LogRecord) -> bool:
    return record.levelno > logging.INFO or "orbax" not in record.pathname


def _quieten() -> None:
    logging.getLogger("absl").addFilter(_not_orbax_chatter)  # adding the same filter twice does nothing


@contextlib.contextmanager
def _one_line(doing: str) -> Iterator[None]:
    """Turns Orbax' errors into one line with the innermost cause, which they hide."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        cause = _innermost(error)
        first = (str(cause).strip().splitlines() or [""])[0]
        raise UserError(f"{doing} failed: {type(cause).__name__}: {first}") from error


def _innermost(error: BaseException) -> BaseException:
    while inner := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = inner
    return error


def _by_path(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {_name(path): leaf for path, leaf in leaves}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _host(leaf: Any) -> np.ndarray:
    leaf = jax.random.key_data(leaf) if _is_key(leaf) else _array(leaf)
    if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
        from jax.experimental import multihost_utils

        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf)


def _placed(leaf: Any) -> Any:
    leaf = _array(leaf)
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(device())
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _on_host(saved: Any, empty: dict[str, Any]) -> Any:
    """What to ask for to get numpy arrays; `empty` tells what stood where Orbax was given None."""

    def array(path: Any, leaf: Any) -> Any:
        shape, dtype = empty.get(_name(path), (None, None)) if leaf is None else (leaf.shape, leaf.dtype)
        return None if shape is None else np.empty(shape, dtype)

    return jax.tree_util.tree_map_with_path(array, saved, is_leaf=lambda leaf: leaf is None)


# Orbax refuses arrays without elements, such as the codes [0, D] of a quantizer that has no table: it is given None.
def _is_empty(leaf: Any) -> bool:
    return math.prod(getattr(leaf, "shape", ())) == 0


def _empty(tree: Any) -> dict[str, Any]:
    return {path: (list(leaf.shape), str(leaf.dtype)) for path, leaf in _by_path(tree).items() if _is_empty(leaf)}


def _without_empty(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: None if _is_empty(leaf) else _array(leaf), tree)


def _array(leaf: Any) -> Any:
    """Numbers as arrays: Orbax takes no numpy scalars, and gives Python's back only where it is asked for those."""
    is_number = isinstance(leaf, bool | int | float | np.generic)
    return np.asarray(leaf, jax.dtypes.result_type(leaf)) if is_number else leaf


def _filled(wanted: Any, loaded: Any) -> Any:
    if not _is_empty(wanted):
        return loaded
    if isinstance(wanted, np.ndarray):
        return wanted
    return jax.device_put(np.zeros(wanted.shape, wanted.dtype), wanted.sharding)


def _kind(leaf: Any) -> str:
    if _is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
    leaf = _array(leaf)
    return "missing" if leaf is None or _is_empty(leaf) else f"{leaf.dtype} {list(leaf.shape)}"


def _check_fits(name: str, saved: Any, abstract: Any) -> None:
    there, here = _by_path(saved), _by_path(abstract)
    for path in sorted(there.keys() | here.keys()):
        is_there, is_here = _kind(there.get(path)), _kind(here.get(path))
        if is_there != is_here:
            raise UserError(
                f"{name} does not fit this model: {path} is {is_there} there, {is_here} here; "
                "use the config that it was trained with"
            )
