"""Lines of the table that `compare` prints: a tensor, how far ours is from the recorded one, whether that passes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

OUTPUTS = 1e-4  # of each tensor's largest absolute value; float32 sums in another order reach 3e-6
GRADIENTS = 1e-3
LOSSES = 1e-3  # of each step of a training, relative
TRAINED = 0.05  # of the way a tensor moved: Adam amplifies rounding where gradients are almost 0
AVERAGES = 1e-3  # of codebooks at the end of a training
TIE = 1e-4  # of the two best squared distances, relative: closer than that, either code is right
SHOWN = 3  # of gradients and trained tensors that pass: the worst


class Row(NamedTuple):
    """One tensor."""

    tensor: str
    shape: tuple[int, ...]
    largest: float  # absolute difference
    mean: float
    relative: float  # what is held against the tolerance; what it is relative to depends on the kind
    tolerance: float
    passed: bool
    note: str = ""


def near(tensor: str, ours: Any, recorded: np.ndarray, tolerance: float, note: str = "") -> Row:
    """Relative to the largest absolute value of the recorded tensor."""
    ours, recorded = np.asarray(ours, np.float64), np.asarray(recorded, np.float64)
    if ours.shape != recorded.shape:
        return other_shape(tensor, ours.shape, recorded.shape, tolerance)
    return _row(tensor, ours, recorded, float(np.max(np.abs(recorded), initial=0)), tolerance, note)


def trained(tensor: str, ours: Any, recorded: np.ndarray, before: np.ndarray) -> Row:
    """The distance of both ends, relative to the way that the recorded tensor went (Euclidean)."""
    ours, recorded, before = (np.asarray(x, np.float64) for x in (ours, recorded, before))
    if ours.shape != recorded.shape:
        return other_shape(tensor, ours.shape, recorded.shape, TRAINED)
    gap, way = np.linalg.norm(ours - recorded), np.linalg.norm(recorded - before)
    row = _row(tensor, ours, recorded, 1.0, TRAINED, "of its way")
    relative = float(gap / way) if way else float(gap != 0)  # NaN, too
    return row._replace(relative=relative, passed=relative <= TRAINED)


def stepwise(tensor: str, ours: Any, recorded: np.ndarray) -> Row:
    """Each value relative to itself: losses, which fall."""
    ours, recorded = np.asarray(ours, np.float64), np.asarray(recorded, np.float64)
    if ours.shape != recorded.shape:
        return other_shape(tensor, ours.shape, recorded.shape, LOSSES)
    relative = float(np.max(np.abs(ours - recorded) / np.maximum(np.abs(recorded), 1e-30)))
    return _row(tensor, ours, recorded, 1.0, LOSSES)._replace(relative=relative, passed=relative <= LOSSES)


def indices(tensor: str, ours: np.ndarray, recorded: np.ndarray, z_e: np.ndarray, codes: np.ndarray) -> Row:
    """Codes, and where they differ how close both were: int [B, h, w] twice, [B, h, w, D], [K, D]."""
    if ours.shape != recorded.shape:
        return other_shape(tensor, ours.shape, recorded.shape, TIE)
    recorded = recorded.astype(np.int64)
    gaps = [_gap(z_e[at], codes, ours[at], recorded[at]) for at in zip(*np.nonzero(ours != recorded), strict=True)]
    worst = float(np.max(gaps)) if gaps else 0.0  # NaN stays NaN
    apart = np.abs(ours.astype(np.int64) - recorded)
    note = f"{len(gaps)} of {recorded.size} differ" + (f", the two distances by {worst:.1e} at most" if gaps else "")
    return Row(tensor, recorded.shape, float(np.max(apart)), float(np.mean(apart)), worst, TIE, worst < TIE, note)


def counted(tensor: str, ours: np.ndarray, recorded: np.ndarray) -> Row:
    """Whole numbers of which one may differ: a tie on the way may be seen at one code."""
    if ours.shape != recorded.shape:
        return other_shape(tensor, ours.shape, recorded.shape, 0)
    apart = np.abs(ours.astype(np.int64) - recorded)
    note = f"{np.count_nonzero(apart)} of {apart.size} differ"
    share = np.count_nonzero(apart) / apart.size
    return Row(
        tensor,
        apart.shape,
        float(apart.max()),
        float(apart.mean()),
        share,
        1 / apart.size,
        share <= 1 / apart.size,
        note,
    )


def other_shape(tensor: str, ours: tuple[int, ...], recorded: tuple[int, ...], tolerance: float) -> Row:
    """A row that fails."""
    infinite = float("inf")
    return Row(tensor, recorded, infinite, infinite, infinite, tolerance, False, f"ours is {list(ours)}")


def missing(tensor: str, recorded: np.ndarray) -> Row:
    """A row that fails: the model has nothing to compare it with."""
    nothing = float("nan")
    return Row(tensor, recorded.shape, nothing, nothing, nothing, nothing, False, "recorded, and not compared")


def left_out(tensor: str, recorded: np.ndarray, why: str) -> Row:
    """A row that says why it is none."""
    nothing = float("nan")
    return Row(tensor, recorded.shape, nothing, nothing, nothing, nothing, True, f"left out: {why}")


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The lines: every output, of gradients and trained tensors the worst, everything that fails."""
    wide = max((len(row.tensor) for row in rows), default=6)
    yield f"{'tensor':{wide}}  {'shape':>18}  {'largest':>8}  {'mean':>8}  {'relative':>8}  {'allowed':>8}"
    for section in dict.fromkeys(row.tensor.split("/")[0] for row in rows):
        of_section = [row for row in rows if row.tensor.split("/")[0] == section]
        shown = of_section if section in ("output", "train", "param") else worst_of(of_section)
        yield from (line(row, wide) for row in shown)
        if len(shown) < len(of_section):
            yield f"{section + '/…':{wide}}  {len(of_section) - len(shown)} more pass"
    failed, out = sum(not row.passed for row in rows), sum(row.note.startswith("left out") for row in rows)
    verdict = f"{failed} failed" if failed else "all pass"
    yield f"{len(rows) - out} compared, {verdict}" + (f"; {out} left out" if out else "")


