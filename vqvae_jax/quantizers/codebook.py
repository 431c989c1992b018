"""Pure functions of codes: nearest, straight-through, usage, revival.

Everything here is float32 whatever the network computes in: in bfloat16 the nearest code is often another one.
Legend: N vectors, K codes, D code size.
"""

import jax
import jax.numpy as jnp
from jax import lax

from vqvae_jax.types import Array

ROWS = 1024  # vectors in a block
CODES = 16384  # codes in a block
DISTANCES = 1 << 26  # on an accelerator, so many distances at once are no trouble


def nearest(z_e: Array, codes: Array) -> Array:
    """The index of the nearest code by squared distance, the first on ties. [..., D], [K, D] → int32 [...].

    Works in blocks of vectors and of codes where all distances at once would be large.
    """
    flat = lax.stop_gradient(z_e).astype(jnp.float32).reshape(-1, codes.shape[-1])
    codes = lax.stop_gradient(codes).astype(jnp.float32)
    count = flat.shape[0]
    at_once = ROWS * CODES if jax.default_backend() == "cpu" else DISTANCES
    if count * codes.shape[0] <= at_once:
        return _nearest_of_block(flat, codes)[1].reshape(z_e.shape[:-1])
    blocks = jnp.pad(flat, ((0, -count % ROWS), (0, 0))).reshape(-1, ROWS, flat.shape[-1])
    return lax.map(lambda block: _nearest_of_all(block, codes), blocks).reshape(-1)[:count].reshape(z_e.shape[:-1])


def _nearest_of_block(z: Array, codes: Array) -> tuple[Array, Array]:
    """Smallest distance [N] (less |z|², which is the same for every code) and its index [N]."""
    dots = jnp.matmul(z, codes.T, precision=lax.Precision.HIGHEST)
    distance = jnp.sum(codes * codes, axis=-1)[None] - 2.0 * dots  # [N, K]
    index = jnp.argmin(distance, axis=-1).astype(jnp.int32)
    return jnp.take_along_axis(distance, index[:, None], axis=-1)[:, 0], index


def _nearest_of_all(z: Array, codes: Array) -> Array:
    """Index [N] of the nearest of any number of codes: a running minimum over blocks of them."""
    size = min(CODES, codes.shape[0])

    def block(i: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        start = jnp.minimum(i * size, codes.shape[0] - size)  # the last block may overlap the one before
        distance, here = _nearest_of_block(z, lax.dynamic_slice_in_dim(codes, start, size))
        best, index = found
        return jnp.minimum(distance, best), jnp.where(distance < best, here + start, index)

    # A loop of XLA's, not of Python's: unrolled, the distances of all blocks are in memory at once.
    none = jnp.full(z.shape[0], jnp.inf), jnp.zeros(z.shape[0], jnp.int32)
    return lax.fori_loop(0, -(-codes.shape[0] // size), block, none)[1]


def straight_through(z_e: Array, z_q: Array) -> Array:
    """The value of z_q, exactly, with the gradient of z_e (arXiv 1711.00937, section 3.2)."""
    return lax.stop_gradient(z_q).astype(z_e.dtype) + (z_e - lax.stop_gradient(z_e))


def distance_to(z: Array, target: Array) -> Array:
    """Mean squared distance of z to a target that is held, over all elements; float32 scalar."""
    return jnp.mean(jnp.square(z.astype(jnp.float32) - lax.stop_gradient(target).astype(jnp.float32)))


def counts(indices: Array, size: int) -> Array:
    """How often each code was used: int [...] → float32 [K]."""
    return jnp.zeros(size, jnp.float32).at[indices.reshape(-1)].add(1.0)


def sums(z: Array, indices: Array, size: int) -> Array:
    """Sum of the vectors of each code: [N, D], int [N] → float32 [K, D].

    A scatter-add on CPU; elsewhere a product with a one-hot matrix while that is small, for atomics are not repeatable.
    """
    if jax.default_backend() == "cpu" or indices.size * size > DISTANCES:
        return jnp.zeros((size, z.shape[-1]), jnp.float32).at[indices].add(z)
    return jnp.matmul(jax.nn.one_hot(indices, size).T, z, precision=lax.Precision.HIGHEST)


def perplexity(counts: Array) -> Array:
    """exp(entropy of the code frequencies): 1 when one code does all, K when all share alike. [K] → scalar."""
    share = counts / jnp.maximum(jnp.sum(counts), 1.0)
    return jnp.exp(-jnp.sum(jnp.where(share > 0, share * jnp.log(jnp.maximum(share, 1e-30)), 0.0)))


def usage(counts: Array) -> Array:
    """Share of the codes that were used at least once over what was counted. [K] → scalar in [0, 1]."""
    return jnp.mean((counts > 0).astype(jnp.float32))


def idle(steps: Array, used: Array) -> Array:
    """Steps since each code was last used, after one more step. int32 [K], counts [K] → int32 [K]."""
    return jnp.where(used > 0, 0, steps + 1)


def draw(key: Array | None, flat: Array, size: int) -> Array:
    """One of the batch's vectors for each code, uniformly, with replacement. [N, D] → [K, D]."""
    if key is None:
        raise ValueError(
            "a quantizer needs a key in training, for revival: quantizer(codebook, z_e, key=key, train=True)"
        )
    return flat[jax.random.randint(key, (size,), 0, flat.shape[0])]
