"""Distances of pictures: the protocol on a frozen net's features."""

from typing import Any

from vqvae_jax.distance.protocol import distances, sides
from vqvae_jax.features.frozen import Frozen
from vqvae_jax.types import UserError


def between(net: Frozen, training: Any, made: Any, seed: int = 0) -> dict[str, Any]:
    """How far pictures are from the training images, uint8 [N, H, W, C] both; under "floor" as many real ones.

    "count" and "reference" are the numbers of images; the others see `protocol.distances`.

    Raises:
        UserError: they differ in size, or are too few.
    """
    if training.shape[1:3] != made.shape[1:3]:
        there, here = (" x ".join(map(str, one.shape[1:3])) for one in (training, made))
        raise UserError(f"pictures of {here} pixels beside training images of {there}; give pictures of one size")
    rows = sides(len(training), len(made), seed)
    chosen = training[rows.reference], training[rows.aside], made[rows.measured]
    reference, aside, seen = map(net.pooled, chosen)
    name, scale = net.net.name, net.net.scale
    counts = {"count": len(seen), "reference": len(reference)}
    found, floor = (distances(name, reference, one, scale, seed) for one in (seen, aside))
    return counts | found | {"floor": floor}
