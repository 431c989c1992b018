"""Convolutions, fast everywhere: plain `lax` on accelerators, other forms of the same sums on CPU.

XLA's CPU back end is up to thirty times slower than it need be in some gradients of convolutions. Written as shifts and
matrix products, their gradients are matrix products too. Only what was measured to matter is here, benchmarks/speed.py
shows it; the rest is `lax` on CPU as well.

One switch turns all of it off, also what attention.py has: the environment variable VQVAE_JAX_PLAIN=1, or
`with plain():`.

Images are [B, H, W, C], kernels [kh, kw, C, C'] (HWIO). Every form can be differentiated any number of times, in either
direction.
"""

import contextlib
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from vqvae_jax.backend import choices
from vqvae_jax.types import Array

Padding = tuple[tuple[int, int], tuple[int, int]]

NONE = ((0, 0), (0, 0))
AROUND = ((1, 1), (1, 1))  # of a 3x3 kernel: as many pixels as before
FEW_CHANNELS = 8  # up to so many in or out, another form is the faster one
MANY_CHANNELS = 128  # from so many on, lax.conv is the fastest form of kernels like 3x5 as well
WIDE = 32  # channels out, from which on the kernel's gradient is taken of some examples at a time
PIXELS = 4096  # so many pixels at a time, or one example's
PIECES = 16  # at most
MEETING = ((0, 0, 1), (0, 1, 1), (1, 1, 0), (1, 0, 0))  # rows of a 3x3 kernel in each row of `doubled_conv`'s 4x4

# Part of what jit compares: a function that was compiled with the other layers is traced anew.
_plain = jax.make_user_context(os.environ.get("VQVAE_JAX_PLAIN", "") not in ("", "0"))


def plain(on: bool = True) -> contextlib.AbstractContextManager[None]:
    """Inside, in this thread, every layer is plain `lax`, whatever the back end."""
    return _plain(on)


def is_plain() -> bool:
    """Whether all layers are plain."""
    return _plain.value


def fast() -> bool:
    """Whether the CPU forms are in force."""
    return not is_plain() and choices().cpu_layers


def conv(x: Array, kernel: Array, stride: int = 1, padding: Padding = NONE) -> Array:
    """Convolution, [B, H, W, C] → [B, H', W', C']. A negative padding drops rows or columns."""
    height, width, channels, _ = kernel.shape
    if (height, width) == (1, 1) and stride == 1 and padding == NONE:
        return x @ kernel[0, 0]
    if not fast():
        x, padding = _padded_beforehand(x, kernel, padding)
        return _lax_conv(x, kernel, stride, padding)
    if (height, width) == x.shape[1:3] and padding == NONE:  # one pixel is asked for, as in sampling
        return (x.reshape(len(x), -1) @ kernel.reshape(-1, kernel.shape[-1]))[:, None, None]
    if channels <= FEW_CHANNELS or (height == x.shape[1] and padding[0] == (0, 0)):  # one row is asked for
        return _conv_by_patches(x, kernel, stride, padding)
    if stride == 1 and (height == 1 or (height != width and channels < MANY_CHANNELS)):  # as in PixelCNN
        return _conv_by_rows(x, kernel, padding)
    if (height, width, stride) == (4, 4, 2) and _halves(x, padding):
        return _halving_conv(x, kernel)
    if (height, width, stride, padding) == (3, 3, 1, AROUND):
        return _square_conv(x, kernel)
    return _lax_conv(x, kernel, stride, padding)


def doubled_conv(x: Array, kernel: Array) -> Array:
    """Each pixel of x four times, then a 3x3 convolution, padding 1: [B, H, W, C] → [B, 2H, 2W, C'].

    On CPU as the transposed convolution that it is: rows and columns of the kernel that meet the same pixel are added
    first, so that 4 of 9 products are left.
    """
    if fast():
        twice = jnp.asarray(MEETING, kernel.dtype)
        return conv_transpose(x, jnp.einsum("at,bu,tucd->abcd", twice, twice, kernel))
    return _lax_conv(doubled(x), kernel, 1, AROUND)


