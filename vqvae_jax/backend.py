"""What is done otherwise on a CPU, a GPU, a TPU: the one place that asks where a program will run."""

import re
from typing import NamedTuple

import jax

ALSO_CALLED = {"cuda": "gpu", "rocm": "gpu"}


class Choices(NamedTuple):
    """Forms of the same sums; each was measured to matter, on CPU (benchmarks/speed.py)."""

    cpu_layers: bool  # convolutions as shifts and products, attention in blocks: networks/{fast,attention}.py
    distances_at_once: bool  # to all codes while memory allows; else in blocks that fit into caches
    grouped_argmin: bool  # the smallest of each group first: XLA:CPU looks for an index one by one
    scatter_sums: bool  # a code's vectors by scatter-add; else by a one-hot product: atomics are not repeatable
    cores_share_maps: bool  # each core draws a group of maps; else all are drawn by one program
    compile_side_by_side: bool  # evaluation while the first steps run: compiling takes a GPU's hosts minutes
    kept_by_branch: bool  # a step that is not finite: a branch leaves the sums as they are; a GPU's host waits for it
    parts_in_a_loop: bool  # of a batch that is seen in parts one is in memory; XLA:CPU is slow at convolutions in loops
    init_on_host: bool  # fresh weights are drawn by the CPU: a GPU's compiler takes 20 s for hundreds of draws


CPU = Choices(
    cpu_layers=True,
    distances_at_once=False,
    grouped_argmin=True,
    scatter_sums=True,
    cores_share_maps=True,
    compile_side_by_side=False,
    kept_by_branch=True,
    parts_in_a_loop=False,
    init_on_host=False,
)
GPU = Choices(
    cpu_layers=False,
    distances_at_once=True,
    grouped_argmin=False,
    scatter_sums=False,
    cores_share_maps=False,
    compile_side_by_side=True,
    kept_by_branch=False,
    parts_in_a_loop=True,
    init_on_host=True,
)
TPU = GPU  # so far nothing differs between them
CHOICES = {"cpu": CPU, "gpu": GPU, "tpu": TPU}


def choices() -> Choices:
    """For what is traced now. A platform that nobody knows is taken for an accelerator."""
    return CHOICES.get(platform(), TPU)


def platform() -> str:
    """Where what is traced now will run: "cpu", "gpu", "tpu", or another name of JAX's."""
    default = _default()
    name = jax.default_backend() if default is None else getattr(default, "platform", default)
    return ALSO_CALLED.get(name, name)


def device() -> jax.Device:
    """The device of this process on which a program without other orders runs."""
    default = _default()
    if isinstance(default, jax.Device):
        return default
    return jax.local_devices(backend=default)[0]


def _default() -> "jax.Device | str | None":
    """What the user made the default, by `jax.default_device` or JAX_DEFAULT_DEVICE."""
    return getattr(jax.config, "jax_default_device", None)


def memory() -> int | None:
    """Bytes that JAX may use on `device()`; None where it does not say, as on CPU."""
    stats = device().memory_stats() or {}
    return stats.get("bytes_limit")


def compute_capability() -> tuple[int, int] | None:
    """Of an NVIDIA GPU: (9, 0) of an H100; None of any other device."""
    version = re.fullmatch(r"(\d+)\.(\d+)", str(getattr(device(), "compute_capability", "")))
    return (int(version[1]), int(version[2])) if version else None


def options_once() -> dict[str, int]:
    """Compiler options of a program that runs a single time: on CPU optimizing hundreds of draws takes longer than they
    do."""
    return {"xla_backend_optimization_level": 0} if platform() == "cpu" else {}


def host() -> jax.Device | None:
    """The CPU that draws fresh weights for the accelerators; None where they draw them themselves.

    That is where JAX was told to do without a CPU, by JAX_PLATFORMS, and where several processes share the weights.
    """
    if not choices().init_on_host or jax.process_count() > 1:
        return None
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def wait_for_all(done: str) -> None:
    """Returns once every process of a training has come here; `done` names the place."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(done)


def power_of_two(number: int) -> int:
    """The largest one that is not above the number; 1 for less."""
    return 1 << max(0, number.bit_length() - 1)
