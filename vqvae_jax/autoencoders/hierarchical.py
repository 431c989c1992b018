"""The hierarchical VQ-VAE of https://github.com/unixpickle/vq-vae-2, after https://arxiv.org/abs/1906.00446.

Each encoder reads the unquantized output of the one below. Decoder i reads the codes of the i + 1 topmost levels and
learns to give the encoding of the level below them; the last one learns to give the image.

    image → QuarterEncoder → z_bottom → HalfEncoder → z_top
               codes_top → HalfDecoder → ẑ_bottom          codes_top, codes_bottom → HalfQuarterDecoder → image
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vqvae_jax.autoencoders.layers import HalfEncoder, QuarterEncoder, decoder_for
from vqvae_jax.limits import Count, Few, Natural
from vqvae_jax.networks.conv import Conv
from vqvae_jax.networks.likelihood import cross_entropy
from vqvae_jax.quantizers import codebook as cb
from vqvae_jax.types import (
    Array,
    Codebook,
    Quantized,
    Quantizer,
    Reconstruction,
    Tokens,
    UserError,
    by_level,
    reconstruction,
)

LAST = {1: "conv2", 2: "conv4"}  # the layer of the last decoder that makes the image, by the number of levels


def level_names(count: int) -> tuple[str, ...]:
    """Names of the levels, coarse to fine."""
    if count <= 3:
        return (("codes",), ("top", "bottom"), ("top", "middle", "bottom"))[count - 1]
    return ("top", *(f"middle{i}" for i in range(1, count - 1)), "bottom")


class HierarchicalVAE(nn.Module):
    """Images to as many code maps as there are levels, and back.

    Attributes:
        quantizers: one a level, coarse to fine.
        levels: the bottom map is 1/4 of the image's side, each level above half of the one below.
        width: channels inside.
        channels: of the image.
        classes: 0: images are floats, learned by squared error. Otherwise each channel is one of so many grey values,
            evenly spaced over [0, 1], learned by cross-entropy.
        smooth_start: fresh weights: the last decoder's final two doublings begin as bilinear interpolation, so that
            flat areas begin without a grid. False: as PyTorch's and the reference's.
        dtype: what the convolutions compute in; parameters and codebooks stay float32.
    """

    quantizers: tuple[Quantizer, ...]
    levels: Few = 2
    width: Count = 128
    channels: int = 3
    classes: Natural = 0
    smooth_start: bool = False
    dtype: jnp.dtype = jnp.float32

    @staticmethod
    def terms(fields: Mapping[str, Any]) -> dict[str, float]:
        """Its loss terms beside `reconstruction`, each with its usual weight."""
        return {"feature": 1.0} if fields["levels"] > 1 else {}

    @staticmethod
    def stride(fields: Mapping[str, Any]) -> int:
        """What the height and width of an image must be multiples of, in pixels."""
        return 4 * 2 ** (fields["levels"] - 1)

    @staticmethod
    def names(fields: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of the levels, coarse to fine, of an autoencoder with these fields."""
        return level_names(fields["levels"])

    @staticmethod
    def image_range(fields: Mapping[str, Any]) -> tuple[float, float] | None:
        """What uint8 0 and 255 must become, where pixels are classes; None: anything."""
        return (0.0, 1.0) if fields["classes"] else None

    @property
    def level_names(self) -> tuple[str, ...]:
        return level_names(self.levels)

    @property
    def last_kernel(self) -> tuple[str, ...]:
        """Path in params of the kernel that makes the image."""
        return (f"decoder_{self.levels - 1}", LAST.get(self.levels, "output"), "kernel")

    def setup(self):
        if self.classes == 1:
            raise UserError("classes=1: one grey value has nothing to tell; 0 for squared error, else 2 or more")
        if len(self.quantizers) != self.levels:
            raise UserError(f"{self.levels} levels need as many quantizers, not {len(self.quantizers)}")
        n, width, dtype = self.levels, self.width, self.dtype
        self.encoders = [
            (HalfEncoder if i else QuarterEncoder)(width, dtype, name=f"encoder_{i}") for i in range(n)
        ]  # bottom to top
        out = self.channels * max(self.classes, 1)
        above = [decoder_for(i + 1, width, False, dtype, f"decoder_{i}") for i in range(n - 1)]
        last = decoder_for(n, out, True, dtype, f"decoder_{n - 1}", self.smooth_start)
        self.decoders = [*above, last]  # top to bottom
        # A 1x1 projection to and from the codes, only where they have another size than the features.
        self.to_code = [
            None if q.input_dim == width else Conv(q.input_dim, 1, dtype=dtype, name=f"to_code_{name}")
            for q, name in zip(self.quantizers, self.level_names, strict=True)
        ]
        self.from_code = [
            None if q.output_dim == width else Conv(width, 1, dtype=dtype, name=f"from_code_{name}")
            for q, name in zip(self.quantizers, self.level_names, strict=True)
        ]

    def init_codebooks(self, key: Array) -> dict[str, Codebook]:
        """A new codebook for each level."""
        keys = jax.random.split(key, self.levels)
        return {name: q.init(k) for name, q, k in zip(self.level_names, self.quantizers, keys, strict=True)}

    def __call__(
        self, images: Array, codebooks: dict[str, Codebook], *, key: Array | None = None, train: bool = False
    ) -> Reconstruction:
        """images [B, H, W, C] in any range (in [0, 1] with `classes`, where integers are taken as classes)."""
        images, classes = self._read(images)
        z_e = self._encode(images)
        keys = [None] * self.levels if key is None else jax.random.split(key, self.levels)
        coded = [self._quantize(i, z_e[i], codebooks, keys[i], train) for i in range(self.levels)]
        codes = [self._widen(i, q.z_q) for i, q in enumerate(coded)]
        outputs = tuple(self.decoders[i](codes[: i + 1]) for i in range(self.levels))
        names = self.level_names
        losses = {f"feature/{name}": cb.distance_to(outputs[i], z_e[i + 1]) for i, name in enumerate(names[1:])}
        losses["reconstruction"] = self._image_loss(outputs[-1], images, classes)
        return reconstruction(self._image(outputs[-1]), dict(zip(names, coded, strict=True)), losses, outputs)

    def encode(self, images: Array, codebooks: dict[str, Codebook]) -> Tokens:
        """images [B, H, W, C] → one int32 map a level, coarse to fine."""
        z_e = self._encode(self._read(images)[0])
        return sum((self._quantize(i, z_e[i], codebooks).indices for i in range(self.levels)), ())

    def decode(self, tokens: Tokens, codebooks: dict[str, Codebook]) -> Array:
        """Token maps of all levels, or of the upper ones alone → images [B, H, W, C].

        Where lower maps are missing, what the decoder above them gives is quantized in their place, level by level.
        """
        codes: list[Array] = []
        given = by_level(tokens, self.quantizers)
        for i, name in enumerate(self.level_names):
            if i < len(given):
                z_q = self.quantizers[i].lookup(codebooks[name], given[i]).astype(self.dtype)
            else:
                z_q = self._quantize(i, self.decoders[i - 1](codes), codebooks).z_q
            codes.append(self._widen(i, z_q))
        return self._image(self.decoders[-1](codes))

    def features(self, images: Array) -> list[Array]:
        """The unquantized encodings, coarse to fine, before any projection: [B, h, w, width] each."""
        return self._encode(self._read(images)[0])

    def _encode(self, images: Array) -> list[Array]:
        z_e, x = [], images.astype(self.dtype)
        for encoder in self.encoders:
            x = encoder(x)
            z_e.append(x)
        return z_e[::-1]

    def _quantize(self, i: int, z_e: Array, codebooks, key: Array | None = None, train: bool = False) -> Quantized:
        z_e = z_e if self.to_code[i] is None else self.to_code[i](z_e)
        return self.quantizers[i](codebooks[self.level_names[i]], z_e, key=key, train=train)

    def _widen(self, i: int, z_q: Array) -> Array:
        return z_q if self.from_code[i] is None else self.from_code[i](z_q)

    def _read(self, images: Array) -> tuple[Array, Array | None]:
        """Float images and, with `classes`, the class of each value."""
        if not self.classes:
            return images, None
        if jnp.issubdtype(images.dtype, jnp.integer):
            return images.astype(jnp.float32) / (self.classes - 1), images
        return images, jnp.round(images * (self.classes - 1)).astype(jnp.int32)

    def _image_loss(self, output: Array, images: Array, classes: Array | None) -> Array:
        if classes is None:
            return cb.distance_to(output, images)
        logits = output.reshape(*classes.shape, self.classes)
        return jnp.mean(cross_entropy(logits, classes))

    def _image(self, output: Array) -> Array:
        """The last decoder's output as float images: itself, or the likeliest grey value."""
        if not self.classes:
            return output.astype(jnp.float32)
        logits = output.reshape(*output.shape[:-1], self.channels, self.classes)
        return jnp.argmax(logits, axis=-1).astype(jnp.float32) / (self.classes - 1)
