"""What this machine can do, measured now: the rate of matrix products, the bandwidth of memory, and how idle it is."""

import importlib.metadata
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

SIDES = (1024, 2048)  # of the matrices on CPU; accelerators take larger ones to fill
LARGE = (8192,)
TIMES = 7
IN_A_ROW = 1 if jax.default_backend() == "cpu" else 10  # calls between two looks at the clock: a wait costs 50 µs


class Peak(NamedTuple):
    """FLOP a second of a matrix product, bytes a second read and written."""

    flops: float
    bandwidth: float

    def seconds(self, flops: float, moved: float) -> float:
        """The least time for so many FLOP and so many bytes of memory."""
        return max(flops / self.flops, moved / self.bandwidth)


def peak(dtype: str = "float32") -> Peak:
    """Best of the sides, medians of seven."""
    sides = SIDES if jax.default_backend() == "cpu" else LARGE
    return Peak(max(_product_rate(side, dtype) for side in sides), _bandwidth())


def _product_rate(side: int, dtype: str) -> float:
    x = jax.random.normal(jax.random.key(0), (side, side), dtype)
    product = jax.jit(jnp.matmul)
    product(x, x)  # compiles
    return 2 * side**3 * IN_A_ROW / seconds(lambda: [product(x, x) for _ in range(IN_A_ROW)])


def _bandwidth() -> float:
    """Of adding 1 to 256 MB where they lie, or to 1 GB of an accelerator's: each byte is read and written."""
    size = 1 << (26 if jax.default_backend() == "cpu" else 28)
    add, held = jax.jit(lambda x: x + 1.0, donate_argnums=0), [jnp.zeros(size)]

    def once() -> Any:
        for _ in range(IN_A_ROW):
            held[0] = add(held[0])
        return held[0]

    once()  # compiles
    return 8 * size * IN_A_ROW / seconds(once)


def seconds(once: Callable[[], Any], times: int = TIMES) -> float:
    """Median of so many calls."""
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        jax.block_until_ready(once())
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def planned(program: Any) -> float:
    """Bytes of a compiled program: arguments, outputs and temporaries as XLA plans them; NaN where it does not say."""
    plan = program.memory_analysis()
    if plan is None:
        return math.nan
    moved = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    return float(moved + plan.temp_size_in_bytes)


def described(*packages: str) -> str:
    """The device, the versions of these packages, the load of the last minute and the date, in one line."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    load, today = os.getloadavg()[0], time.strftime("%Y-%m-%d")
    device = f"{jax.device_count()} {jax.devices()[0].device_kind}, {os.cpu_count()} cores of {_processor()}"
    return f"{device}; Python {platform.python_version()}, {versions}; load {load:.1f} before; {today}"


def _processor() -> str:
    """The name that the system gives its processor."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
