"""Which tokens of a map are decided in which step, where many are drawn at once: MaskGIT's samplers.

Two orders: the surest of the drawn tokens stay (https://arxiv.org/abs/2202.04200, section 3.2), or those whose place is
next in a two-dimensional Halton sequence (https://arxiv.org/abs/2503.17076), which spreads the tokens of a step far
apart and needs no noise.

Legend: B batch, h w map, T tokens (h · w · depths), K codes.
"""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vqvae_jax.networks.likelihood import cross_entropy, gumbel
from vqvae_jax.types import Array

Schedule = Literal["cosine", "arccos", "linear"]
Order = Literal["confidence", "halton"]


class Reveal(NamedTuple):
    """How tokens are decided; static."""

    form: tuple[int, int, int]  # h, w, depths
    order: Order
    schedule: Schedule
    choice_temperature: float  # of the noise on the confidence, in the first step


class Drawn(NamedTuple):
    """What a step of the sampler has drawn, [B, T] each."""

    tokens: Array
    logits: Array  # [B, T, K], guided
    at_first: Array  # bool: hidden before the first step
    left: Array  # bool: before this one


def stay_hidden(reveal: Reveal, drawn: Drawn, noise: Array, step: Array, steps: int) -> Array:
    """Which tokens are drawn again in the next step: bool [B, T].

    In each step at least one is decided and at least one is left, as in the authors' code; what is left after the last
    step is not asked for, since the answer is what was drawn. Kept tokens do not count.
    """
    begun, now = (jnp.sum(one, axis=1, keepdims=True) for one in (drawn.at_first, drawn.left))
    left = jnp.floor(begun * share_hidden(reveal.schedule, (step + 1) / steps)).astype(jnp.int32)
    left = jnp.maximum(1, jnp.minimum(now - 1, left))
    if reveal.order == "halton":
        order = halton_order(reveal.form)
        rank = jnp.cumsum(drawn.at_first[:, order], axis=1)[:, np.argsort(order)]  # 1 for the first to be decided
        return drawn.at_first & (rank > begun - left)
    temperature = reveal.choice_temperature * (1 - (step + 1) / steps)
    sure = -cross_entropy(drawn.logits, drawn.tokens) + temperature * noise
    rank = jnp.argsort(jnp.argsort(jnp.where(drawn.left, sure, jnp.inf), axis=1), axis=1)
    return drawn.left & (rank < left)


def share_hidden(schedule: Schedule, ratio: Any) -> Array:
    """The share of tokens that is hidden at a ratio in 0 to 1, which falls from 1 to 0: section 3.3."""
    ratio = jnp.asarray(ratio, jnp.float32)
    if schedule == "cosine":
        return jnp.cos(ratio * (math.pi / 2))
    return jnp.arccos(ratio) * (2 / math.pi) if schedule == "arccos" else 1 - ratio


def noises(keys: Array, step: Array, form: tuple[int, ...]) -> tuple[Array, Array]:
    """Gumbel noise of a step, each row from its own key: for the tokens [B, T, K], for which of them stay [B, T]."""
    token, choice = (jax.vmap(jax.random.fold_in, (0, None))(keys, 2 * step + i) for i in range(2))
    return gumbel(token, form), gumbel(choice, form[:1])


def halton_order(form: tuple[int, int, int]) -> np.ndarray:
    """Positions in the order in which they are decided, int [T]: places as a Halton sequence in bases 2 and 3 first
    meets them, depth by depth."""
    height, width, depths = form
    met: dict[int, None] = {}
    number = 0
    while len(met) < height * width:
        number += 1
        met.setdefault(int(_radical(number, 2) * height) * width + int(_radical(number, 3) * width))
    places = np.array(list(met))
    return np.concatenate([places * depths + depth for depth in range(depths)])


def _radical(number: int, base: int) -> float:
    """The digits of a number behind the point, the last one first: 6 = 110 in base 2 gives 0.011."""
    value, weight = 0.0, 1.0
    while number:
        number, digit = divmod(number, base)
        weight /= base
        value += digit * weight
    return value
