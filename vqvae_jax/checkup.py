"""What the doctor says of a run, from what it logged: each stage's illnesses, those that passed too."""

import argparse
from pathlib import Path
from typing import Any

from vqvae_jax import config as configs
from vqvae_jax.doctor import WATCHED, Doctor
from vqvae_jax.flags import add_workdir
from vqvae_jax.logs import read_metrics

METRICS = "metrics.jsonl"


def add_doctor(under: Any) -> None:
    """The command."""
    one = under.add_parser(
        "doctor",
        help="whether codes have collapsed, since when, what to try",
        description="Reads the logs of a run, also of one that goes on, and says of each stage what is wrong with its "
        "codes, or with a critic, since which step, and what to try.",
    )
    add_workdir(one, doctor)


def doctor(given: argparse.Namespace) -> None:
    """What is wrong with a run, in lines."""
    print("\n".join(checkup(given.workdir)))


def checkup(workdir: Path) -> list[str]:
    """A line or more a stage.

    Raises:
        UserError: it is no workdir, or a log is damaged.
    """
    config = configs.load(workdir)
    return [line for stage in configs.stages(config) for line in of_stage(workdir, stage)]


def of_stage(workdir: Path, stage: str) -> list[str]:
    """Of its logged steps; a prior has no codes that could fall ill."""
    entries = read_metrics(Path(workdir) / stage / METRICS)
    if not (steps := [entry["step"] for entry in entries]):
        return [f"{stage}: nothing is logged yet"]
    if not any(name.startswith(tuple(f"train/{one}/" for one in WATCHED)) for entry in entries for name in entry):
        return [f"{stage}: {steps[-1]} steps; nothing in it is watched, its curves are in {workdir}/report.html"]
    watching = Doctor()
    told = [one for entry in entries for one in watching.see(entry["step"], watching.read(entry))]
    present = watching.present()
    ill = [f"{stage}: {one}" for one in present]
    passed = [f"{stage}: was ill, and is no more: {one}" for one in told if one.since not in {x.since for x in present}]
    return [*ill, *passed] or [f"{stage}: {steps[-1]} steps, nothing is wrong"]
