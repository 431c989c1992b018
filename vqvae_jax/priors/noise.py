"""From data to noise and back: paths, what a network foretells, and the steps of a sampler.

At time t, 0 data and 1 noise, a map is x = a · data + s · noise:

    flow      a = 1 - t,          s = t             https://arxiv.org/abs/2210.02747
    cosine    a = cos(π t / 2),   s = sin(π t / 2)  https://arxiv.org/abs/2202.00512, section 4
    linear    a² = ᾱ, s² = 1 - ᾱ, of 1,000 steps whose √β grows linearly: Stable Diffusion's,
              https://arxiv.org/abs/2112.10752; between two of them log a is linear, as in
              https://arxiv.org/abs/2206.00927, appendix D.4
    ddpm      the same of steps whose β grows linearly, https://arxiv.org/abs/2006.11239, section 4: DiT's

All that is computed here of times alone is NumPy's, in float64.

Legend: B batch, h w map, C numbers a place, S steps.
"""

from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from vqvae_jax.types import Array

Path = Literal["flow", "cosine", "linear", "ddpm"]
Foretold = Literal["velocity", "noise", "data"]
Spacing = Literal["trailing", "leading", "even"]

STEPS = 1000  # of the paths COUNTED, and what a network hears as time 1
BETAS = (0.00085, 0.012)  # Stable Diffusion's, first and last
LEAST = 1e-4  # of a share that something is divided by
FIRST = 0.98  # time from which on a foretold noise says something of the data: it is divided by a
FEW = 15  # steps, from which on the last one of second order does no harm
DDPM_BETAS = (1e-4, 0.02)
COUNTED = ("linear", "ddpm")  # paths whose times are numbers of steps to a network


class Mixed(NamedTuple):
    """What a map at a time is made of."""

    data: Any  # a
    noise: Any  # s


def mixed(path: Path, time: Any) -> Mixed:
    """The shares at times in 0 to 1, arrays of JAX or NumPy, or numbers."""
    of = jnp if isinstance(time, Array) else np
    if path == "flow":
        return Mixed(1 - time, time)
    if path == "cosine":
        return Mixed(of.cos(time * (np.pi / 2)), of.sin(time * (np.pi / 2)))
    log_data = of.interp(time, np.arange(STEPS + 1) / STEPS, log_shares(path))
    return Mixed(of.exp(log_data), of.sqrt(-of.expm1(2 * log_data)))


def log_shares(path: Path = "linear") -> np.ndarray:
    """log a of "linear" or "ddpm" after 0, …, 1,000 steps, float64 [1001]."""
    low, high = np.sqrt(BETAS)
    betas = np.linspace(*DDPM_BETAS, STEPS) if path == "ddpm" else np.linspace(low, high, STEPS) ** 2
    return np.concatenate([[0.0], 0.5 * np.cumsum(np.log1p(-betas))])


def heard(path: Path, time: Any) -> Any:
    """The time as a network hears it, 0 to 1000; of "linear" and "ddpm" the number of the step, counted from 0."""
    return time * STEPS - (path in COUNTED)


def velocity(path: Path, at: Mixed) -> Mixed:
    """Shares of noise and data in the velocity, noise · p - data · q, as Mixed(q, p)."""
    return Mixed(1.0, 1.0) if path == "flow" else Mixed(at.noise, at.data)


def target(path: Path, foretold: Foretold, at: Mixed, data: Array, noise: Array) -> Array:
    """What a network is to say; `at` is shaped to be multiplied with both."""
    if foretold == "velocity":
        share = velocity(path, at)
        return share.noise * noise - share.data * data
    return noise if foretold == "noise" else data


def data_of(path: Path, foretold: Foretold, at: Mixed, x: Array, said: Array) -> Array:
    """The data that a map at a time and what a network says of it speak of."""
    if foretold == "data":
        return said
    if foretold == "noise":
        return (x - at.noise * said) / jnp.maximum(at.data, LEAST)
    share = velocity(path, at)
    return (share.noise * x - at.noise * said) / (share.noise * at.data + share.data * at.noise)


def weight(path: Path, foretold: Foretold, at: Mixed, most: float) -> Array:
    """Of a squared error: as if that of the data were weighed by the signal-to-noise ratio a² / s², cut off at `most`.

    https://arxiv.org/abs/2303.09556, section 3.4, where `most` is γ.
    """
    ratio = jnp.square(at.data) / jnp.maximum(jnp.square(at.noise), LEAST**2)
    of_data = jnp.minimum(ratio, most)
    if foretold == "data":
        return of_data
    if foretold == "noise":
        return of_data / jnp.maximum(ratio, LEAST**2)
    share = velocity(path, at)
    return of_data * jnp.square(at.noise / (share.noise * at.data + share.data * at.noise))


