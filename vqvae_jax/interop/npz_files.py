"""Weights as an .npz: arrays called `param/NAME`, as the recordings of the reference are."""

import json
import math
import os
import re
import zipfile
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from vqvae_jax.interop.reading import filled, plain, reading
from vqvae_jax.types import UserError

PREFIX = "param"
WORDS = "metadata"  # JSON as bytes, beside the arrays with the prefix
SMALLER = 1100  # times; deflate does no better
MOST = 1 << 30  # bytes out of a small file, all arrays together
TYPES = "biuf"  # kinds of numpy


def read_npz(path: str | Path, key: str | None = None, sections: Container[str] | None = None) -> dict[str, np.ndarray]:
    """Name → array, of those called `param/NAME`, or where there are none, of all.

    Args:
        path: of the file.
        key: another prefix, such as "trained" for `trained/NAME`; "" reads all arrays by their whole names.
        sections: of whole names, the first words that are wanted; None: any.

    Raises:
        UserError: it is damaged, has no arrays with the prefix, or some that are no numbers.
    """
    with reading(path, "an .npz of plain arrays"), open(path, "rb") as stream, zipfile.ZipFile(stream) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist() if _is_array(info.filename)}
        if sections is not None:
            members = {name: info for name, info in members.items() if re.split(r"[/\\]", name)[0] in sections}
        chosen = _chosen(members, key, path)
        size = os.fstat(stream.fileno()).st_size
        if sum(info.file_size for info in chosen.values()) > max(MOST, 100 * size):
            raise EOFError("it announces more bytes than it can have")
        return {name: _array(archive, info, f"{path}: {plain(name)}") for name, info in chosen.items()}


def names_in(path: str | Path) -> list[str]:
    """Names of all arrays; nothing of them is read."""
    with reading(path, "an .npz of plain arrays"), zipfile.ZipFile(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if _is_array(name)]


def prefixes(names: Iterable[str], section: str) -> list[str]:
    """PREFIX of the names PREFIX/section/…, each once: what lies several times in one file."""
    parted = (name.replace("\\", "/").split("/") for name in names)
    return sorted({parts[0] for parts in parted if parts[1:2] == [section]})


def npz_words(path: str | Path) -> dict[str, str]:
    """What `write_npz` wrote beside the arrays; nothing where another program wrote them."""
    with reading(path, "an .npz of plain arrays"), open(path, "rb") as stream, zipfile.ZipFile(stream) as archive:
        if f"{WORDS}.npy" not in archive.namelist():
            return {}
        array = _array(archive, archive.getinfo(f"{WORDS}.npy"), f"{path}: {WORDS}")
        if array.dtype != np.uint8 or array.ndim != 1:  # a tensor of that name
            return {}
        return {str(name): str(word) for name, word in json.loads(array.tobytes()).items()}


def write_npz(stream: IO[bytes], tensors: Mapping[str, np.ndarray], words: Mapping[str, str]) -> None:
    """Arrays as `param/NAME`, words as the array `metadata`; the same arrays give the same bytes.

    Raises:
        UserError: an array that is no numbers.
    """
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in tensors.items():
            _check(array.dtype, name)
            with archive.open(zipfile.ZipInfo(f"{PREFIX}/{name}.npy"), "w", force_zip64=True) as member:
                npy.write_array(member, array, allow_pickle=False)
        if words:
            with archive.open(zipfile.ZipInfo(f"{WORDS}.npy"), "w") as member:
                npy.write_array(member, np.frombuffer(json.dumps(dict(words)).encode(), np.uint8))


def _is_array(name: str) -> bool:
    return name.endswith(".npy")  # others lie beside the arrays, a README say


def _chosen(members: dict[str, zipfile.ZipInfo], key: str | None, path: str | Path) -> dict[str, zipfile.ZipInfo]:
    start = f"{PREFIX if key is None else key}/".removeprefix("/")
    chosen = {name.removeprefix(start): info for name, info in members.items() if name.startswith(start)}
    if not chosen and key:
        prefixes = sorted({plain(name.split("/")[0]) for name in members if "/" in name})
        raise UserError(f"--key: {path} has no arrays {key}/NAME; its prefixes: {', '.join(prefixes) or 'none'}")
    return chosen or members


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> np.ndarray:
    """One array; its header is compared with the size of its member before memory is taken."""
    if info.file_size > SMALLER * info.compress_size:
        raise EOFError("a member announces more bytes than it can have")
    with archive.open(info) as member:
        shape, fortran, dtype = _header(member)
        _check(dtype, name)
        count = math.prod(shape)
        if member.tell() + count * dtype.itemsize != info.file_size:
            raise EOFError("an array has another size than announced")
        stored = np.dtype(np.uint8) if dtype.kind == "b" else dtype
        elements = filled(member, count, stored)
        member.read(1)  # at the end the checksum is compared
    values = elements != 0 if dtype.kind == "b" else elements
    return values.reshape(shape, order="F" if fortran else "C")


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = npy.read_magic(member)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the array format")
    return npy.read_array_header_1_0(member) if version == (1, 0) else npy.read_array_header_2_0(member)


def _check(dtype: np.dtype, name: str) -> None:
    if dtype.kind not in TYPES:
        raise UserError(f"{plain(name)} is {dtype}; weights are plain numbers: floats, integers or bools")
