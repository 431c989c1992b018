"""VQ-VAE-2, https://arxiv.org/abs/1906.00446, section 3.1, figure 2a: two code maps, the lower told of the upper.

    image → encoder_bottom → features → encoder_top → to_code_top → codes_top → decoder_top → decoded
    [decoded, features] → to_code_bottom → codes_bottom
    [upsample_top(codes_top), codes_bottom] → decoder → image

The stacks are those of vqvae.py; widths and the order of what is joined as in
https://github.com/rosinality/vq-vae-2-pytorch. hierarchical.py is another reading of the same paper.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vqvae_jax.autoencoders.vqvae import Decoder, Encoder
from vqvae_jax.limits import Blocks, Count
from vqvae_jax.networks.conv import Conv, ConvTranspose
from vqvae_jax.quantizers import codebook as cb
from vqvae_jax.types import Array, Codebook, Quantized, Quantizer, Reconstruction, Tokens, by_level, reconstruction

LEVELS = ("top", "bottom")


class VQVAE2(nn.Module):
    """Images to two code maps, of 1/8 and 1/4 of their sides, and back.

    Attributes:
        quantizers: top, bottom.
        width: channels inside.
        residual_blocks: in each encoder and decoder.
        residual_width: channels inside a residual block.
        channels: of the image.
        dtype: what the convolutions compute in; parameters and codebooks stay float32.
    """

    quantizers: tuple[Quantizer, ...]
    width: Count = 128
    residual_blocks: Blocks = 2
    residual_width: Count = 32
    channels: int = 3
    dtype: jnp.dtype = jnp.float32

    @staticmethod
    def stride(fields: Mapping[str, Any]) -> int:
        """What the height and width of an image must be multiples of, in pixels."""
        return 8

    @staticmethod
    def names(fields: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of the levels, coarse to fine."""
        return LEVELS

    @property
    def level_names(self) -> tuple[str, ...]:
        return LEVELS

    @property
    def last_kernel(self) -> tuple[str, ...]:
        """Path in params of the kernel that makes the image."""
        return ("decoder", "output", "kernel")

    def setup(self):
        self.top, self.bottom = self.quantizers
        inside = (self.residual_blocks, self.residual_width, self.dtype)
        self.encoder_bottom = Encoder(self.width, 0, 2, *inside)
        self.encoder_top = Encoder(self.width, 0, 1, *inside)
        self.to_code_top = Conv(self.top.input_dim, 1, dtype=self.dtype)
        self.decoder_top = Decoder(self.width, self.bottom.input_dim, 1, *inside)
        self.to_code_bottom = Conv(self.bottom.input_dim, 1, dtype=self.dtype)
        self.upsample_top = ConvTranspose(self.bottom.output_dim, self.dtype)
        self.decoder = Decoder(self.width, self.channels, 2, *inside)

    def init_codebooks(self, key: Array) -> dict[str, Codebook]:
        """A new codebook for each level."""
        keys = jax.random.split(key)
        return {name: q.init(k) for name, q, k in zip(LEVELS, self.quantizers, keys, strict=True)}

    def __call__(
        self, images: Array, codebooks: dict[str, Codebook], *, key: Array | None = None, train: bool = False
    ) -> Reconstruction:
        """images [B, H, W, C], floats in any range."""
        coded, decoded = self._encode(images, codebooks, key, train)
        output = self._image(*(q.z_q for q in coded.values()))
        losses = {"reconstruction": cb.distance_to(output, images)}
        return reconstruction(output, coded, losses, (decoded, output))

    def encode(self, images: Array, codebooks: dict[str, Codebook]) -> Tokens:
        """images [B, H, W, C] → int32 maps [B, H/8, W/8] and [B, H/4, W/4]."""
        return sum((q.indices for q in self._encode(images, codebooks)[0].values()), ())

    def decode(self, tokens: Tokens, codebooks: dict[str, Codebook]) -> Array:
        """Token maps of both levels, or of the top alone → images [B, H, W, C].

        Without the bottom's map its codes are those nearest to what `to_code_bottom` gives for the decoded top with
        zeros in place of the image's features. This is our choice: the paper does not decode the top alone.
        """
        given = by_level(tokens, self.quantizers)
        top = self.top.lookup(codebooks["top"], given[0])
        if len(given) > 1:
            return self._image(top, self.bottom.lookup(codebooks["bottom"], given[1])).astype(jnp.float32)
        decoded = self.decoder_top(top)
        nothing = jnp.zeros((*decoded.shape[:-1], self.width), decoded.dtype)
        bottom = self.bottom(codebooks["bottom"], self._join(decoded, nothing))
        return self._image(top, bottom.z_q).astype(jnp.float32)

    def _encode(
        self, images: Array, codebooks, key: Array | None = None, train: bool = False
    ) -> tuple[dict[str, Quantized], Array]:
        """Both levels quantized, top first, and the decoded top [B, H/4, W/4, D]."""
        keys = (None, None) if key is None else jax.random.split(key)
        features = self.encoder_bottom(images.astype(self.dtype))  # [B, H/4, W/4, width]
        z_top = self.to_code_top(self.encoder_top(features))
        top = self.top(codebooks["top"], z_top, key=keys[0], train=train)
        decoded = self.decoder_top(top.z_q)
        bottom = self.bottom(codebooks["bottom"], self._join(decoded, features), key=keys[1], train=train)
        return {"top": top, "bottom": bottom}, decoded

    def _join(self, decoded: Array, features: Array) -> Array:
        """The bottom's z_e, from the decoded top and the image's features."""
        return self.to_code_bottom(jnp.concatenate([decoded, features], axis=-1))

    def _image(self, top: Array, bottom: Array) -> Array:
        """The codes of both levels → [B, H, W, C]."""
        return self.decoder(jnp.concatenate([self.upsample_top(top), bottom], axis=-1))
