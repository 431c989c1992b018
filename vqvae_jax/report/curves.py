"""Curves and histograms inside the page, as SVG."""

import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vqvae_jax import config as configs
from vqvae_jax.report.libraries import imported
from vqvae_jax.report.panels import INK, TRAIN, Line, Panel, autoencoder_panels, prior_panels, remark
from vqvae_jax.report.seeds import Seeds, Spread
from vqvae_jax.report.words import in_order
from vqvae_jax.types import UserError

POINTS = 400  # of a curve, at most
BINS = 30  # of a histogram
BY_TIME = "mse_at/"  # metrics of a diffusion prior, by the middles of bins
HISTOGRAMS = {"length": "length of the codes", "idle": "training steps since a code was used"}
STYLE = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "report",  # the same run gives the same bytes
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.formatter.limits": (-3, 4),
    "grid.color": INK,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "ytick.minor.width": 0.4,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handlelength": 1.2,
    "legend.labelspacing": 0.25,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
}


def stage(
    name: str,
    entries: list[dict[str, Any]],
    config: Mapping[str, Any],
    measured: Mapping[str, Any],
    seeds: Seeds,
) -> dict[str, Any]:
    """A row of plots of one stage; those without data are left out. `measured` is what its evaluation says.

    With other seeds, what is held out gets error bars: mean and standard deviation over all of them.
    """
    levels, weights = configs.levels(config), config["loss_weights"]
    of_images = name == configs.AUTOENCODER
    panels = autoencoder_panels(entries, levels, weights) if of_images else prior_panels(entries)
    bars = partial(seeds.line, name, entries)
    drawn = [(panel, curves(panel, entries, bars)) for panel in panels if any(_points(entries, x) for x in panel.lines)]
    if times := {float(key.partition("/")[2]): value for key, value in measured.items() if key.startswith(BY_TIME)}:
        drawn.append((Panel("Loss by time", "0 is data, 1 noise; held out", []), by_time(times)))
    why = remark(entries, weights) if of_images else ""
    return {"name": name, "progress": progress(name, entries, config), "panels": drawn, "remark": why}


def by_time(losses: Mapping[float, float | None]) -> Any:
    """The loss of a diffusion prior in bins of times, by their middles, as SVG; null is left out."""
    known = {time: loss for time, loss in losses.items() if loss is not None}

    def draw(axes: Any) -> None:
        axes.bar(list(known), list(known.values()), width=0.9 / max(1, len(losses)), color=TRAIN, alpha=0.75)
        axes.set(xlabel="time", xlim=(0, 1))

    return svg(draw, "Loss by time")


def progress(name: str, entries: list[dict[str, Any]], config: Mapping[str, Any]) -> str:
    """How far the training is, in words."""
    if not entries:
        return "nothing logged yet"
    train = configs.of_stage(config, name)["train"]
    goal = f"of {train['steps']}" if train["steps"] else f"of {train['epochs']} epochs"
    minutes = (entries[-1].get("time", 0) - entries[0].get("time", 0)) / 60
    return f"step {entries[-1]['step']} {goal}, logged over {minutes:.1f} minutes"


def curves(panel: Panel, entries: list[dict[str, Any]], bars: Callable[[str], Sequence[tuple[int, Spread]]]) -> Any:
    """A panel as SVG; `bars` gives the spread over seeds of a metric, at some steps."""

    def draw(axes: Any) -> None:
        values = [value for line in panel.lines for value in _line(axes, line, _points(entries, line))]
        for line in panel.lines:
            if line.style == "o-":
                error_bars(axes, bars(line.metric), line.colour)
        if panel.log and 0 < 10 * min(values) < max(values):
            axes.set_yscale("log")
        if any(line.label for line in panel.lines if _points(entries, line)):
            axes.legend(loc="best")
        if panel.share:
            axes.set_ylim(0, 1.05)
        axes.set(xlabel="step", xlim=(0, 1.03 * max(1, entries[-1]["step"])))

    return svg(draw, f"{panel.title} over training")


def _points(entries: list[dict[str, Any]], line: Line) -> list[tuple[int, float]]:
    """(step, value) where it was logged and finite, thinned out."""
    found = [(entry["step"], entry[line.metric]) for entry in entries if entry.get(line.metric) is not None]
    return [found[i] for i in sorted({*np.linspace(0, len(found) - 1, POINTS).astype(int)})] if found else []


def _line(axes: Any, line: Line, points: list[tuple[int, float]]) -> list[float]:
    """Draws it; returns its values."""
    steps, values = [p[0] for p in points], [p[1] for p in points]
    if points and line.style == "--":
        axes.axhline(values[-1], color=line.colour, linestyle="--", linewidth=1, label=line.label)
    elif points:
        alone = "o" if len(points) == 1 else line.style
        axes.plot(steps, values, alone, color=line.colour, label=line.label or None)
    return values


