"""A recording of a PyTorch model, as scripts/record_reference.py makes it: inputs, outputs, gradients, a training.

input/images [B, C, H, W] or input/0 …, output/…, grad/NAME, cotangent/0 …, train/batches, train/losses, trained/NAME;
of DALL-E's dVAE input/image and soft/…, see dvae.py; of VAR's transformer input/teacher and greedy/…, see var.py;
of MaskGIT's input/words, of its tokenizer input/image, see maskgit.py; of DiT input/y, guided/…, see diffusion.py
"""

from pathlib import Path

import numpy as np

from vqvae_jax.interop.npz_files import names_in, prefixes, read_npz
from vqvae_jax.interop.reading import plain
from vqvae_jax.interop.state_dicts import unwrapped
from vqvae_jax.types import UserError

HOW = "python scripts/record_reference.py --help says how to record one"


class Recording:
    """One .npz; nothing in it is executed. One of several in a file is below `key`: KEY/input/…

    Raises:
        UserError: it cannot be read, or holds no inputs or outputs.
    """

    def __init__(self, path: Path, key: str = ""):
        self.path, self.key = path, key
        if not path.is_file():
            raise UserError(f"--reference={path}: there is no such file; {HOW}")
        read = read_npz(path, key or ALL, (key.split("/")[0],) if key else SECTIONS)
        named = {name.replace("\\", "/"): array for name, array in read.items()}
        self.arrays = {name: array for name, array in named.items() if name.split("/")[0] in SECTIONS}
        if not key and not self.of("input") and (keys := recordings_in(path)):
            raise UserError(f"{path} holds several recordings; choose one by --key=NAME: {', '.join(keys)}")
        for section in ("input", "output"):
            if not self.of(section):
                raise UserError(f"{path} has no arrays {section}/…, so that there is nothing to compare; {HOW}")

    def check(self) -> None:
        """UserError where sections are there in part: a training without its losses, gradients without cotangents."""
        trained = [f"trained/{name}" for name in list(self.of("trained"))[:1]]
        own_loss = self.kind == "autoencoder" or any(name in self for name in OWN_LOSS)
        grads = [] if own_loss else [f"grad/{name}" for name in list(self.of("grad"))[:1]]
        pairs = [("train/losses", "train/batches"), ("train/batches", "train/losses")]
        pairs += [(name, "train/batches") for name in trained] + [(name, "cotangent/0") for name in grads]
        for there, needed in pairs:
            if there in self and needed not in self:
                raise UserError(f"{self.path} has {there} and no {needed}; {HOW}")
        empty = [name for name, array in self.arrays.items() if not array.size]
        if empty:
            raise UserError(f"{self.path}: {', '.join(empty[:5])} are empty; {HOW}")

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def __getitem__(self, name: str) -> np.ndarray:
        """Channels last."""
        return channels_last(self.arrays[name])

    def of(self, section: str) -> dict[str, np.ndarray]:
        """All arrays `section/NAME` by NAME, as PyTorch lays them out."""
        start = section + "/"
        found = {name.removeprefix(start): array for name, array in self.arrays.items() if name.startswith(start)}
        return unwrapped(found) if section in NAMED else found

    def said(self, name: str, usual: float) -> float:
        """A number that it says of its model, meta/NAME; `usual` where it says nothing."""
        start = f"{self.key}/meta".removeprefix("/")
        there = {one.replace("\\", "/") for one in names_in(self.path)}
        return float(read_npz(self.path, start)[name]) if f"{start}/{name}" in there else usual

    def several(self, section: str) -> list[np.ndarray]:
        """section/0, section/1, …, channels last."""
        found = self.of(section)
        if set(found) != set(map(str, range(len(found)))):
            raise UserError(f"{self.path}: {section}/0, {section}/1, … are wanted; it has {', '.join(found)}; {HOW}")
        return [channels_last(found[str(i)]) for i in range(len(found))]

    @property
    def kind(self) -> str:
        """What was recorded."""
        if "input/images" in self or "input/image" in self:
            return "autoencoder"
        if any(name in self for name in PRIORS):
            return "prior"
        if "input/x" in self or "input/f" in self:
            return "stack"  # a network, or a quantizer, alone
        if "input/0" not in self:
            raise UserError(f"{self.path}: inputs are input/images, or input/0, input/1, …; {HOW}")
        return "prior" if self.arrays["input/0"].ndim == 3 else "stack"


PRIORS = ("input/teacher", "input/words", "input/y")  # VAR's, MaskGIT's, DiT; of others the inputs have numbers
OWN_LOSS = ("input/teacher", "input/words", "input/f")  # which the gradients are of: they need no cotangents
ALL = ""  # the prefix of all names
NAMED = ("param", "grad", "grad_kl", "trained")  # sections of tensors by the names of a state dict
# A recording may say more of itself, in words too.
SECTIONS = (*NAMED, "input", "output", "soft", "cotangent", "train", "greedy", "guided")


def recordings_in(path: Path) -> list[str]:
    """The keys of recordings that lie in one file."""
    return list(map(plain, prefixes(names_in(path), "input")))


def channels_last(array: np.ndarray) -> np.ndarray:
    """[…, C, H, W] → […, H, W, C]; what has no channels stays as it is."""
    return np.moveaxis(array, -3, -1) if array.ndim >= 4 else array


def channels_first(array: np.ndarray) -> np.ndarray:
    """The inverse."""
    return np.moveaxis(array, -1, -3) if array.ndim >= 4 else array
