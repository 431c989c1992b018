"""Attention, fast everywhere: cuDNN's kernel or XLA's own on accelerators, other forms of the same sums on CPU.

The switch of fast.py turns these off as well. Every form can be differentiated any number of times, in either
direction; cuDNN's once, backwards.

Legend: B batch, T and S positions, N heads, D channels of a head, P positions of a cache.
"""

import contextlib
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vqvae_jax.backend import compute_capability, platform
from vqvae_jax.networks.fast import fast, is_plain
from vqvae_jax.types import Array

BLOCK = 128  # positions in a row block of causal attention
CUDNN_HEAD = 128  # channels of a head; from Hopper on it takes 256
CACHE_BLOCK = 256  # positions of a cache that are read at once
SCORES = 1 << 20  # numbers, of whole squares that are computed at once
PIECES = 32  # at most


def causal_attention(q: Array, k: Array, v: Array) -> Array:
    """Each position sees itself and those before it. [B, T, N, D] each → [B, T, N, D]; N heads.

    `attention_implementation` says how. cuDNN's gradients are atomic sums, not the same bits in every run unless
    XLA_FLAGS=--xla_gpu_deterministic_ops=true.
    """
    if (how := _attention_here(q)) == "blocks":
        return _in_row_blocks(q, k, v)
    return _dot_product(q, k, v, how, causal=True)


def attention(q: Array, k: Array, v: Array) -> Array:
    """Each position sees all, of its own sequence or of another one.

    q [B, T, N, D], k and v [B, S, N, D] → [B, T, N, D]; N heads. cuDNN's gradients: see `causal_attention`.
    """
    if (how := _attention_here(q)) == "blocks":
        return _by_examples(q, k, v)
    return _dot_product(q, k, v, how, causal=False)


def attention_by_groups(q: Array, k: Array, v: Array, sizes: Sequence[int]) -> Array:
    """Each position sees all of its own group and of those before. [B, T, N, D] each → [B, T, N, D]; N heads.

    Args:
        q, k, v: the groups, one after the other.
        sizes: positions of each.

    The first groups are small: together, as far as a block goes, they are computed with a mask. Each of the others
    needs none, and what it does not see is never computed.
    """
    ends = [0, *accumulate(sizes)]
    together = max(1, sum(end <= BLOCK for end in ends) - 1)
    first, group = ends[together], np.repeat(np.arange(together), sizes[:together])
    seen = jnp.asarray(group[:, None] >= group[None])
    pieces = [masked_attention(q[:, :first], k[:, :first], v[:, :first], seen)]
    pieces += [attention(q[:, start:end], k[:, :end], v[:, :end]) for start, end in pairwise(ends[together:])]
    return jnp.concatenate(pieces, axis=1)


def _attention_here(q: Array) -> str:
    return "xla" if is_plain() else attention_implementation(platform(), q.dtype, q.shape[-1], compute_capability())


def _dot_product(q: Array, k: Array, v: Array, how: str, causal: bool) -> Array:
    if how == "cudnn":
        with contextlib.suppress(RuntimeError):  # no cuDNN here, or one that is too old: XLA can do it too
            return jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation="cudnn")
    return jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation="xla")


def attention_implementation(
    platform: str, dtype: jnp.dtype, head_size: int, capability: tuple[int, int] | None
) -> Literal["blocks", "cudnn", "xla"]:
    """What computes causal attention: row blocks on CPU; cuDNN's kernel, which keeps no square, where it can; XLA.

    cuDNN wants 16 bits, heads of a multiple of 8 up to 128, and an NVIDIA GPU from Ampere on (`capability`: None of
    other devices). Without a bias it takes sequences of any length, odd ones too, forwards and backwards
    (jax/_src/cudnn/fused_attention_stablehlo.py, `check_is_flash_attention`).
    """
    if platform == "cpu":
        return "blocks"
    low = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
    fits = head_size % 8 == 0 and head_size <= CUDNN_HEAD
    able = platform == "gpu" and capability is not None and capability >= (8, 0)
    return "cudnn" if low and fits and able else "xla"


def _in_row_blocks(q: Array, k: Array, v: Array) -> Array:
    """Half of the square is then never computed."""
    length = q.shape[1]
    blocks = []
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        seen = jnp.arange(end)[None] <= jnp.arange(start, end)[:, None]
        blocks.append(masked_attention(q[:, start:end], k[:, :end], v[:, :end], seen))
    return jnp.concatenate(blocks, axis=1)


