"""docs/pictures/architecture.png: the rooms of the package on floors, read from the imports; nothing is imported.

python scripts/architecture.py --output=docs/pictures/architecture.png

A room is a module or a folder of vqvae_jax, and launch.py. It stands one floor above the highest room that it imports.
An arrow goes to what a room imports, and is left out where other arrows lead there by a longer way. The more lines, the
higher and darker the box.
"""

import argparse
import ast
import io
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Line
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "vqvae_jax"
ENTRANCE = "launch.py"

Rooms = dict[str, set[str]]  # a room → rooms that it imports
Point = tuple[str, int]  # a room, or where an arrow from it to another passes a floor; and the floor
Colour = tuple[float, ...]

BOX, LANE = 1.35, 0.1  # widths: of a room, of an arrow that passes by
GAP = 0.12  # between two of them
LOWEST, TALLEST = 0.38, 0.62  # heights of rooms, of 1 a floor
FAR = 6  # floors: a longer arrow is a word in its room, "+ endings"
STRAIGHT = 6  # how much more an arrow is drawn to itself than to its rooms
SWEEPS = 200  # up and down, for short arrows with few crossings
PALE, DARK = (0.93, 0.95, 0.98), (0.55, 0.70, 0.88)  # colours of the shortest and the longest room
COLOURS = 128


# --- what imports what


def files() -> dict[Path, str]:
    """Each file of the package, and launch.py → its room."""
    package = ROOT / PACKAGE
    inside = {file: file.relative_to(package).parts[0] for file in sorted(package.rglob("*.py"))}
    slashed = {file: room if room.endswith(".py") else f"{room}/" for file, room in inside.items()}
    return {ROOT / ENTRANCE: ENTRANCE, **slashed}


def imported(text: str) -> Iterator[str]:
    """First names below the package that a file imports, wherever it does."""
    for node in ast.walk(ast.parse(text)):
        full = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            full = [f"{node.module}.{name}" for name in full]
        yield from (name.split(".")[1] for name in full if name.startswith(f"{PACKAGE}."))


def doors(rooms: Mapping[Path, str]) -> Rooms:
    """The other rooms that each room imports; plain values of vqvae_jax/__init__.py are none."""
    named = {room.removesuffix("/").removesuffix(".py"): room for room in rooms.values() if room != ENTRANCE}
    found: Rooms = {room: set() for room in rooms.values()}
    for file, room in rooms.items():
        found[room] |= {named[name] for name in imported(file.read_text("utf-8")) if name in named} - {room}
    return found


def floors(rooms: Rooms) -> dict[str, int]:
    """The floor of each room, 0 for those that import none. CycleError where imports go round."""
    found: dict[str, int] = {}
    for room in TopologicalSorter(rooms).static_order():
        found[room] = 1 + max((found[other] for other in rooms[room]), default=-1)
    return found


def direct(rooms: Rooms) -> Rooms:
    """The doors without those to what is reached through another door."""
    below: Rooms = {}
    for room in TopologicalSorter(rooms).static_order():
        below[room] = set().union(rooms[room], *(below[other] for other in rooms[room]))
    further = {room: set().union(*(below[other] for other in near)) for room, near in rooms.items()}
    return {room: near - further[room] for room, near in rooms.items()}


# --- where they stand


def ways(near: Rooms, floor: Mapping[str, int]) -> list[list[Point]]:
    """Each arrow as its points, one a floor, from the importing room down."""
    return [way(room, other, floor) for room in sorted(near) for other in sorted(near[room])]


def way(room: str, other: str, floor: Mapping[str, int]) -> list[Point]:
    """From a room to one that it imports."""
    between = range(floor[room] - 1, floor[other], -1)
    return [(room, floor[room]), *((f"{room} → {other}", i) for i in between), (other, floor[other])]


def passes(point: Point) -> bool:
    """Whether it is no room, but an arrow that passes a floor."""
    return "→" in point[0]


def width(point: Point) -> float:
    """What it takes of its floor."""
    return LANE if passes(point) else BOX


def placed(points: Sequence[Point], wish: Mapping[Point, float]) -> dict[Point, float]:
    """Side by side without overlap, in the order of their wishes and as near to them as can be: least squares."""
    row = sorted(points, key=lambda point: (wish[point], point))
    starts = [sum(width(one) + GAP for one in row[:i]) + width(row[i]) / 2 for i in range(len(row))]
    pools: list[list[float]] = []
    for point, start in zip(row, starts, strict=True):
        pools.append([wish[point] - start])
        while len(pools) > 1 and mean(pools[-2]) >= mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    shifts = [mean(pool) for pool in pools for _ in pool]
    return {point: start + shift for point, start, shift in zip(row, starts, shifts, strict=True)}


def mean(values: Sequence[float]) -> float:
    """Of one value or more."""
    return sum(values) / len(values)


def neighbours(arrows: Sequence[Sequence[Point]]) -> dict[Point, list[Point]]:
    """What each point is joined to; where an arrow goes on as an arrow often, so that it goes straight."""
    found: dict[Point, list[Point]] = {}
    for arrow in arrows:
        for one, other in pairwise(arrow):
            times = STRAIGHT if passes(one) and passes(other) else 1
            found.setdefault(one, []).extend([other] * times)
            found.setdefault(other, []).extend([one] * times)
    return found


