"""The one file of frozen nets, .npz: arrays "NET/LAYER/kernel", written by `python -m vqvae_jax features`.

It lies where $VQVAE_JAX_FEATURES says, else as features.npz in the folder of what is kept, see `devices.cache_dir`.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vqvae_jax.devices import cache_dir
from vqvae_jax.features import NETS
from vqvae_jax.features.net import Net
from vqvae_jax.files import atomically
from vqvae_jax.types import UserError

PLACE = "VQVAE_JAX_FEATURES"  # environment variable: the file
HEADS = "lpips_vgg16"  # LPIPS' weights of VGG16's maps stand in the file under this name, "lpips_vgg16/0" [C]
MAKE = "python -m vqvae_jax features --from=WHEEL makes it, see docs/distances.md"


def place() -> Path:
    """Where the file lies, or would."""
    return Path(os.environ.get(PLACE) or cache_dir("features.npz")).expanduser()


def names(path: Path | None = None) -> tuple[str, ...]:
    """The nets in the file, and HEADS; nothing where there is no file.

    Raises:
        UserError: it is damaged or something else.
    """
    path = path or place()
    if not path.exists():
        return ()
    return tuple(dict.fromkeys(name.partition("/")[0] for name in _read(path, "")))


def missing(path: Path) -> str:
    """What is said where there is no file."""
    return f"{path}: there is no file of frozen nets; {MAKE}; ${PLACE} says where it lies"


def read(name: str, path: Path | None = None) -> dict[str, np.ndarray]:
    """The arrays of one net, or of HEADS, by their names without its own.

    Raises:
        UserError: there is no file, it is damaged, or does not hold this net.
    """
    path = path or place()
    if not path.exists():
        raise UserError(missing(path))
    found = {key.removeprefix(f"{name}/"): array for key, array in _read(path, f"{name}/").items()}
    if not found:
        raise UserError(f"{path} holds no {name}; it holds: {', '.join(names(path)) or 'nothing'}; {MAKE}")
    if name in NETS:
        check(NETS[name], found, path)
    return found


def check(net: Net, arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """UserError unless the arrays are those of the net."""
    forms = {name: array.shape for name, array in arrays.items()}
    for name in sorted({*net.shapes, *forms}):
        if forms.get(name) != net.shapes.get(name):
            have, want = forms.get(name, "missing"), net.shapes.get(name, "nothing")
            raise UserError(f"{path} is not of {net.name}: {name} is {have}, wanted is {want}; {MAKE}")


def add(name: str, arrays: Mapping[str, np.ndarray], path: Path) -> None:
    """Writes a net into the file, in place of an earlier one of its name; others stay."""
    kept = {
        key: array
        for key, array in (_read(path, "") if path.exists() else {}).items()
        if not key.startswith(f"{name}/")
    }
    whole = kept | {f"{name}/{key}": array for key, array in arrays.items()}
    with atomically(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **whole)  # type: ignore[arg-type]


def _read(path: Path, prefix: str) -> dict[str, np.ndarray]:
    """Those arrays whose names begin so."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file.files if name.startswith(prefix)}
    except Exception as error:  # damaged bytes raise nearly everything
        raise UserError(f"{path} is no file of frozen nets, or damaged; make it anew: {MAKE}") from error
