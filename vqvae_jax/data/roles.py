"""Which arrays of an .npz are which: by our names, by those that others give them, or as it was said.

ours                train_image, train_label, test_image, test_label
Keras               x_train, y_train, x_test, y_test
MedMNIST            train_images, train_labels, val_images, …
one set of images   images, labels, of which some become the split "test"
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from vqvae_jax.types import UserError, unknown

KEYS = "--config.dataset.keys"
OURS = re.compile(r"(.+)_(image|label)")
KINDS: dict[str, tuple[str, ...]] = {"image": ("image", "images", "img", "imgs", "x", "data", "pixels", "arr_0")}
KINDS |= {"label": ("label", "labels", "y", "target", "targets", "class", "classes")}
SPLITS = {"train": ("train", "training"), "test": ("test", "testing"), "validation": ("val", "valid", "validation")}
WHOLE = ""  # the split of a file without any


class Role(NamedTuple):
    """What an array is for."""

    split: str
    kind: str  # "image" or "label"

    def __str__(self) -> str:
        return f"{self.split}_{self.kind}" if self.split else self.kind


Roles = dict[Role, str]  # → the array's name


def roles_of(arrays: Mapping[str, str], said: str, path: str) -> Roles:
    """The role of each array that has one.

    Args:
        arrays: name → what it is, for messages.
        said: "train_image=A,train_label=B", or "" for what the names say.
        path: of the file, for messages.

    Raises:
        UserError: something said that is not so, or two arrays for one role.
    """
    if said:
        return dict(_said(pair, arrays) for pair in said.split(","))
    found: Roles = {}
    for role, name in [*_ours(arrays), *_others(arrays)]:
        if found.setdefault(role, name) != name and not OURS.fullmatch(found[role]):
            both = f"{arrays[found[role]]} and {arrays[name]}"
            raise UserError(f"{path}: {both} may both be {role}; say which: {KEYS}={role}={name}")
    return found


def _said(pair: str, arrays: Mapping[str, str]) -> tuple[Role, str]:
    """One role and its array, as typed."""
    role, equals, name = (part.strip() for part in pair.partition("="))
    if not equals or not (ours := OURS.fullmatch(role)):
        example = f"train_image={next(iter(arrays), 'A')}"
        raise UserError(f"{KEYS}: {pair!r} is no role and array, such as {example}; several with commas")
    if name not in arrays:
        raise UserError(unknown(f"{KEYS}: the file has no array", name, arrays))
    return Role(*ours.groups()), name


def _ours(names: Iterable[str]) -> Iterable[tuple[Role, str]]:
    return [(Role(*ours.groups()), name) for name in names if (ours := OURS.fullmatch(name))]


def _others(names: Iterable[str]) -> Iterable[tuple[Role, str]]:
    return [(role, name) for name in names if not OURS.fullmatch(name) and (role := _role(name.lower()))]


def _role(name: str) -> Role | None:
    """Of what is called a kind, or a kind and a split in either order."""
    if kind := _kind_named(name):
        return Role(WHOLE, kind)
    words = name.split("_")
    for word, split in (words, words[::-1]) if len(words) == 2 else ():
        if (kind := _kind_named(word)) and split_named(split) in SPLITS:
            return Role(split_named(split), kind)
    return None


def _kind_named(word: str) -> str:
    return next((kind for kind, words in KINDS.items() if word in words), "")


def split_named(word: str) -> str:
    """A split as it is called here: "validation" for "val"."""
    return next((split for split, words in SPLITS.items() if word in words), word)


def guess(shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> str:
    """What might be typed for arrays of no known name, by what they hold; "" where nothing looks like images."""
    images = [name for name, (shape, dtype) in shapes.items() if len(shape) in (3, 4) and dtype == np.uint8]
    images = sorted(images, key=lambda name: -shapes[name][0][0])[:2]
    said = []
    for split, image in zip(("train", "test"), images, strict=False):
        said.append(f"{split}_image={image}")
        count = shapes[image][0][0]
        alike = [n for n, (shape, dtype) in shapes.items() if shape in ((count,), (count, 1)) and dtype.kind in "iu"]
        said += [f"{split}_label={alike[0]}"] if len(alike) == 1 else []
    return f"{KEYS}={','.join(said)}" if said else ""
