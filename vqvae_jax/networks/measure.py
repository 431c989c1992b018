"""How far two pictures are apart, and how sharp one is. They are rounded to uint8 first, as they would be saved."""

import jax.numpy as jnp

from vqvae_jax.types import Array


def psnr(images: Array, others: Array) -> Array:
    """Peak signal-to-noise ratio in dB, peak 255: uint8 [B, H, W, C] twice → [B]. Equal pictures count as 99 dB."""
    error = jnp.mean(jnp.square(images.astype(jnp.float32) - others.astype(jnp.float32)), axis=(1, 2, 3))
    return jnp.minimum(10.0 * jnp.log10(255.0**2 / jnp.maximum(error, 1e-12)), 99.0)


def ssim(images: Array, others: Array) -> Array:
    """Structural similarity, uint8 [B, H, W, C] twice → [B].

    Gaussian window of 11 pixels, σ 1.5, range 255, K 0.01 and 0.03, mean over channels and the positions where the
    whole window fits (https://doi.org/10.1109/TIP.2003.819861). Pictures below 11 pixels have none: NaN.
    """
    from dm_pix import ssim as dm_pix_ssim  # costs a second: paid by evaluation only

    if min(images.shape[1:3]) < 11:
        return jnp.full(images.shape[0], jnp.nan)
    return dm_pix_ssim(images.astype(jnp.float32), others.astype(jnp.float32), max_val=255.0)


def sharpness(images: Array) -> Array:
    """The variance over a picture of its Laplacian, uint8 [B, H, W, C] → [B]: edges and texture have much, blur little.

    The Laplacian of a pixel is what its four neighbours sum to, less four times itself; border pixels have none.
    """
    x = images.astype(jnp.float32)
    around = x[:, :-2, 1:-1] + x[:, 2:, 1:-1] + x[:, 1:-1, :-2] + x[:, 1:-1, 2:]
    return jnp.var(around - 4 * x[:, 1:-1, 1:-1], axis=(1, 2, 3))
