"""One update of everything that has a gradient: networks, and the codes that a quantizer leaves to the optimizer.

The rule for all codebooks: the quantizer moves its codes first, then the optimizer adds its step. A quantizer with its
own way of moving codes gives them no gradient, so the optimizer adds nothing.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vqvae_jax.types import Array, Codebook, Model, TrainState


def make_optimizer(section: Mapping[str, Any], steps: int) -> optax.GradientTransformation:
    """Adam as a config's section `optimizer` says, for a training of so many steps."""
    clip = optax.clip_by_global_norm(section["clip"]) if section["clip"] else optax.identity()
    decay = optax.add_decayed_weights(section["weight_decay"], mask=network_only) if section["weight_decay"] else None
    return optax.chain(
        clip,
        optax.scale_by_adam(section["b1"], section["b2"], section["eps"]),
        decay or optax.identity(),
        optax.scale_by_learning_rate(_corrected(make_schedule(section, steps), section["b1"], section["b2"])),
    )


def _corrected(schedule: optax.Schedule, b1: float, b2: float) -> optax.Schedule:
    """The schedule with what optax's bias correction lacks: 1 - 0.999^t in float32 is off by up to 2e-5."""

    def rate(count: Array) -> Array:
        step = count + 1
        first = (1 - b1**step) / _one_less_power(b1, step)
        second = (1 - b2**step) / _one_less_power(b2, step)
        return schedule(count) * first / jnp.sqrt(second)

    return rate


def _one_less_power(base: float, exponent: Array) -> Array:
    """1 - base^exponent, right to the last digits also where base is almost 1."""
    return -jnp.expm1(exponent * (math.log(base) if base else -math.inf))


def make_schedule(section: Mapping[str, Any], steps: int) -> optax.Schedule:
    """The learning rate of a step: linear warm-up, then constant, or a cosine that ends at 0."""
    rate, warmup = section["learning_rate"], min(section["warmup_steps"], steps)
    if section["schedule"] == "cosine":
        after = optax.cosine_decay_schedule(rate, max(steps - warmup, 1))
    else:
        after = optax.constant_schedule(rate)
    # The first step of a warm-up already learns: step i of n has the rate (i + 1) / n.
    rise = optax.linear_schedule(rate / max(warmup, 1), rate, max(warmup - 1, 1))
    return optax.join_schedules([rise, after], [warmup]) if warmup else after


def network_only(tree: dict[str, Any]) -> dict[str, Any]:
    """True for every leaf that weight decay may touch: codes are no weights."""
    return {part: jax.tree.map(lambda _, yes=part == "network": yes, leaves) for part, leaves in tree.items()}


def trainable(params: Any, codebooks: Mapping[str, Codebook], held: Collection[str] = ()) -> dict[str, Any]:
    """What the optimizer sees: neither statistics, nor the parameters of the parts that are `held`."""
    network = {name: part for name, part in params.items() if name not in held} if held else params
    return {"network": network, "codes": {name: (c.codes, c.params) for name, c in codebooks.items()}}


def new_state(
    key: Array, params: Any, codebooks: dict[str, Codebook], tx: Any, ema_rate: float, held: Collection[str] = ()
) -> TrainState:
    """The state before the first step. Call it under jit: eagerly, one array may stand at two places."""
    average = jax.tree.map(jnp.copy, params) if ema_rate else None
    opt_state = tx.init(trainable(params, codebooks, held))
    return TrainState(jnp.zeros((), jnp.int32), params, codebooks, opt_state, average, key)


def with_model(state: TrainState, model: Model) -> TrainState:
    """A new state that starts from a model's weights and codebooks; moments and steps are those of the beginning.

    Parts that the model has not are as they were. What codebooks keep goes on, the steps of a temperature too.
    """
    params = {**state.params, **model.params}
    average = None if state.ema_params is None else jax.tree.map(jnp.copy, params)
    return state.replace(params=params, codebooks={**state.codebooks, **model.codebooks}, ema_params=average)


def apply_gradients(
    state: TrainState,
    grads: dict[str, Any],
    tx: Any,
    codebooks: dict[str, Codebook] | None = None,
    fresh: Mapping[str, Array] | None = None,
    ema_rate: float = 0.0,
) -> TrainState:
    """The state after one step.

    Args:
        state: before the step.
        grads: like `trainable(state.params, state.codebooks)`; parts that are held are in neither.
        tx: the optimizer.
        codebooks: as the quantizers left them; None where there are none.
        fresh: by level, bool [K], of several tables [depth, K]: codes revived in this step, whose moments are cleared
            with them.
        ema_rate: share of the old average of the weights that is kept, less in the first steps; 0 for no average.
    """
    codebooks = codebooks or {}
    held = set(state.params) - set(grads["network"])
    opt_state = clear_moments(tx, state.opt_state, grads, fresh) if fresh else state.opt_state
    updates, opt_state = tx.update(grads, opt_state, trainable(state.params, state.codebooks, held))
    moved = optax.apply_updates(trainable(state.params, codebooks, held), updates)
    codebooks = {
        name: codebook.replace(codes=moved["codes"][name][0], params=moved["codes"][name][1])
        for name, codebook in codebooks.items()
    }
    average = state.ema_params
    if ema_rate:
        rate = jnp.minimum(ema_rate, (1.0 + state.step) / (10.0 + state.step))
        before = trainable(average, {}, held)["network"]
        average = {**average, **optax.incremental_update(moved["network"], before, 1.0 - rate)}
    params = {**state.params, **moved["network"]}
    return state.replace(
        step=state.step + 1, params=params, codebooks=codebooks, opt_state=opt_state, ema_params=average
    )


def clear_moments(tx: Any, opt_state: Any, like: dict[str, Any], fresh: Mapping[str, Array]) -> Any:
    """A revived code has no past: its first and second moments become 0."""
    keep = jax.tree.map(lambda _: jnp.ones(()), like)
    keep["codes"] = {
        name: (jnp.where(fresh[name], 0.0, 1.0)[..., None] if name in fresh else codes, others)
        for name, (codes, others) in keep["codes"].items()
    }
    return optax.tree_utils.tree_map_params(tx, lambda moment, kept: moment * kept, opt_state, keep)
