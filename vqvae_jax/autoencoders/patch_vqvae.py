"""A small VQ-VAE of patches: 2x2 convolutions of stride 2, group norm after the residual's addition, SiLU.

The VQ-VAE (https://arxiv.org/abs/1711.00937) in the form that goes before a causal transformer over the codes of MNIST:

    image → 2x2 convolutions of stride 2 → residual block → z_e → codes → residual block → 2x2 transposed → image
    28x28x1        14x14x32, 7x7x32           7x7x32                         7x7x32             28x28x1

The decoder is the encoder backwards: the activation that follows a convolution there goes before its transpose here.
A 2x2 patch is exactly one output's input, so both kinds of convolution are a reshape and one matrix product.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from vqvae_jax.limits import Count, Few
from vqvae_jax.networks.conv import Conv, uniform
from vqvae_jax.quantizers import codebook as cb
from vqvae_jax.types import Array, Codebook, Quantized, Quantizer, Reconstruction, Tokens, UserError, reconstruction

LEVEL = "codes"


class PatchConv(nn.Module):
    """A 2x2 convolution of stride 2 with bias, [B, H, W, C] → [B, H/2, W/2, features]; kernel [2, 2, C, features]."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, h, w, c = x.shape
        kernel = self.param("kernel", uniform(4 * c), (2, 2, c, self.features)).astype(self.dtype)
        bias = self.param("bias", uniform(4 * c), (self.features,)).astype(self.dtype)
        patches = x.astype(self.dtype).reshape(b, h // 2, 2, w // 2, 2, c).swapaxes(2, 3)  # [B, H/2, W/2, 2, 2, C]
        out = patches.reshape(-1, 4 * c) @ kernel.reshape(4 * c, self.features)
        return out.reshape(b, h // 2, w // 2, self.features) + bias[None, None, None]


class PatchTranspose(nn.Module):
    """Its transpose with bias, [B, h, w, C] → [B, 2h, 2w, features]; out[2i + a] = x[i] · kernel[a]."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, h, w, c = x.shape
        fan_in = 4 * self.features  # as PyTorch counts it for transposed convolutions
        kernel = self.param("kernel", uniform(fan_in), (2, 2, c, self.features)).astype(self.dtype)
        bias = self.param("bias", uniform(fan_in), (self.features,)).astype(self.dtype)
        taps = kernel.transpose(2, 0, 1, 3).reshape(c, 4 * self.features)
        patches = (x.astype(self.dtype).reshape(-1, c) @ taps).reshape(b, h, w, 2, 2, self.features)
        return patches.swapaxes(2, 3).reshape(b, 2 * h, 2 * w, self.features) + bias[None, None, None]


class NormedResidual(nn.Module):
    """norm(x + conv3x3(silu(conv3x3(x)))), the group norm in float32."""

    groups: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        h = nn.silu(Conv(channels, 3, padding=(1, 1), dtype=self.dtype, name="conv1")(x))
        h = Conv(channels, 3, padding=(1, 1), dtype=self.dtype, name="conv2")(h)
        norm = nn.GroupNorm(self.groups, epsilon=1e-5, dtype=jnp.float32, use_fast_variance=False, name="norm")
        return norm(x + h).astype(self.dtype)


class Encoder(nn.Module):
    """[B, H, W, C] → [B, h, w, width], each side divided by 2 ** halvings."""

    width: int
    halvings: int
    groups: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i in range(self.halvings):
            x = nn.silu(PatchConv(self.width, self.dtype, name=f"down{i}")(x))
        return NormedResidual(self.groups, self.dtype, name="residual")(x)


class Decoder(nn.Module):
    """[B, h, w, width] → [B, H, W, features], each side multiplied by 2 ** halvings."""

    features: int
    halvings: int
    groups: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        x = NormedResidual(self.groups, self.dtype, name="residual")(x.astype(self.dtype))
        for i in range(self.halvings):
            features = self.features if i == self.halvings - 1 else width
            x = PatchTranspose(features, self.dtype, name=f"up{i}")(nn.silu(x))
        return x


class PatchVQVAE(nn.Module):
    """Images to one code map and back.

    Attributes:
        quantizers: one.
        width: channels inside; where codes have as many, they are the encoder's output itself, else a 1x1 projection.
        halvings: how often the image's sides are halved.
        groups: of the group norm; they divide the width.
        channels: of the image.
        dtype: what the convolutions compute in; parameters, norms and codebooks stay float32.
    """

    quantizers: tuple[Quantizer, ...]
    width: Count = 32
    halvings: Few = 2
    groups: Count = 8
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
        return ("decoder", f"up{self.halvings - 1}", "kernel")

    def setup(self):
        if self.width % self.groups:
            raise UserError(f"width={self.width} does not divide among groups={self.groups} of the norm; change one")
        (self.quantizer,) = self.quantizers
        inside = (self.halvings, self.groups, self.dtype)
        self.encoder, self.decoder = Encoder(self.width, *inside), Decoder(self.channels, *inside)
        wanted, given = self.quantizer.input_dim, self.quantizer.output_dim
        self.to_code = None if wanted == self.width else Conv(wanted, 1, dtype=self.dtype)
        self.from_code = None if given == self.width else Conv(self.width, 1, dtype=self.dtype)

    def init_codebooks(self, key: Array) -> dict[str, Codebook]:
        """A new codebook."""
        return {LEVEL: self.quantizers[0].init(key)}

    def __call__(
        self, images: Array, codebooks: dict[str, Codebook], *, key: Array | None = None, train: bool = False
    ) -> Reconstruction:
        """images [B, H, W, C], floats in any range."""
        coded = self._quantize(images, codebooks, key, train)
        output = self._decode(coded.z_q)
        losses = {"reconstruction": cb.distance_to(output, images)}
        return reconstruction(output, {LEVEL: coded}, losses, (output,))

    def encode(self, images: Array, codebooks: dict[str, Codebook]) -> Tokens:
        """images [B, H, W, C] → an int32 map [B, h, w]."""
        return self._quantize(images, codebooks).indices

    def decode(self, tokens: Tokens, codebooks: dict[str, Codebook]) -> Array:
        """The token map → images [B, H, W, C]."""
        return self._decode(self.quantizer.lookup(codebooks[LEVEL], tokens)).astype(jnp.float32)

    def _quantize(self, images: Array, codebooks, key: Array | None = None, train: bool = False) -> Quantized:
        z_e = self.encoder(images.astype(self.dtype))
        z_e = z_e if self.to_code is None else self.to_code(z_e)
        return self.quantizer(codebooks[LEVEL], z_e, key=key, train=train)

    def _decode(self, z_q: Array) -> Array:
        z_q = z_q.astype(self.dtype)
        return self.decoder(z_q if self.from_code is None else self.from_code(z_q))
