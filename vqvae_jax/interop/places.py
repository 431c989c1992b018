"""Where each tensor of a PyTorch model lies in ours, and how its axes lie there.

convolution         OIHW  ↔  HWIO
4x4 transposed one  IOHW  ↔  HWIO, not flipped
linear layer        [out, in]  ↔  [in, out]
1x1 convolution     [out, in, 1, 1]  ↔  [in, out], where ours is a matrix
the rest            as it is
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from vqvae_jax.types import Model

Shape = tuple[int, ...]
Rename = str | Callable[[re.Match[str]], str]
Renames = tuple[tuple[str, Rename], ...]  # regular expressions of our names and what PyTorch calls them, in order
LEAVES = (("kernel$", "weight"), ("scale$", "weight"), ("embedding$", "weight"))


class Layout(NamedTuple):
    """The same numbers, here and there."""

    theirs: Callable[[np.ndarray], np.ndarray]
    ours: Callable[[np.ndarray], np.ndarray]


class Place(NamedTuple):
    """One tensor: its path in a `Model`, such as ("params", "encoder_0", "conv1", "kernel").

    Where it is one of several that are one array here, `number` counts them on the array's first axis. Where it is
    several arrays of one shape, `after` are those that follow on the tensor's first axis.
    """

    path: tuple[str, ...]
    layout: Layout
    number: int | None = None
    after: tuple[tuple[str, ...], ...] = ()

    @property
    def paths(self) -> tuple[tuple[str, ...], ...]:
        """Of all arrays that are in it."""
        return (self.path, *self.after)


Places = dict[str, Place]  # by PyTorch's names

AS_IT_IS = Layout(lambda x: x, lambda x: x)
TRANSPOSED = Layout(lambda x: x.T, lambda x: x.T)
CONV = Layout(lambda x: x.transpose(3, 2, 0, 1), lambda x: x.transpose(2, 3, 1, 0))
CONV_TRANSPOSE = Layout(lambda x: x.transpose(2, 3, 0, 1), lambda x: x.transpose(2, 3, 0, 1))
POINTWISE = Layout(lambda x: x.T[:, :, None, None], lambda x: x[:, :, 0, 0].T)


def countdown(start: int) -> Layout:
    """Steps a code was unused, int32; the reference counts down from `start` to 0, int64."""
    return Layout(
        lambda idle: np.maximum(start - idle.astype(np.int64), 0),
        lambda left: (start - left).astype(np.int32),
    )


def of_params(params: Any, renames: Renames) -> Places:
    """Place of every parameter; `params` may be shapes alone."""
    found = {}
    for path, leaf in by_path(params).items():
        found[renamed(".".join(path), renames)] = Place(("params", *path), layout_of(path, len(leaf.shape), leaf.shape))
    return found


def under(start: str, places: Places, part: str) -> Places:
    """Places in one part of a model's parameters, by names that begin with `start`."""
    moved = lambda path: ("params", part, *path[1:])  # noqa: E731
    return {
        f"{start}{name}": place._replace(path=moved(place.path), after=tuple(map(moved, place.after)))
        for name, place in places.items()
    }


def fused(places: Places, pattern: str, parts: tuple[str, ...], whole: str) -> Places:
    """Places in which layers that are several here are one there.

    Args:
        places: of each by itself.
        pattern: of the names of their tensors; its group is one of `parts`.
        parts: in the order in which they lie there.
        whole: what stands there in place of the group.
    """
    found: Places = {}
    for name, place in places.items():
        if not (known := re.match(pattern, name)):
            found[name] = place
        elif known[1] == parts[0]:
            start, end = name[: known.start(1)], name[known.end(1) :]
            after = tuple(places[f"{start}{part}{end}"].path for part in parts[1:])
            found[f"{start}{whole}{end}"] = place._replace(after=after)
    return found


def inside(tensors: Mapping[str, Any], start: str) -> dict[str, Any]:
    """Those whose names begin with `start`, by what follows."""
    return {name.removeprefix(start): one for name, one in tensors.items() if name.startswith(start)}


def renamed(name: str, renames: Renames) -> str:
    """PyTorch's name of one of our parameters."""
    for pattern, theirs in (*renames, *LEAVES):
        name = re.sub(pattern, theirs, name)
    return name


def layout_of(path: tuple[str, ...], axes: int, shape: Shape) -> Layout:
    """By the kind of a parameter. All 4x4 kernels outside of encoders are those of transposed convolutions."""
    if path[-1] != "kernel":
        return AS_IT_IS
    if axes == 2:
        return TRANSPOSED
    upwards = shape[:2] == (4, 4) and not path[0].startswith("encoder")
    return CONV_TRANSPOSE if upwards else CONV


