"""The command `compare`."""

import argparse
from pathlib import Path
from typing import Any

from vqvae_jax.files import check_file
from vqvae_jax.flags import (
    MEASURED,
    add_autoencoder_step,
    add_images,
    add_prior_step,
    add_samples,
    add_workdir,
    flags_in_place_of,
    folder,
    images_of,
)
from vqvae_jax.types import UserError


def add_compare(under: Any) -> None:
    """A model beside a recording, or beside another model."""
    one = under.add_parser(
        "compare",
        help="beside PyTorch's numbers, or another model",
        description="--reference: the model on the inputs of a recording, tensor by tensor; exit 1 where one is "
        "too far. --against: two models on the same test split, with a strip: original | this one | the other.",
    )
    add_workdir(one, compare)
    other = one.add_mutually_exclusive_group(required=True)
    other.add_argument("--reference", type=Path, help="a recording, .npz: scripts/record_reference.py makes one")
    other.add_argument("--against", type=folder, help="another workdir")
    one.add_argument("--key", default="", help="which recording, where the file holds several")
    one.add_argument("--report", type=Path, help="all rows, as .json")
    one.add_argument("--output", type=Path, help="the strip of --against (default: DIR/comparison.png)")
    add_prior_step(one)
    add_autoencoder_step(one)
    add_images(one)
    add_samples(one)


def compare(given: argparse.Namespace) -> int:
    """0, or 1 where a recording and the model differ."""
    if given.report and given.report.suffix != ".json":
        raise UserError(f"--report={given.report}: the name ends in .json")
    if given.output and given.output.suffix != ".png":
        raise UserError(f"--output={given.output}: the strip's name ends in .png")
    if given.reference and (given.output or images_of(given)):
        raise UserError("--output, --dataset, --path and --split go with --against; a recording has its own inputs")
    if given.key and not given.reference:
        raise UserError(f"--key={given.key} goes with --reference; leave it out")
    if given.report:
        check_file("--report", given.report)
    return to_recording(given) if given.reference else to_model(given)


def to_recording(given: argparse.Namespace) -> int:
    from vqvae_jax.compare import recorded, rows
    from vqvae_jax.files import write_json

    found = recorded.compare(given.workdir, given.reference, given.step, given.autoencoder_step, given.key)
    print("\n".join(rows.table(found)))
    if given.report:
        write_json(given.report, rows.as_json(found))
    return 0 if all(row.passed for row in found) else 1


def to_model(given: argparse.Namespace) -> int:
    from vqvae_jax.compare import models
    from vqvae_jax.files import write_json

    with flags_in_place_of(MEASURED):
        more = given.step, given.autoencoder_step, given.samples
        found = models.compare(given.workdir, given.against, given.output, images_of(given), *more)
    print("\n".join(models.table(found)))
    if given.report:
        write_json(given.report, found)
    return 0
