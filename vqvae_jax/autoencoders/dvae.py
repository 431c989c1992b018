"""DALL-E's first stage, the discrete VAE of https://arxiv.org/abs/2102.12092, appendix A, as its authors' code has it
(https://github.com/openai/DALL-E).

    image → 7x7 → groups of blocks, each but the last halved behind it → relu, 1x1 → logits → codes →
    + bias → groups of blocks, each but the last doubled behind it → relu, 1x1 → image, or what it is drawn from

There is no norm. A block is x + gain · branch(x), where gain is one over the square of the number of blocks. The
decoder begins with a 1x1 convolution of the codes' shares in a place: its kernel is the codebook, so that a map is
decoded by looking codes up, and only its bias is the decoder's own. The quantizer is made to be `gumbel`, any will do.
"""

from collections.abc import Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vqvae_jax.limits import Count, Several
from vqvae_jax.networks.fast import conv, doubled
from vqvae_jax.networks.likelihood import logit_laplace
from vqvae_jax.quantizers import codebook as cb
from vqvae_jax.types import Array, Codebook, Quantized, Quantizer, Reconstruction, Tokens, UserError, reconstruction

LEVEL = "codes"
MOST = 20  # groups, each half of the one before
INSIDE, SHIFT = 0.8, 0.1  # what is inside of the logit's ends: a pixel x of [0, 1] is seen as 0.8 x + 0.1
NARROW = 4  # times narrower than a block is its branch


