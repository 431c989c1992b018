"""VQ-GAN's autoencoder, https://arxiv.org/abs/2012.09841, appendix A.3, as its authors' code has it
(https://github.com/CompVis/taming-transformers, modules/diffusionmodules/model.py).

    image → 3x3 → levels, fine to coarse: residual blocks (attention), halved → middle → norm, swish, 3x3 → z
      → to_code → codes → from_code →
    z → 3x3 → middle → levels, coarse to fine: residual blocks (attention), doubled → norm, swish, 3x3 → image

What latent diffusion (2112.10752), LlamaGen (2406.06525), VAR (2404.02905) and MaskGIT (2202.04200) encode images with
differs in the fields alone: see published.py. The critic is not here: it belongs to the task.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vqvae_jax.limits import Blocks, Count, Several
from vqvae_jax.networks.conv import Conv, DoubledConv
from vqvae_jax.networks.norm import GroupNorm
from vqvae_jax.quantizers import codebook as cb
from vqvae_jax.types import Array, Codebook, Quantized, Quantizer, Reconstruction, Tokens, UserError, reconstruction

LEVEL = "codes"
MOST = 20  # levels, each half of the one before


class Inside(NamedTuple):
    """What encoder and decoder are both made of."""

    width: int
    widths: tuple[int, ...]  # of the levels, fine to coarse
    attention: tuple[bool, ...]  # whether a level has it
    middle_blocks: int
    middle_attention: bool
    groups: int
    biases: bool
    shortcut: str
    remat: bool
    dtype: Any

    def residual(self, level: int, name: str) -> nn.Module:
        """A residual block of a level's width."""
        return (nn.remat(Residual) if self.remat else Residual)(self.widths[level], self, name=name)

    def attend(self, name: str) -> nn.Module:
        return (nn.remat(Attention) if self.remat else Attention)(self, name=name)

    def norm(self, name: str) -> nn.Module:
        return GroupNorm(self.groups, self.dtype, name=name)

    def conv(self, features: int, size: int, name: str, stride: int = 1, biases: bool = True) -> nn.Module:
        """Of as many pixels as before; of half as many, it looks at the next to the right and below."""
        padding = (size // 2, size // 2) if stride == 1 else (0, 1)
        return Conv(features, size, stride, padding, self.dtype, biases, name=name)

    def level(self, x: Array, level: int, blocks: int, prefix: str) -> Array:
        """So many residual blocks, each with attention behind it where the level has it."""
        for i in range(blocks):
            x = self.residual(level, f"{prefix}_block{i}")(x)
            x = self.attend(f"{prefix}_attention{i}")(x) if self.attention[level] else x
        return x

    def middle(self, x: Array) -> Array:
        """Residual blocks of the coarsest width, attention behind the first."""
        for i in range(self.middle_blocks):
            x = self.residual(-1, f"middle_block{i}")(x)
            x = self.attend("middle_attention")(x) if i == 0 and self.middle_attention else x
        return x


class Residual(nn.Module):
    """x + conv3x3(swish(norm(conv3x3(swish(norm(x)))))), [B, h, w, C] → [B, h, w, features].

    Where C is another number, a 1x1 convolution stands in for x: of x, or (MaskGIT) of the branch itself.
    """

    features: int
    inside: Inside

    @nn.compact
    def __call__(self, x: Array) -> Array:
        conv = partial(self.inside.conv, self.features, biases=self.inside.biases)
        h = conv(3, "conv1")(nn.swish(self.inside.norm("norm1")(x)))
        h = conv(3, "conv2")(nn.swish(self.inside.norm("norm2")(h)))
        if x.shape[-1] != self.features:
            x = conv(1, "shortcut")(x if self.inside.shortcut == "input" else h)
        return x + h


class Attention(nn.Module):
    """x + what every place sees of all places, one head over all channels: [B, h, w, C] → the same."""

    inside: Inside

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, h, w, c = x.shape
        normed = self.inside.norm("norm")(x)
        q, k, v = (self.inside.conv(c, 1, name)(normed).reshape(b, h * w, c) for name in ("q", "k", "v"))
        score = jnp.einsum("bnc,bmc->bnm", q, k, preferred_element_type=jnp.float32) * c**-0.5
        seen = jnp.einsum("bnm,bmc->bnc", jax.nn.softmax(score, axis=-1).astype(v.dtype), v)
        return x + self.inside.conv(c, 1, "project")(seen.reshape(b, h, w, c))


class Encoder(nn.Module):
    """[B, H, W, C] → [B, h, w, features], the sides halved between levels."""

    inside: Inside
    blocks: int
    features: int
    last: int  # size of the last kernel
    down: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        inside = self.inside
        x = inside.conv(inside.width, 3, "conv_in", biases=inside.biases)(x)
        for level, width in enumerate(inside.widths):
            x = inside.level(x, level, self.blocks, f"down{level}")
            if level < len(inside.widths) - 1:
                x = mean_of_four(x) if self.down == "average" else inside.conv(width, 3, f"down{level}_half", 2)(x)
        x = nn.swish(inside.norm("norm_out")(inside.middle(x)))
        return inside.conv(self.features, self.last, "conv_out")(x)


class Decoder(nn.Module):
    """[B, h, w, D] → [B, H, W, features], the sides doubled between levels."""

    inside: Inside
    blocks: int
    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        inside = self.inside
        x = inside.middle(inside.conv(inside.widths[-1], 3, "conv_in")(x))
        for level, width in reversed(tuple(enumerate(inside.widths))):
            x = inside.level(x, level, self.blocks, f"up{level}")
            x = DoubledConv(width, inside.dtype, name=f"up{level}_double")(x) if level else x
        return inside.conv(self.features, 3, "conv_out")(nn.swish(inside.norm("norm_out")(x)))


def mean_of_four(x: Array) -> Array:
    """[B, 2h, 2w, C] → [B, h, w, C]."""
    b, h, w, c = x.shape
    return jnp.mean(x.reshape(b, h // 2, 2, w // 2, 2, c), (2, 4))


class VQGAN(nn.Module):
    """Images to one code map, each side 1 / 2 ** (levels - 1) of the image's, and back.

    Attributes:
        quantizers: one.
        width: channels of the first convolution.
        factors: of the levels, fine to coarse: a level is so many times as wide.
        blocks: residual blocks of each level of the encoder.
        decoder_blocks: the same of the decoder; 0: one more than the encoder's.
        attention: levels with attention behind each residual block, 0 the finest; -1 is the coarsest.
        middle_blocks: residual blocks between the levels and the code.
        middle_attention: whether there is attention behind the first of them.
        down: what halves: a 3x3 convolution of stride 2, or the mean of four pixels.
        shortcut: where a residual block changes the width, what its 1x1 convolution sees: its input, or its branch.
        biases: whether the residual blocks and the encoder's first convolution have them; all others do.
        z: channels between the networks and the code's own convolutions; where the quantizer wants twice as many
            channels as it gives (means and log-variances), the encoder gives 2 z.
        code_kernel: size of the convolutions to the code and from it; 0: there are none and no z, the encoder ends in
            1x1 instead of 3x3.
        groups: of the norms.
        distance: the term `reconstruction` is the mean of absolute or of squared differences.
        remat: the backward pass computes blocks anew and does not keep what is inside: less memory, a third more work.
        channels: of the image.
        dtype: what the convolutions compute in; parameters, statistics of norms and codebooks stay float32.
    """

    quantizers: tuple[Quantizer, ...]
    width: Count = 128
    factors: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: Several = 2
    decoder_blocks: Blocks = 0
    attention: tuple[int, ...] = (-1,)
    middle_blocks: Blocks = 2
    middle_attention: bool = True
    down: Literal["strided", "average"] = "strided"
    shortcut: Literal["input", "branch"] = "input"
    biases: bool = True
    z: Count = 256
    code_kernel: Literal[0, 1, 3] = 1
    groups: Count = 32
    distance: Literal["absolute", "squared"] = "absolute"
    remat: bool = False
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

    @property
    def level_names(self) -> tuple[str, ...]:
        return (LEVEL,)

    @property
    def last_kernel(self) -> tuple[str, ...]:
        """Path in params of the kernel that makes the image: VQ-GAN's adaptive weight."""
        return ("decoder", "conv_out", "kernel")

    def setup(self):
        self._check()
        (self.quantizer,) = self.quantizers
        wanted, inside = self.quantizer.input_dim, self._inside()
        last = 3 if self.code_kernel else 1
        numbers = None in self.quantizer.vocab_sizes  # means and log-variances
        ends = (2 * self.z if numbers else self.z) if self.code_kernel else wanted
        self.encoder = Encoder(inside, self.blocks, ends, last, self.down)
        self.to_code, self.from_code = self._to_and_from(wanted), self._to_and_from(self.z)
        self.decoder = Decoder(inside, self.decoder_blocks or self.blocks + 1, self.channels)

    def _check(self) -> None:
        levels = len(self.factors)
        if not 1 <= levels <= MOST or min(self.factors) < 1:
            raise UserError(
                f"factors wants 1 to {MOST} widths of 1 or more, fine to coarse, as 1,2,4; got {self.factors}"
            )
        if beyond := [level for level in self.attention if not -levels <= level < levels]:
            raise UserError(
                f"attention={beyond}: there are levels 0 to {levels - 1}, -1 is the coarsest; name of these"
            )

    def _inside(self) -> Inside:
        levels = len(self.factors)
        attention = tuple(level in self.attention or level - levels in self.attention for level in range(levels))
        return Inside(
            self.width, tuple(self.width * factor for factor in self.factors), attention, self.middle_blocks,
            self.middle_attention, self.groups, self.biases, self.shortcut, self.remat, self.dtype,
        )  # fmt: skip

    def _to_and_from(self, features: int) -> Conv | None:
        size = self.code_kernel
        return Conv(features, size, padding=(size // 2, size // 2), dtype=self.dtype) if size else None

    def init_codebooks(self, key: Array) -> dict[str, Codebook]:
        """A new codebook."""
        return {LEVEL: self.quantizers[0].init(key)}

    def __call__(
        self, images: Array, codebooks: dict[str, Codebook], *, key: Array | None = None, train: bool = False
    ) -> Reconstruction:
        """images [B, H, W, C], floats in any range; the published weights want [-1, 1]."""
        coded = self._quantize(images, codebooks, key, train)
        output = self._decode(coded.z_q)
        return reconstruction(output, {LEVEL: coded}, {"reconstruction": self._distance(output, images)}, (output,))

    def encode(self, images: Array, codebooks: dict[str, Codebook]) -> Tokens:
        """images [B, H, W, C] → an int32 map [B, h, w]."""
        return self._quantize(images, codebooks).indices

    def decode(self, tokens: Tokens, codebooks: dict[str, Codebook]) -> Array:
        """The token map → images [B, H, W, C]."""
        return self._decode(self.quantizer.lookup(codebooks[LEVEL], tokens)).astype(jnp.float32)

    def _quantize(self, images: Array, codebooks, key: Array | None = None, train: bool = False) -> Quantized:
        z_e = self.encoder(images)
        z_e = z_e if self.to_code is None else self.to_code(z_e)
        return self.quantizer(codebooks[LEVEL], z_e, key=key, train=train)

    def _decode(self, z_q: Array) -> Array:
        return self.decoder(z_q if self.from_code is None else self.from_code(z_q))

    def _distance(self, output: Array, images: Array) -> Array:
        if self.distance == "squared":
            return cb.distance_to(output, images)
        return jnp.mean(jnp.abs(output.astype(jnp.float32) - jax.lax.stop_gradient(images.astype(jnp.float32))))
