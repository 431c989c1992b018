"""What a prior's samplers are worth: the distance of a run's samples by steps, order, guidance, and how long they take.

    python benchmarks/samplers.py --workdir=runs/openmoji_diffusion --set=sample_steps:10,20,50 --set=guidance:1,2,3

Every combination of what is set draws as many samples under one seed, and under texts of the training where the run's
priors are told some; names are those of `sample`'s flags. The table is printed as it grows and written as Markdown and
JSON.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from vqvae_jax import nearness
from vqvae_jax.devices import use_compilation_cache
from vqvae_jax.distance.pictures import between
from vqvae_jax.endings import ended
from vqvae_jax.files import write_json
from vqvae_jax.flags import Parser, positive
from vqvae_jax.trained import Trained
from vqvae_jax.types import UserError

SHOWN = ("fd", "fd_spread", "kd", "precision", "recall", "seconds")


def main() -> int:
    flags = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--workdir", type=Path, required=True, help="of a finished run")
    flags.add_argument("--set", action="append", default=[], metavar="NAME:A,B", help="values of a sampler's field")
    flags.add_argument("--count", type=positive, default=nearness.SAMPLES, help="samples each (default %(default)s)")
    flags.add_argument("--output", type=Path, help="a .json, beside it a .md (default: samplers.json in the workdir)")
    given = flags.parse_args()
    use_compilation_cache()
    return ended(lambda: run(given))


def run(given: argparse.Namespace) -> None:
    """Draws, measures, writes after each row."""
    model, net = Trained(given.workdir), nearness.frozen_net()
    if net is None:
        raise UserError("distances want a file of frozen nets: docs/distances.md")
    size, channels = model.facts["image_size"], model.facts["channels"]
    training = nearness.training_images(model, np.empty((0, size, size, channels), np.uint8))
    if training is None:
        raise UserError("distances want the images of the training; see the line above")
    output, rows = given.output or given.workdir / "samplers.json", []
    for fields in combinations(given.set):
        rows.append({**fields, **measured(model, net, training, fields, given.count)})
        print(line(rows[-1].values()), flush=True)
        write_json(output, {"count": given.count, "rows": rows})
        output.with_suffix(".md").write_text(table(rows), "utf-8")


def combinations(told: list[str]) -> Iterator[dict[str, Any]]:
    """{"sample_steps": 10, "guidance": 2.0}, …"""
    names, values = [], []
    for one in told:
        name, colon, rest = one.partition(":")
        if not colon or not rest:
            raise UserError(f"--set={one}: write NAME:VALUE,VALUE, for example --set=sample_steps:10,20")
        names.append(name)
        values.append([value(word) for word in rest.split(",")])
    yield from (dict(zip(names, chosen, strict=True)) for chosen in itertools.product(*values))


def value(word: str) -> Any:
    """A whole number, a number, or a word."""
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


def measured(model: Trained, net: Any, training: Any, fields: dict[str, Any], count: int) -> dict[str, float]:
    """Distances of samples, and the seconds that a second drawing of them takes, compiled already."""
    texts = nearness.texts_of(model, count)
    images = model.sample(count, nearness.SEED, text=texts, **fields)
    began = time.perf_counter()
    model.sample(count, nearness.SEED, text=texts, **fields)
    found = between(net, training, images, nearness.SEED) | {"seconds": time.perf_counter() - began}
    short = {name.replace(f"_{net.net.name}", ""): one for name, one in found.items()}
    return {name: short[name] for name in SHOWN if name in short}


def line(cells: Any) -> str:
    """A row of Markdown."""
    return "| " + " | ".join(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells) + " |"


def table(rows: list[dict[str, Any]]) -> str:
    """All rows, as Markdown."""
    return "\n".join([line(rows[0]), line(["---"] * len(rows[0])), *(line(row.values()) for row in rows)]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
