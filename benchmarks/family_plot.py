"""The picture of family.py: what each quantizer keeps, and at how many bits under a prior; bars are deviations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vqvae_jax.files import atomically

COLOURS = {"8": "C0", "10": "C1", "16": "C2"}  # by bits a place
CEILING = "kl"


def draw(files: Sequence[Mapping[str, Any]], names: Sequence[str], output: Path) -> None:
    """A row a file: left PSNR of each quantizer, right PSNR over bits a pixel under the prior."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    height = 4.2 * len(files)
    figure, axes = pyplot.subplots(
        len(files), 2, figsize=(9, height), layout="constrained", squeeze=False, sharey="row"
    )
    for (left, right), found in zip(axes, files, strict=True):
        by_name(left, found, names)
        by_rate(right, found, names)
        left.set(ylabel=f"{found['of']['task']}: PSNR, dB")
    with atomically(output) as path:
        figure.savefig(path, dpi=100, format="png")


def by_name(axes: Any, found: Mapping[str, Any], names: Sequence[str]) -> None:
    """A column a quantizer, a colour a number of bits; the ceiling is a line."""
    shown = [name for name in names if name != CEILING]
    for bits, runs in found["runs"].items():
        there = [name for name in shown if name in runs]
        means, deviations = zip(*(spread(runs[name], "psnr") for name in there), strict=True) if there else ((), ())
        places = [shown.index(name) for name in there]
        axes.errorbar(places, means, deviations, fmt="o", color=COLOURS[bits], capsize=3, label=f"{bits} bits")
        if CEILING in runs:
            axes.axhline(spread(runs[CEILING], "psnr")[0], color="0.5", linestyle="--", linewidth=1)
            axes.annotate("kl, numbers", (0, spread(runs[CEILING], "psnr")[0]), fontsize=7, va="bottom")
    axes.set_xticks(range(len(shown)), shown, rotation=60, ha="right", fontsize=8)
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)


def by_rate(axes: Any, found: Mapping[str, Any], names: Sequence[str]) -> None:
    """Up and to the left is better."""
    for bits, runs in found["runs"].items():
        for name in names:
            if not any("bits_per_pixel" in run for run in runs.get(name, {}).values()):
                continue
            (x, dx), (y, dy) = (spread(runs[name], metric) for metric in ("bits_per_pixel", "psnr"))
            axes.errorbar(x, y, dy, dx, fmt="o", color=COLOURS[bits], capsize=2, markersize=4)
            axes.annotate(name, (x, y), (4, 3), textcoords="offset points", fontsize=7)
    axes.margins(0.12)
    axes.set(xlabel="bits a pixel under the prior")
    axes.grid(alpha=0.3)


def spread(runs: Mapping[str, Mapping[str, float]], metric: str) -> tuple[float, float]:
    """Mean and standard deviation over seeds; of one seed there is none."""
    values = [run[metric] for run in runs.values() if metric in run]
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
