"""One update from a large batch in the memory of a small one: the networks see it in parts, all else sees it whole.

Gradients of a mean over examples add up part by part; statistics of codebooks, and who is revived, do not: they want
the vectors of the whole batch. So not the step is divided but each layer of a model: it is computed part after part,
and computed again when its gradient is, so that only what lies between the layers is kept for all examples. The update
is that of the whole batch, up to rounding. It costs a forward pass more. On a CPU, where loops over convolutions are
slow, the parts are not held apart, and memory is hardly saved.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vqvae_jax.backend import choices


def in_parts(parts: int) -> AbstractContextManager[Any]:
    """Inside, each layer of the model that is applied takes its batch in so many parts.

    A layer is a module of the model's own, called; its examples must not see each other.
    """
    if parts == 1:
        return nullcontext()
    within: list[str] = []  # the layer that is being computed: those inside of it are whole

    def divided(call: Callable[..., Any], args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        if within or context.method_name != "__call__" or len(context.module.path) != 1:
            return call(*args, **kwargs)
        layer, variables = context.module.unbind()
        within.append(layer.name)
        try:
            return one_by_one(lambda _, *part: layer.apply(variables, *part, **kwargs), args, parts)
        finally:
            within.pop()

    return nn.intercept_methods(divided)


def one_by_one(function: Callable[..., Any], args: tuple, parts: int) -> Any:
    """function(number of the part, *its rows) of [B, …] arrays, part after part, its [B / parts, …] results together.

    A part has every so manieth row: of a batch over devices each device gives rows of its own.
    """
    apart = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), args)
    again = jax.checkpoint(lambda number, rows: function(number, *rows))
    if choices().parts_in_a_loop:
        made = jax.lax.map(lambda part: again(*part), (jnp.arange(parts), apart))
    else:
        each = [again(number, jax.tree.map(lambda x: x[number], apart)) for number in range(parts)]  # noqa: B023
        made = jax.tree.map(lambda *rows: jnp.stack(rows), *each)
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), made)
