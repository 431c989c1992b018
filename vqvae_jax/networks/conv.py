"""Convolutions that are fast everywhere: plain `lax` on accelerators, other formulations of the same sums on CPU.

XLA's CPU back end is up to thirty times slower than it need be in the kernel gradients of transposed convolutions and
of convolutions with few channels. Written as shifts and one matrix product their gradients are matrix products too.
One switch turns all of it off: the environment variable VQVAE_JAX_PLAIN=1, or `with plain():`.

Images are [B, H, W, C], kernels [kh, kw, C_in, C_out] (HWIO).
"""

import contextlib
import os

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from vqvae_jax.types import Array

Padding = tuple[tuple[int, int], tuple[int, int]]

FEW_CHANNELS = 8  # input channels up to which patches beat lax.conv on CPU

_plain = os.environ.get("VQVAE_JAX_PLAIN", "") not in ("", "0")


@contextlib.contextmanager
def plain():
    """Inside, every layer traced is plain `lax`, whatever the back end."""
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before


def fast() -> bool:
    """Whether the CPU formulations are in force."""
    return not _plain and jax.default_backend() == "cpu"


def conv(x: Array, kernel: Array, stride: int = 1, padding: Padding = ((0, 0), (0, 0))) -> Array:
    """Convolution, [B, H, W, C] → [B, H', W', C']."""
    if kernel.shape[:2] == (1, 1) and stride == 1 and padding == ((0, 0), (0, 0)):
        return x @ kernel[0, 0]
    flat = kernel.shape[0] != kernel.shape[1]  # as in PixelCNN
    if fast() and (flat or kernel.shape[2] <= FEW_CHANNELS):
        return patches_conv(x, kernel, stride, padding)
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def patches_conv(x: Array, kernel: Array, stride: int = 1, padding: Padding = ((0, 0), (0, 0))) -> Array:
    """The same convolution as shifted slices and one matrix product."""
    height, width, _, depth_out = kernel.shape
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    down = (x.shape[1] - height) // stride + 1
    across = (x.shape[2] - width) // stride + 1
    shifts = [
        x[:, i : i + stride * (down - 1) + 1 : stride, j : j + stride * (across - 1) + 1 : stride]
        for i in range(height)
        for j in range(width)
    ]
    return jnp.concatenate(shifts, axis=-1) @ kernel.reshape(-1, depth_out)


def conv_transpose(x: Array, kernel: Array) -> Array:
    """Transposed convolution 4x4, stride 2, padding 1: [B, H, W, C] → [B, 2H, 2W, C'].

    Along each axis out[2i - 1 + a] += x[i] · kernel[a].
    """
    if fast():
        return _conv_transpose_by_phases(x, kernel)
    flipped = kernel[::-1, ::-1]
    return lax.conv_general_dilated(
        x, flipped, (1, 1), ((2, 2), (2, 2)), lhs_dilation=(2, 2), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@jax.custom_vjp
def _conv_transpose_by_phases(x: Array, kernel: Array) -> Array:
    """Matrix products to the 2x2 blocks of the output, shifted sums of them; the blocks are laid out and cropped."""
    b, h, w, _ = x.shape
    taps = _taps(kernel)
    shifts = [
        jnp.pad(x @ taps[2 * i + j], ((0, 0), (i, 1 - i), (j, 1 - j), (0, 0))) for i in range(2) for j in range(2)
    ]
    blocks = (shifts[0] + shifts[1] + shifts[2] + shifts[3]).reshape(b, h + 1, w + 1, 2, 2, kernel.shape[-1])
    return blocks.swapaxes(2, 3).reshape(b, 2 * h + 2, 2 * w + 2, -1)[:, 1:-1, 1:-1]


def _taps(kernel: Array) -> Array:
    """A 4x4 kernel as its four 2x2 blocks: [4, 4, C, C'] → [4, C, 4 C']."""
    c, depth = kernel.shape[2:]
    return kernel.reshape(2, 2, 2, 2, c, depth).transpose(0, 2, 4, 1, 3, 5).reshape(4, c, 4 * depth)


def _phases_forward(x: Array, kernel: Array):
    return _conv_transpose_by_phases(x, kernel), (x, kernel)


def _phases_backward(kept, g: Array) -> tuple[Array, Array]:
    """Both gradients as one matrix product each, over the 16 values of g that a pixel of x reaches."""
    x, kernel = kept
    b, h, w, c = x.shape
    depth = kernel.shape[-1]
    g = jnp.pad(g, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(b, h + 1, 2, w + 1, 2, depth)
    blocks = g.swapaxes(2, 3).reshape(b, h + 1, w + 1, 4 * depth)
    reached = jnp.concatenate([blocks[:, i : i + h, j : j + w] for i in range(2) for j in range(2)], axis=-1)
    taps = _taps(kernel).transpose(0, 2, 1).reshape(16 * depth, c)
    d_taps = (reached.reshape(-1, 16 * depth).T @ x.reshape(-1, c)).reshape(2, 2, 2, 2, depth, c)
    return reached @ taps, d_taps.transpose(0, 2, 1, 3, 5, 4).reshape(kernel.shape)


_conv_transpose_by_phases.defvjp(_phases_forward, _phases_backward)


def uniform(fan_in: int):
    """The initializer of PyTorch's convolutions and linear layers: uniform within ±1/√fan_in, kernel and bias alike."""
    bound = fan_in**-0.5
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


class Conv(nn.Module):
    """A convolution with bias; `size` is one number or (height, width), `padding` is (low, high) for both axes."""

    features: int
    size: int | tuple[int, int]
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        fan_in = height * width * x.shape[-1]
        kernel = self.param("kernel", uniform(fan_in), (height, width, x.shape[-1], self.features))
        bias = self.param("bias", uniform(fan_in), (self.features,))
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        return conv(x, kernel, self.stride, (self.padding, self.padding)) + bias[None, None, None]


class ConvTranspose(nn.Module):
    """A transposed convolution 4x4, stride 2, padding 1, with bias: twice the height and width."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        fan_in = 16 * self.features  # as PyTorch counts it for transposed convolutions
        kernel = self.param("kernel", uniform(fan_in), (4, 4, x.shape[-1], self.features))
        bias = self.param("bias", uniform(fan_in), (self.features,))
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        return conv_transpose(x, kernel) + bias[None, None, None]


class Residual(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x)))), with `inner` channels inside; 0: as many as x has."""

    dtype: jnp.dtype = jnp.float32
    inner: int = 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        h = Conv(self.inner or channels, 3, padding=(1, 1), dtype=self.dtype, name="conv1")(nn.relu(x))
        return x + Conv(channels, 1, dtype=self.dtype, name="conv2")(nn.relu(h))
