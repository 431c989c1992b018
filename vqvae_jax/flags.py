"""Flags of commands: how they are read, and what is said of a wrong one."""

import argparse
import ast
import contextlib
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from vqvae_jax.types import UserError

DATASET = {"config.dataset.name": "--dataset", "--config.dataset.test_split": "--split", "--config.dataset.": "--"}
MEASURED = {"--config.dataset.image_size=": "train or import with --image_size=", **DATASET}

# What errors of a model say, which Python reads too, as it is typed.
DRAWING = {f"leave {name} out": f"leave --{name} out" for name in ("label", "text", "to_seed", "autoencoder")}
DRAWING |= {"say it: label=": "say it: --label=", "add sample_eta=": "add --sample_eta="}
DRAWING |= {"label: there is no": "--label: there is no", "perhaps autoencoder_step": "perhaps --autoencoder_step"}
DRAWING |= {"edit(images, mask)": "--mask=FILE", "variations(images)": "--variations=N"}
DRAWING |= {"redraw(images, 0.6)": "--strength=0.6", " autoencoder=DIR": " --autoencoder=DIR"}
EDITING = ("mask", "shift", "strength", "variations", "grow", "seam")  # flags about own pictures
SAMPLER = re.compile(r"--((?P<level>\w+)\.)?(?P<name>sample_\w+)=(?P<value>.+)")  # a field of a prior's sampler


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, and whose flags are written in full."""

    def __init__(self, **options: Any):
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; {self.prog} --help shows all flags\n")


def add_workdir(one: argparse.ArgumentParser, command) -> None:
    """The flag of every command, and what it calls."""
    one.add_argument("--workdir", type=folder, required=True, help="where the run lives")
    one.add_argument("--quiet", action="store_true", help="do not show how far it is")
    one.set_defaults(command=command)


def add_images(one: argparse.ArgumentParser) -> None:
    """Which images are measured."""
    one.add_argument("--dataset", help="other images: a name of TFDS, openmoji, npz, folder … (default: the config's)")
    one.add_argument("--path", help="where they lie, if it must be told")
    one.add_argument("--split", help="another split than the config's dataset.test_split")


def add_autoencoder_step(one: argparse.ArgumentParser, flag: str = "--autoencoder_step") -> None:
    """Which of its checkpoints is used."""
    one.add_argument(flag, type=step, help="of the autoencoder: a number, best or latest (default latest)")


def add_prior_step(one: argparse.ArgumentParser, flag: str = "--step") -> None:
    """Which of the priors' checkpoints is used."""
    one.add_argument(
        flag,
        type=steps,
        default="best",
        help="of the priors: a number, best or latest; of some of them top:280,bottom:latest (default best)",
    )


def add_samples(one: argparse.ArgumentParser) -> None:
    """How many new images are drawn to be measured."""
    one.add_argument(
        "--samples",
        type=natural,
        default=500,
        help="that are drawn to measure their distance from the training images, where a frozen net is there: see "
        "the command features; 0: none (default 500)",
    )


def add_autoencoder(one: argparse.ArgumentParser) -> None:
    """Where it is, if not in the workdir."""
    one.add_argument(
        "--autoencoder", type=folder, help="of priors that were trained on tokens: the workdir that made them"
    )


def add_editing(one: argparse.ArgumentParser) -> None:
    """Which pictures are drawn anew in part, and which part."""
    which = one.add_mutually_exclusive_group()
    which.add_argument(
        "--prefix",
        type=folder,
        help="a folder of pictures: their upper halves are given, --count lower halves each are drawn (default 4)",
    )
    which.add_argument(
        "--images",
        type=folder,
        help="a folder of pictures, or one file: what --mask or --shift shows is drawn anew, --count times (default "
        "4), the rest stays; or --strength, or --variations. Without --label none is told",
    )
    one.add_argument(
        "--mask",
        type=folder,
        help="a picture for all, or a folder with one of each picture's name: white (128 and above) or transparent is "
        "drawn anew. Of the picture's size, or of the training's for the square in its middle",
    )
    one.add_argument(
        "--shift",
        type=pixels,
        help="DOWN,RIGHT pixels, as in training, that the pictures are moved by; what is uncovered is drawn anew, as "
        "beyond the upper edge by --shift=16,0, beyond the lower one by --shift=-16,0",
    )
    one.add_argument(
        "--strength",
        type=share,
        help="all of the pictures is drawn anew, from them with so much noise, 0 the reconstruction to 1 nothing of "
        "them; with diffusion priors",
    )
    one.add_argument("--grow", type=natural, help="tokens around the mask that are drawn as well (default 0)")
    one.add_argument("--seam", type=natural, help="pixels around the mask where old and new are blended (default 0)")
    one.add_argument(
        "--variations", type=positive, help="so many of each picture: the top level is kept, the others are drawn"
    )
    one.add_argument(
        "--to_seed",
        type=seed,
        help="--count pictures (default 8) in a row, from that of --seed to this one's; with diffusion priors",
    )