def doubled(x: Array) -> Array:
    """Each pixel four times: [B, H, W, C] → [B, 2H, 2W, C]."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def conv_transpose(x: Array, kernel: Array) -> Array:
    """Transposed convolution 4x4, stride 2, padding 1: [B, H, W, C] → [B, 2H, 2W, C'].

    Along each axis out[2i - 1 + a] += x[i] · kernel[a].
    """
    if fast():
        return (_doubling_to_few if kernel.shape[-1] <= FEW_CHANNELS else _doubling)(x, kernel)
    return _lax_doubling(x, kernel)


def _lax_conv(x: Array, kernel: Array, stride: int, padding: Padding, holes: int = 1) -> Array:
    """`holes`: so far apart are the pixels of x, with zeros between them."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, lhs_dilation=(holes, holes), dimension_numbers=numbers
    )


def _conv_by_patches(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    """Shifted slices and one matrix product: where channels are few, lax.conv wastes most of its vectors.

    Of a single row it is the fastest form too.
    """
    height, width, _, depth = kernel.shape
    x = _padded(x, padding)
    down = (x.shape[1] - height) // stride + 1
    across = (x.shape[2] - width) // stride + 1
    shifts = [
        x[:, i : i + stride * (down - 1) + 1 : stride, j : j + stride * (across - 1) + 1 : stride]
        for i in range(height)
        for j in range(width)
    ]
    return _product(jnp.concatenate(shifts, axis=-1), kernel.reshape(-1, depth))


def _conv_by_rows(x: Array, kernel: Array, padding: Padding) -> Array:
    """Patches of one row, and a matrix product for each row of the kernel, over the rows that it meets only."""
    height, width, _, depth = kernel.shape
    above, below = padding[0]
    x = _padded(x, ((0, 0), padding[1]))
    across, rows = x.shape[2] - width + 1, x.shape[1] + above + below - height + 1
    patches = jnp.concatenate([x[:, :, j : j + across] for j in range(width)], axis=-1)
    out = []
    for i in range(height):
        first, last = max(0, above - i), min(rows, x.shape[1] + above - i)  # rows of the output that see a row of x
        if first < last:
            seen = patches[:, first + i - above : last + i - above]
            part = _product(seen, kernel[i].reshape(-1, depth))
            out.append(jnp.pad(part, ((0, 0), (first, rows - last), (0, 0), (0, 0))))
    if not out:  # a single row that looks at those above it
        return jnp.zeros((len(x), rows, across, depth), x.dtype)
    return sum(out[1:], out[0])


def _padded_beforehand(x: Array, kernel: Array, padding: Padding) -> tuple[Array, Padding]:
    """x with the padding of those axes where it is negative or beyond the kernel's reach, and what is left to pad.

    The gradients of such a convolution would be padded by less than nothing: cuDNN cannot, XLA's way around it is slow
    on a GPU, and on CPU it is wrong (jax 0.10.2: layer A's kernel of 1x2).
    """
    fits = [min(sides) >= 0 and max(sides) < size for sides, size in zip(padding, kernel.shape, strict=False)]
    down, across = (((0, 0), p) if fit else (p, (0, 0)) for p, fit in zip(padding, fits, strict=True))
    return _padded(x, (down[0], across[0])), (down[1], across[1])


def _padded(x: Array, padding: Padding) -> Array:
    """Zeros around, or less of it."""
    low_high = ((0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0))
    return x if padding == NONE else lax.pad(x, jnp.zeros((), x.dtype), low_high)


def _product(x: Array, matrix: Array) -> Array:
    """[..., C] by [C, C'] as one product of matrices."""
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], matrix.shape[-1])


def _halves(x: Array, padding: Padding) -> bool:
    """Whether a 4x4 convolution of stride 2 is what `conv_transpose` is the transpose of."""
    sides = zip(x.shape[1:3], padding, strict=True)
    return all(side % 2 == 0 and low == 1 and high in (1, 2) for side, (low, high) in sides)


def _doubling(x: Array, kernel: Array) -> Array:
    """Each 2x2 block of the output depends on 2x2 pixels of x: one product; only what lies at the border is wasted."""
    _, h, w, c = x.shape
    depth = kernel.shape[-1]
    x = _padded(x, ((1, 1), (1, 1)))
    patches = jnp.concatenate([x[:, i : i + h + 1, j : j + w + 1] for i in range(2) for j in range(2)], axis=-1)
    taps = kernel.reshape(2, 2, 2, 2, c, depth)[::-1, :, ::-1].transpose(0, 2, 4, 1, 3, 5)
    return _laid_out(_product(patches, taps.reshape(4 * c, 4 * depth)))


