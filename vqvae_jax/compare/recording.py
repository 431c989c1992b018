"""A recording of a PyTorch model, as scripts/record_reference.py makes it: inputs, outputs, gradients, a training.

input/images [B, C, H, W] or input/0 …, output/…, grad/NAME, cotangent/0 …, train/batches, train/losses, trained/NAME
"""

from pathlib import Path

import numpy as np

from vqvae_jax.interop.npz_files import read_npz
from vqvae_jax.types import UserError

HOW = "python scripts/record_reference.py --help says how to record one"


class Recording:
    """One .npz; nothing in it is executed.

    Raises:
        UserError: it cannot be read, or holds no inputs or outputs.
    """

    def __init__(self, path: Path):
        self.path = path
        if not path.is_file():
            raise UserError(f"--reference={path}: there is no such file; {HOW}")
        self.arrays = {name.replace("\\", "/"): array for name, array in read_npz(path, ALL).items()}
        for section in ("input", "output"):
            if not self.of(section):
                raise UserError(f"{path} has no arrays {section}/…, so that there is nothing to compare; {HOW}")

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def __getitem__(self, name: str) -> np.ndarray:
        """Channels last."""
        return channels_last(self.arrays[name])

    def of(self, section: str) -> dict[str, np.ndarray]:
        """All arrays `section/NAME` by NAME, as PyTorch lays them out."""
        start = section + "/"
        return {name.removeprefix(start): array for name, array in self.arrays.items() if name.startswith(start)}

    def several(self, section: str) -> list[np.ndarray]:
        """section/0, section/1, …, channels last."""
        return [channels_last(array) for _, array in sorted(self.of(section).items(), key=lambda one: int(one[0]))]

    @property
    def kind(self) -> str:
        """What was recorded."""
        if "input/images" in self:
            return "autoencoder"
        if not all(name.isdecimal() for name in self.of("input")):
            raise UserError(f"{self.path}: inputs are input/images, or input/0, input/1, …; {HOW}")
        return "prior" if np.issubdtype(self.arrays["input/0"].dtype, np.integer) else "stack"


ALL = ""  # the prefix of all names


def channels_last(array: np.ndarray) -> np.ndarray:
    """[…, C, H, W] → […, H, W, C]; what has no channels stays as it is."""
    return np.moveaxis(array, -3, -1) if array.ndim >= 4 else array


def channels_first(array: np.ndarray) -> np.ndarray:
    """The inverse."""
    return np.moveaxis(array, -1, -3) if array.ndim >= 4 else array
