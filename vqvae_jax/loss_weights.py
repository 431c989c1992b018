"""Weights of loss terms: a number, or a ramp over the steps of a training."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

RAMP = {"begin": 0.0, "end": 1.0, "start": 0, "steps": 1}  # a ramp's fields: two weights, the step it starts, how long
Weight = float | Mapping[str, Any]


def weight_of(weights: Mapping[str, Weight], term: str) -> Weight | None:
    """That of a term, or None: "commitment" serves "commitment/top" as well, a full name goes first."""
    return next((weights[name] for name in (term, term.split("/")[0]) if name in weights), None)


def weight_at(weight: Weight, step: Any = None) -> Any:
    """What it is after so many steps, a number or an array; without a step what it ends at."""
    if not isinstance(weight, Mapping):
        return weight
    if step is None:
        return weight["end"]
    share = jnp.clip((step - weight["start"]) / weight["steps"], 0.0, 1.0)
    return weight["begin"] + (weight["end"] - weight["begin"]) * share
