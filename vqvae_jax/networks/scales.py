"""A map as a sum of maps of growing sizes, https://arxiv.org/abs/2404.02905, algorithms 1 and 2.

f̂_s = f̂_{s-1} + φ_s(enlarged(e_s)), f̂_{-1} = 0: what a tokenizer decodes, and what a prior is told of the scales before.

φ_s(x) = (1 - share) x + share · conv3x3(x) mends what was lost in enlarging. There are fewer of them than scales: one
has the one that stands nearest to s / (S - 1).

Legend: B batch, h w the last map's size, D features, S scales, P how many φ.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax import lax

from vqvae_jax.networks.resize import enlarged
from vqvae_jax.types import Array, Tokens

SHARE = 0.5  # of the convolution in φ, as in the authors' code
PHI = ("kernel", "bias")  # names of their parameters; what else is beside them is another's


def new_phis(key: Array, count: int, features: int) -> dict[str, Array]:
    """Fresh φ, as PyTorch begins convolutions: {"kernel": [P, 3, 3, D, D], "bias": [P, D]}; of none {}."""
    if not count:
        return {}
    kernel, bias = jax.random.split(key)
    bound = (9 * features) ** -0.5
    uniform = lambda key, *shape: jax.random.uniform(key, shape, minval=-bound, maxval=bound)  # noqa: E731
    return {"kernel": uniform(kernel, count, 3, 3, features, features), "bias": uniform(bias, count, features)}


def phi_of(scale: int, scales: int, count: int) -> int:
    """Which φ a scale has: the nearest of `count` points spread over [0, 1], the first of two as near.

    The points are the middles of as many equal parts; of four they lie a little further out, as in the authors' code.
    """
    edge = 1 / 3 / count if count == 4 else 1 / 2 / count
    points = np.linspace(edge, 1 - edge, count)
    return int(np.argmin(np.abs(points - scale / max(scales - 1, 1))))


def phi(phis: dict[str, Array], x: Array, scale: int, scales: int) -> Array:
    """φ of a scale: float32 [B, h, w, D] → the same; x as it is where there are none."""
    if not set(PHI) <= set(phis):
        return x
    which = phi_of(scale, scales, len(phis["kernel"]))
    conv = lax.conv_general_dilated(
        x, phis["kernel"][which], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )
    return (1 - SHARE) * x + SHARE * (conv + phis["bias"][which].reshape(1, 1, 1, -1))


def running(
    vectors: Sequence[Array], phis: dict[str, Array], shape: tuple[int, int], scales: int | None = None
) -> list[Array]:
    """f̂ after each scale, [B, h, w, D], of the code vectors of all scales, or of the first ones, [B, p, q, D] each.

    Args:
        shape: of the last scale.
        scales: S, if these are the first ones alone.
    """
    every: list[Array] = []
    for scale, one in enumerate(vectors):
        added = phi(phis, enlarged(one, shape), scale, scales or len(vectors))
        every.append(every[-1] + added if every else added)
    return every


def embedded(codes: Array, maps: Tokens) -> list[Array]:
    """Code vectors of token maps, [B, p, q, D] each. codes: of all scales [K, D], or a table for each [S, K, D]."""
    table = lambda scale: codes if codes.ndim == 2 else codes[scale]  # noqa: E731
    return [table(scale)[tokens] for scale, tokens in enumerate(maps)]
