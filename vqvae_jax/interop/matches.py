"""What a file's names and shapes are recognised as."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np

from vqvae_jax.interop.places import Places, Shape, shapes
from vqvae_jax.types import Model

Shapes = Mapping[str, Shape]
Kind = Literal["autoencoder", "prior", "stack"]
HEADS = 2  # of the reference's attention
LEARNED_WITH = "learned_with"  # in `facts`: the CRC32 of the tokenizer of an exported prior that is told texts


class Match(NamedTuple):
    """An architecture that a file may hold the weights of; whether it does, `wanted` says."""

    title: str
    kind: Kind
    section: dict[str, Any]  # of a config: config.autoencoder, config.priors.LEVEL, or the layers of a stack
    facts: dict[str, Any]  # what shapes say beside the section, see each architecture
    module: Any
    like: Model  # shapes of its parameters and codebooks
    places: Places
    unused: dict[str, Shape] = {}  # tensors that its own PyTorch code never uses
    told: bool = False  # the file says itself what its tensors do not show, in metadata.py's words
    # The same with so many codes, where tensors do not show how many there are; None where they do.
    of_codes: Callable[[int], "Match"] | None = None
    statistics: Mapping[str, Mapping[str, np.ndarray]] = {}  # of codebooks, by level and name, that no tensor holds
    borrowed: Mapping[str, Mapping[str, np.ndarray]] = {}  # of its parameters, what the workdir's autoencoder holds
    diffusers: Mapping[str, Any] | None = None  # what its config.json says, where the names are diffusers'

    @property
    def wanted(self) -> dict[str, Shape]:
        """PyTorch's names and shapes of all tensors that belong to it."""
        return shapes(self.places, self.like) | self.unused

    @property
    def range_shown(self) -> tuple[float, float] | None:
        """What uint8 0 and 255 become, where the architecture leaves no choice."""
        wanted = getattr(self.module, "image_range", None)
        return wanted(self.section) if wanted else None


Tensors = Mapping[str, np.ndarray]
# And heads of attention, 0: as published → None where it is certainly another.
Matcher = Callable[[Tensors, int], Match | None]


def usual_size(levels: int) -> int:
    """Pixels of the images that such models are usually of: MNIST's for one level, the reference's photographs'."""
    return 28 if levels == 1 else 256


def vote(values: Iterable[int]) -> int | None:
    """The most common one: a single tensor of a wrong shape shall not mislead."""
    ranked = Counter(values).most_common(1)
    return ranked[0][0] if ranked else None
