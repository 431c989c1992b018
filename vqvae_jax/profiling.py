"""Where a device's time goes, as text: a trace by JAX's profiler, and the kernels in it that take longest.

The trace itself opens in XProf, TensorBoard or Perfetto; the table needs none of them.
"""

import collections
import contextlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from vqvae_jax.files import atomically
from vqvae_jax.types import UserError

FOLDER, FILE = "profile", "profile.txt"
DEVICES = ("/device:GPU:", "/device:TPU:")  # planes of a trace
HOST = "/host:CPU"


class Event(NamedTuple):
    """One run of one kernel."""

    name: str
    hlo_op: str  # "" where the trace does not say
    source: str  # likewise
    start: float  # ns
    end: float  # ns
    own: float  # ns, without the events inside of it


class Kernel(NamedTuple):
    """All runs of one kernel for one operation."""

    name: str  # as the device calls it
    hlo_op: str  # the operation of XLA; "" where the trace does not say, as for kernels of a CUDA graph
    source: str  # the path of the operation in JAX, "jit(train_step)/…/conv_general_dilated"; "" likewise
    milliseconds: float  # of all runs
    times: int  # runs
    share: float  # of the time in which the device did anything


class Busy(NamedTuple):
    """How much of the time the device did something. Far less than the span: it waits for the host."""

    milliseconds: float  # in which something ran; what ran side by side counts once
    span: float  # ms from the beginning of the first event to the end of the last
    launches: int  # kernels and copies


