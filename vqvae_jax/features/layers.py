"""What frozen nets are made of: convolutions with their batch norms folded in.

Images and maps are [B, H, W, C], kernels [kh, kw, C, C'], of depthwise convolutions [kh, kw, C].
"""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jax import lax

from vqvae_jax.networks.fast import Padding, conv, fast
from vqvae_jax.types import Array

IMAGENET = (
    (0.485, 0.456, 0.406),
    (0.229, 0.224, 0.225),
)  # mean and deviation of its images, red, green, blue, in [0, 1]


def normalised(
    images: Array, mean: tuple[float, ...] = IMAGENET[0], deviation: tuple[float, ...] = IMAGENET[1]
) -> Array:
    """Images [B, H, W, C] in [0, 1] as a net was trained on them; grey ones are repeated to three channels."""
    colour = jnp.broadcast_to(images, (*images.shape[:3], 3))
    return (colour - jnp.array(mean)[None, None, None]) / jnp.array(deviation)[None, None, None]


def layer(arrays: Mapping[str, Array], name: str, x: Array, stride: int, padding: Padding) -> Array:
    """Convolution and bias; of a kernel with three axes, depthwise."""
    kernel, bias = arrays[f"{name}/kernel"], arrays[f"{name}/bias"]
    moved = (depthwise if kernel.ndim == 3 else conv)(x, kernel, stride, padding)
    return moved + bias[None, None, None]


def depthwise(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    """Each channel by a kernel of its own. On CPU shifted products: XLA's grouped convolution takes 8 times as long."""
    if fast():
        return _shifted(jnp.pad(x, ((0, 0), *padding, (0, 0))), kernel, stride)
    kernel, strides, numbers = kernel[:, :, None], (stride, stride), ("NHWC", "HWIO", "NHWC")
    groups = x.shape[-1]
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers, feature_group_count=groups)


def _shifted(x: Array, kernel: Array, stride: int) -> Array:
    height, width, _ = kernel.shape
    down, across = ((side - size) // stride + 1 for side, size in zip(x.shape[1:3], (height, width), strict=True))
    taps = [
        x[:, i : i + stride * (down - 1) + 1 : stride, j : j + stride * (across - 1) + 1 : stride]
        * kernel[i, j][None, None, None]
        for i in range(height)
        for j in range(width)
    ]
    return sum(taps[1:], taps[0])


def relu6(x: Array) -> Array:
    """x between 0 and 6."""
    return jnp.clip(x, 0, 6)


def folded(kernel: np.ndarray, norm: Mapping[str, np.ndarray], eps: float) -> dict[str, np.ndarray]:
    """A convolution [C', C, kh, kw] without bias and the batch norm behind it, as one kernel and one bias.

    Args:
        kernel: as PyTorch keeps it; [C, 1, kh, kw] is depthwise and becomes [kh, kw, C].
        norm: weight, bias, running_mean and running_var, [C'].
        eps: of the norm.
    """
    scale = norm["weight"].astype(np.float64) / np.sqrt(norm["running_var"].astype(np.float64) + eps)
    moved = np.moveaxis(kernel.astype(np.float64) * scale[:, None, None, None], (0, 1), (3, 2))
    bias = norm["bias"] - norm["running_mean"] * scale
    kernel = moved[:, :, 0] if moved.shape[2] == 1 and moved.shape[0] > 1 else moved
    return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