def to_torch(model: Model, places: Places) -> dict[str, np.ndarray]:
    """Each tensor by PyTorch's name, laid out as there."""
    leaves = by_path({"params": model.params, "codebooks": as_dicts(model.codebooks)})
    return {name: _tensor(place, leaves) for name, place in places.items()}


def from_torch(tensors: Mapping[str, np.ndarray], places: Places, like: Model) -> Model:
    """A model shaped like `like` of numpy arrays; what PyTorch has no tensor for is 0."""
    given = _arrays(tensors, places)

    def leaf(path: Any, shape: Any) -> np.ndarray:
        array = given.get(tuple(map(_key, path)))
        if array is None:
            return np.zeros(shape.shape, shape.dtype)
        return np.ascontiguousarray(array, shape.dtype).reshape(shape.shape)  # which makes [1] of a scalar

    return jax.tree_util.tree_map_with_path(leaf, like)


def shapes(places: Places, like: Model) -> dict[str, Shape]:
    """PyTorch's shape of every tensor that a model shaped like `like` has."""
    leaves = by_path({"params": like.params, "codebooks": as_dicts(like.codebooks)})
    return {name: _theirs(place, leaves[place.path].shape) for name, place in places.items()}


def without_codes(level: str, book: Any, name: str) -> Places:
    """Of a bottleneck without a table, below `name`: its statistics by their own names; finite scalars have none."""
    return {f"{name}.{stat}": Place(("codebooks", level, "stats", stat), AS_IT_IS) for stat in book.stats}


def by_path(tree: Any) -> dict[tuple[str, ...], Any]:
    """Leaves of nested dicts and dataclasses."""
    return {tuple(map(_key, path)): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def as_dicts(codebooks: Mapping[str, Any]) -> dict[str, Any]:
    return {
        level: {"codes": book.codes, "params": book.params, "stats": book.stats} for level, book in codebooks.items()
    }


def differences(wanted: Mapping[str, Shape], there: Mapping[str, Shape]) -> list[str]:
    """What a file lacks, has too much of, or has in another shape: one sentence a kind, all names."""
    missing = [f"{name} {list(wanted[name])}" for name in wanted if name not in there]
    left_over = [f"{name} {list(there[name])}" for name in there if name not in wanted]
    other = [
        f"{name} is {list(there[name])}, not {list(wanted[name])}"
        for name in wanted
        if name in there and wanted[name] != there[name]
    ]
    said = (("missing", missing), ("left over", left_over), ("of another shape", other))
    return [f"{what}: {', '.join(names)}" for what, names in said if names]


def shapes_of(tensors: Mapping[str, Any]) -> dict[str, Shape]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _tensor(place: Place, leaves: Mapping[tuple[str, ...], Any]) -> np.ndarray:
    arrays = [np.asarray(leaves[path]) for path in place.paths]
    found = [place.layout.theirs(one if place.number is None else one[place.number]) for one in arrays]
    return np.concatenate(found) if place.after else found[0]


def _arrays(tensors: Mapping[str, np.ndarray], places: Places) -> dict[tuple[str, ...], np.ndarray]:
    """Each of ours by its path."""
    found: dict[tuple[str, ...], np.ndarray] = {}
    several: dict[tuple[str, ...], dict[int, np.ndarray]] = {}
    for name, place in places.items():
        parts = np.split(tensors[name], len(place.paths)) if place.after else [tensors[name]]
        arrays = {path: np.array(place.layout.ours(one)) for path, one in zip(place.paths, parts, strict=True)}
        if place.number is None:
            found |= arrays
        else:
            several.setdefault(place.path, {})[place.number] = arrays[place.path]
    return found | {path: np.stack([one[i] for i in sorted(one)]) for path, one in several.items()}


def _theirs(place: Place, shape: Shape) -> Shape:
    shape = shape if place.number is None else shape[1:]
    # An array without memory: one element, seen everywhere.
    seen = np.broadcast_to(np.zeros((), np.int8), shape) if math.prod(shape) else np.empty(shape, np.int8)
    found = place.layout.theirs(seen).shape
    return (len(place.paths) * found[0], *found[1:]) if place.after else found


def _key(entry: Any) -> str:
    return str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", entry))))


def numbers(names: Iterable[str], pattern: str) -> list[int]:
    """The numbers that a pattern's group finds in names, each once, ascending."""
    return sorted({int(found[1]) for name in names if (found := re.match(pattern, name))})
