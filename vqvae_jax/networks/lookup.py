"""Rows of a table by number, and sums of vectors by number: each is the other's gradient.

On CPU a gather and a scatter-add. A GPU adds by atomics: in no fixed order, so that two runs differ, and one after the
other where many vectors have the same number, a fifth of a step of the MNIST PixelCNN on an H100. There it is a product
with a one-hot matrix, while that is small.

Legend: N vectors, K rows, D channels.
"""

import jax
import jax.numpy as jnp
from jax import lax

from vqvae_jax.backend import choices
from vqvae_jax.types import Array

ONE_HOT = 1 << 26  # elements of a one-hot matrix, at most


def rows(table: Array, indices: Array, dtype: jnp.dtype | None = None) -> Array:
    """table[indices] in a dtype, with a float32 gradient: [K, D], int [...] → [..., D]; NaN beyond the table.

    As a product the gradient is of reverse mode only, and one that is not finite spoils that of all rows.
    """
    dtype = jnp.dtype(dtype or table.dtype)
    if choices().scatter_sums or indices.size * table.shape[0] > ONE_HOT:
        return _plain(table, indices, dtype)
    return _rows(table, indices, dtype)


def sums(z: Array, indices: Array, size: int) -> Array:
    """Sum of the vectors of each number below `size`: [N, D], int [N] → float32 [K, D]."""
    atomics = choices().scatter_sums or indices.size * size > ONE_HOT
    return (scattered if atomics else multiplied)(z, indices, size)


def scattered(z: Array, indices: Array, size: int) -> Array:
    """`sums`, vector by vector."""
    return jnp.zeros((size, z.shape[-1]), jnp.float32).at[indices].add(z.astype(jnp.float32))


def multiplied(z: Array, indices: Array, size: int) -> Array:
    """`sums` by a one-hot matrix, which has the dtype of z: 16 bits are multiplied exactly and added in float32."""
    chosen = jax.nn.one_hot(indices, size, dtype=z.dtype, axis=0)  # [K, N]
    return jnp.matmul(chosen, z, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


def _plain(table: Array, indices: Array, dtype: jnp.dtype) -> Array:
    return jnp.take(table, indices, axis=0).astype(dtype)


def _forward(table: Array, indices: Array, dtype: jnp.dtype) -> tuple[Array, tuple[Array, int]]:
    return _plain(table, indices, dtype), (indices.reshape(-1), table.shape[0])


def _backward(dtype: jnp.dtype, kept: tuple[Array, int], g: Array) -> tuple[Array, None]:
    indices, size = kept
    return sums(g.reshape(-1, g.shape[-1]), indices, size), None


_rows = jax.custom_vjp(_plain, nondiff_argnums=(2,))
_rows.defvjp(_forward, _backward)
