"""What is said of the samples at the end of a training: what each was told, and whether it is a training image."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vqvae_jax.files import read_json
from vqvae_jax.types import UserError

FILE, STRIP = "samples.json", "nearest"  # .png
COPY = 0.5  # of the distance that a tenth of the held-out images is within: what is nearer looks like a copy


class Told(NamedTuple):
    """What each picture of samples.png was told, as a grid over it."""

    columns: int
    rows: int
    said: list[str]


class Caption(NamedTuple):
    """Of a sample's nearest training image."""

    apart: str
    name: str


def read(workdir: Path) -> dict[str, Any]:
    """What samples.json says; {} without it, or without the picture that it is about."""
    path = workdir / FILE
    if not path.is_file() or not (workdir / "samples.png").is_file():
        return {}
    try:
        found = read_json(path)
        if not isinstance(found, dict) or not all(isinstance(one, str) for one in found["told"]):
            raise ValueError("told is no list of texts")
        sentence(found["nearest"]), captions(found)
        return found
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({error!r}); remove it and samples.png, and type the training again"
        ) from error


def told(found: Mapping[str, Any]) -> Told | None:
    """The grid; None where nothing was told."""
    said = found.get("told", [])
    columns = max(1, round(len(said) ** 0.5))  # as sample.save lays them out
    return Told(columns, -(-len(said) // columns), said) if any(said) else None


def captions(found: Mapping[str, Any]) -> list[Caption]:
    """What stands under each column of the strip."""
    if not found:
        return []
    apart, names = found["nearest"]["rms"], found["nearest"]["name"]
    return [Caption(f"{rms:.0f}", name) for rms, name in zip(apart, names, strict=True)]


def sentence(nearest: Mapping[str, Any]) -> str:
    """What the distances mean."""
    usual, seen = nearest["held_out"], nearest["compared"]
    near = usual.get("tenth", usual["least"])  # older runs keep no tenth
    copies = sum(rms < COPY * near for rms in nearest["rms"])
    found = (
        f"{copies} of {len(nearest['rms'])} are so near that they look like copies."
        if copies
        else "None looks like a copy."
    )
    tenth = f"a tenth is within {near:.0f}, " if "tenth" in usual else ""
    among = f"{seen}" if seen == nearest["images"] else f"{seen} of {nearest['images']}, at random"
    return (
        f"Below each sample the nearest of the training images ({among}), and how far they are apart: the root of the "
        f"mean squared difference of their values, 0 to 255, at 32 pixels or so. Of {usual['count']} images that were "
        f"held out the nearest one is {usual['least']:.0f} away, {tenth}half are within {usual['median']:.0f}. "
        f"{found}"
    )
