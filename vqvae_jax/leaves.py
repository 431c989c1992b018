"""Trees of arrays as a checkpoint holds them: their checksum, what is left out, and whether they fit a model."""

import math
import zlib
from typing import Any

import jax
import numpy as np

from vqvae_jax.backend import device
from vqvae_jax.types import UserError


def checksum(tree: Any) -> int:
    """CRC32 over the paths, types, shapes and bytes of all leaves: one for a dataclass and for a dict of its fields."""
    crc = 0
    for path, leaf in sorted(by_path(tree).items()):
        array = _host(leaf)
        crc = zlib.crc32(f"{path} {array.dtype} {array.shape}".encode(), crc)
        crc = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, crc)
    return crc


def by_path(tree: Any) -> dict[str, Any]:
    """Every leaf by its path."""
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


def placed(leaf: Any) -> Any:
    """Shape, type and sharding of a leaf; where it has none, this process' first device."""
    leaf = _array(leaf)
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(device())
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def on_host(saved: Any, empties: dict[str, Any]) -> Any:
    """What to ask for to get numpy arrays; `empties` tells what stood where Orbax was given None."""

    def array(path: Any, leaf: Any) -> Any:
        shape, dtype = empties.get(_name(path), (None, None)) if leaf is None else (leaf.shape, leaf.dtype)
        return None if shape is None else np.empty(shape, dtype)

    return jax.tree_util.tree_map_with_path(array, saved, is_leaf=lambda leaf: leaf is None)


# Orbax refuses arrays without elements, such as the codes [0, D] of a quantizer that has no table: it is given None.
def _is_empty(leaf: Any) -> bool:
    return math.prod(getattr(leaf, "shape", ())) == 0


def empty(tree: Any) -> dict[str, Any]:
    """Shape and type of every array without elements."""
    return {path: (list(leaf.shape), str(leaf.dtype)) for path, leaf in by_path(tree).items() if _is_empty(leaf)}


def without_empty(tree: Any) -> Any:
    """With None in place of arrays without elements."""
    return jax.tree.map(lambda leaf: None if _is_empty(leaf) else _array(leaf), tree)


def _array(leaf: Any) -> Any:
    """Numbers as arrays: Orbax takes no numpy scalars, and gives Python's back only where it is asked for those."""
    is_number = isinstance(leaf, bool | int | float | np.generic)
    return np.asarray(leaf, jax.dtypes.result_type(leaf)) if is_number else leaf


def filled(wanted: Any, loaded: Any) -> Any:
    """What was loaded, or the array without elements that was not."""
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


def check_fits(name: str, saved: Any, abstract: Any) -> None:
    """UserError unless every leaf has the shape and type that was saved."""
    there, here = by_path(saved), by_path(abstract)
    for path in sorted(there.keys() | here.keys()):
        is_there, is_here = _kind(there.get(path)), _kind(here.get(path))
        if is_there != is_here:
            raise UserError(
                f"{name} does not fit this model: {path} is {is_there} there, {is_here} here; "
                "use the config that it was trained with"
            )
