"""The nearest training image of each sample, and token maps in colours: beside plain loops."""

import numpy as np

from vqvae_jax import code_maps, memorised
from vqvae_jax.data import Arrays
from vqvae_jax.report import samples
from vqvae_jax.types import Level

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (700, 8, 8, 3), np.uint8)


def rms(one, other):
    return np.sqrt(np.mean((one.astype(np.float64) - other) ** 2))


def test_the_nearest_is_the_nearest():
    """Every pair by itself; in chunks, and with mirror images where the training had them."""
    pictures = np.concatenate([IMAGES[[3, 699]], RNG.integers(0, 256, (2, 8, 8, 3), np.uint8), IMAGES[[5], :, ::-1]])
    every = np.array([[rms(one, other) for other in IMAGES] for one in pictures])
    turned = np.array([[rms(one, other[:, ::-1]) for other in IMAGES] for one in pictures])
    plain = memorised.nearest(pictures, IMAGES, np.arange(700), mirror=False)
    np.testing.assert_array_equal(plain.row, every.argmin(1))
    np.testing.assert_allclose(plain.rms, every.min(1), atol=0.1)
    assert not plain.mirrored.any()
    both = memorised.nearest(pictures, IMAGES, np.arange(700), mirror=True)
    np.testing.assert_array_equal(both.mirrored, turned.min(1) < every.min(1))
    np.testing.assert_allclose(both.rms, np.minimum(turned.min(1), every.min(1)), atol=0.1)
    assert both.row[4] == 5 and both.mirrored[4] and both.rms[4] < 0.1


def test_large_pictures_are_compared_from_afar():
    """Of 70 pixels those of 2 × 2 are one, and the rest at the edge is left out."""
    images = RNG.integers(0, 256, (6, 70, 70, 1), np.uint8)
    means = images.reshape(6, 35, 2, 35, 2).mean((2, 4))
    one = means[1][None] + 0.0
    found = memorised.nearest(images[[1]], images, np.array([0, 2, 4]), mirror=False)
    distances = {row: rms(one, means[row]) for row in (0, 2, 4)}
    assert found.row[0] == min(distances, key=distances.__getitem__)
    np.testing.assert_allclose(found.rms[0], min(distances.values()), rtol=1e-4)


def test_bright_pictures_that_are_equal_are_no_distance_apart():
    """Drawings on white, whose squares are large numbers, of any side."""
    images = np.full((20, 60, 60, 3), 255, np.uint8)
    images[:, 25:35, 25:35] = RNG.integers(200, 256, (20, 10, 10, 3))
    found = memorised.nearest(images, images, np.arange(20), mirror=True)
    np.testing.assert_array_equal(found.row, np.arange(20))
    assert found.rms.max() < 1e-3


def test_a_training_image_among_the_held_out_ones_hides_no_copies():
    """Samples that are training images but for a little noise."""
    copies = np.clip(IMAGES[:8] + RNG.normal(0, 3, (8, 8, 8, 3)), 0, 255).astype(np.uint8)
    splits = {"train": Arrays(IMAGES[:50]), "validation": Arrays(np.concatenate([IMAGES[50:80], IMAGES[7:8]]))}
    _, said = memorised.compared(copies, splits, mirror=False)
    assert said["held_out"]["least"] == 0 and said["held_out"]["tenth"] > 50
    assert "8 of 8 are so near that they look like copies" in samples.sentence(said)
    del said["held_out"]["tenth"]  # as older runs keep it
    assert "None looks like a copy" in samples.sentence(said)


def test_of_a_sorted_held_out_set_all_kinds_are_looked_at():
    """Its first half is dark, its second bright, as the training images are all."""
    dark, bright = (np.full((100, 8, 8, 3), value, np.uint8) for value in (0, 250))
    splits = {"train": Arrays(bright[:5] + np.uint8(5)), "validation": Arrays(np.concatenate([dark, bright]))}
    usual = memorised.compared(bright[:2], splits, mirror=False)[1]["held_out"]
    assert (usual["count"], usual["least"], usual["tenth"]) == (memorised.HELD_OUT, 5, 5)
    assert memorised.some(3, 64).tolist() == [0, 1, 2]


def test_what_is_said_of_samples():
    splits = {"train": Arrays(IMAGES[:50], name=tuple(map(str, range(50)))), "validation": Arrays(IMAGES[50:60])}
    rows, said = memorised.compared(IMAGES[:12], splits, mirror=True)
    assert [row.shape for row in rows] == [(8, 8, 8, 3)] * 2
    np.testing.assert_array_equal(*rows)  # they are training images themselves
    assert said["name"] == list("01234567") and max(said["rms"]) == 0
    usual = [min(min(rms(a, b), rms(a, b[:, ::-1])) for b in IMAGES[:50]) for a in IMAGES[50:60]]
    np.testing.assert_allclose(said["held_out"]["least"], min(usual), rtol=1e-4)
    np.testing.assert_allclose(said["held_out"]["median"], np.median(usual), rtol=1e-4)
    np.testing.assert_allclose(said["held_out"]["tenth"], np.quantile(usual, 0.1), rtol=1e-4)
    assert (said["compared"], said["images"], said["held_out"]["count"]) == (50, 50, 10)


def test_a_colour_a_code():
    """The same code the same colour, others others; maps of any size fill the picture; numbers have none."""
    assert len({tuple(one) for one in code_maps.colours(np.arange(512))}) == 512
    maps = [RNG.integers(0, 9, (2, side, side)) for side in (1, 3, 5)]
    levels = [Level(f"codes.{i}", (side, side), 9) for i, side in enumerate((1, 3, 5))]
    rows = code_maps.rows_of([*maps, RNG.normal(size=(2, 4, 4, 3))], [*levels, Level("z", (4, 4), None, 3)], 16)
    assert [row.shape for row in rows] == [(2, 16, 16, 3)] * 3
    for one, row in zip(maps, rows, strict=True):
        for y, x in ((0, 0), (15, 15), (7, 9), (5, 6)):
            side = one.shape[1]
            np.testing.assert_array_equal(row[:, y, x], code_maps.colours(one[:, y * side // 16, x * side // 16]))