def error_bars(axes: Any, spreads: Sequence[tuple[int, Spread]], colour: str) -> None:
    """Mean over seeds, and one standard deviation to either side."""
    if spreads:
        steps, found = zip(*spreads, strict=True)
        means, deviations = zip(*found, strict=True)
        axes.errorbar(steps, means, deviations, fmt="none", ecolor=colour, elinewidth=1.2, capsize=3)


def codes(path: Path, levels: Sequence[str]) -> Iterator[dict[str, Any]]:
    """How often each code is used, most used first, a plot a token map; nothing without the file."""
    counts = counts_of(path)
    for name in in_order([name for name in counts if "/" not in name], levels):
        share = np.sort(counts[name].astype(np.float64))[::-1] / max(1, counts[name].sum())
        used = share[share > 0]
        yield {
            "name": name,
            "plot": histogram(share, name),
            "size": len(share),
            "usage": f"{len(used) / len(share):.1%}",
            "perplexity": f"{np.exp(-np.sum(used * np.log(used))):.1f}",
            "most": f"{share[0]:.1%}",
        }


def by_map(path: Path, levels: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """(caption, SVG) of each level of several maps, scales or depths: the share of its codes that each uses."""
    counts = counts_of(path)
    for level in levels:
        maps = [name for name in in_order([n for n in counts if "/" not in n], levels) if name.startswith(f"{level}.")]
        if maps:
            yield f"{level}: share of codes used, map by map", bars([np.mean(counts[name] > 0) for name in maps])


def bars(shares: Sequence[Any]) -> Any:
    """Percents in order, as SVG."""

    def draw(axes: Any) -> None:
        axes.bar(range(len(shares)), 100 * np.asarray(shares), color=TRAIN, alpha=0.75)
        axes.set(xlabel="map, coarse to fine", ylabel="% of codes", ylim=(0, 100))

    return svg(draw, "Share of codes used, map by map")


def health(path: Path, levels: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Histograms of what the codes themselves are like, (caption, SVG): lengths, and steps unused."""
    counts = counts_of(path)
    for name in [name for name in counts if "/" in name]:
        what, _, level = name.partition("/")
        if level in levels and what in HISTOGRAMS:
            yield f"{level}: {HISTOGRAMS[what]}", spread(counts[name], HISTOGRAMS[what])


def counts_of(path: Path) -> dict[str, np.ndarray]:
    """The arrays of code_counts.npz; {} without it. Raises UserError where it is damaged."""
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as binary, np.load(binary) as file:  # of one array alone, a TypeError
            counts = {name: file[name] for name in file}
        for name, one in counts.items():
            if one.ndim != 1 or not one.size or one.dtype.kind not in "iuf":
                raise ValueError(f"{name} is {one.dtype} {list(one.shape)}")
    except (ValueError, TypeError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        again = f"remove it and evaluate again: python -m vqvae_jax evaluate --workdir={path.parent}"
        raise UserError(f"{path} is damaged ({error}); {again}") from error
    return counts


def spread(values: np.ndarray, label: str) -> Any:
    """How many codes have which value, as SVG."""

    def draw(axes: Any) -> None:
        axes.hist(values[np.isfinite(values)], bins=BINS, color=TRAIN, alpha=0.75)
        axes.set(xlabel=label, ylabel="codes")

    return svg(draw, label)


def histogram(share: np.ndarray, name: str) -> Any:
    """Shares [K], falling, as SVG, on a log scale; dashed where all would be if they were used equally."""
    ranks = np.unique(np.linspace(0, len(share) - 1, POINTS).astype(int))
    lowest = 50 * min(share[share > 0], default=1)  # half of the rarest: seen, and apart from the codes never used

    def draw(axes: Any) -> None:
        height = np.maximum(100 * share[ranks], lowest)
        axes.fill_between(ranks + 1, height, lowest, step="mid", color=TRAIN, alpha=0.75, linewidth=0)
        axes.axhline(100 / len(share), color=INK, linestyle="--", linewidth=1)
        axes.set(xlabel="codes, most used first", ylabel="% of tokens", yscale="log", xlim=(0.5, len(share) + 0.5))
        axes.set_ylim(bottom=lowest)

    return svg(draw, f"Use of each code, {name}")


def svg(draw: Callable[[Any], None], title: str) -> Any:
    """What `draw` puts on axes, as markup for inside a page: no header, no metadata, no names that clash."""
    style, figures = imported("matplotlib.style"), imported("matplotlib.figure")
    out = io.StringIO()
    with style.context(STYLE, after_reset=True):
        figure = figures.Figure(figsize=(3.6, 2.5), layout="constrained")
        draw(figure.add_subplot())
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    text = out.getvalue()
    text = re.sub(r'<g id="[^"]*"', "<g", text[text.index("<svg") :]).replace(INK, "currentColor")
    markup = imported("markupsafe").Markup
    return markup('<svg role="img" aria-label="{}"').format(title) + markup(text.removeprefix("<svg"))
