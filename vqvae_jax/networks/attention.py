"""Causal attention: fused on accelerators, in row blocks on CPU, where half of the square is then never computed.

Legend: B batch, T positions, S positions seen, N heads, D size of a head.
"""

import jax
import jax.numpy as jnp

from vqvae_jax.networks.conv import fast
from vqvae_jax.types import Array

BLOCK = 128  # positions in a row block on CPU


def causal_attention(q: Array, k: Array, v: Array) -> Array:
    """Each position sees itself and those before it. [B, T, N, D] each → [B, T, N, D]."""
    if not fast():
        return jax.nn.dot_product_attention(q, k, v, is_causal=True)
    length = q.shape[1]
    blocks = []
    for start in range(0, length, BLOCK):
        end = min(start + BLOCK, length)
        seen = jnp.arange(end)[None] <= jnp.arange(start, end)[:, None]
        blocks.append(masked_attention(q[:, start:end], k[:, :end], v[:, :end], seen))
    return jnp.concatenate(blocks, axis=1)


def masked_attention(q: Array, k: Array, v: Array, seen: Array) -> Array:
    """Attention over the positions that `seen`, bool [T, S], allows. q [B, T, N, D], k and v [B, S, N, D]."""
    score = jnp.einsum("btnd,bsnd->bnts", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    weight = jax.nn.softmax(jnp.where(seen[None, None], score, -jnp.inf), axis=-1)
    return jnp.einsum("bnts,bsnd->btnd", weight.astype(v.dtype), v)
