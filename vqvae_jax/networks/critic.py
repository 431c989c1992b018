"""The critic of patches that VQ-GAN learns against, https://arxiv.org/abs/2012.09841, after pix2pix' PatchGAN
(https://arxiv.org/abs/1611.07004, appendix 6.1.2): 4x4 convolutions, each place of its output judges one patch.

    image → [4x4 of stride 2, leaky relu] × layers → 4x4, leaky relu → 4x4 → logits [B, h, w]; above 0 is real

No running statistics: a critic is only ever asked in training.
"""

import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vqvae_jax.limits import Count, Few
from vqvae_jax.networks.fast import conv
from vqvae_jax.networks.norm import of_groups, standardised
from vqvae_jax.types import Array

KERNEL = 4  # pixels
WIDEST = 8  # times the first convolution's channels
GROUPS = 8  # channels of a group of the group norm
ROUNDS = 8  # of the power iteration for the largest singular value
EPSILON = 1e-5  # beside the variance of a norm, as PyTorch has it
SPREAD = 0.02  # standard deviation of fresh weights

Norm = Literal["none", "group", "spectral", "batch"]


class Critic(nn.Module):
    """Images [B, H, W, C] → logits [B, h, w] float32.

    Attributes:
        width: channels after the first convolution; each halving doubles them, up to WIDEST times as many.
        layers: halvings. A logit sees a patch of `field(layers)` pixels: 16, 34, 70, …
        norm: of the convolutions between the first and the last. "batch": by the statistics of the whole batch, as the
            paper's code; "group": of each image alone; "spectral": weights whose largest singular value is about
            1 (https://arxiv.org/abs/1802.05957) in all convolutions, see `spectral`, and no other norm.
        dtype: what the convolutions compute in.
    """

    width: Count = 64
    layers: Few = 3
    norm: Norm = "group"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Array) -> Array:
        x = images.astype(self.dtype)
        for i in range(self.layers + 1):
            features = self.width * min(2**i, WIDEST)
            x = self._conv(f"conv{i}", x, features, stride=2 if i < self.layers else 1, biased=not i)
            x = nn.leaky_relu(self._normed(f"norm{i}", x) if i else x, 0.2)
        return self._conv("output", x, 1, stride=1, biased=True)[..., 0].astype(jnp.float32)

    def _conv(self, name: str, x: Array, features: int, stride: int, biased: bool) -> Array:
        """Without a bias where a norm follows that would take it away again."""
        biased |= self.norm in ("none", "spectral")
        kernel = self.param(f"{name}_kernel", nn.initializers.normal(SPREAD), (KERNEL, KERNEL, x.shape[-1], features))
        kernel = spectral(kernel) if self.norm == "spectral" else kernel
        out = conv(x, kernel.astype(self.dtype), stride, ((1, 1), (1, 1)))
        if not biased:
            return out
        bias = self.param(f"{name}_bias", nn.initializers.zeros, (features,))
        return out + bias.astype(self.dtype)[None, None, None]

    def _normed(self, name: str, x: Array) -> Array:
        if self.norm not in ("group", "batch"):
            return x
        channels = x.shape[-1]
        scale = self.param(f"{name}_scale", _near_one, (channels,))
        bias = self.param(f"{name}_bias", nn.initializers.zeros, (channels,))
        groups = math.gcd(channels, max(1, channels // GROUPS))
        of_batch = lambda x: jnp.mean(x, (0, 1, 2), keepdims=True)  # noqa: E731
        of_image = lambda x: of_groups(jnp.mean(x, (1, 2)), groups)  # noqa: E731
        mean = of_batch if self.norm == "batch" else of_image
        away, factor = standardised(x.astype(jnp.float32), mean, EPSILON)
        return (away * factor * scale[None, None, None] + bias[None, None, None]).astype(self.dtype)


def _near_one(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    return 1 + SPREAD * jax.random.normal(key, shape, dtype)


def spectral(kernel: Array) -> Array:
    """The kernel [h, w, C, C'] over its largest singular value as a matrix [h w C, C'].

    By a power iteration from a fixed vector, so that nothing is to be kept between steps; the gradient takes the
    singular vectors as given, as https://arxiv.org/abs/1802.05957 does. ROUNDS find a little less than the largest one:
    that of the quotient is about 1, of fresh kernels mostly 1 to 5 % above, of a few small ones up to 18 %.
    """
    matrix = kernel.reshape(-1, kernel.shape[-1])
    fixed = jax.lax.stop_gradient(matrix)
    v = jnp.ones(matrix.shape[1], matrix.dtype) / matrix.shape[1] ** 0.5
    for _ in range(ROUNDS):
        u = _unit(fixed @ v)
        v = _unit(fixed.T @ u)
    return kernel / jnp.maximum(u @ matrix @ v, 1e-12)


def _unit(x: Array) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x), 1e-12)


def field(layers: int) -> int:
    """Pixels, height and width, of the patch that one logit sees."""
    side = 1 + 2 * (KERNEL - 1)  # of the two convolutions that halve nothing
    for _ in range(layers):
        side = 2 * (side - 1) + KERNEL
    return side
