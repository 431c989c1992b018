"""Use what was trained: python -m vqvae_jax COMMAND --workdir=DIR …"""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from vqvae_jax.types import UserError


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; {self.prog} --help shows all flags\n")


def parser() -> Parser:
    """The commands and their flags."""
    commands = Parser(prog="python -m vqvae_jax", description=__doc__)
    under = commands.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)

    one = under.add_parser("sample", help="new images", description="New images from a trained workdir.")
    add_workdir(one, sample)
    one.add_argument("--count", type=positive, default=None, help="images (default: the config's sample.count)")
    one.add_argument("--seed", type=seed, default=0, help="the same seed and count give the same bytes (default 0)")
    one.add_argument(
        "--output",
        type=Path,
        help="x.png a grid, x.npz uint8 arrays, else a folder of single pictures (default: DIR/samples_SEED.png)",
    )
    one.add_argument("--label", help="name or number of a label (default: as often as in the training data)")
    one.add_argument("--temperature", type=float, help="0 takes the likeliest token (default: the config's)")
    one.add_argument("--top_k", type=int, help="likeliest tokens that stay, 0 all (default: the config's)")
    one.add_argument("--top_p", type=float, help="share of the probability that stays (default: the config's)")
    one.add_argument("--guidance", type=float, help="weight of the label, 1 plain (default: the config's)")
    one.add_argument("--step", type=step, default="best", help="of the priors: a number, best or latest (default best)")

    one = under.add_parser(
        "evaluate",
        help="metrics on the test split",
        description="Metrics on the test split: printed, and written to DIR/metrics.json with DIR/reconstructions.png.",
    )
    add_workdir(one, evaluate)
    one.add_argument("--split", help="another split than the config's dataset.test_split")
    return commands


def add_workdir(one: argparse.ArgumentParser, command) -> None:
    """The flag of every command, and what it calls."""
    one.add_argument("--workdir", type=Path, required=True, help="where the run lives")
    one.set_defaults(command=command)


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"wants a whole number above 0, got {text!r}")
    return int(text)


def seed(text: str) -> int:
    """A whole number of 32 bits: JAX would cut off the rest."""
    if not text.removeprefix("-").isdecimal() or not -(2**31) <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"wants a whole number between {-(2**31)} and {2**31 - 1}, got {text!r}")
    return int(text)


def step(text: str) -> int | str | None:
    """What `Checkpoints` take for a step."""
    if text in ("best", "latest"):
        return {"best": "best", "latest": None}[text]
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"wants a number, best or latest, got {text!r}")
    return int(text)


def sample(given: argparse.Namespace) -> None:
    """Draw images and write them."""
    from vqvae_jax import sample as drawing

    output = given.output or given.workdir / f"samples_{given.seed}.png"
    drawing.check_output(output)
    sampler = drawing.Sampler(given.workdir, given.step)
    section = sampler.config["sample"]
    pick = drawing.pick_of(
        section, temperature=given.temperature, top_k=given.top_k, top_p=given.top_p, guidance=given.guidance
    )
    images = sampler.images(given.seed, given.count or section["count"], pick, given.label)
    drawing.save(images, output)
    print(output)


def evaluate(given: argparse.Namespace) -> None:
    """Measure, print, write metrics.json."""
    from vqvae_jax import evaluate as measuring

    print("\n".join(measuring.lines(measuring.evaluate(given.workdir, given.split))))


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code is 0, or 2 where the user has something to put right."""
    given = parser().parse_args(argv)
    from vqvae_jax.devices import use_compilation_cache

    try:
        use_compilation_cache()
        given.command(given)
    except UserError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except OSError as error:  # a place that cannot be written, a disk that is full
        print(f"error: {error}; choose another place, or make room", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
