"""The scale of the latents of first stages from outside, and of ours for others: no tensor of an autoencoder shows it.

A map of ours is (mean - m) / s, channel by channel; theirs is (mean - shift) * factor, or with `latents_mean` and
`latents_std` (mean - latents_mean) * factor / latents_std. So m and s are 0 and 1 / 0.18215 of Stable Diffusion's.
Legend: D numbers a place.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from vqvae_jax.autoencoders.vqgan import LEVEL
from vqvae_jax.interop import diffusers
from vqvae_jax.interop.matches import Match
from vqvae_jax.interop.places import Places
from vqvae_jax.interop.reading import plain
from vqvae_jax.quantizers.kl import KLBottleneck, mean_and_deviation, statistics
from vqvae_jax.types import Codebook, Model, UserError

USUAL = 0.18215  # of Stable Diffusion's first stage, and what diffusers takes where its config says nothing
NO_SCALE = {"scaling_factor": 1.0, "shift_factor": None, "latents_mean": None, "latents_std": None}
USUAL_IS = (4, 4)  # numbers a place, levels: latent diffusion's kl-f8, whose network that is


class Scale(NamedTuple):
    """Theirs, and who says it."""

    factor: float
    shift: Any  # a number, or [D]
    deviation: Any  # times this is 1 / factor: 1, or [D]
    source: str


def are_in(match: Match) -> bool:
    """Whether it is an autoencoder over numbers."""
    return match.kind == "autoencoder" and isinstance(match.module.quantizers[0], KLBottleneck)


def scaled(match: Match, checkpoint: Path, beside: Any, asked: float | None) -> Match:
    """The match with the statistics of its codebook, and in facts["scale"] what they are by.

    Args:
        match: of a file from outside.
        checkpoint: the file, for messages; of diffusers' names its config.json is read too.
        beside: the file's own tensor `scale_factor`, where it has one.
        asked: the factor that the user says; before all others.

    Raises:
        UserError: a factor is asked for codes, or for a file that says it itself; a scale that is none.
    """
    if match.told or not are_in(match):
        if asked is not None:
            why = "says itself what the scale is" if match.told else f"is {match.title}: it has no latents to scale"
            raise UserError(f"--scale={asked:g}: {checkpoint} {why}; leave it out")
        return match
    if match.diffusers is not None:
        match = diffusers.as_told(match, diffusers.beside(checkpoint), checkpoint.parent / diffusers.CONFIG)
    scale = chosen(match, checkpoint, beside, asked)
    dim = match.module.quantizers[0].code_dim
    shift, deviation = (row(one, dim, scale.source) for one in (scale.shift, scale.deviation))
    if not np.isfinite(scale.factor) or scale.factor <= 0 or deviation.min() <= 0:
        raise UserError(f"{scale.source}: latents are scaled by a number above 0, got {scale.factor}")
    stats = statistics(jnp.asarray(shift), jnp.asarray(deviation / scale.factor, jnp.float32))
    known = {name: np.asarray(one) for name, one in stats.items()}
    return match._replace(statistics={LEVEL: known}, facts=match.facts | {"scale": said(scale)})


def chosen(match: Match, checkpoint: Path, beside: Any, asked: float | None) -> Scale:
    """By whom the scale is said: the user, config.json, the file; else as usual for such a network."""
    config = match.diffusers or {}
    if asked is not None:
        return Scale(asked, 0.0, 1.0, f"--scale={asked:g}")
    if config.get("scaling_factor") is not None:
        return of_config(config, str(checkpoint.parent / diffusers.CONFIG))
    if beside is not None:
        return Scale(number(beside, f"{checkpoint}: scale_factor"), 0.0, 1.0, f"{checkpoint}: scale_factor")
    usual = config or (match.module.quantizers[0].code_dim, len(match.module.factors)) == USUAL_IS
    return Scale(USUAL if usual else 1.0, 0.0, 1.0, "")


def of_config(config: Mapping[str, Any], source: str) -> Scale:
    """What diffusers' config says: means and deviations of channels, or one shift."""
    factor = number(config["scaling_factor"], f"{source}: scaling_factor")
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        return Scale(factor, config["latents_mean"], config["latents_std"], source)
    return Scale(factor, config.get("shift_factor") or 0.0, 1.0, source)


def number(value: Any, source: str) -> float:
    """One number.

    Raises:
        UserError: it is none.
    """
    try:
        return float(np.asarray(value, np.float32).reshape(()))
    except (TypeError, ValueError) as error:
        raise UserError(f"{source} is no number: {plain(value)}") from error


def row(values: Any, dim: int, source: str) -> np.ndarray:
    """A number, or one a channel → float32 [dim].

    Raises:
        UserError: they are others.
    """
    try:
        found = np.broadcast_to(np.asarray(values, np.float32), (dim,))
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: {dim} numbers are wanted, one a channel; got {plain(values)}") from error
    if not np.isfinite(found).all():
        raise UserError(f"{source}: a scale is not finite: {plain(values)}")
    return found


def said(scale: Scale) -> str:
    """One line for the user."""
    by = f"as {scale.source} says" if scale.source else "weights do not show it: --scale=S"
    more = "" if np.ndim(scale.shift) == 0 and not scale.shift else ", shifted"
    return f"latents are the means of the encoder times {scale.factor:g}{more}; {by}"


# Out


def of_config_from(codebook: Codebook) -> dict[str, Any]:
    """The fields of diffusers' config for our statistics: one factor where that does, else a row a channel."""
    mean, deviation = (np.asarray(one, np.float32) for one in mean_and_deviation(codebook))
    if np.ptp(deviation) == 0 and np.ptp(mean) == 0:
        return {"scaling_factor": float(f"{1 / deviation[0]:.7g}"), "shift_factor": float(mean[0]) or None}
    return {"scaling_factor": 1.0, "latents_mean": mean.tolist(), "latents_std": deviation.tolist()}


def statistics_beside(model: Model, places: Places) -> dict[str, dict[str, Any]]:
    """By level and name, of codebooks without codes, what no tensor holds: exact, as numbers of JSON."""
    held = {place.path for place in places.values()}
    found: dict[str, dict[str, Any]] = {}
    for level, book in model.codebooks.items():
        stats = {} if book.codes.size else book.stats
        apart = {name: one for name, one in stats.items() if ("codebooks", level, "stats", name) not in held}
        found |= {level: {name: np.asarray(one).tolist() for name, one in apart.items()}} if apart else {}
    return found


def of_words(said: Mapping[str, Any], like: Model) -> dict[str, dict[str, np.ndarray]]:
    """The inverse, of words in a file. Raises LookupError, TypeError or ValueError where they are of another model."""
    shapes = {(level, name): one.shape for level, book in like.codebooks.items() for name, one in book.stats.items()}
    found: dict[str, dict[str, np.ndarray]] = {}
    for level, stats in said.items():
        arrays = {name: np.asarray(one, np.float32) for name, one in stats.items()}
        for name, one in arrays.items():
            if one.shape != shapes[level, name] or not np.isfinite(one).all():
                raise ValueError(f"statistics of {level}: {name}")
        found[level] = arrays
    return found
