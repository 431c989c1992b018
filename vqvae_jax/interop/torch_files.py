"""PyTorch's files, .pt, .pth, .bin or .ckpt: the zip of PyTorch ≥ 1.6 and the older row of pickles.

Zip: NAME/data.pkl describes the tensors, NAME/data/KEY holds the elements of one storage, not compressed.
Old: a magic number, a version, a word on the machine, the description, the keys, for each its int64 size and elements.
"""

import io
import math
import os
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from vqvae_jax.interop import pickles
from vqvae_jax.interop.pickles import Storage, Tensor
from vqvae_jax.interop.reading import filled, plain, reading, widened
from vqvae_jax.interop.state_dicts import state_dict
from vqvae_jax.types import UserError

MAGIC = 0x1950A86A20F9469CFC6C
ZIP = b"PK\x03\x04"
DTYPE = {"Double": "<f8", "Float": "<f4", "Half": "<f2", "BFloat16": "<u2", "Bool": "u1"}
DTYPE |= {"Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "i1", "Byte": "u1"}


class Contents(NamedTuple):
    """A file of either format."""

    value: Any  # what was saved, tensors as descriptions
    elements: Callable[[Storage], np.ndarray]  # of a whole storage, [count], as they lie in the file


def read_torch(path: str | Path, key: str | None = None) -> dict[str, np.ndarray]:
    """The weights in a PyTorch file: name → array, read-only; bfloat16 becomes float32. Nothing is executed.

    Args:
        path: of a state dict, or of a dictionary that holds one.
        key: which, where it holds several: its name, with dots where dictionaries lie in dictionaries.

    Raises:
        UserError: it is damaged, holds no or several state dicts, wants to call something, or holds quantized, sparse
            or complex tensors.
    """
    with reading(path, "a PyTorch file"), open(path, "rb") as stream:
        zipped = stream.read(len(ZIP)) == ZIP
        stream.seek(0)
        contents = (_zip if zipped else _old)(stream, path)
        tensors = state_dict(contents.value, key, path)
        size = os.fstat(stream.fileno()).st_size
        storages = _storages(contents, (tensor.storage for tensor in tensors.values()), size)
        return {name: _array(tensor, storages, f"{path}: {plain(name)}") for name, tensor in tensors.items()}


def _zip(stream: IO[bytes], path: str | Path) -> Contents:
    archive = zipfile.ZipFile(stream)
    folder = _folder(archive, path)
    if f"{folder}byteorder" in archive.namelist() and _head(archive, f"{folder}byteorder", 10) != b"little":
        raise UserError(f"{path} was saved on a big-endian machine, which is not read; save it again on another")
    value, _ = pickles.load(io.BytesIO(_head(archive, f"{folder}data.pkl", pickles.LONGEST)), path)

    def elements(storage: Storage) -> np.ndarray:
        dtype = np.dtype(DTYPE[storage.type.name])
        member = _member(archive, f"{folder}data/{storage.key}")
        if member.file_size != storage.size * dtype.itemsize:
            raise EOFError(f"storage {plain(storage.key)} has another size than announced")
        with archive.open(member) as opened:  # compares the checksum at the end
            return filled(opened, storage.size, dtype)

    return Contents(value, elements)


def _folder(archive: zipfile.ZipFile, path: str | Path) -> str:
    """Where in the zip all lies: "archive/"."""
    names = archive.namelist()
    if any(name.endswith("/constants.pkl") for name in names):
        raise UserError(f"{path} is a TorchScript program; save the state_dict() of what torch.jit.load gives")
    folders = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
    if len(folders) != 1:
        raise UserError(f"{path} is a zip, but not one of PyTorch: {len(folders)} members are called data.pkl")
    return folders[0]


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError("its members are compressed; PyTorch never does that")
    return member


def _head(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    """The first bytes of a member, at most so many."""
    with archive.open(_member(archive, name)) as opened:
        return opened.read(most)


def _old(stream: IO[bytes], path: str | Path) -> Contents:
    def value() -> Any:
        return pickles.load(stream, path)[0]

    if value() != MAGIC:
        raise ValueError("the magic number is missing")
    value()  # the version of the format, 1001 since it exists
    machine = value()
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise UserError(f"{path} was saved on a big-endian machine, which is not read; save it again on another")
    saved, storages = pickles.load(stream, path)
    starts = _starts(stream, value(), storages)

    def elements(storage: Storage) -> np.ndarray:
        stream.seek(starts[storage.key])
        return filled(stream, storage.size, np.dtype(DTYPE[storage.type.name]))

    return Contents(saved, elements)


def _starts(stream: IO[bytes], keys: Any, storages: dict[str, Storage]) -> dict[str, int]:
    """Key → where its elements begin. The stream stands behind the keys."""
    starts = {}
    for key in keys:
        count = int.from_bytes(stream.read(8), "little", signed=True)
        if count != storages[key].size:
            raise EOFError(f"storage {plain(key)} has another size than announced")
        starts[key] = stream.tell()
        stream.seek(count * np.dtype(DTYPE[storages[key].type.name]).itemsize, os.SEEK_CUR)
    return starts


def _storages(contents: Contents, wanted: Iterable[Storage], size: int) -> dict[str, np.ndarray]:
    """Key → elements of each storage that is wanted; together no more than the bytes of the file."""
    whole = {storage.key: storage._replace(start=0, stop=None) for storage in wanted}
    if sum(s.size * np.dtype(DTYPE[s.type.name]).itemsize for s in whole.values()) > size:
        raise EOFError("it announces more bytes than it has")
    return {key: _values(contents.elements(storage), storage.type.name) for key, storage in whole.items()}


def _values(elements: np.ndarray, name: str) -> np.ndarray:
    if name == "BFloat16":
        return widened(elements)
    return elements != 0 if name == "Bool" else elements


def _array(tensor: Tensor, storages: dict[str, np.ndarray], name: str) -> np.ndarray:
    """A view of its storage. Its elements lie inside of it and are no more than it has."""
    elements = storages[tensor.storage.key][tensor.storage.start : tensor.storage.stop]
    if len(tensor.shape) != len(tensor.strides):
        raise ValueError("a tensor has more axes than strides")
    count = math.prod(tensor.shape)
    if not count:
        return np.empty(tensor.shape, elements.dtype)
    reach = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    if tensor.offset + reach >= len(elements):
        raise EOFError("a tensor reaches over the end of its storage")
    if count > len(elements):
        raise UserError(f"{name} shows elements several times; save its .contiguous() instead")
    strides = [stride * elements.itemsize for stride in tensor.strides]
    return as_strided(elements[tensor.offset :], tensor.shape, strides, writeable=False)