def worst_of(rows: Sequence[Row]) -> list[Row]:
    """Those that fail, and the worst of the others."""
    ranked = sorted(rows, key=lambda row: (math.isnan(row.relative), row.relative), reverse=True)
    return [row for i, row in enumerate(ranked) if not row.passed or i < SHOWN]


def line(row: Row, wide: int) -> str:
    """One row as text."""
    numbers = "  ".join(f"{value:8.1e}" for value in (row.largest, row.mean, row.relative, row.tolerance))
    shape = "x".join(map(str, row.shape)) or "scalar"
    verdict = "pass" if row.passed else "FAIL"
    return f"{row.tensor:{wide}}  {shape:>18}  {numbers}  {verdict}  {row.note}".rstrip()


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    """All rows, for --report."""
    return {"passed": all(row.passed for row in rows), "rows": [_plain(row._asdict()) for row in rows]}


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in row.items()}


def _row(tensor: str, ours: np.ndarray, recorded: np.ndarray, scale: float, tolerance: float, note: str = "") -> Row:
    apart = np.abs(ours - recorded)
    largest = float(np.max(apart, initial=0)) if np.all(np.isfinite(apart)) else float("inf")
    mean = float(np.mean(apart)) if apart.size else 0.0
    relative = largest / scale if scale else float(largest > 0)
    return Row(tensor, recorded.shape, largest, mean, relative, tolerance, relative <= tolerance, note)


def _gap(z_e: np.ndarray, codes: np.ndarray, ours: int, recorded: int) -> float:
    """How much farther one of two codes is, relative to the nearest; float64."""
    if not 0 <= recorded < len(codes):
        return float("inf")
    distances = np.sum(np.square(np.asarray(z_e, np.float64) - np.asarray(codes, np.float64)), axis=-1)  # [K]
    return float(abs(distances[ours] - distances[recorded]) / max(distances.min(), 1e-30))