def layout(arrows: Sequence[Sequence[Point]], floor: Mapping[str, int]) -> dict[Point, float]:
    """x of every point: again and again each goes to the middle of what it is joined to; the best of all sweeps."""
    near: dict[Point, list[Point]] = {room: [] for room in floor.items()} | neighbours(arrows)
    rows = [[point for point in near if point[1] == i] for i in range(1 + max(floor.values()))]
    x: dict[Point, float] = {}
    for row in rows:
        x |= placed(row, dict.fromkeys(row, 0.0))
    best = x
    for sweep in range(SWEEPS):
        for row in rows[:: 1 if sweep % 2 else -1]:
            x = x | placed(row, {point: mean([x[one] for one in near[point] or [point]]) for point in row})
        best = min(best, x, key=lambda found: length(found, arrows))
    return best


def length(x: Mapping[Point, float], arrows: Sequence[Sequence[Point]]) -> float:
    """How far all arrows go sideways."""
    return sum(abs(x[a] - x[b]) for arrow in arrows for a, b in pairwise(arrow))


# --- the picture


def draw(rooms: Rooms, lines: Mapping[str, int]) -> Figure:
    """Floors, arrows, and a box a room with its name and how many lines it has."""
    floor, near = floors(rooms), direct(rooms)
    close = {room: {other for other in near[room] if floor[room] - floor[other] <= FAR} for room in rooms}
    arrows, top = ways(close, floor), max(floor.values())
    x = layout(arrows, floor)
    tall = {room: LOWEST + (TALLEST - LOWEST) * share(room, lines) for room in rooms}
    figure, axes = paper(x, top)
    for arrow in arrows:
        ends = tall[arrow[0][0]] / 2, tall[arrow[-1][0]] / 2
        axes.add_patch(bent([(x[point], point[1]) for point in arrow], *ends))
    for room in rooms:
        more = "".join(f" + {other.removesuffix('.py')}" for other in sorted(near[room] - close[room]))
        colour = between(PALE, DARK, share(room, lines))
        box(axes, (x[room, floor[room]], floor[room]), tall[room], colour, room, f"{lines[room]:,} lines{more}")
    return figure


def paper(x: Mapping[Point, float], top: int) -> tuple[Figure, Any]:
    """A figure that is as large as the floors, every second one tinted."""
    figure = Figure((12, 0.75 * (top + 1)), dpi=150)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(min(x.values()) - 0.75, max(x.values()) + 0.75), ylim=(-0.5, top + 0.5))
    axes.set_axis_off()
    for floor in range(0, top + 1, 2):
        axes.axhspan(floor - 0.5, floor + 0.5, color="#f5f5f2", lw=0)
    return figure, axes


def share(room: str, lines: Mapping[str, int]) -> float:
    """How long a room is beside the longest, 0 to 1."""
    return math.sqrt(lines[room] / max(lines.values()))


def between(a: Colour, b: Colour, part: float) -> Colour:
    """A colour so far on the way from one to another."""
    return tuple(one + part * (other - one) for one, other in zip(a, b, strict=True))


def box(axes: Any, middle: tuple[float, float], tall: float, colour: Colour, name: str, below: str) -> None:
    """A room."""
    x, y = middle
    form = "round,pad=0,rounding_size=0.06"
    axes.add_patch(FancyBboxPatch((x - BOX / 2, y - tall / 2), BOX, tall, form, fc=colour, ec="#46617f", lw=0.8))
    axes.text(x, y + 0.08, name, ha="center", va="center", fontsize=9, weight="bold")
    axes.text(x, y - 0.1, below, ha="center", va="center", fontsize=7.5, color="#333333")


def bent(points: Sequence[tuple[float, float]], start: float, end: float) -> FancyArrowPatch:
    """An arrow through these points, upright where it passes a floor; `start`, `end`: half of the boxes' heights."""
    (x, y), *passed, (a, b) = points
    beside = [(c, d + half) for c, d in passed for half in (TALLEST / 2, -TALLEST / 2)]
    corners = [(x, y - start)]
    for (x, y), (c, d) in pairwise([*corners, *beside, (a, b + end)]):
        corners += [(x, (y + d) / 2), (c, (y + d) / 2), (c, d)]
    codes = [Line.MOVETO] + [Line.CURVE4] * (len(corners) - 1)
    style: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 8, "shrinkA": 0, "shrinkB": 0}
    return FancyArrowPatch(path=Line(corners, codes), color="#7f8da0", lw=0.9, **style)


def save(figure: Figure, path: Path) -> None:
    """As a PNG of few colours, which is small."""
    with io.BytesIO() as file:
        figure.savefig(file, format="png")
        Image.open(file).convert("RGB").quantize(COLOURS).save(path, optimize=True)


def main() -> int:
    """Writes the picture."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--output", type=Path, required=True, help="FILE.png")
    given = flags.parse_args()
    rooms = files()
    lines = dict.fromkeys(rooms.values(), 0)
    for file, room in rooms.items():
        lines[room] += len(file.read_text("utf-8").splitlines())
    save(draw(doors(rooms), lines), given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