class Conv(nn.Module):
    """A convolution to as many pixels as before; kernels begin as normal of variance 1 / fan-in, biases as 0."""

    features: int
    size: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal((shape[0] * shape[1] * shape[2]) ** -0.5), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        around = (self.size // 2, self.size // 2)
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        return conv(x, kernel, 1, (around, around)) + bias[None, None, None]


class Block(nn.Module):
    """x + gain · four convolutions of relus, [B, h, w, C] → [B, h, w, features], or of twice the height and width.

    `sizes` are the kernels'. Doubling repeats pixels, and what looks at single pixels says the same before it.
    """

    features: int
    sizes: tuple[int, int, int, int]
    gain: float
    doubled: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        inner = max(1, self.features // NARROW)
        h = Conv(inner, self.sizes[0], self.dtype, name="conv1")(nn.relu(x))
        if x.shape[-1] != self.features:
            x = Conv(self.features, 1, self.dtype, name="shortcut")(x)
        if self.doubled:
            x, h = doubled(x), doubled(h)
        for i, (features, size) in enumerate(zip((inner, inner, self.features), self.sizes[1:], strict=True), 2):
            h = Conv(features, size, self.dtype, name=f"conv{i}")(nn.relu(h))
        return x + self.gain * h


class Encoder(nn.Module):
    """[B, H, W, C] → float32 [B, h, w, features]."""

    widths: tuple[int, ...]  # of the groups, fine to coarse
    blocks: int
    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        gain = (len(self.widths) * self.blocks) ** -2
        x = Conv(self.widths[0], 7, self.dtype, name="conv_in")(x)
        for group, width in enumerate(self.widths):
            x = largest_of_four(x) if group else x
            for i in range(self.blocks):
                x = Block(width, (3, 3, 3, 1), gain, False, self.dtype, name=f"group{group}_block{i}")(x)
        return Conv(self.features, 1, name="conv_out")(nn.relu(x))


class Decoder(nn.Module):
    """[B, h, w, D] → float32 [B, H, W, features]."""

    widths: tuple[int, ...]  # of the groups, coarse to fine
    blocks: int
    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        gain = (len(self.widths) * self.blocks) ** -2
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        x = (x + bias[None, None, None]).astype(self.dtype)
        for group, width in enumerate(self.widths):
            for i in range(self.blocks):
                doubled = group > 0 and i == 0
                x = Block(width, (1, 3, 3, 3), gain, doubled, self.dtype, name=f"group{group}_block{i}")(x)
        return Conv(self.features, 1, name="conv_out")(nn.relu(x))


class DVAE(nn.Module):
    """Images to one code map and back.

    Attributes:
        quantizers: one; its `code_dim` is the width of the decoder's first convolution, 128 as published.
        width: channels of the finest group.
        factors: times as wide is each group, fine to coarse; between two the sides are halved.
        blocks: a group.
        likelihood: the term `reconstruction` is -log of a logit-Laplace density of a subpixel, whose location and
            scale the decoder says (images in [0, 1], their mean over subpixels in nats), or the squared error.
        channels: of the image.
        dtype: what the convolutions compute in, but the last of each network; parameters and codebooks stay float32.
    """

    quantizers: tuple[Quantizer, ...]
    width: Count = 256
    factors: tuple[int, ...] = (1, 2, 4, 8)
    blocks: Several = 2
    likelihood: Literal["logit_laplace", "squared"] = "logit_laplace"
    channels: int = 3
    dtype: jnp.dtype = jnp.float32

    @staticmethod
    def stride(fields: Mapping[str, Any]) -> int:
        """What the height and width of an image must be multiples of, in pixels."""
        return 2 ** max(0, min(len(fields["factors"]), MOST) - 1)

    @staticmethod
    def names(fields: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of the levels of codes: there is one."""
        return (LEVEL,)

    @staticmethod
    def image_range(fields: Mapping[str, Any]) -> tuple[float, float] | None:
        """What uint8 0 and 255 must become; None: anything."""
        return (0.0, 1.0) if fields["likelihood"] == "logit_laplace" else None

    @property
    def level_names(self) -> tuple[str, ...]:
        return (LEVEL,)

    @property
    def last_kernel(self) -> tuple[str, ...]:
        """Path in params of the kernel that makes the image."""
        return ("decoder", "conv_out", "kernel")

    def setup(self):
        if not 1 <= len(self.factors) <= MOST or min(self.factors) < 1:
            raise UserError(
                f"factors wants 1 to {MOST} widths of 1 or more, fine to coarse, as 1,2,4,8; got {self.factors}"
            )
        (self.quantizer,) = self.quantizers
        widths = tuple(self.width * factor for factor in self.factors)
        made = self.channels * (2 if self.likelihood == "logit_laplace" else 1)
        self.encoder = Encoder(widths, self.blocks, self.quantizer.input_dim, self.dtype)
        self.decoder = Decoder(widths[::-1], self.blocks, made, self.dtype)

    def init_codebooks(self, key: Array) -> dict[str, Codebook]:
        """A new codebook of the one level, by its name."""
        return {LEVEL: self.quantizers[0].init(key)}

    def __call__(
        self, images: Array, codebooks: dict[str, Codebook], *, key: Array | None = None, train: bool = False
    ) -> Reconstruction:
        """images [B, H, W, C], floats; with logit_laplace in [0, 1]."""
        coded = self._quantize(images, codebooks, key, train)
        output = self.decoder(coded.z_q)
        losses = {"reconstruction": self._loss(output, images)}
        return reconstruction(self._image(output), {LEVEL: coded}, losses, (output.astype(self.dtype),))

    def encode(self, images: Array, codebooks: dict[str, Codebook]) -> Tokens:
        """images [B, H, W, C] → an int32 map [B, h, w]."""
        return self._quantize(images, codebooks).indices

    def decode(self, tokens: Tokens, codebooks: dict[str, Codebook]) -> Array:
        """The token map → images [B, H, W, C]."""
        return self._image(self.decoder(self.quantizer.lookup(codebooks[LEVEL], tokens)))

    def _quantize(self, images: Array, codebooks, key: Array | None = None, train: bool = False) -> Quantized:
        z_e = self.encoder(self._seen(images))
        return self.quantizer(codebooks[LEVEL], z_e, key=key, train=train)

    def _seen(self, images: Array) -> Array:
        return from_pixels(images) if self.likelihood == "logit_laplace" else images

    def _loss(self, output: Array, images: Array) -> Array:
        if self.likelihood == "squared":
            return cb.distance_to(output, images)
        location, log_scale = jnp.split(output, 2, axis=-1)
        return jnp.mean(logit_laplace(jax.lax.stop_gradient(self._seen(images)), location, log_scale))

    def _image(self, output: Array) -> Array:
        """The decoder's output as images: itself, or the pixels at the locations."""
        if self.likelihood == "squared":
            return output
        return to_pixels(jax.nn.sigmoid(jnp.split(output, 2, axis=-1)[0]))


def from_pixels(x: Array) -> Array:
    """Of [0, 1], into what has a logit."""
    return INSIDE * x + SHIFT


def to_pixels(x: Array) -> Array:
    """The inverse, clipped to [0, 1]."""
    return jnp.clip((x - SHIFT) / INSIDE, 0.0, 1.0)


def largest_of_four(x: Array) -> Array:
    """Half the height and width: of each 2x2 pixels the largest, channel by channel."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // 2, 2, w // 2, 2, c)
    # Not jnp.max: its gradient looks where x is the largest, and is 0 / 0 where XLA has rounded x otherwise there.
    rows = jnp.maximum(x[:, :, 0], x[:, :, 1])
    return jnp.maximum(rows[:, :, :, 0], rows[:, :, :, 1])
