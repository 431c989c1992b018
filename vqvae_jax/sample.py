"""How new images are asked for, and how they are written."""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vqvae_jax import logs
from vqvae_jax.data.text import Tokenizer
from vqvae_jax.files import atomically, check_file, check_new_folder, is_text
from vqvae_jax.types import Pick, UserError, unknown


def label_numbers(
    facts: Mapping[str, Any], seed: int, count: int, label: str | int | None, conditional: bool
) -> np.ndarray:
    """The label of each image, int32 [count]; without a wish as often as the training data have them.

    Args:
        facts: of the data.
        seed: of the draw.
        count: images.
        label: a name or number, as `find_label` takes them, or None.
        conditional: whether any prior knows labels.

    Raises:
        UserError: a label where there are none, or an unknown one.
    """
    names = facts["label_names"]
    if label is not None:
        return np.full(count, find_label(label, names, conditional), np.int32)
    if not names:
        return np.zeros(count, np.int32)
    share = np.asarray(facts["label_counts"], np.float64)
    share = share if share.any() else np.ones_like(share)  # of imported weights nobody may have counted
    return np.random.default_rng(seed % 2**64).choice(len(names), count, p=share / share.sum()).astype(np.int32)


def text_numbers(tokenizer: Tokenizer | None, count: int, text: str | Sequence[str] | None) -> np.ndarray | None:
    """What each image is to show, int32 [count, T]; None where no text is told.

    Raises:
        UserError: there is no tokenizer, a text says nothing, or there are not as many as images.
    """
    if text is None:
        return None
    if tokenizer is None:
        raise UserError(
            "the priors were trained without text_condition, or come from a file, which has no tokenizer; "
            "leave text out"
        )
    texts = [text] * count if isinstance(text, str) else list(text) if isinstance(text, Sequence) else [text]
    if wrong := [said for said in texts if not is_text(said)]:
        raise UserError(f"a text is a string of characters; got {wrong[0]!r}")
    if len(texts) != count:
        raise UserError(f"text is one for all {count} images, or one for each; got {len(texts)}")
    numbers = tokenizer.numbers(texts)
    if empty := [said for said, row in zip(texts, numbers, strict=True) if not row.any()]:
        why = f"has nothing that {tokenizer.source} knows" if empty[0].strip() else "says nothing"
        raise UserError(f"the text {empty[0]!r} {why}; leave text out to draw without")
    return numbers


def find_label(label: str | int, names: list[str], conditional: bool = True) -> int:
    """The number of a label, counted from 0.

    Text is a name, and where there is no such name a number. An int is a number, and where there is none such a name:
    of folders 3, 2, 1 the text "1" is the last, the int 1 the one in the middle.

    Raises:
        UserError: there is none such; the message lists them. Or the priors are not `conditional`: they know none.
    """
    if not names:
        raise UserError("the data set has no labels; leave label out")
    if not conditional:
        raise UserError("the priors were trained without label_condition; leave label out")
    if not isinstance(label, str) and not is_whole(label):
        raise UserError(f"label is the name of a label or its number; got {label!r}")
    number = int(label) if not isinstance(label, str) or (label.isdecimal() and len(label) < 10) else -1
    if 0 <= number < len(names) and not (isinstance(label, str) and label in names):
        return number
    if str(label) in names:
        return names.index(str(label))
    raise UserError(unknown("label: there is no label", str(label), names, "There are"))


def is_whole(value: Any) -> bool:
    """A whole number, Python's or NumPy's."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_plain(value: Any) -> bool:
    """Neither NaN nor infinity, nor a whole number beyond what a float holds."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def pick_of(section: Mapping[str, Any], **said: Any) -> Pick:
    """The Pick of a config's section `sample`, with what was said on the command line over it."""
    values: dict[str, Any] = {name: section[name] if said.get(name) is None else said[name] for name in Pick._fields}
    for name, value in values.items():
        if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
            raise UserError(f"{name} is a number; got {value!r}")
        if not is_plain(value):
            raise UserError(f"{name} is a plain number; got {value!r}")
    if not values["temperature"] >= 0 or not 0 < values["top_p"] <= 1 or values["top_k"] < 0:
        raise UserError(f"temperature and top_k are at least 0, top_p is above 0 and at most 1; got {values}")
    if not is_whole(values["top_k"]):
        raise UserError(f"top_k is a whole number; got {values['top_k']!r}")
    return Pick(**{name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()})


def say_spare_steps(priors: Mapping[str, Any]) -> None:
    """A line for each prior, by level, that is to draw in more steps than it has tokens: those beyond draw none."""
    for level, prior in priors.items():
        if (steps := getattr(prior, "sample_steps", 0)) > getattr(prior, "length", steps):
            print(
                f"{level}: {steps} steps for {prior.length} tokens; each is drawn in a step of its own", file=sys.stderr
            )


def check_output(output: Path) -> None:
    """UserError for a name that says no known kind of file; to be called before anything is computed."""
    if output.suffix not in ("", ".png", ".npz"):
        raise UserError(f"--output={output}: the name ends in .png (a grid) or .npz (arrays), or is a folder")
    if output.suffix:
        check_file("--output", output)
    else:
        check_new_folder(output)


def save(images: np.ndarray, output: Path, columns: int = 0) -> None:
    """Writes .png (a grid), .npz (uint8 `arr_0` [N, H, W, C], as FID suites read it), or a folder of pictures.

    Args:
        images: uint8 [N, H, W, C].
        output: its ending says which.
        columns: of the grid, 0 about as many as rows.
    """
    check_output(output)
    if output.suffix == ".npz":
        with atomically(output) as path, path.open("wb") as file:
            np.savez(file, images)
    elif output.suffix == ".png":
        columns = columns or max(1, round(len(images) ** 0.5))
        logs.save_png(output, logs.grid(images, columns=columns, scale=max(1, 64 // images.shape[1])))
    else:
        for i, image in enumerate(images):
            logs.save_png(output / f"{i:06d}.png", image)