def _laid_out(blocks: Array) -> Array:
    """2x2 blocks [B, h + 1, w + 1, 4 C'] → [B, 2h, 2w, C'], cropped by a pixel on each side."""
    b, rows, columns, wide = blocks.shape
    blocks = blocks.reshape(b, rows, columns, 2, 2, wide // 4).swapaxes(2, 3)
    return blocks.reshape(b, 2 * rows, 2 * columns, wide // 4)[:, 1:-1, 1:-1]


def _gathered(g: Array) -> Array:
    """The 4x4 pixels of g that a pixel of x reaches, [B, 2h, 2w, C'] → [B, h, w, 16 C']."""
    b, h, w, depth = g.shape[0], g.shape[1] // 2, g.shape[2] // 2, g.shape[3]
    blocks = _padded(g, ((1, 1), (1, 1))).reshape(b, h + 1, 2, w + 1, 2, depth).swapaxes(2, 3)
    blocks = blocks.reshape(b, h + 1, w + 1, 4 * depth)
    return jnp.concatenate([blocks[:, i : i + h, j : j + w] for i in range(2) for j in range(2)], axis=-1)


def _in_blocks(kernel: Array) -> Array:
    """A 4x4 kernel's taps in the order of `_gathered`: [4, 4, C, C'] → [C, 16 C']."""
    c, depth = kernel.shape[2:]
    return kernel.reshape(2, 2, 2, 2, c, depth).transpose(4, 0, 2, 1, 3, 5).reshape(c, 16 * depth)


def _has_gradient(value: Callable[..., Array], to_x: Callable[..., Array], to_kernel: Callable[..., Array]):
    """A function bilinear in x and kernel, with the gradients to_x(g, kernel) and to_kernel(g, x, kernel).

    The derivative is written as the transpose of these, so that transposing it again gives back the very forms, and
    forward mode works as well.
    """
    function = jax.custom_jvp(value)

    def derivative(primals, tangents):
        x, kernel = primals
        out = function(x, kernel)
        moved = jnp.zeros_like(out)
        if not isinstance(tangents[0], SymbolicZero):
            moved += jax.linear_transpose(lambda g: to_x(g, kernel), out)(tangents[0])[0]
        if not isinstance(tangents[1], SymbolicZero):
            moved += jax.linear_transpose(lambda g: to_kernel(g, x, kernel), out)(tangents[1])[0]
        return out, moved

    function.defjvp(derivative, symbolic_zeros=True)
    return function


def _to_few(x: Array, kernel: Array) -> Array:
    """To few channels: one product to all 16 taps, shifted sums of them."""
    b, h, w, _ = x.shape
    taps = _product(x, _in_blocks(kernel)).reshape(b, h, w, 4, 4 * kernel.shape[-1])
    shifts = [
        jnp.pad(taps[..., 2 * i + j, :], ((0, 0), (i, 1 - i), (j, 1 - j), (0, 0))) for i in range(2) for j in range(2)
    ]
    return _laid_out(sum(shifts[1:], shifts[0]))


def _to_few_kernel(g: Array, x: Array, kernel: Array) -> Array:
    """The kernel's gradient, one product over all pixels."""
    c, depth = kernel.shape[2:]
    taps = x.reshape(-1, c).T @ _gathered(g).reshape(-1, 16 * depth)
    return taps.reshape(c, 2, 2, 2, 2, depth).transpose(1, 3, 2, 4, 0, 5).reshape(kernel.shape)


_doubling_to_few = _has_gradient(
    _to_few, lambda g, kernel: _product(_gathered(g), _in_blocks(kernel).T), _to_few_kernel
)


def _square_conv(x: Array, kernel: Array) -> Array:
    """3x3, as many pixels as before."""
    if kernel.shape[-1] <= FEW_CHANNELS:
        return _same_to_few(x, kernel)
    if kernel.shape[-1] >= WIDE and x.shape[0] * x.shape[1] * x.shape[2] > PIXELS:
        return _same_in_pieces(x, kernel)
    return _same(x, kernel)


def _same(x: Array, kernel: Array) -> Array:
    return _lax_conv(x, kernel, 1, AROUND)


def _same_x(g: Array, kernel: Array) -> Array:
    return _same(g, kernel[::-1, ::-1].swapaxes(2, 3))


def _same_kernel(g: Array, x: Array, kernel: Array) -> Array:
    """Of some examples at a time: of large maps XLA's own falls out of the caches, and takes three times as long."""
    batch, height, width, _ = x.shape
    size = max(1, PIXELS // (height * width), -(-batch // PIECES))
    pieces = [slice(start, start + size) for start in range(0, batch, size)]
    parts = [jax.linear_transpose(lambda kernel, at=at: _same(x[at], kernel), kernel)(g[at])[0] for at in pieces]
    return sum((one.astype(jnp.float32) for one in parts[1:]), parts[0].astype(jnp.float32)).astype(kernel.dtype)


_same_in_pieces = _has_gradient(_same, _same_x, _same_kernel)


def _in_planes(g: Array) -> Array:
    """What each tap of a 3x3 kernel adds up: g [B, h, w, C'] → [9 C', B h w], a plane for each tap and channel."""
    b, h, w, depth = g.shape
    planes = jnp.pad(jnp.moveaxis(g, -1, 0), ((0, 0), (0, 0), (1, 1), (1, 1)))
    shifts = [planes[:, :, 2 - i : 2 - i + h, 2 - j : 2 - j + w] for i in range(3) for j in range(3)]
    return jnp.stack(shifts).reshape(9 * depth, b * h * w)


def _taps(kernel: Array) -> Array:
    """A 3x3 kernel in the order of `_in_planes`: [3, 3, C, C'] → [9 C', C]."""
    return kernel.swapaxes(2, 3).reshape(-1, kernel.shape[2])


def _planes_summed(x: Array, kernel: Array) -> Array:
    """One product to all 9 taps, shifted sums of their planes: to few channels, pixels make longer vectors."""
    (b, h, w, c), depth = x.shape, kernel.shape[-1]
    taps = (_taps(kernel) @ x.reshape(-1, c).T).reshape(9, depth, b, h, w)
    taps = jnp.pad(taps, ((0, 0), (0, 0), (0, 0), (1, 1), (1, 1)))
    shifts = [taps[3 * i + j, :, :, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    return jnp.moveaxis(sum(shifts[1:], shifts[0]), 0, -1)


def _planes_x(g: Array, kernel: Array) -> Array:
    return (_in_planes(g).T @ _taps(kernel)).reshape(*g.shape[:3], kernel.shape[2])


def _planes_kernel(g: Array, x: Array, kernel: Array) -> Array:
    c, depth = kernel.shape[2:]
    return (_in_planes(g) @ x.reshape(-1, c)).reshape(3, 3, depth, c).swapaxes(2, 3)


_same_to_few = _has_gradient(_planes_summed, _planes_x, _planes_kernel)


def _dilated(x: Array, kernel: Array) -> Array:
    """A convolution of x with holes, which cuDNN has as the gradient of a strided one."""
    return _lax_conv(x, kernel[::-1, ::-1], 1, ((2, 2), (2, 2)), holes=2)


def _undoubled(g: Array, kernel: Array) -> Array:
    """What it is the transpose of: [B, 2h, 2w, C'] → [B, h, w, C]."""
    return _lax_conv(g, kernel.swapaxes(2, 3), 2, ((1, 1), (1, 1)))


def _dilated_kernel(g: Array, x: Array, kernel: Array) -> Array:
    return jax.linear_transpose(lambda kernel: _undoubled(g, kernel), kernel)(x)[0]


# JAX's own gradient of the kernel slides g, as large as an image, over x with its holes: 5.3 of 21 ms of a step of the
# hierarchical VAE on an H100. As the gradient of the strided convolution it is a kernel of cuDNN's.
_lax_doubling = _has_gradient(_dilated, _undoubled, _dilated_kernel)


def _halving(x: Array, kernel: Array) -> Array:
    return _lax_conv(x, kernel, 2, ((1, 2), (1, 2)))


def _halving_kernel(g: Array, x: Array, kernel: Array) -> Array:
    return jax.linear_transpose(lambda kernel: _halving(x, kernel), kernel)(g)[0]


# XLA's own gradient of x is a convolution of g with holes.
_halving_conv = _has_gradient(_halving, lambda g, kernel: _doubling(g, kernel.swapaxes(2, 3)), _halving_kernel)
