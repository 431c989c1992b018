"""Ranges go there and back; flips and shifts are what they say and do not depend on sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqvae_jax.data.augment import augment, normalise, to_uint8, view

IMAGES = jnp.asarray(np.random.default_rng(0).integers(0, 256, (64, 6, 6, 3), np.uint8))
KEY = jax.random.key(0)


def shifted(image, down, right):
    """The image moved by np.pad and a slice."""
    padded = np.pad(image, ((9, 9), (9, 9), (0, 0)), mode="edge")
    return padded[9 - down : 15 - down, 9 - right : 15 - right]


@pytest.mark.parametrize("range", [(0.0, 1.0), (-1.0, 1.0), (-0.5, 0.5)])
def test_every_pixel_value_comes_back(range):
    values = jnp.arange(256, dtype=jnp.uint8)
    floats = normalise(values, range)
    assert floats.dtype == jnp.float32
    np.testing.assert_allclose(floats[jnp.array([0, -1])], range, atol=1e-6)
    np.testing.assert_array_equal(to_uint8(floats, range), values)


def test_to_uint8_clips_and_rounds():
    np.testing.assert_array_equal(to_uint8(jnp.array([-3.0, 0.4 / 255, 0.6 / 255, 9.0])), [0, 0, 1, 255])


def test_nothing_asked_is_nothing_done():
    np.testing.assert_array_equal(augment(IMAGES, KEY, False, 0), IMAGES)


def test_about_half_are_mirrored_and_the_others_left():
    out = np.asarray(augment(IMAGES, KEY, True, 0))
    mirrored = [(a == b[:, ::-1]).all() for a, b in zip(out, np.asarray(IMAGES), strict=True)]
    left = [(a == b).all() for a, b in zip(out, np.asarray(IMAGES), strict=True)]
    assert all(np.logical_xor(mirrored, left)) and 16 < sum(mirrored) < 48


def test_shifts_reach_every_offset_and_repeat_the_edge():
    seen = set()
    for out, image in zip(np.asarray(augment(IMAGES, KEY, False, 1)), np.asarray(IMAGES), strict=True):
        offsets = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (shifted(image, i, j) == out).all()]
        assert len(offsets) == 1
        seen.update(offsets)
    assert len(seen) == 9


def test_an_image_is_changed_by_its_place_not_by_the_batch_around_it():
    whole = augment(IMAGES, KEY, True, 2)
    np.testing.assert_array_equal(augment(IMAGES[:8], KEY, True, 2), whole[:8])
    jitted = jax.jit(augment, static_argnums=(2, 3))(IMAGES, KEY, True, 2)
    np.testing.assert_array_equal(jitted, whole)
    assert jitted.dtype == jnp.uint8
    assert not (augment(IMAGES, jax.random.key(1), True, 2) == whole).all()


def test_views_count_up_from_the_image_itself():
    np.testing.assert_array_equal(view(IMAGES, 0, True, 2, KEY), IMAGES)
    np.testing.assert_array_equal(view(IMAGES, 1, True, 2, KEY), IMAGES[:, :, ::-1])
    np.testing.assert_array_equal(view(IMAGES, 1, False, 2, KEY), IMAGES)
    second, third = (np.asarray(view(IMAGES, number, True, 2, KEY)) for number in (2, 3))
    np.testing.assert_array_equal(second, view(IMAGES, 2, True, 2, KEY))
    assert not (second == np.asarray(IMAGES)).all() and not (second == third[:, :, ::-1]).all()
    offsets = [(i, j) for i in range(-2, 3) for j in range(-2, 3)]
    assert any((shifted(np.asarray(IMAGES[0])[:, ::-1], i, j) == third[0]).all() for i, j in offsets)
