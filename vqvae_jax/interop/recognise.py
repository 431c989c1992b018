"""Which architecture a file holds the weights of. To add one: write its file, and a line here."""

from collections.abc import Mapping

import numpy as np

from vqvae_jax.interop import hierarchical, pixelcnn, stacks, vqvae2
from vqvae_jax.interop.matches import Match, Matcher, Shapes
from vqvae_jax.interop.places import differences, shapes_of
from vqvae_jax.interop.reading import plain
from vqvae_jax.types import UserError

MATCHERS: dict[str, Matcher] = {
    "the reference's hierarchical VAE": hierarchical.match,
    "rosinality's VQ-VAE-2": vqvae2.match,
    "the reference's priors": pixelcnn.match,
    "layers of the reference's PixelCNN": stacks.match,
}


def recognise(tensors: Mapping[str, np.ndarray], source: object, heads: int) -> Match:
    """The architecture that has exactly these names and shapes.

    Args:
        tensors: by name, without prefixes of wrappers.
        source: the file, for the message.
        heads: of attention, which no shape shows.

    Raises:
        UserError: none has; the closest is named, with all that differs.
    """
    shapes = shapes_of(tensors)
    matches = [found for match in MATCHERS.values() if (found := match(shapes, heads))]
    for match in matches:
        if match.wanted == shapes:
            return match
    if not matches:
        shown = ", ".join(plain(name) for name in list(shapes)[:5])
        raise UserError(
            f"{source} holds no architecture that is known, but {len(shapes)} tensors such as {shown}; "
            f"known are {', '.join(MATCHERS)}"
        )
    closest = max(matches, key=lambda match: agreeing(match.wanted, shapes))
    said = "; ".join(differences(closest.wanted, {plain(name): shape for name, shape in shapes.items()}))
    raise UserError(f"{source} is not quite what is known; the closest is {closest.title}. {said}")


def agreeing(wanted: Shapes, there: Shapes) -> int:
    """How many tensors have the same name and shape."""
    return sum(there.get(name) == shape for name, shape in wanted.items())
