"""What the doctor says of a run, from what it logged: each stage's illnesses, those that passed too."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vqvae_jax import config as configs
from vqvae_jax.doctor import COUNTED, WATCHED, Doctor
from vqvae_jax.flags import add_workdir
from vqvae_jax.logs import read_metrics

METRICS = "metrics.jsonl"
USAGE = "held_out/usage/"


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
    if not has(entries, WATCHED):
        said = f"nothing in it is watched{held_out(entries)}, its curves are in {workdir}/report.html"
        return [f"{stage}: {steps[-1]} steps; {said}"]
    watching = Doctor()
    told = [one for entry in entries for one in watching.see(entry["step"], watching.read(entry))]
    present = watching.present()
    ill = [f"{stage}: {one}" for one in present]
    lasting = {(one.level, one.since) for one in present}
    passed = [f"{stage}: was ill, and is no more: {one}" for one in told if (one.level, one.since) not in lasting]
    used = "" if has(entries, COUNTED) else held_out(entries)
    return [*ill, *passed] or [f"{stage}: {steps[-1]} steps, nothing is wrong{used}"]


def has(entries: Sequence[Mapping[str, Any]], kinds: Iterable[str]) -> bool:
    """Whether one of these metrics of training is logged, of any level."""
    return any(name.startswith(tuple(f"train/{one}/" for one in kinds)) for entry in entries for name in entry)


def held_out(entries: Sequence[Mapping[str, Any]]) -> str:
    """Which codes the last evaluation used, in words; no verdict, as few images cannot use many codes."""
    for entry in reversed(entries):
        known = {name.removeprefix(USAGE): v for name, v in entry.items() if name.startswith(USAGE) and v is not None}
        if known:
            used = ", ".join(f"{share:.0%} of {level}" for level, share in known.items())
            return f"; of the codes the held-out images of step {entry['step']} used {used}"
    return ""
