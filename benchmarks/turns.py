"""Steps that take turns, so that a busy moment of the machine meets all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

ROUNDS, BLOCK = 7, 20  # how often each has its turn, and its steps in a row


def milliseconds(steps: Mapping[str, Callable[[Any], Any]], states: Mapping[str, Any]) -> dict[str, float]:
    """Of one step of each: medians over the rounds. A step takes a state and gives the next one."""
    states, spent = dict(states), {name: [] for name in steps}
    for turn in range(ROUNDS + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            for _ in range(BLOCK):
                states[name] = step(states[name])
            jax.block_until_ready(states[name])
            spent[name] += [(time.perf_counter() - began) / BLOCK * 1000] if turn else []  # the first compiles
    return {name: statistics.median(times) for name, times in spent.items()}
