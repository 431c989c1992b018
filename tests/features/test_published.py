"""With published weights, where $VQVAE_JAX_FEATURES points to them: noise, blur and swaps are seen, flips hardly."""

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks import distances as damaging
from vqvae_jax.distance.moments import frechet, moments
from vqvae_jax.features.file import names
from vqvae_jax.features.frozen import load

PLACE = Path(os.environ.get("TEST_FEATURES", "") or "none")
COUNT, SIZE = 250, 32


def drawings(count, seed):
    """Discs and bars of any colour on white."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    images = np.full((count, SIZE, SIZE, 3), 255.0)
    for image in images:
        for _ in range(3):
            (a, b), r, colour = rng.uniform(4, 28, 2), rng.uniform(3, 9), rng.integers(0, 256, 3)
            disc = (y - a) ** 2 + (x - b) ** 2 < r**2
            image[disc if rng.random() < 0.5 else (abs(y - a) < r) & (abs(x - b) < r / 2)] = colour
    return images.astype(np.uint8)


@pytest.mark.skipif(not PLACE.is_file(), reason="$VQVAE_JAX_FEATURES points to no file of frozen nets")
@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_lite0"])
def test_what_is_seen_and_what_is_not(name):
    if name not in names(PLACE):
        pytest.skip(f"{PLACE} holds no {name}")
    net, one, other = load(name, PLACE), drawings(COUNT, 0), drawings(COUNT, 1)
    seen = moments(net.pooled(one))
    apart = lambda images: frechet(seen, moments(net.pooled(images)))  # noqa: E731
    floor = apart(other)
    over = {damage: apart(images) / floor for damage, images in damaging.damages(other, 0)}
    assert over["noise 16"] > over["noise 8"] > over["noise 4"] > 1.5
    assert over["blur 1.5"] > over["blur 0.8"] > over["blur 0.5"] > 1.2
    assert over["patches shuffled"] > over["one pair of patches swapped"] > 1.1
    assert over["left and right exchanged"] < 1.2
