"""The same training under other seeds: means, and how far the seeds lie apart.

config.json, metrics.json, STAGE/metrics.jsonl of each ──► Seeds ──► error bars, a column of the table
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vqvae_jax import config as configs
from vqvae_jax import evaluate, logs
from vqvae_jax.report.words import metrics_of
from vqvae_jax.types import UserError

Entries = list[dict[str, Any]]


class Spread(NamedTuple):
    """Of one number over seeds: standard deviation with n - 1."""

    mean: float
    deviation: float


class Seeds(NamedTuple):
    """Other runs of a config, beside the one that the page is about."""

    names: list[str]
    metrics: list[dict[str, Any]]
    entries: list[dict[str, Entries]]  # of each stage

    def spread(self, name: str, value: Any) -> Spread | None:
        """Of one of the page's metrics; None where it is no number in each run, or there is no other."""
        return spread_of([value, *(one.get(name) for one in self.metrics)])

    def line(self, stage: str, own: Entries, metric: str) -> list[tuple[int, Spread]]:
        """(step, spread) wherever all runs logged it; nothing without another run."""
        runs = [_by_step(one, metric) for one in (own, *(each[stage] for each in self.entries))]
        shared = sorted(set.intersection(*map(set, runs)))
        return [(step, found) for step in shared if (found := spread_of([run[step] for run in runs]))]


def read(workdir: Path, others: Sequence[Path]) -> Seeds:
    """What the other runs left; the run itself is not among them.

    UserError where one is of another config: a field beside `seed` has another value.
    """
    there = list(dict.fromkeys(one.resolve() for one in others if one.resolve() != workdir.resolve()))
    config = configs.load(workdir)
    for other in there:
        _check_same(config, configs.load(other), other)
    stages = list(configs.stages(config))
    metrics = [dict(evaluate.flat(metrics_of(other / evaluate.FILE))) for other in there]
    entries = [{name: logs.read_metrics(other / name / "metrics.jsonl") for name in stages} for other in there]
    return Seeds([other.name for other in there], metrics, entries)


def spread_of(values: Sequence[Any]) -> Spread | None:
    """None where there are fewer than two, or not all are numbers."""
    if len(values) < 2 or any(value is None or not isinstance(value, int | float) for value in values):
        return None
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)))


def _by_step(entries: Entries, metric: str) -> dict[int, float]:
    return {entry["step"]: entry[metric] for entry in entries if entry.get(metric) is not None}


def _check_same(config: Mapping[str, Any], other: Mapping[str, Any], workdir: Path) -> None:
    """UserError naming the first field that differs, and the run whose seed does not."""
    ours, theirs = dict(evaluate.flat(config)), dict(evaluate.flat(other))
    if ours.pop("seed") == theirs.pop("seed"):
        raise UserError(
            f"--seeds: {workdir} has the same seed, {config['seed']}; train it with another, --config.seed="
            f"{config['seed'] + 1}, into another workdir"
        )
    for name in [*ours, *theirs]:
        if ours.get(name) != theirs.get(name):
            raise UserError(
                f"--seeds wants runs of one config, but {workdir} has {name}={theirs.get(name)}, this run "
                f"{ours.get(name)}; leave it out, or see both: python -m vqvae_jax compare --help"
            )
