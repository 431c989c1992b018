"""Trees of arrays as Flax writes them, https://flax.readthedocs.io/en/latest/api_reference/flax.serialization.html:
MessagePack, in which an array is its shape, the name of its type and its bytes.

Read here and not by `flax.serialization`, which takes memory for as many elements as a file announces.
"""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

import msgpack
import numpy as np
from flax.serialization import msgpack_serialize

from vqvae_jax.interop.reading import plain, reading, widened
from vqvae_jax.types import UserError

BFLOAT16 = "bfloat16"
TYPES = {f"{kind}{8 * size}" for kind in ("int", "uint") for size in (1, 2, 4, 8)}
TYPES |= {"bool", "float16", "float32", "float64", BFLOAT16}
ARRAY, COMPLEX, SCALAR = 1, 2, 3  # Flax's kinds of values beside MessagePack's own
CHUNKED = "__msgpack_chunked_array__"  # an array above 1 GiB: a dict of its shape and its parts
LONGEST = 1000  # lists; Flax writes none but shapes
MOST = 100_000  # entries of one dict
# Where a training's file has its weights, the first that is there, again and again: {"params": …} itself, a TrainState,
# a checkpoint of the time when Flax had optimizers.
INSIDE = ("params", "target", "optimizer")


def is_msgpack(head: bytes) -> bool:
    """Whether a file begins as a dict with names does, and is not one of the kinds that `files` knows by its start."""
    return len(head) > 1 and (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)) and _is_text(head)


def read_msgpack(path: str | Path, key: str | None = None) -> dict[str, np.ndarray]:
    """Name → array, names with "/"; bfloat16 becomes float32.

    Args:
        path: of the file.
        key: where in the tree, as "ema_params" or "optimizer/target"; None: the weights of a training's file.

    Raises:
        UserError: it is damaged, or holds no arrays or some that are no numbers.
    """
    with reading(path, "a .msgpack file of Flax"):
        content = Path(path).read_bytes()
        tree = msgpack.unpackb(content, ext_hook=partial(_value, path), max_array_len=LONGEST, max_map_len=MOST)
        found = dict(_arrays(_at(tree, key, path) if key else _weights(tree)))
    if not found:
        raise UserError(f'{path} holds no arrays; expected flax.serialization.to_bytes of {{"params": …}}')
    return found


def write_msgpack(stream: IO[bytes], tensors: Mapping[str, np.ndarray], words: Mapping[str, str]) -> None:
    """{"params": …}, names with "/" as dicts in dicts. There is no room for words beside them."""
    tree: dict[str, Any] = {}
    for name, array in tensors.items():
        *folders, last = name.split("/")
        here = tree
        for folder in folders:
            here = here.setdefault(folder, {})
        native = np.asarray(array, array.dtype.newbyteorder("="))
        here[last] = np.ascontiguousarray(native).reshape(array.shape)
    stream.write(msgpack_serialize({"params": tree}))


def _is_text(head: bytes) -> bool:
    """Whether the first key, behind the count of entries, is text."""
    first = head[{0xDE: 3, 0xDF: 5}.get(head[0], 1) :][:1]
    return b"\xa0" <= first <= b"\xbf" or first in (b"\xd9", b"\xda")


def _value(path: object, kind: int, content: bytes) -> Any:
    """An array; None of what is not read."""
    if kind not in (ARRAY, SCALAR):
        return None
    shape, name, elements = msgpack.unpackb(content, raw=True, max_array_len=LONGEST)
    dtype = name.decode("ascii", "replace")
    if dtype not in TYPES:
        raise UserError(
            f"{path}: an array is {plain(dtype)}, which is not read; it must be one of {', '.join(sorted(TYPES))}"
        )
    if not all(type(number) is int and number >= 0 for number in shape) or type(elements) is not bytes:
        raise ValueError("an array has a shape that is none")
    stored = np.dtype("<u2" if dtype == BFLOAT16 else dtype)
    if math.prod(shape) * stored.itemsize != len(elements):
        raise EOFError("an array has another size than its shape")
    if dtype == "bool":
        return (np.frombuffer(elements, np.uint8) != 0).reshape(shape)
    array = np.frombuffer(elements, stored).reshape(shape)
    return widened(array) if dtype == BFLOAT16 else array


def _weights(tree: Any) -> Any:
    """Of what a training keeps."""
    while isinstance(tree, dict):
        inside = next((name for name in INSIDE if isinstance(tree.get(name), dict)), None)
        if inside is None:
            break
        tree = tree[inside]
    return tree


def _at(tree: Any, key: str, path: object) -> Any:
    for name in key.replace(".", "/").split("/"):
        if not isinstance(tree, dict) or name not in tree:
            there = ", ".join(map(plain, list(tree)[:20])) if isinstance(tree, dict) else "none"
            raise UserError(f"--key: {path} has no {plain(key)!r}; beside {plain(name)!r} it has: {there}")
        tree = tree[name]
    return _weights(tree)


def _arrays(tree: Any, start: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Whatever else lies beside them is passed over."""
    if not isinstance(tree, dict):
        return
    for name, value in tree.items():
        if isinstance(value, dict) and CHUNKED in value:
            yield f"{start}{name}", _whole(value)
        elif isinstance(value, dict):
            yield from _arrays(value, f"{start}{name}/")
        elif isinstance(value, np.ndarray):
            yield f"{start}{name}", value


def _whole(parts: Mapping[str, Any]) -> np.ndarray:
    """An array out of its parts."""
    shape, chunks = ([parts[name][str(i)] for i in range(len(parts[name]))] for name in ("shape", "chunks"))
    return np.concatenate(chunks).reshape(shape)