@contextlib.contextmanager
def traced(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Traces what the devices do inside, into `folder`/plugins/profile/DATE. Who times work waits for it inside.

    Raises:
        RuntimeError: another trace is being taken.
    """
    import jax

    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # the file stays small
    options.host_tracer_level = 1  # with 0 a CPU's operations are missing
    jax.profiler.start_trace(folder, profiler_options=options)
    try:
        yield
    finally:
        jax.profiler.stop_trace()


def heaviest(folder: str | os.PathLike[str], count: int = 12) -> list[Kernel]:
    """The kernels of the newest trace below `folder` that took longest, heaviest first.

    On a GPU and a TPU those of the first device; on CPU the operations of all threads.

    Raises:
        UserError: there is no trace.
    """
    return _heaviest(_read(Path(folder)), count)


def busy(folder: str | os.PathLike[str]) -> Busy:
    """How much of the newest trace below `folder` the device was at work. Raises UserError as `heaviest` does."""
    return _busy(_read(Path(folder)))


def summary(folder: str | os.PathLike[str], steps: int) -> tuple[Busy, str]:
    """Both of the newest trace below `folder`, which is read once, and as `table` has them."""
    events = _read(Path(folder))
    busy = _busy(events)
    return busy, table(_heaviest(events), busy, steps)


def _heaviest(events: list[Event], count: int = 12) -> list[Kernel]:
    total = _union(events)
    runs: dict[tuple[str, str, str], list[float]] = collections.defaultdict(list)
    for event in events:
        runs[event.name, event.hlo_op, event.source].append(event.own)
    kernels = [Kernel(*key, sum(ns) / 1e6, len(ns), sum(ns) / total) for key, ns in runs.items()]
    return sorted(kernels, key=lambda kernel: -kernel.milliseconds)[:count]


def _busy(events: list[Event]) -> Busy:
    if not events:
        return Busy(0.0, 0.0, 0)
    span = max(event.end for event in events) - min(event.start for event in events)
    return Busy(_union(events) / 1e6, span / 1e6, len(events))


def table(kernels: list[Kernel], busy: Busy, steps: int) -> str:
    """A line of totals and a line a kernel, of columns of fixed width; times are of one of `steps` steps."""
    if not busy.launches:
        return "the trace holds nothing that a device did; on a GPU the driver may forbid profiling to users\n"
    idle = 1 - busy.milliseconds / busy.span if busy.span else 0.0
    totals = (
        f"a step, mean of {steps}: busy {busy.milliseconds / steps:.3f} ms, span {busy.span / steps:.3f} ms, "
        f"{busy.launches / steps:.5g} launches, idle {idle:.1%}"
    )
    rows = [
        ("ms a step", "share", "launches", "kernel", "HLO op", "source"),
        *(_row(kernel, steps) for kernel in kernels),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join([totals, "", *(_aligned(row, widths) for row in rows)]) + "\n"


def _aligned(row: tuple[str, ...], widths: list[int]) -> str:
    """Numbers to the right, words to the left."""
    cells = (cell.rjust(w) if i < 3 else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
    return "  ".join(cells).rstrip()


def _row(kernel: Kernel, steps: int) -> tuple[str, ...]:
    name, hlo_op, source = (" ".join(text.split()) for text in kernel[:3])
    for pattern, word in (
        (r"^jit\([^/]*\)/", ""),
        (r"transpose\(jvp\((\w*)\)\)", r"backward \1"),
        (r"jvp\((\w*)\)", r"forward \1"),
    ):
        source = re.sub(pattern, word, source)
    return (
        f"{kernel.milliseconds / steps:.3f}",
        f"{kernel.share:.1%}",
        f"{kernel.times / steps:.4g}",
        name if len(name) <= 60 else f"{name[:59]}…",
        hlo_op if len(hlo_op) <= 28 else f"{hlo_op[:27]}…",
        source if len(source) <= 60 else f"{source[:9]}…{source[-50:]}",  # forward or backward, and where
    )


def window(text: str) -> range:
    """The steps of "START:COUNT", counted from 1; none of "".

    Raises:
        ValueError: it is something else.
    """
    if not text:
        return range(0)
    start, count = (int(part) for part in text.split(":"))
    if start < 1 or count < 1:
        raise ValueError(f"{text!r}: steps are counted from 1, and there is at least one")
    return range(start, start + count)


class Profiled:
    """A training step that is traced while its number is in a window; a context manager.

    The device is waited for before the first and after the last of these steps, and nowhere else. Only the first
    process traces. Whatever goes wrong with the profiler is one line: the training goes on.

    Args:
        step: (state, batch, …) → (state, metrics).
        text: "START:COUNT", or "" for no trace.
        folder: of the stage; gets profile/ and profile.txt.
        total: steps of the whole training, where a trace ends at the latest.
    """

    def __init__(self, step: Callable[..., Any], text: str, folder: Path, total: int):
        self._step, self._folder = step, folder
        self._window = range(0)
        if text and _is_first_process():
            self._window = range(window(text).start, min(window(text).stop, total + 1))
            if not self._window:
                print(f"no profile: train.profile={text} begins after the last step, {total}", file=sys.stderr)
        self._trace: contextlib.ExitStack | None = None

    def __call__(self, done: int, state: Any, *more: Any) -> tuple[Any, Any]:
        """Step number `done`, counted from 1."""
        if self._window and done == self._window.start:
            self._safely(self._begin, state)
        out = self._step(state, *more)
        if self._trace is not None and done == self._window.stop - 1:
            self._safely(self._end, out)
        return out

    def __enter__(self) -> "Profiled":
        return self

    def __exit__(self, *error: object) -> None:
        """Stopped in the middle: the trace ends, without a table."""
        if self._trace is not None:
            self._safely(self._stop)

    def _begin(self, state: Any) -> None:
        _wait(state)
        trace = contextlib.ExitStack()
        trace.enter_context(traced(self._folder / FOLDER))
        self._trace = trace

    def _end(self, out: Any) -> None:
        _wait(out)
        self._stop()
        _, text = summary(self._folder / FOLDER, len(self._window))
        with atomically(self._folder / FILE) as temporary:
            temporary.write_text(text, "utf-8")
        print(f"\n{self._folder / FILE}\n{text}", file=sys.stderr, flush=True)

    def _stop(self) -> None:
        trace, self._trace = self._trace, None
        if trace is not None:
            trace.close()

    def _safely(self, act: Callable[..., None], *values: Any) -> None:
        try:
            act(*values)
        except Exception as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"no profile of steps {self._window.start} to {self._window.stop - 1}: {why}", file=sys.stderr)


def _is_first_process() -> bool:
    import jax

    return jax.process_index() == 0


def _wait(values: Any) -> None:
    import jax

    jax.block_until_ready(values)


def _read(folder: Path) -> list[Event]:
    """What the device did in the newest trace below a folder."""
    from jax.profiler import ProfileData

    files = sorted(folder.rglob("*.xplane.pb"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise UserError(f"{folder} holds no trace (*.xplane.pb); one is made by --config.train.profile=100:5")
    return events_of(ProfileData.from_file(str(files[-1])))


def events_of(data: Any) -> list[Event]:
    """What the device did, in a `jax.profiler.ProfileData`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its types have no __module__ in jax 0.11
        planes = {plane.name: plane for plane in data.planes}
        devices = sorted((name for name in planes if name.startswith(DEVICES)), key=lambda name: (len(name), name))
        for name in devices:
            if found := [event for line in _lines(planes[name]) for event in _events(line)]:
                return found
        on_host = planes[HOST].lines if HOST in planes else ()
        return [event for line in on_host for event in _events(line, only_operations=True)]


def _lines(plane: Any) -> list[Any]:
    """Those with what ran: a GPU's streams, a TPU's operations. Others hold the same once more, in other words."""
    lines = list(plane.lines)
    streams = [line for line in lines if line.name.startswith("Stream")]
    return streams or [line for line in lines if line.name == "XLA Ops"] or lines


def _events(line: Any, only_operations: bool = False) -> list[Event]:
    """The events of a line that took time; of a host's threads those alone that XLA's operations left."""
    events = []
    for run in line.events:
        if run.duration_ns > 0:
            stats = {name: value for name, value in run.stats if name is not None}
            if "hlo_op" in stats or not only_operations:
                ends = run.start_ns + run.duration_ns
                events.append(Event(run.name, *_origin(run.name, stats), run.start_ns, ends, run.duration_ns))
    return events if line.name.startswith("Stream") else _without_inner(events)


def _origin(name: str, stats: dict[str, Any]) -> tuple[str, str]:
    """HLO op and source of an event. A TPU names it by its HLO: "%fusion.1 = f32[…] fusion(…)"."""
    in_name = name.partition(" = ")[0].removeprefix("%") if name.startswith("%") else ""
    # XLA writes what all operations of a module have in common apart. `tf_op` may be no more than "XlaModule:".
    prefix, rest = str(stats.get("prefix", "")), str(stats.get("name", ""))
    path = "/".join(filter(None, (prefix, rest))) if rest and not rest.startswith(prefix) else rest
    tf_op = str(stats.get("tf_op", ""))
    return str(stats.get("hlo_op", in_name)), path or ("" if tf_op.startswith(("XlaModule", "Thunk")) else tf_op)


def _without_inner(events: list[Event]) -> list[Event]:
    """`own` is without the events inside: a loop's without those of its body. For one thread, or one core."""
    events = sorted(events, key=lambda event: (event.start, -event.end))
    own, open_ones = [event.own for event in events], list[int]()
    for i, event in enumerate(events):
        while open_ones and events[open_ones[-1]].end <= event.start:
            open_ones.pop()
        if open_ones and event.end <= events[open_ones[-1]].end:
            own[open_ones[-1]] -= event.own
        open_ones.append(i)
    return [event._replace(own=ns) for event, ns in zip(events, own, strict=True)]


def _union(events: list[Event]) -> float:
    """Nanoseconds in which at least one event ran."""
    total, until = 0.0, float("-inf")
    for event in sorted(events, key=lambda event: event.start):
        total += max(0.0, event.end - max(until, event.start))
        until = max(until, event.end)
    return total
