"""What is known of a frozen net, without its weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from vqvae_jax.types import Array


@dataclass(frozen=True, eq=False)
class Net:
    """A frozen net: pure functions of a dictionary of arrays.

    Attributes:
        name: "mobilenet_v2".
        shapes: of its arrays, by name.
        maps: (arrays, images [B, H, W, C] in [0, 1]) → maps [B, h, w, c], shallow to deep; grey is repeated to colour.
        from_torch: PyTorch's tensors → arrays. KeyError, or another shape: they are another net's.
        distance: which map distances take the mean of.
        perceptual: the maps that a loss compares.
        scale: what the means are divided by before a kernel distance.
    """

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    maps: Callable[[Mapping[str, Array], Array], tuple[Array, ...]]
    from_torch: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
    distance: int
    perceptual: tuple[int, ...]
    scale: float = 1.0
