"""The same training under other seeds: means, and how far the seeds lie apart.

config.json, metrics.json, STAGE/metrics.jsonl of each ──► Seeds ──► error bars, a column of the table
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vqvae_jax import config as configs
from vqvae_jax import evaluate, logs
from vqvae_jax.data import TOKENS
from vqvae_jax.report.words import metrics_of
from vqvae_jax.types import UserError

Entries = list[dict[str, Any]]
# Fields that may differ: a prior of another seed has codes of its own autoencoder, and these cadences change no result.
FREE = {"seed", "init_from", "log_every", "pictures_every", "keep", "profile"}


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

    UserError where one is of another config, two have the same seed, or distances are of other numbers of pictures.
    """
    there = list(dict.fromkeys(one.resolve() for one in others if one.resolve() != workdir.resolve()))
    found = {one: configs.load(one) for one in (workdir, *there)}
    _check_same(found)
    stages = list(configs.stages(found[workdir]))
    own, *metrics = [dict(evaluate.flat(metrics_of(one / evaluate.FILE))) for one in found]
    _check_counts(own, dict(zip(there, metrics, strict=True)))
    entries = [{name: logs.read_metrics(other / name / "metrics.jsonl") for name in stages} for other in there]
    return Seeds([other.name for other in there], metrics, entries)


def spread_of(values: Sequence[Any]) -> Spread | None:
    """None where there are fewer than two, or not all are numbers."""
    if len(values) < 2 or any(value is None or not isinstance(value, int | float) for value in values):
        return None
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)))


def _by_step(entries: Entries, metric: str) -> dict[int, float]:
    return {entry["step"]: entry[metric] for entry in entries if entry.get(metric) is not None}


def _check_counts(own: Mapping[str, Any], others: Mapping[Path, Mapping[str, Any]]) -> None:
    """UserError where distances are of other numbers of pictures: these fall as the numbers grow."""
    for other, metrics in others.items():
        for name in (name for name in own if name.startswith("distances/") and name.endswith(("/count", "/reference"))):
            if metrics.get(name, own[name]) != own[name]:
                raise UserError(
                    f"--seeds: {name} of {other} is {metrics[name]}, of this run {own[name]}: their distances do not "
                    f"compare; measure both alike: python -m vqvae_jax evaluate --workdir={other} --samples=N"
                )


def _check_same(configs_of: Mapping[Path, Mapping[str, Any]]) -> None:
    """UserError naming two runs of one seed, or what differs from the first run beside `FREE`."""
    (workdir, config), *others = configs_of.items()
    trained = {config["seed"]: workdir}
    for other, asked in others:
        if (seed := asked["seed"]) in trained:
            raise UserError(
                f"--seeds: {other} has the same seed as {trained[seed]}, {seed}; train it with another, "
                f"--config.seed={max(trained) + 1}, into another workdir"
            )
        trained[seed] = other
        free = FREE | ({"path"} if config["dataset"]["name"] == TOKENS else set())  # those of its own autoencoder
        differing = configs.changed(config, asked)
        if differing := {path: values for path, values in differing.items() if path.rpartition(".")[-1] not in free}:
            raise UserError(
                f"--seeds wants runs of one config, but {other} differs, this run → that one: "
                f"{configs.listed(differing)}; leave it out, or see both: python -m vqvae_jax compare --help"
            )
