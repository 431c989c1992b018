"""uint8 images to floats and back, flips and shifts: for use inside a jitted step.

Legend: B images in the batch, H W C the image. `range` is (lowest, highest) of the float images.
"""

import jax
import jax.numpy as jnp

from vqvae_jax.types import Array


def normalise(images: Array, range: tuple[float, float] = (0.0, 1.0)) -> Array:
    """uint8 [..., C], 0 to 255, → float32 [..., C], range[0] to range[1]."""
    low, high = range
    return low + images.astype(jnp.float32) * ((high - low) / 255)


def to_uint8(images: Array, range: tuple[float, float] = (0.0, 1.0)) -> Array:
    """The inverse of `normalise`, clipped and rounded: float [..., C] → uint8 [..., C]."""
    low, high = range
    return jnp.round(jnp.clip((images.astype(jnp.float32) - low) / (high - low), 0, 1) * 255).astype(jnp.uint8)


def augment(images: Array, key: Array, flip: bool, crop: int) -> Array:
    """Flips half of the images left to right if `flip`, and shifts each by up to `crop` pixels; edges are repeated.

    images uint8 [B, H, W, C]. An image's randomness is folded from its place in the global batch, so that sharding
    does not change it. `flip` and `crop` are plain Python values.
    """
    key_flip, key_shift = jax.random.split(key)
    if flip:
        mirrored = jax.vmap(jax.random.bernoulli)(_keys(key_flip, images))
        images = jnp.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    return _shift(images, key_shift, crop) if crop else images


def view(images: Array, number: int, flip: bool, crop: int, key: Array) -> Array:
    """The `number`-th copy of the images, the same for the same key: for reading off tokens of augmented images.

    View 0 is the images as they are; odd views are mirrored if `flip`; from view 2 on they are shifted by up to `crop`
    pixels as well. images uint8 [B, H, W, C]; `number`, `flip` and `crop` are plain Python values.
    """
    if flip and number % 2:
        images = images[:, :, ::-1]
    return _shift(images, jax.random.fold_in(key, number), crop) if crop and number >= 2 else images


def _keys(key: Array, images: Array) -> Array:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(images.shape[0]))  # [B]


def _shift(images: Array, key: Array, crop: int) -> Array:
    def one(image: Array, key: Array) -> Array:  # [H, W, C]
        height, width, _ = image.shape
        down, right = jax.random.randint(key, (2,), -crop, crop + 1)
        rows = jnp.clip(jnp.arange(height) - down, 0, height - 1)  # clipping repeats the edge
        columns = jnp.clip(jnp.arange(width) - right, 0, width - 1)
        return image[rows][:, columns]

    return jax.vmap(one)(images, _keys(key, images))
