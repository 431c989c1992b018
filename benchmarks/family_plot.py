"""The picture of family.py: what each quantizer keeps, and at how many bits under a prior; bars are deviations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vqvae_jax.files import atomically

COLOURS = {"8": "C0", "10": "C1", "16": "C2"}  # by bits a place
MARKERS = "o", "s", "^", "v", "D", "<", ">", "p", "P", "X", "*", "h", "d", "8"  # by quantizer; names would overlap
SMALL = {"markersize": 8, "markeredgecolor": "white", "capsize": 1, "elinewidth": 0.7}
CEILING = "kl"


def draw(files: Sequence[Mapping[str, Any]], names: Sequence[str], output: Path) -> None:
    """A row a file: left PSNR of each quantizer, right PSNR over bits a pixel under the prior."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    height = 4.2 * len(files) + 0.6
    figure, axes = pyplot.subplots(
        len(files), 2, figsize=(9, height), layout="constrained", squeeze=False, sharey="row"
    )
    marked = dict(zip((name for name in names if name != CEILING), MARKERS, strict=True))
    for (left, right), found in zip(axes, files, strict=True):
        by_name(left, found, names)
        by_rate(right, found, marked)
        left.set(ylabel=f"{found['of']['task']}: PSNR, dB")
    shown = {name: marker for name, marker in marked.items() if any(rated(found, name) for found in files)}
    points = [pyplot.Line2D([], [], color="0.3", marker=marker, linestyle="") for marker in shown.values()]
    figure.legend(points, list(shown), loc="outside lower center", ncols=7, fontsize=8, title="right: by quantizer")
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


def by_rate(axes: Any, found: Mapping[str, Any], marked: Mapping[str, str]) -> None:
    """Up and to the left is better; a form a quantizer, a colour a number of bits."""
    for name, marker in marked.items():
        for bits, runs in rated(found, name).items():
            (x, dx), (y, dy) = (spread(runs, metric) for metric in ("bits_per_pixel", "psnr"))
            axes.errorbar(x, y, dy, dx, fmt=marker, color=COLOURS[bits], **SMALL)
    axes.margins(0.06)
    axes.set(xlabel="bits a pixel under the prior")
    axes.grid(alpha=0.3)


def rated(found: Mapping[str, Any], name: str) -> dict[str, Mapping[str, Mapping[str, float]]]:
    """By bits, the runs of a quantizer where a prior read its codes."""
    by_bits = {bits: runs.get(name, {}) for bits, runs in found["runs"].items()}
    return {bits: runs for bits, runs in by_bits.items() if any("bits_per_pixel" in run for run in runs.values())}


def spread(runs: Mapping[str, Mapping[str, float]], metric: str) -> tuple[float, float]:
    """Mean and standard deviation over seeds; of one seed there is none."""
    values = [run[metric] for run in runs.values() if metric in run]
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
