"""Weights from and to files of any kind: what a file is says its content, not its name.

To add a kind: write a file with its reader, and a line in `_reader`.
"""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from vqvae_jax.files import atomically
from vqvae_jax.interop.msgpack_files import is_msgpack, read_msgpack, write_msgpack
from vqvae_jax.interop.npz_files import npz_words, read_npz, write_npz
from vqvae_jax.interop.reading import reading
from vqvae_jax.interop.safetensors_files import read_safetensors, safetensors_words, write_safetensors
from vqvae_jax.interop.state_dicts import part
from vqvae_jax.interop.torch_files import ZIP, read_torch
from vqvae_jax.types import UserError

Reader = Callable[[str | Path, str | None], dict[str, np.ndarray]]
EXPECTED = "a PyTorch file (.pt, .pth, .bin), .msgpack of Flax, .safetensors or .npz"
WHEEL = ".dist-info/METADATA"  # every wheel has one
TORCH_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")  # of old files, pickled
WRITERS = {".safetensors": write_safetensors, ".npz": write_npz, ".msgpack": write_msgpack}
OTHERS = {  # first bytes → what it is
    b"\x93NUMPY": "one array without a name",
    b"\x89HDF": "HDF5",
    b"\x1f\x8b": "gzip; unpack it first",
    b"\x80": "a pickle, but not one of PyTorch",
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself with git lfs pull",
    b"<": "a web page or XML; the download went wrong",
}


def read(path: str | Path, key: str | None = None) -> dict[str, np.ndarray]:
    """The weights in a file: name → array. Nothing in the file is executed.

    Args:
        path: of a PyTorch file (zip or old), a .safetensors, an .npz or a .msgpack of Flax, whatever it is called.
        key: which, where it holds several; see `read_torch`, `read_npz` and `read_msgpack`.

    Raises:
        UserError: it is none of these, damaged, cut off, or holds what is not read.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; give a file in it: {EXPECTED}")
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; expected {EXPECTED}")
    with reading(path, EXPECTED):
        reader = _reader(path)
    return reader(path, key)


def metadata(path: str | Path) -> dict[str, str]:
    """The words beside the weights in a file; none in a PyTorch file and in a .msgpack.

    Raises:
        UserError: as `read`.
    """
    with reading(path, EXPECTED):
        reader = WORDS.get(_reader(Path(path)))
    return reader(path) if reader else {}


def write(path: str | Path, tensors: Mapping[str, np.ndarray], words: Mapping[str, str] | None = None) -> None:
    """Weights into a .safetensors or an .npz, with words beside them, or a .msgpack without; whole or not there.

    Raises:
        UserError: another suffix, no tensors, or elements that the format does not know.
    """
    path = Path(path)
    if path.suffix not in WRITERS:
        raise UserError(f"{path}: weights are written to {' or '.join(WRITERS)}; give the file such a name")
    if not tensors:
        raise UserError(f"{path}: there are no weights to write")
    arrays = {name: np.asarray(tensor) for name, tensor in tensors.items()}
    with atomically(path) as temporary, open(temporary, "wb") as stream:
        WRITERS[path.suffix](stream, arrays, words or {})


def _reader(path: Path) -> Reader:
    with open(path, "rb") as stream:
        head = stream.read(64)
    if not head:
        raise UserError(f"{path} is empty; expected {EXPECTED}")
    if head.startswith(ZIP):
        return _zip_reader(path)
    if head.startswith(b"\x80") and TORCH_MAGIC in head:
        return read_torch
    if head[8:9] == b"{":
        return _safetensors
    if is_msgpack(head):
        return read_msgpack
    known = [what for start, what in OTHERS.items() if head.startswith(start)]
    raise UserError(f"{path} is {known[0] if known else _guess(head)}; expected {EXPECTED}")


def _zip_reader(path: Path) -> Reader:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name.endswith("/data.pkl") for name in names):
        return read_torch
    if any(name.endswith(".npy") for name in names):
        return read_npz
    if any(name.endswith(WHEEL) for name in names):
        nets = f"frozen nets in one are taken by python -m vqvae_jax features --from={path}"
        raise UserError(f"{path} is a wheel, not a file of weights; expected {EXPECTED}; {nets}")
    raise UserError(f"{path} is a zip without weights; expected {EXPECTED}")


def _safetensors(path: str | Path, key: str | None) -> dict[str, np.ndarray]:
    if not key:
        return read_safetensors(path)
    tensors = part(read_safetensors(path, f"{key}."), key)
    if not tensors:
        raise UserError(f"--key={key}: {path} is a .safetensors file, and no name in it begins so; leave --key out")
    return tensors


WORDS: dict[Reader, Callable[[str | Path], dict[str, str]]] = {_safetensors: safetensors_words, read_npz: npz_words}


def _guess(head: bytes) -> str:
    text = all(32 <= byte < 127 or byte in b"\t\n\r" for byte in head)
    return "a text file" if text else "no file of weights that is known"
