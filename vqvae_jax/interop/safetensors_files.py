"""https://github.com/huggingface/safetensors: a length, a header in JSON, and the elements of each tensor.

Read and written here, because it is less than its library and says what is wrong.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from vqvae_jax.interop.reading import filled, plain, reading, widened
from vqvae_jax.types import UserError

LONGEST = 100_000_000  # bytes of header, as in the library
DTYPE = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "u1"}
DTYPE |= {f"{sign}{8 * size}": f"<{sign.lower()}{size}" for sign in "IU" for size in (1, 2, 4, 8)}
NAME = {np.dtype(dtype): name for name, dtype in DTYPE.items() if name not in ("BF16", "BOOL")} | {
    np.dtype(bool): "BOOL"
}


def read_safetensors(path: str | Path, prefix: str = "") -> dict[str, np.ndarray]:
    """Name → array, of names that begin with `prefix`; bfloat16 becomes float32.

    Raises:
        UserError: it is damaged, or holds elements that numpy does not know.
    """
    with reading(path, "a .safetensors file"), open(path, "rb") as stream:
        header, start, size = _header(stream)
        header.pop("__metadata__", None)
        _check(header, size - start, path)
        return {name: _tensor(stream, start, entry) for name, entry in header.items() if name.startswith(prefix)}


def safetensors_words(path: str | Path) -> dict[str, str]:
    """The metadata of the file, strings by name."""
    with reading(path, "a .safetensors file"), open(path, "rb") as stream:
        header, _, _ = _header(stream)
        return {str(name): str(word) for name, word in (header.get("__metadata__") or {}).items()}


def _header(stream: IO[bytes]) -> tuple[dict[str, Any], int, int]:
    """(header, where the elements begin, size of the file)."""
    size = os.fstat(stream.fileno()).st_size
    length = int.from_bytes(stream.read(8), "little")
    if not 2 <= length <= min(size - 8, LONGEST):
        raise EOFError(f"its header has {length} bytes")
    return json.loads(stream.read(length).decode("utf-8")), 8 + length, size


def write_safetensors(stream: IO[bytes], tensors: Mapping[str, np.ndarray], words: Mapping[str, str]) -> None:
    """Name → array, little-endian, in the order of the library: wide elements first, so that all are aligned.

    Raises:
        UserError: a type of elements that the format does not know, or the name "__metadata__".
    """
    header: dict[str, Any] = {"__metadata__": dict(words)} if words else {}
    arrays = sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0]))
    end = 0
    for name, array in arrays:
        start, end = end, end + array.nbytes
        header[name] = {"dtype": _name(name, array), "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    stream.write(len(text).to_bytes(8, "little") + text)
    for _, array in arrays:
        little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
        stream.write(little.reshape(-1).view(np.uint8).data)


def _check(header: dict[str, Any], size: int, path: str | Path) -> None:
    """All tensors are known, lie inside of the file and are together no more than it."""
    total = 0
    for name, entry in header.items():
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if dtype not in DTYPE:
            raise UserError(
                f"{path}: {plain(name)} is {plain(dtype)}, which is not read; it must be one of {', '.join(DTYPE)}"
            )
        if not all(type(number) is int and number >= 0 for number in (*shape, start, end)):
            raise ValueError(f"{plain(name)} has a shape that is none")
        if end - start != math.prod(shape) * np.dtype(DTYPE[dtype]).itemsize:
            raise ValueError(f"{plain(name)} has another size than its shape")
        total += end - start
        if max(end, total) > size:
            raise EOFError(f"{plain(name)} reaches over the end")


def _tensor(stream: IO[bytes], start: int, entry: dict[str, Any]) -> np.ndarray:
    """One tensor; `start` is where the header ends."""
    stream.seek(start + entry["data_offsets"][0])
    elements = filled(stream, math.prod(entry["shape"]), np.dtype(DTYPE[entry["dtype"]]))
    if entry["dtype"] == "BF16":
        elements = widened(elements)
    return (elements != 0 if entry["dtype"] == "BOOL" else elements).reshape(entry["shape"])


def _name(name: str, array: np.ndarray) -> str:
    if name == "__metadata__":
        raise UserError("a .safetensors file has no room for a tensor called '__metadata__'; write an .npz")
    found = NAME.get(array.dtype.newbyteorder("<"))
    if found is None:
        known = ", ".join(NAME.values())
        raise UserError(f"{name} is {array.dtype}; a .safetensors file is written of {known}: convert it first")
    return found