def check_editing(given: argparse.Namespace) -> None:
    """UserError where one of these flags wants another, or does not go with it."""
    said = [name for name in EDITING if getattr(given, name) is not None]
    if given.to_seed is not None and (given.images or given.prefix or said):
        raise UserError("--to_seed goes from one new picture to another; leave own pictures out")
    if said and not given.images:
        raise UserError(f"--{said[0]} is about own pictures; say which: --images=FOLDER")
    if given.images and not {"mask", "shift", "strength", "variations"} & set(said):
        raise UserError(
            f"--images={given.images}: say what is drawn anew: --mask=FILE, --shift=DOWN,RIGHT, all of it by "
            "--strength=0.6, or all below the top level by --variations=N"
        )
    if given.strength is not None and (more := [name for name in said if name not in ("strength", "variations")]):
        raise UserError(f"--strength draws all of a picture; leave --{more[0]} out")
    if given.variations and (more := [name for name in said if name != "variations"]):
        raise UserError(f"--variations=N draws all below the top level; leave --{more[0]} out")
    if given.variations and given.count:
        raise UserError("--variations=N says how many are drawn; leave --count out")


def check_texts(given: argparse.Namespace, file: bool) -> None:
    """UserError where own pictures, or those between two seeds, are told what only new ones are: --text=`file`."""
    other = next((name for name in ("prefix", "images", "to_seed") if getattr(given, name) is not None), None)
    if other and (file or given.best_of > 1):
        flag = f"--text={given.text} is a file with texts of" if file else f"--best_of={given.best_of} is about"
        raise UserError(f"{flag} new pictures; with --{other} say one text itself, without --best_of")


def images_of(given: argparse.Namespace) -> dict[str, str]:
    """Changes to the config's section `dataset`."""
    asked = {"name": given.dataset, "path": given.path, "test_split": given.split}
    if given.dataset and not given.path:
        asked["path"] = ""
    return {name: value for name, value in asked.items() if value is not None}


def sampler_fields(flags: Sequence[str]) -> dict[str, dict[str, Any]]:
    """--sample_steps=8 and --bottom.sample_steps=4 as {"sample_steps": {"": 8, "bottom": 4}}."""
    found: dict[str, dict[str, Any]] = {}
    for said in filter(None, map(SAMPLER.fullmatch, flags)):
        try:
            value = ast.literal_eval(said["value"])
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            value = said["value"]
        found.setdefault(said["name"], {})[said["level"] or ""] = value
    return found


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"wants a whole number above 0, got {text!r}")
    return int(text)


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"wants a number from 0 to 1, got {text!r}")
    return number


def number(text: str) -> float:
    """A number, neither NaN nor infinite."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"wants a plain number, got {text!r}")
    return value


def natural(text: str) -> int:
    """A whole number, 0 or more."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"wants a whole number, 0 or more, got {text!r}")
    return int(text)


def pixels(text: str) -> tuple[int, int]:
    """Two whole numbers, down and right."""
    said = re.fullmatch(r"(-?\d{1,6}),(-?\d{1,6})", text)
    if not said or not any(both := (int(said[1]), int(said[2]))):
        raise argparse.ArgumentTypeError(f"wants pixels down and right, such as 16,0 or 0,-16; got {text!r}")
    return both


def sides(text: str) -> tuple[int, ...]:
    """Whole numbers above 0, with commas between."""
    if not re.fullmatch(r"[1-9]\d{0,5}(,[1-9]\d{0,5})*", text):
        raise argparse.ArgumentTypeError(f"wants whole numbers above 0, such as 1,2,4; got {text!r}")
    return tuple(map(int, text.split(",")))


def value_range(text: str) -> tuple[float, float]:
    """Two numbers, the lower one first."""
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low, high = math.nan, math.nan
    if not -math.inf < low < high < math.inf:
        raise argparse.ArgumentTypeError(f"wants two numbers, the lower one first, such as -1,1; got {text!r}")
    return low, high


def factor(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"wants a number above 0, got {text!r}")
    return value


def folder(text: str) -> Path:
    """A path; ~ is the home of whoever types, which a shell does not say behind a =."""
    return Path(os.path.expanduser(text))


def file(text: str) -> Path:
    """A file that is there."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return Path(text)


def seed(text: str) -> int:
    """A whole number of 64 bits."""
    if not text.removeprefix("-").isdecimal() or not -(2**63) <= int(text) < 2**64:
        raise argparse.ArgumentTypeError(f"wants a whole number between {-(2**63)} and {2**64 - 1}, got {text!r}")
    return int(text)


def step(text: str) -> int | str | None:
    """What `Checkpoints` take for a step."""
    if text in ("best", "latest"):
        return {"best": "best", "latest": None}[text]
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"wants a number, best or latest, got {text!r}")
    return int(text)


def steps(text: str) -> Any:
    """A step of all priors, or top:280,bottom:best of some."""
    if ":" not in text:
        return step(text)
    named = [part.split(":", 1) for part in text.split(",")]
    if any(len(pair) < 2 or not pair[0] for pair in named):
        raise argparse.ArgumentTypeError(f"wants a step, or LEVEL:STEP,LEVEL:STEP; got {text!r}")
    return {level: step(number) for level, number in named}


@contextlib.contextmanager
def flags_in_place_of(flags: dict[str, str]) -> Iterator[None]:
    """Errors name what is typed here, not the fields of a config."""
    try:
        yield
    except UserError as error:
        text = str(error)
        for field, flag in flags.items():
            text = text.replace(field, flag)
        raise type(error)(text) from error
