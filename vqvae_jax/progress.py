"""How far a long work is, on standard error: a bar on a terminal, elsewhere a line every ten seconds.

Who asks says how much: a training and a command show it, a command with --quiet nothing. From Python what draws and
measures is silent.
"""

import contextlib
import datetime
import math
import sys
import time
from collections.abc import Iterator
from typing import Any

PLAIN_EVERY = 10.0  # seconds between lines where there is no terminal


class _Bar:
    """Progress on a terminal."""

    seen = True

    def __init__(self, tqdm: Any, total: int, start: int, name: str, unit: str):
        self._bar = tqdm(total=total, initial=start, desc=name, unit=unit, dynamic_ncols=True, file=sys.stderr)

    def show(self, step: int, text: str) -> None:
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(step - self._bar.n)

    def add(self, count: int) -> None:
        self._bar.update(count)

    def close(self) -> None:
        self._bar.close()


class _Lines:
    """Progress in a file: step/total, steps a second and time left since the first call, which compiles."""

    seen = True

    def __init__(self, total: int, start: int, name: str, unit: str):
        self._total, self._name, self._unit = total, name, unit
        self._first: tuple[int, float] | None = None
        self._last = (-1, -math.inf)  # step and time of the last line
        self._done = start

    def add(self, count: int) -> None:
        self.show(self._done + count, "")

    def show(self, step: int, text: str) -> None:
        now, self._done = time.monotonic(), step
        self._first = self._first or (step, now)
        due = now - self._last[1] >= PLAIN_EVERY or step >= self._total
        if due and step != self._last[0]:
            self._last = (step, now)
            parts = (f"{self._name} {step}/{self._total}", *self._speed(step, now), text)
            print("  ".join(part for part in parts if part), file=sys.stderr, flush=True)

    def _speed(self, step: int, now: float) -> tuple[str, ...]:
        first_step, since = self._first or (step, now)
        if step == first_step or now == since:
            return ()
        rate = (step - first_step) / (now - since)
        left = datetime.timedelta(seconds=round((self._total - step) / rate))
        return f"{rate:.3g} {self._unit}s/s", f"{left} left"

    def close(self) -> None:
        pass


class _Silent:
    """None at all."""

    seen = False

    def show(self, step: int, text: str) -> None:
        pass

    def add(self, count: int) -> None:
        pass

    def close(self) -> None:
        pass


Bar = _Bar | _Lines | _Silent
_command: dict[str, bool] = {}  # "quiet", inside of a command


@contextlib.contextmanager
def of_command(quiet: bool = False) -> Iterator[None]:
    """Inside, `watched` shows something too, or with `quiet` nothing does."""
    _command["quiet"] = quiet
    try:
        yield
    finally:
        _command.clear()


def watched(total: int, name: str, unit: str = "image") -> Bar:
    """As `progress_bar`, of what is shown in a command and not in Python; its first line comes at once."""
    if not _command:
        return _Silent()
    bar = progress_bar(total, 0, name, unit)
    bar.show(0, "")
    return bar


def progress_bar(total: int, start: int, name: str, unit: str = "step") -> Bar:
    """What shows how far a work is: `show(done, text)` or `add(count)` as it goes, `close()` at the end."""
    if _command.get("quiet"):
        return _Silent()
    if sys.stderr.isatty():
        try:
            from tqdm import tqdm

            return _Bar(tqdm, total, start, name, unit)
        except ImportError:
            pass
    return _Lines(total, start, name, unit)
