"""The convolutions of the networks as Linen layers, initialised as PyTorch's. How they are computed is in fast.py."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vqvae_jax.networks.fast import Padding, conv, conv_transpose, doubled_conv
from vqvae_jax.types import Array


def uniform(fan_in: int):
    """The initializer of PyTorch's convolutions and linear layers: uniform within ±1/√fan_in, kernel and bias alike."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


def bilinear(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """The initializer of a transposed convolution that begins as a bilinear one: [4, 4, C_in, C_out].

    Each pair of channels has one weight, uniform within ±0.8/√C_in, times the filter that doubles height and width by
    bilinear interpolation: what is flat below is flat above, where other weights begin with a grid of 2 pixels.
    """
    doubling = jnp.array([1, 3, 3, 1], dtype) / 4
    bound = 0.8 * shape[2] ** -0.5
    weights = jax.random.uniform(key, shape[2:], dtype, -bound, bound)
    return jnp.outer(doubling, doubling)[:, :, None, None] * weights[None, None]


class Conv(nn.Module):
    """A convolution; `size` is one number or (height, width), `padding` is (low, high) for both axes.

    A call may bring another padding, ((above, below), (left, right)). `silent`: it begins as 0, kernel and bias.
    """

    features: int
    size: int | tuple[int, int]
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    dtype: jnp.dtype = jnp.float32
    use_bias: bool = True
    silent: bool = False

    @nn.compact
    def __call__(self, x: Array, padding: Padding | None = None) -> Array:
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        fresh = nn.initializers.zeros if self.silent else uniform(height * width * x.shape[-1])
        kernel = self.param("kernel", fresh, (height, width, x.shape[-1], self.features))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        out = conv(x, kernel, self.stride, padding or (self.padding, self.padding))
        if not self.use_bias:
            return out
        bias = self.param("bias", fresh, (self.features,))
        return out + bias.astype(self.dtype)[None, None, None]


class ConvTranspose(nn.Module):
    """A transposed convolution 4x4, stride 2, padding 1, with bias: twice the height and width.

    `smooth`: it begins as `bilinear`, with a bias of 0.
    """

    features: int
    dtype: jnp.dtype = jnp.float32
    smooth: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        fan_in = 16 * self.features  # as PyTorch counts it for transposed convolutions
        of_kernel, of_bias = (bilinear, nn.initializers.zeros) if self.smooth else (uniform(fan_in),) * 2
        kernel = self.param("kernel", of_kernel, (4, 4, x.shape[-1], self.features))
        bias = self.param("bias", of_bias, (self.features,))
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        return conv_transpose(x, kernel) + bias[None, None, None]


class DoubledConv(nn.Module):
    """Each pixel four times, then a 3x3 convolution with bias: twice the height and width."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        fan_in = 9 * x.shape[-1]
        kernel = self.param("kernel", uniform(fan_in), (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", uniform(fan_in), (self.features,))
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        return doubled_conv(x, kernel) + bias[None, None, None]


class Residual(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x)))), with `inner` channels inside; 0: as many as x has."""

    dtype: jnp.dtype = jnp.float32
    inner: int = 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        h = Conv(self.inner or channels, 3, padding=(1, 1), dtype=self.dtype, name="conv1")(nn.relu(x))
        return x + Conv(channels, 1, dtype=self.dtype, name="conv2")(nn.relu(h))
