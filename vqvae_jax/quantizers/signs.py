"""Pure functions of codes that are signs, a bit a channel: indices, and the entropies of LFQ and BSQ.

A softmax over all 2^D codes by their products with x is D independent choices between -1 and 1, each of which has one
logit: log p(1) - log p(-1). So no entropy here needs 2^D numbers a place.

An index has the bits of a place as its digits, the first channel's the highest (big end first), as in lucidrains'
vector-quantize-pytorch; Open-MAGVIT2's begin with the lowest, so that its indices are other ones.

Legend: N places, D bits, g of them in a group.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vqvae_jax.quantizers.codebook import BITS
from vqvae_jax.types import Array, UserError

TOGETHER = 18  # bits that are weighed together, at most: 2^TOGETHER numbers are 1 MB
TINY = 1e-30  # below, the logarithm of a share stays as it is: its gradient is finite


def check(count: int, group: int) -> None:
    """UserError where an index, or a batch's entropy, cannot be."""
    if not 1 <= count <= BITS:
        raise UserError(f"bits of an index are from 1 to {BITS}, as every code is counted; got {count}: set bits=18")
    divisors = [size for size in range(min(count, TOGETHER), 0, -1) if count % size == 0]
    if group and group not in divisors:
        raise UserError(
            f"group wants a number of bits that divides bits={count}, at most {TOGETHER}; got {group}: "
            f"set group={divisors[0]}, one of {', '.join(map(str, divisors))}"
        )
    if not group and count > TOGETHER:
        raise UserError(f"2^{count} codes are too many to weigh together: set group={divisors[0]}, bits of a group")


def signs(x: Array) -> Array:
    """Float32 -1 or 1; 0 counts as below 0, and so does what is not a number."""
    return jnp.where(x > 0, 1.0, -1.0).astype(jnp.float32)


def indices_of(x: Array) -> Array:
    """[..., D] → int32 [...], the number whose digits are 1 where x > 0."""
    return jnp.sum(jnp.where(x > 0, _digits(x.shape[-1], x.ndim), 0), axis=-1, dtype=jnp.int32)


def signs_of(indices: Array, count: int) -> Array:
    """The way back: int [...] → float32 [..., D]."""
    there = indices[..., None] & _digits(count, indices.ndim + 1)
    return signs(there)


def place_entropy(logit: Array) -> Array:
    """Entropy of each place's choice among all 2^D codes, nats: that of its bits, added. [..., D] → [...]."""
    far = jnp.abs(logit)  # the entropy is the same on both sides; here nothing cancels
    return jnp.sum(jnp.log1p(jnp.exp(-far)) + far * jax.nn.sigmoid(-far), axis=-1)


def batch_entropy(logit: Array, group: int) -> Array:
    """Entropy of the mean choice of all places, nats: [..., D] → scalar.

    Exact within so many bits, and the sum over such groups: what bits of different groups know of each other is left
    out, so it is at least the entropy of the whole. Under jit the mean is over the places of all devices.
    """
    flat = logit.reshape(-1, logit.shape[-1])
    return jnp.sum(
        jnp.stack([_entropy(mean_share(part)) for part in jnp.split(flat, flat.shape[-1] // group, axis=-1)])
    )


def mean_share(logit: Array) -> Array:
    """How likely each combination of bits is, the mean over places: [N, g] → [2^g], by index.

    A place's shares are the products of those of its first and second half, and the mean of products is a product of
    matrices: 2^(g/2) numbers a place, not 2^g.
    """
    first = logit.shape[-1] // 2
    both = jnp.matmul(shares(logit[:, :first]).T, shares(logit[:, first:]), precision=lax.Precision.HIGHEST)
    return both.reshape(-1) / logit.shape[0]


def shares(logit: Array) -> Array:
    """How likely each combination of bits is at a place: [N, g] → [N, 2^g], by index."""
    found = jnp.ones((logit.shape[0], 1))
    for one in jnp.split(logit, logit.shape[-1], axis=-1) if logit.shape[-1] else ():
        found = jnp.stack([found * jax.nn.sigmoid(-one), found * jax.nn.sigmoid(one)], axis=-1)
        found = found.reshape(logit.shape[0], -1)
    return found


def _entropy(share: Array) -> Array:
    return -jnp.sum(share * jnp.log(jnp.maximum(share, TINY)))


def _digits(count: int, rank: int) -> np.ndarray:
    """What each channel's bit counts in an index: int32 [1, …, 1, D]."""
    return (1 << np.arange(count - 1, -1, -1, dtype=np.int32)).reshape(*[1] * (rank - 1), -1)
