"""Maps made smaller by areas and larger by cubic curves, as PyTorch does it: products with constant matrices.

JAX's own differ: its cubic has a = -0.5 where PyTorch's has -0.75, and it knows no areas.
"""

from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jax import lax

from vqvae_jax.types import Array

A = -0.75  # of the cubic


def shrunk(x: Array, shape: tuple[int, int]) -> Array:
    """Means over areas, [B, h, w, C] → float32 [B, *shape, C], as `interpolate(mode="area")`."""
    return _resized(x, shape, area)


def enlarged(x: Array, shape: tuple[int, int]) -> Array:
    """Cubic curves through the places, [B, h, w, C] → float32 [B, *shape, C], as `interpolate(mode="bicubic")`."""
    return _resized(x, shape, bicubic)


def _resized(x: Array, shape: tuple[int, int], matrix) -> Array:
    x = x.astype(jnp.float32)
    if x.shape[1:3] == shape:
        return x
    rows, columns = (jnp.asarray(matrix(before, after)) for before, after in zip(x.shape[1:3], shape, strict=True))
    x = jnp.einsum("ph,bhwc->bpwc", rows, x, precision=lax.Precision.HIGHEST)
    return jnp.einsum("qw,bpwc->bpqc", columns, x, precision=lax.Precision.HIGHEST)


@lru_cache(maxsize=256)
def area(before: int, after: int) -> np.ndarray:
    """What each new place takes of each old one, float32 [after, before]: the mean of those that it touches."""
    places, old = np.arange(after)[:, None], np.arange(before)[None]
    touched = (old >= places * before // after) & (old < -(-(places + 1) * before // after))
    return (touched / touched.sum(1, keepdims=True)).astype(np.float32)


@lru_cache(maxsize=256)
def bicubic(before: int, after: int) -> np.ndarray:
    """The same of a cubic of four places around each new one, beyond the edge the last: float32 [after, before]."""
    at = (np.arange(after) + 0.5) * before / after - 0.5
    first = np.floor(at).astype(int)
    matrix = np.zeros((after, before))
    for offset in (-1, 0, 1, 2):
        old = np.clip(first + offset, 0, before - 1)
        np.add.at(matrix, (np.arange(after), old), _cubic(np.abs(at - first - offset)))
    return matrix.astype(np.float32)


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Weight of a place at a distance below 2 (Keys 1981, equation 4, with a for -1/2)."""
    d = distance
    near = ((A + 2) * d - (A + 3)) * d**2 + 1
    far = ((A * d - 5 * A) * d + 8 * A) * d - 4 * A
    return np.where(d <= 1, near, far)
