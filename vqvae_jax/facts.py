"""DIR/data.json: what a config cannot know of the data, as plain values; written once, when a run begins."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vqvae_jax.config.workdir import BEGUN_IN
from vqvae_jax.data.arrays import Arrays
from vqvae_jax.files import read_checked_json, write_checked_json
from vqvae_jax.types import Level, UserError

FILE = "data.json"


def facts_of(images: Arrays) -> dict[str, Any]:
    """Of images: their size in pixels, channels, names of the labels and how many images have each."""
    names = images.label_names or tuple(map(str, range(images.num_labels)))
    counts = [] if images.label is None else np.bincount(images.label, minlength=len(names)).tolist()
    return {
        "image_size": images.image.shape[1],
        "channels": images.image.shape[3],
        "label_names": list(names),
        "label_counts": counts,
    }


def as_grey(dataset: Mapping[str, Any], facts: Mapping[str, Any]) -> Mapping[str, Any]:
    """A section `dataset` whose images a model of these facts reads: one of grey images reads colour as grey."""
    return {**dataset, "channels": 1} if facts["channels"] == 1 else dataset


def as_list(level: Level) -> list[Any]:
    """A level as it is written: [name, [height, width], codes], or [name, [height, width], null, numbers]."""
    numbers = [level.channels] if level.vocab_size is None else []
    return [level.name, list(level.shape), level.vocab_size, *numbers]


def are_written(workdir: Path) -> bool:
    """Whether a run has begun there."""
    return (Path(workdir) / FILE).is_file()


def read(workdir: Path) -> dict[str, Any]:
    """What was written when the run began.

    Raises:
        UserError: nothing was trained here, or the file is damaged.
    """
    path = Path(workdir) / FILE
    if not path.is_file():
        raise UserError(
            f"{workdir} has no {FILE}: nothing was trained here; python launch.py --config=… --workdir={workdir}"
        )
    try:
        facts = read_checked_json(path)
        check_shape(facts)
        return facts
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); restore it, or use another --workdir") from error


def write(facts: Mapping[str, Any], workdir: Path) -> None:
    """Once, with the folder that relative paths of the config begin at."""
    if not are_written(workdir):
        here = os.path.relpath(Path.cwd(), os.path.realpath(workdir))  # ".." leads out of the folder, not of a link
        write_checked_json(workdir / FILE, {**facts, BEGUN_IN: here})


def check_same(facts: Mapping[str, Any], workdir: Path) -> None:
    """UserError where the data are not those that the run began with."""
    if not are_written(workdir):
        return
    before = read(workdir)
    changed = [f"{name}: {before.get(name)} → {facts[name]}" for name in facts if before.get(name) != facts[name]]
    if changed:
        raise UserError(f"the data have changed since {workdir} was begun, use another --workdir; {'; '.join(changed)}")


def check_shape(facts: Mapping[str, Any]) -> None:
    """ValueError where what is known of the data is not of the kind that `facts_of` gives."""
    missing = [name for name in ("image_size", "channels", "label_names", "label_counts") if name not in facts]
    if missing:
        raise ValueError(f"without {', '.join(missing)}")
    for name in ("image_size", "channels"):
        if not _is_count(facts[name]) or not facts[name]:
            raise ValueError(f"{name} is {facts[name]!r}, not a whole number above 0")
    names, counts = facts["label_names"], facts["label_counts"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("label_names is no list of names")
    if not isinstance(counts, list) or not all(map(_is_count, counts)) or len(counts) != len(names):
        raise ValueError("label_counts is no list of numbers, one a label")
    if "levels" in facts and not (isinstance(facts["levels"], list) and all(map(_is_level, facts["levels"]))):
        raise ValueError("levels is no list of [name, [height, width], codes or null, numbers]")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_level(value: Any) -> bool:
    if not isinstance(value, list) or len(value) not in (3, 4) or not isinstance(value[1], list):
        return False
    name, shape, codes, *numbers = value
    of_numbers = codes is None and len(numbers) == 1
    counts = [*shape, *(numbers if of_numbers else (codes, *numbers))]
    return isinstance(name, str) and len(shape) == 2 and all(map(_is_count, counts))