def _by_examples(q: Array, k: Array, v: Array) -> Array:
    """Some examples at a time, so that their scores stay in the caches, and divided after the values are summed.

    Of 64 maps of 257 places a fifth of XLA's own time, of the gradient two fifths (benchmarks/speed.py).
    """
    batch, length, heads, _ = q.shape
    size = max(1, SCORES // (heads * length * k.shape[1]), -(-batch // PIECES))
    pieces = [slice(start, start + size) for start in range(0, batch, size)]
    return jnp.concatenate([_whole(q[at], k[at], v[at]) for at in pieces])


def _whole(q: Array, k: Array, v: Array) -> Array:
    """Attention over all positions, by heads: q [B, T, N, D], k and v [B, S, N, D] → [B, T, N, D]."""
    q, k, v = (x.swapaxes(1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))
    score = jnp.einsum("bntd,bnsd->bnts", q, k, preferred_element_type=jnp.float32)
    weight = jnp.exp(score - lax.stop_gradient(jnp.max(score, axis=-1, keepdims=True)))
    found = jnp.einsum("bnts,bnsd->bntd", weight.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (found / jnp.sum(weight, axis=-1)[..., None]).swapaxes(1, 2).astype(v.dtype)


def masked_attention(q: Array, k: Array, v: Array, seen: Array) -> Array:
    """Attention over the positions that `seen`, bool [T, S], allows. q [B, T, N, D], k and v [B, S, N, D]."""
    score = jnp.einsum("btnd,bsnd->bnts", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    weight = jax.nn.softmax(jnp.where(seen[None, None], score, -jnp.inf), axis=-1)
    return jnp.einsum("bnts,bsnd->btnd", weight.astype(v.dtype), v)


def new_cache(filled: Array, length: int, step: int = 1) -> Array:
    """Room for the keys, or values, of so many positions, the first of which are there: [B, N, P, D] with any P.

    As [blocks, B, N, size, D], so that a block lies in one piece. `step` is how many positions are written at once;
    no such write falls into two blocks.
    """
    batch, heads, there, depth = filled.shape
    size = min(length, max(1, CACHE_BLOCK // step) * step) if fast() else length
    blocks = -(-length // size)
    whole = jnp.pad(filled, ((0, 0), (0, 0), (0, blocks * size - there), (0, 0)))
    return jnp.moveaxis(whole.reshape(batch, heads, blocks, size, depth), 2, 0)


def cached(cache: Array, new: Array, start: Array) -> Array:
    """The cache with [B, N, T, D] at the positions start, start + 1, …"""
    size = cache.shape[3]
    return lax.dynamic_update_slice(cache, new[None].astype(cache.dtype), (start // size, 0, 0, start % size, 0))


def cached_attention(q: Array, keys: Array, values: Array, start: Array) -> Array:
    """Causal attention of the positions start, start + 1, … over caches that hold them and all before.

    On CPU block by block as far as the caches are filled, with a running softmax; elsewhere there is one block.

    q [B, N, T, D] → [B, N, T, D].
    """
    size = keys.shape[3]
    last = start + jnp.arange(q.shape[2])[:, None]  # place that each position sees last
    places = jnp.arange(size)[None]

    def block(i: Array, before: Attended) -> Attended:
        k, v = (lax.dynamic_index_in_dim(cache, i, keepdims=False) for cache in (keys, values))
        return _merged(before, _attended(q, k, v, places + i * size <= last))

    found = _attended(q, keys[0], values[0], places <= last)
    if keys.shape[0] > 1:
        found = lax.fori_loop(1, last[-1, 0] // size + 1, block, found)
    return (found.values / found.total[..., None]).astype(q.dtype)


class Attended(NamedTuple):
    """What some positions of a cache give, not divided by the sum of the weights yet."""

    total: Array  # sum of the weights exp(score - top), [B, N, T]
    top: Array  # the largest score
    values: Array  # weighted sum, [B, N, T, D]


def _attended(q: Array, keys: Array, values: Array, seen: Array) -> Attended:
    """q [B, N, T, D], keys and values [B, N, S, D], bool [T, S]."""
    score = jnp.einsum("bntd,bnsd->bnts", q, keys, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    score = jnp.where(seen[None, None], score, -jnp.inf)
    top = jnp.max(score, axis=-1)
    weight = jnp.where(seen[None, None], jnp.exp(score - top[..., None]), 0.0)  # where nothing is seen, top is -inf
    found = jnp.einsum("bnts,bnsd->bntd", weight.astype(values.dtype), values, preferred_element_type=jnp.float32)
    return Attended(jnp.sum(weight, axis=-1), top, found)


def _merged(one: Attended, two: Attended) -> Attended:
    """Of both; the first saw something."""
    top = jnp.maximum(one.top, two.top)
    first, second = jnp.exp(one.top - top), jnp.exp(two.top - top)
    values = one.values * first[..., None] + two.values * second[..., None]
    return Attended(one.total * first + two.total * second, top, values)
