"""VQ-VAE, https://arxiv.org/abs/1711.00937, section 4.1: strided convolutions down, residual blocks, one code map, and
the same way up with transposed convolutions.

    image → 4x4 convolutions of stride 2 → residual blocks → 1x1 → z_e → codes → residual blocks → transposed → image

Inner widths as in the authors' published example (https://github.com/google-deepmind/sonnet, vqvae_example): the first
halving has half the width, a 3x3 convolution stands before the residual blocks, whose inner width is a quarter.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vqvae_jax.limits import Blocks, Count, Few
from vqvae_jax.networks.conv import Conv, ConvTranspose, Residual
from vqvae_jax.quantizers import codebook as cb
from vqvae_jax.types import Array, Codebook, Quantized, Quantizer, Reconstruction, Tokens, UserError, reconstruction

LEVEL = "codes"


class Encoder(nn.Module):
    """[B, H, W, C] → [B, h, w, features], each side divided by 2 ** halvings.

    With `features` 0 the 1x1 convolution at the end is left out: [B, h, w, width], after a relu.
    """

    width: int
    features: int
    halvings: int
    blocks: int
    inner: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.width < 2:
            raise UserError(f"width={self.width}: the first convolution has half as many channels; 2 or more")
        for i in range(self.halvings):
            width = self.width if i else self.width // 2
            x = nn.relu(Conv(width, 4, 2, (1, 1), self.dtype, name=f"down{i}")(x))
        x = Conv(self.width, 3, padding=(1, 1), dtype=self.dtype, name="conv")(x)
        for i in range(self.blocks):
            x = Residual(self.dtype, self.inner, name=f"residual{i}")(x)
        x = nn.relu(x)
        return Conv(self.features, 1, dtype=self.dtype, name="to_code")(x) if self.features else x


class Decoder(nn.Module):
    """[B, h, w, D] → [B, H, W, features], each side multiplied by 2 ** halvings."""

    width: int
    features: int
    halvings: int
    blocks: int
    inner: int
    dtype: jnp.dtype = jnp.float32
    smooth: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Conv(self.width, 3, padding=(1, 1), dtype=self.dtype, name="conv")(x.astype(self.dtype))
        for i in range(self.blocks):
            x = Residual(self.dtype, self.inner, name=f"residual{i}")(x)
        x = nn.relu(x)
        for i in range(self.halvings - 1):
            x = nn.relu(ConvTranspose(self.width // 2, self.dtype, self.smooth, name=f"up{i}")(x))
        return ConvTranspose(self.features, self.dtype, self.smooth, name="output")(x)


class VQVAE(nn.Module):
    """Images to one code map and back.

    Attributes:
        quantizers: one.
        width: channels inside.
        residual_blocks: in the encoder and in the decoder.
        residual_width: channels inside a residual block.
        halvings: how often the image's sides are halved.
        smooth_start: whether the transposed convolutions begin as bilinear, so that flat areas begin without a grid.
            False: as PyTorch's.
        channels: of the image.
        dtype: what the convolutions compute in; parameters and codebooks stay float32.
    """

    quantizers: tuple[Quantizer, ...]
    width: Count = 128
    residual_blocks: Blocks = 2
    residual_width: Count = 32
    halvings: Few = 2
    smooth_start: bool = False
    channels: int = 3
    dtype: jnp.dtype = jnp.float32

    @staticmethod
    def stride(fields: Mapping[str, Any]) -> int:
        """What the height and width of an image must be multiples of, in pixels."""
        return 2 ** fields["halvings"]

    @staticmethod
    def names(fields: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of the levels: there is one."""
        return (LEVEL,)

    @property
    def level_names(self) -> tuple[str, ...]:
        return (LEVEL,)

    @property
    def last_kernel(self) -> tuple[str, ...]:
        """Path in params of the kernel that makes the image."""
        return ("decoder", "output", "kernel")

    def setup(self):
        (self.quantizer,) = self.quantizers
        inside = (self.halvings, self.residual_blocks, self.residual_width, self.dtype)
        self.encoder = Encoder(self.width, self.quantizer.input_dim, *inside)
        self.decoder = Decoder(self.width, self.channels, *inside, self.smooth_start)

    def init_codebooks(self, key: Array) -> dict[str, Codebook]:
        """A new codebook."""
        return {LEVEL: self.quantizers[0].init(key)}

    def __call__(
        self, images: Array, codebooks: dict[str, Codebook], *, key: Array | None = None, train: bool = False
    ) -> Reconstruction:
        """images [B, H, W, C], floats in any range."""
        coded = self._quantize(images, codebooks, key, train)
        output = self.decoder(coded.z_q)
        losses = {"reconstruction": cb.distance_to(output, images)}
        return reconstruction(output, {LEVEL: coded}, losses, (output,))

    def encode(self, images: Array, codebooks: dict[str, Codebook]) -> Tokens:
        """images [B, H, W, C] → an int32 map [B, h, w]."""
        return self._quantize(images, codebooks).indices

    def decode(self, tokens: Tokens, codebooks: dict[str, Codebook]) -> Array:
        """The token map → images [B, H, W, C]."""
        return self.decoder(self.quantizer.lookup(codebooks[LEVEL], tokens)).astype(jnp.float32)

    def _quantize(self, images: Array, codebooks, key: Array | None = None, train: bool = False) -> Quantized:
        return self.quantizer(codebooks[LEVEL], self.encoder(images.astype(self.dtype)), key=key, train=train)
