"""What a training tells: metrics.jsonl, TensorBoard, progress, and grids of pictures."""

import contextlib
import json
import math
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np

from vqvae_jax.files import atomically, pillow
from vqvae_jax.progress import progress_bar
from vqvae_jax.types import UserError

SEPARATOR = 2  # pixels between pictures
GREY = 200  # of separators and of cells without a picture: seen beside black and beside white


class Log:
    """The log of one stage in `folder`; a context manager. On processes other than the first it does nothing.

    Args:
      folder: gets metrics.jsonl, tensorboard/ and pictures/.
      total_steps: of the whole training.
      start_step: the step that this run goes on from. What an interrupted run logged after it is cut.
      name: of the stage, for progress.
    """

    def __init__(self, folder: Path, total_steps: int, start_step: int, name: str):
        self.folder = Path(folder)
        self._on = jax.process_index() == 0
        if not self._on:
            return
        self._start_step = start_step
        self._metrics = _open_metrics(self.folder / "metrics.jsonl", start_step)
        self._progress = progress_bar(total_steps, start_step, name)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @cached_property
    def _board(self) -> Any:
        """Opened for the first numbers: tensorboardX imports torch where there is one, which takes seconds."""
        return _tensorboard(self.folder / "tensorboard", self._start_step)

    def metrics(self, step: int, values: Mapping[str, Any], prefix: str = "train") -> None:
        """Adds one line {"step", "time" in seconds since 1970, "prefix/name": value …}, and TensorBoard scalars.

        Args:
          step: training steps made.
          values: scalars by name. NaN and infinity become null, which is valid JSON.
          prefix: "train", "eval", …

        Raises:
          UserError: a value is no scalar.
        """
        if not self._on:
            return
        scalars = {f"{prefix}/{name}": _scalar(name, value) for name, value in values.items()}
        self._metrics.write(metrics_line(step, scalars))
        for name, value in scalars.items():
            if self._board is not None:
                self._board.add_scalar(name, value, step)

    def pictures(self, step: int, name: str, grid: np.ndarray, epoch: int | None = None) -> None:
        """Writes uint8 [H, W, 3] to pictures/<name>_<step>.png, or epoch_<epoch>_<name>.png, and to TensorBoard."""
        if not self._on:
            return
        file = f"{name}_{step:07d}.png" if epoch is None else f"epoch_{epoch}_{name}.png"
        save_png(self.folder / "pictures" / file, grid)
        if self._board is not None:
            self._board.add_image(name, grid, step, dataformats="HWC")

    def progress(self, step: int, text: str = "") -> None:
        """Shows how far the training is: a bar on a terminal, elsewhere a line every ten seconds and at the end."""
        if self._on:
            self._progress.show(step, text)

    def say(self, text: str) -> None:
        """A line that is to be noticed, below the progress."""
        if self._on:
            print(f"\n{text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Flushes everything."""
        if self._on:
            self._progress.close()
            with contextlib.suppress(OSError):  # of a full disk, which the checkpoints tell
                self._metrics.close()
            if vars(self).get("_board") is not None:
                with contextlib.suppress(OSError):
                    self._board.close()
            self._on = False


def metrics_line(step: int, scalars: Mapping[str, float]) -> str:
    """One line of metrics.jsonl, with its line end."""
    finite = {name: value if math.isfinite(value) else None for name, value in scalars.items()}
    return json.dumps({"step": int(step), "time": round(time.time(), 3), **finite}, allow_nan=False) + "\n"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl in order; [] without one. The half line of a killed run, the last, is left out.

    Raises:
      UserError: another line is damaged.
    """
    lines = path.read_text("utf-8", "replace").splitlines() if path.is_file() else []
    entries = [_parsed(line) for line in lines]
    if None in entries[:-1]:
        number = entries.index(None) + 1
        raise UserError(
            f"{path} is damaged in line {number}; take that line out, or move the file: it holds curves only"
        )
    return [entry for entry in entries if entry is not None]


def grid(images: Any, columns: int, scale: int = 1) -> np.ndarray:
    """Pictures side by side, in reading order, with thin separators.

    Args:
      images: uint8 [N, H, W, C], or a list of [H, W, C], or rows of these; C is 1 (grey) or 3.
      columns: pictures in a row.
      scale: each pixel becomes scale × scale pixels.

    Returns:
      uint8 [H', W', 3].

    Raises:
      UserError: images of another type or shape, or none.
    """
    images = _rgb(images)
    images = images.reshape(-1, *images.shape[-3:]).repeat(scale, axis=1).repeat(scale, axis=2)
    count, height, width, _ = images.shape
    rows = -(-count // columns)
    page = np.full((rows, columns, height + SEPARATOR, width + SEPARATOR, 3), GREY, np.uint8)
    for i, image in enumerate(images):
        page[i // columns, i % columns, :height, :width] = image
    page = page.transpose(0, 2, 1, 3, 4).reshape(rows * (height + SEPARATOR), columns * (width + SEPARATOR), 3)
    return page[:-SEPARATOR, :-SEPARATOR]


def strip(rows: Sequence[Any], scale: int = 1) -> np.ndarray:
    """The same pictures in several versions, one row each: originals, top only, all levels, …

    Args:
      rows: each uint8 [N, H, W, C], of one N, H and W; C is 1 or 3.
      scale: as in `grid`.

    Returns:
      uint8 [H', W', 3].
    """
    versions = [_rgb(row) for row in rows]
    if len({version.shape for version in versions}) != 1:
        raise UserError(f"strip wants rows of one shape, got {[version.shape for version in versions]}")
    return grid(np.stack(versions), columns=len(versions[0]), scale=scale)


def save_png(path: Path, array: np.ndarray) -> None:
    """Writes uint8 [H, W], [H, W, 1] or [H, W, 3]; whoever looks sees the old picture or the new, never half of one."""
    image, array = pillow(), np.asarray(array)
    with atomically(Path(path)) as temporary:
        image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array).save(temporary, format="PNG")


def _tensorboard(folder: Path, start_step: int) -> Any:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        _say_once("tensorboardX is not installed, so metrics go to metrics.jsonl only: pip install tensorboardX")
        return None
    _quieten_writers()
    return SummaryWriter(str(folder), purge_step=start_step + 1 if start_step else 0)


@cache
def _quieten_writers() -> None:
    """A disk that is full is told by the checkpoints; TensorBoard's thread would tell it by a traceback."""
    hook = threading.excepthook

    def told(what: Any) -> None:
        if not (isinstance(what.exc_value, OSError) and "tensorboardX" in type(what.thread).__module__):
            hook(what)

    threading.excepthook = told


_said: set[str] = set()


def _say_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        print(text, file=sys.stderr)


def _open_metrics(path: Path, start_step: int) -> TextIO:
    """Opens for more lines, those after `start_step` cut. A run from step 0 logs all steps itself, 0 included."""
    kept = [entry for entry in read_metrics(path) if start_step > 0 and entry["step"] <= start_step]
    with atomically(path) as temporary:
        temporary.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
    return open(path, "a", buffering=1)


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
        return None
    return entry if all(value is None or isinstance(value, (int, float)) for value in entry.values()) else None


def _scalar(name: str, value: Any) -> float:
    if np.size(value) != 1:
        raise UserError(f"metric {name!r} is no scalar: it has shape {np.shape(value)}; log its mean, or leave it out")
    return float(np.asarray(value, np.float64).reshape(()))


def _rgb(images: Any) -> np.ndarray:
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim < 4 or images.shape[-1] not in (1, 3) or not images.size:
        raise UserError(f"pictures are uint8 [N, H, W, 1 or 3], at least one; got {images.dtype} {list(images.shape)}")
    return np.broadcast_to(images, (*images.shape[:-1], 3))
