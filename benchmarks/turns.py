"""Steps that take turns, so that a busy moment of the machine meets all of them."""

import functools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

TURN = 0.5  # seconds that one has before the other's turn
ROUNDS = 7  # how often each has its turn
SLOW, SLOW_ROUNDS = 2.0, 3  # of what takes so many seconds there are fewer rounds, and nothing uncounted

Seconds = Callable[[int], float]  # runs so many steps, gives the seconds of one


def repeated(step: Callable[..., Any], state: Any, *inputs: Any) -> Seconds:
    """Runs state = step(state, *inputs) so many times, and gives the seconds of one."""
    held = [state]

    def seconds(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            held[0] = step(held[0], *inputs)
        jax.block_until_ready(held[0])
        return (time.perf_counter() - began) / count

    return seconds


def turns_of(step: Callable[..., Any], state: Any, *inputs: Any) -> Callable[[], float]:
    """Runs a turn of state = step(state, *inputs), again and again, and gives the seconds of one step."""
    seconds = repeated(step, state, *inputs)
    seconds(1)  # compiles
    return functools.partial(turn, seconds, seconds(1))


def turn(seconds: Seconds, one: float, length: float = TURN) -> float:
    """Seconds of one step, where as many fill the turn. The first after a rest are up to twice as long: not counted."""
    count = max(1, round(length / one))
    if one < SLOW:
        seconds(max(1, count // 2))
    return seconds(count)


def in_turns(runs: Mapping[str, Callable[[], float]], most: int = ROUNDS) -> dict[str, list[float]]:
    """Seconds of each in every round."""
    spent = {name: [run()] for name, run in runs.items()}
    rounds = min(most, SLOW_ROUNDS) if max(seconds[0] for seconds in spent.values()) > SLOW else most
    for _ in range(rounds - 1):
        for name, run in runs.items():
            spent[name].append(run())
    return spent


def milliseconds(runs: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """Of one step of each: medians over the rounds."""
    return {name: 1e3 * statistics.median(seconds) for name, seconds in in_turns(runs).items()}