def first_time(path: Path, foretold: Foretold) -> float:
    """Where a sampler begins: at 1, but where noise is foretold and no data are left at 1, a little before."""
    return FIRST if foretold == "noise" and path not in COUNTED else 1.0


class Steps(NamedTuple):
    """What a sampler multiplies in each step, float [S] each."""

    time: np.ndarray
    data: np.ndarray  # a, before the step
    noise: np.ndarray  # s
    next_data: np.ndarray  # a, after it
    next_noise: np.ndarray  # s, less what is new of it
    new_noise: np.ndarray  # the share of fresh noise
    ahead: np.ndarray  # how far the data are followed beyond what is said: 1 / 2r, 0 in steps of first order


def steps_of(
    path: Path, count: int, order: int = 1, eta: float = 0.0, spacing: Spacing = "trailing", start: float = 1.0
) -> Steps:
    """The steps from time `start` to 0, or of the other spacings to 1/1000, as the authors' samplers end.

    Args:
        path: from noise to data.
        count: S; "leading" with a number that does not divide 1,000 makes more, as the authors' code does.
        order: 1 is DDIM (https://arxiv.org/abs/2010.02502, equation 12), of "flow" Euler; 2 is DPM-Solver++(2M)
            (https://arxiv.org/abs/2211.01095, algorithm 2), its first step of order 1, its last too where it ends at
            the data or steps are few.
        eta: 0 is no fresh noise, 1 as much as in DDPM; only of order 1.
        spacing: of times: "trailing" from 1 in even steps to 0; "leading" as DDIM's authors, "even" as
            DPM-Solver's, of `start` 1.
        start: time of the first step.
    """
    time = times(count, spacing) * start
    at = mixed(path, time)
    ratio = np.log(np.maximum(at.data, LEAST)) - np.log(np.maximum(at.noise, LEAST))
    before, after = Mixed(at.data[:-1], at.noise[:-1]), Mixed(at.data[1:], at.noise[1:])
    kept = np.square(before.data * after.noise / np.maximum(after.data * before.noise, LEAST**2))
    new = eta * after.noise * np.sqrt(np.maximum(1 - kept, 0.0))
    ahead = np.zeros(len(time) - 1)
    if order == 2 and len(ahead) > 1:
        step = np.diff(ratio)
        ahead[1:] = 0.5 * step[1:] / step[:-1]
        if time[-1] == 0 or len(ahead) < FEW:
            ahead[-1] = 0.0
    rest = np.sqrt(np.square(after.noise) - np.square(new))
    return Steps(time[:-1], before.data, before.noise, after.data, rest, new, ahead)


def times(count: int, spacing: Spacing) -> np.ndarray:
    """Falling from about 1, float64 [S + 1]."""
    if spacing == "trailing":
        return 1 - np.arange(count + 1) / count
    if spacing == "even":
        return np.linspace(1, 1 / STEPS, count + 1)
    numbers = np.arange(0, STEPS, max(1, STEPS // count)) + 1  # counted from 0, and not from the first
    return np.concatenate([numbers[::-1] + 1, [1]]) / STEPS


def between(one: np.ndarray, other: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Noise on the great circle from one to the other, https://arxiv.org/abs/2010.02502, appendix D.5.

    Args:
        one, other: of one shape, (h, w, C).
        shares: of the way, 0 to 1, [S].

    Returns:
        float32 [S, h, w, C], as long as noise is: a straight way would be too near to 0 in the middle.
    """
    ends = np.stack([one, other]).astype(np.float64)
    flat = ends.reshape(2, -1)
    cosine = flat[0] @ flat[1] / max(np.prod(np.linalg.norm(flat, axis=1)), LEAST)
    angle = np.arccos(np.clip(cosine, -1, 1))
    weights = np.stack([1 - shares, shares])
    if np.sin(angle) > LEAST:
        weights = np.sin(weights * angle) / np.sin(angle)
    return np.tensordot(weights, ends, (0, 0)).astype(np.float32)


def one_step(now: Steps, x: Array, data: Array, data_before: Array, noise: Array | None) -> Array:
    """The map after a step.

    Args:
        now: numbers of this step.
        x: the map before it, [B, h, w, C].
        data: that what is said of it speaks of, and `data_before` the same in the step before.
        noise: fresh, as x; None where the steps have none.
    """
    data = data + now.ahead * (data - data_before)
    rest = (x - now.data * data) / now.noise
    x = now.next_data * data + now.next_noise * rest
    return x if noise is None else x + now.new_noise * noise
