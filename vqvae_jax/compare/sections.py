"""Rows of one section of a recording: weights, outputs, gradients beside a model's; or of these three."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vqvae_jax.compare import rows
from vqvae_jax.compare.recording import HOW, Recording, channels_first
from vqvae_jax.compare.rows import Row
from vqvae_jax.interop.places import Places, to_torch
from vqvae_jax.types import Model, UserError


def weights(model: Model, places: Places, recording: Recording) -> list[Row]:
    """Whether the recorded weights are those of the workdir: one row for all, and one for each that differs."""
    recorded, ours = recording.of("param"), to_torch(model, places)
    common = [name for name in ours if name in recorded]
    each = [rows.near(f"param/{name}", ours[name], recorded[name], 0.0) for name in common]
    differing = [row._replace(note="another weight: was the model trained since?") for row in each if not row.passed]
    whole = Row(f"param/ ({len(common)} tensors)", (), 0.0, 0.0, 0.0, 0.0, True, "the same bits")
    return differing or ([whole] if common else [])


def outputs(
    ours: Mapping[str, Any], recording: Recording, section: str = "output", laid: Callable[[Any], Any] = channels_first
) -> list[Row]:
    """Those that both have; `laid`: ours as the recorded ones lie."""
    recorded = recording.of(section)
    names = [name for name in recorded if name in ours]
    return [rows.near(f"{section}/{name}", laid(ours[name]), recorded[name], rows.OUTPUTS) for name in names]


def index_row(name: str, ours: Mapping[str, Any], recording: Recording, z_e: Any, codebook: Any) -> Row | None:
    """Of one level's codes, where they were recorded."""
    if f"output/{name}" not in recording:
        return None
    return rows.indices(f"output/{name}", ours[name], recording[f"output/{name}"], z_e, np.asarray(codebook.codes))


def gradients(grads: Model, places: Places, recording: Recording, section: str = "grad") -> list[Row]:
    """Every recorded one."""
    recorded = recording.of(section)
    ours = to_torch(grads, {name: place for name, place in places.items() if name in recorded})
    return [
        rows.near(f"{section}/{name}", ours[name], recorded[name], rows.GRADIENTS) for name in recorded if name in ours
    ]


def without(found: list[Row], reasons: Mapping[str, str], recording: Recording) -> list[Row]:
    """Rows whose tensors the module has otherwise than its twin, by design: left out, with the reason."""
    out = [(name, why) for pattern, why in reasons.items() for name in recording.arrays if re.match(pattern, name)]
    kept = [row for row in found if row.tensor not in dict(out)]
    return kept + [rows.left_out(name, recording.arrays[name], why) for name, why in out]


def by_cotangents(
    forward: Callable, model: Model, places: Places, recording: Recording, share: float = 1.0
) -> list[Row]:
    """output/0 …, and the pull-back of `share` of cotangent/0 … where those are recorded."""
    cotangents = [jnp.asarray(one, jnp.float32) for one in recording.several("cotangent")]

    shapes = [one.shape for one in jax.eval_shape(forward, model.params)]
    if cotangents and shapes != [one.shape for one in cotangents]:
        raise UserError(f"{recording.path}: cotangents are not of the outputs' shapes; {HOW}")

    @jax.jit
    def both(params):
        values, pull = jax.vjp(forward, params)
        return values, pull([share * one for one in cotangents])[0] if cotangents else None

    values, grads = jax.tree.map(np.asarray, both(model.params))
    found = weights(model, places, recording) + outputs({str(i): value for i, value in enumerate(values)}, recording)
    return found + (gradients(Model(grads, {}), places, recording) if grads is not None else [])
