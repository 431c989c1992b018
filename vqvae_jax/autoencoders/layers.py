"""The encoders and decoders of the hierarchical VQ-VAE, reference https://github.com/unixpickle/vq-vae-2.

Encoders read an image or the encoding below, [B, H, W, C]; decoders read the straight-through codes of one or more
levels, coarse to fine. `width` is the number of channels inside, C. `smooth`: the transposed convolutions that come
after the last codes begin as bilinear ones, see `networks.conv.bilinear`; it is of fresh weights only.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from vqvae_jax.networks.conv import Conv, ConvTranspose, Residual
from vqvae_jax.types import Array


class QuarterEncoder(nn.Module):
    """Height and width divided by four: two 4x4 convolutions of stride 2, two residual blocks."""

    width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Conv(self.width, 4, 2, (1, 2), self.dtype, name="conv1")(x)
        x = Conv(self.width, 4, 2, (1, 2), self.dtype, name="conv2")(nn.relu(x))
        return residuals(x, 1, 2)


class HalfEncoder(nn.Module):
    """Height and width halved: one 3x3 convolution of stride 2, two residual blocks."""

    width: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Conv(self.width, 3, 2, (1, 1), self.dtype, name="conv")(x)
        return residuals(x, 1, 2)


class QuarterDecoder(nn.Module):
    """One level, four times as high and wide."""

    features: int
    dtype: jnp.dtype = jnp.float32
    smooth: bool = False

    @nn.compact
    def __call__(self, codes: Sequence[Array]) -> Array:
        (x,) = codes
        width = x.shape[-1]
        x = nn.relu(residuals(x, 1, 2))
        x = nn.relu(ConvTranspose(width, self.dtype, self.smooth, name="conv1")(x))
        return ConvTranspose(self.features, self.dtype, self.smooth, name="conv2")(x)


class HalfDecoder(nn.Module):
    """One level, twice as high and wide."""

    features: int
    dtype: jnp.dtype = jnp.float32
    smooth: bool = False

    @nn.compact
    def __call__(self, codes: Sequence[Array]) -> Array:
        (x,) = codes
        return ConvTranspose(self.features, self.dtype, self.smooth, name="conv")(nn.relu(residuals(x, 1, 2)))


class HalfQuarterDecoder(nn.Module):
    """Two levels: the upper one doubled and mixed into the lower one, that four times as high and wide."""

    features: int
    dtype: jnp.dtype = jnp.float32
    smooth: bool = False

    @nn.compact
    def __call__(self, codes: Sequence[Array]) -> Array:
        top, bottom = codes
        width = bottom.shape[-1]
        x = nn.relu(residuals(top, 1, 2))
        x = nn.relu(ConvTranspose(width, self.dtype, name="conv1")(x))
        x = jnp.concatenate([x, bottom], axis=-1)
        x = Conv(width, 3, padding=(1, 1), dtype=self.dtype, name="conv2")(x)
        x = nn.relu(residuals(x, 3, 4))
        x = nn.relu(ConvTranspose(width, self.dtype, self.smooth, name="conv3")(x))
        return ConvTranspose(self.features, self.dtype, self.smooth, name="conv4")(x)


class PyramidDecoder(nn.Module):
    """Any number of levels, each doubled and mixed into the one below; the last doubled `doublings` times.

    What the reference's decoders do, for more levels than it has classes for: there is none for the middle of three.
    """

    features: int
    doublings: int
    dtype: jnp.dtype = jnp.float32
    smooth: bool = False

    @nn.compact
    def __call__(self, codes: Sequence[Array]) -> Array:
        x, width = codes[0], codes[0].shape[-1]
        for i, finer in enumerate(codes[1:]):
            x = nn.relu(residuals(x, 2 * i + 1, 2 * i + 2))
            x = nn.relu(ConvTranspose(width, self.dtype, name=f"merge_up{i}")(x))
            x = Conv(width, 3, padding=(1, 1), dtype=self.dtype, name=f"merge{i}")(jnp.concatenate([x, finer], -1))
        x = residuals(x, 2 * len(codes) - 1, 2 * len(codes))
        for i in range(self.doublings - 1):
            x = ConvTranspose(width, self.dtype, self.smooth, name=f"up{i}")(nn.relu(x))
        return ConvTranspose(self.features, self.dtype, self.smooth, name="output")(nn.relu(x))


def residuals(x: Array, first: int, last: int) -> Array:
    """The residual blocks `residual<first>` … `residual<last>` of the calling module."""
    for i in range(first, last + 1):
        x = Residual(x.dtype, name=f"residual{i}")(x)
    return x


def decoder_for(levels: int, features: int, bottom: bool, dtype: jnp.dtype, name: str, smooth=False) -> nn.Module:
    """The decoder that reads `levels` levels and gives the image (`bottom`) or the encoding one level down."""
    if levels == 1:
        return (QuarterDecoder if bottom else HalfDecoder)(features, dtype, smooth, name=name)
    if levels == 2 and bottom:
        return HalfQuarterDecoder(features, dtype, smooth, name=name)
    return PyramidDecoder(features, 2 if bottom else 1, dtype, smooth, name=name)
