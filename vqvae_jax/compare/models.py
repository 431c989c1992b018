"""Two workdirs on one test split: metrics beside each other, and a strip original | this one | the other."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vqvae_jax import data, evaluate, logs, nearness
from vqvae_jax.checkpoint import Step, Steps
from vqvae_jax.config import AUTOENCODER
from vqvae_jax.distance.protocol import is_tie
from vqvae_jax.files import check_file
from vqvae_jax.stages import task_of
from vqvae_jax.trained import BOTH, Trained
from vqvae_jax.types import UserError

SHOWN = 16  # images in the strip
STRIP = "comparison.png"
UNITS = {"mse": "  of images in [0, 1]"}  # `evaluate` has it in the units of dataset.range
SPREAD = "_spread"  # ends the name of a standard error; the metric stands beside it


def compare(
    workdir: Path,
    against: Path,
    output: Path | None,
    images: Mapping[str, str],
    step: Steps = "best",
    autoencoder_step: Step = None,
    samples: int = nearness.SAMPLES,
) -> dict[str, Any]:
    """Metrics of both, A and B, as `evaluate` has them; but mse of images in [0, 1], whatever their ranges.

    Args:
        workdir: whose data are taken.
        against: the other one.
        output: of the strip, .png; None: comparison.png in the workdir.
        images: changes to the section `dataset` of the workdir's config.
        step, autoencoder_step: of the priors' checkpoints and of the autoencoders'.
        samples: of each that are drawn to measure their distance from the workdir's training images; 0: none.

    Raises:
        UserError: they cannot see the same images.
    """
    models = [Trained(one, step, autoencoder_step, BOTH) for one in (workdir, against)]
    check(models)
    check_file("--output", output or workdir / STRIP)
    asked = {**models[0].config["dataset"], **images}
    arrays = evaluate.load_images(models[0], asked)
    found: dict[str, Any] = {"split": asked["test_split"], "images": len(arrays)}
    known = [metrics(model, arrays) for model in models]
    near = map(by_kind, nearness.measure(models, arrays, samples))
    for name, model, one, more in zip("AB", models, known, near, strict=True):
        found[name] = {"workdir": str(model.workdir), "metrics": one | more}
    shown = evaluate.spaced(arrays.image, SHOWN)
    strip = [shown, *(model.reconstruct(shown)[-1] for model in models)]
    logs.save_png(output or workdir / STRIP, logs.strip(strip, scale=max(1, 64 // shown.shape[1])))
    return found


def check(models: list[Trained]) -> None:
    """UserError unless both take the same images."""
    for model in models:
        if not model.has_autoencoder:
            raise UserError(f"{model.workdir} holds no autoencoder; its priors are compared by --reference only")
    for fact in ("image_size", "channels"):
        one, other = (model.facts[fact] for model in models)
        if one != other:
            raise UserError(
                f"{models[0].workdir} and {models[1].workdir} do not see the same images: {fact} is {one} and {other}"
            )


def metrics(model: Trained, arrays: data.Arrays) -> dict[str, float]:
    """Of one model, flat."""
    _, weights = model.autoencoder
    low, high = model.value_range
    task = task_of(model.parts, AUTOENCODER)
    summary = task.summary(evaluate.sums_over(task, weights, data.batches(arrays, evaluate.BATCH, 0)))
    found = {name: value for name, value in summary.items() if name != "loss"}
    found["mse"] /= (high - low) ** 2
    if model.priors:
        own = arrays.with_labels(model.label_names)
        tokens = evaluate.maps_of(model, own)
        for level in told_right(model, own):
            measured = evaluate.prior_metrics(model, level, tokens, None)
            name = "nll" if "nll" in measured else "loss"
            found[f"{name}/{level}"] = measured[name]
    return found


def told_right(model: Trained, arrays: data.Arrays) -> list[str]:
    """The levels whose priors are told no labels, or those of these images; the others are named on standard error."""
    told = [level for level, (prior, _) in model.priors.items() if getattr(prior, "label_condition", False)]
    left = told if told and arrays.label_names != model.label_names else []
    if left:
        levels = ", ".join(left)
        print(f"{model.workdir}: no nll of {levels}, whose labels are others than these images'", file=sys.stderr)
    return [level for level in model.priors if level not in left]


def by_kind(near: Mapping[str, Any]) -> dict[str, float]:
    """What `nearness` found, flat: "fd_mobilenet_v2/samples", and "fd_mobilenet_v2/samples/floor" of real images."""
    found = {name: value for name, value in near.items() if name != "distances"}
    for kind, distances in near.get("distances", {}).items():
        floor = distances["floor"]
        found |= {f"{name}/{kind}": value for name, value in distances.items() if name != "floor"}
        found |= {f"{name}/{kind}/floor": value for name, value in floor.items() if f"{name}{SPREAD}" in floor}
    return found


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """A line a metric."""
    first, second = found["A"]["metrics"], found["B"]["metrics"]
    workdirs = f"A is {found['A']['workdir']}, B is {found['B']['workdir']}"
    yield f"{found['images']} images of {found['split']!r}: {workdirs}"
    names = {**first, **second}
    width = max([24, *map(len, names)])
    yield f"{'':{width}}  {'A':>10}  {'B':>10}  {'B - A':>10}"
    for name in names:
        a, b = first.get(name), second.get(name)
        apart = "" if a is None or b is None else f"{b - a:+.4f}"
        more = _tie(name, first, second) + UNITS.get(name, "")
        yield f"{name:{width}}  {_shown(a):>10}  {_shown(b):>10}  {apart:>10}{more}".rstrip()


def _tie(name: str, first: Mapping[str, float], second: Mapping[str, float]) -> str:
    """Said of a metric with a standard error where both are as good as equal."""
    spread = name.replace("/", f"{SPREAD}/", 1)
    if spread == name or any(part not in one for part in (name, spread) for one in (first, second)):
        return ""
    return "  a tie" if is_tie(first[name], second[name], (first[spread], second[spread])) else ""


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
