"""Which features of a TFDS data set are the image, its label and its text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vqvae_jax.types import UserError, unknown

TEXTS = ("text", "caption", "title", "captions")  # what the feature that says what is to be seen may be called


class Label(NamedTuple):
    """Where a label stands and what its numbers mean."""

    path: tuple[str, ...]
    names: tuple[str, ...] | None  # None: any integers


class Fields(NamedTuple):
    """Where in an example the image, its label and its text stand."""

    image: tuple[str, ...]
    channels: int
    label: Label | None
    text: tuple[str, ...] | None


def find_fields(features: Any, name: str, label: str, text: str = "") -> Fields:
    """Finds the image, the label and the text among the features."""
    import tensorflow_datasets as tfds

    leaves = dict(_leaves(features))
    images = [
        path
        for path, one in leaves.items()
        if isinstance(one, tfds.features.Image) and np.dtype(one.np_dtype) == np.uint8
    ]
    if not images:
        kinds = ", ".join(f"{'/'.join(path)} ({type(one).__name__})" for path, one in leaves.items())
        raise UserError(f"{name} has no feature that is a plain image; it has: {kinds}")
    image = _first(images, "image")
    channels = 1 if leaves[image].shape[-1] == 1 else 3
    return Fields(image, channels, _label(leaves, name, label), _text(leaves, name, text))


def _leaves(features: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    import tensorflow_datasets as tfds

    if not isinstance(features, tfds.features.FeaturesDict):
        yield path, features
        return
    for name, feature in sorted(features.items()):  # because the order of a prepared set's features is any
        yield from _leaves(feature, (*path, name))


def _first(paths: Sequence[tuple[str, ...]], word: str) -> tuple[str, ...]:
    """The feature called `word`, else the first in the order of the alphabet; an outer one before an inner."""
    return min(paths, key=lambda path: (path[-1] != word, len(path), path))


def _label(leaves: Mapping[tuple[str, ...], Any], name: str, label: str) -> Label | None:
    labels = {"/".join(path): found for path, one in leaves.items() if (found := _as_label(path, one))}
    if not label:
        import tensorflow_datasets as tfds

        outer = [path for path, one in leaves.items() if len(path) == 1 and isinstance(one, tfds.features.ClassLabel)]
        return labels["/".join(_first(outer, "label"))] if outer else None
    if label not in labels:
        raise UserError(unknown(f"dataset.label: {name} has no label", label, labels))
    return labels[label]


def _text(leaves: Mapping[tuple[str, ...], Any], name: str, text: str) -> tuple[str, ...] | None:
    """The one that is asked for, else the first that is called so; one text an example goes before several."""
    import tensorflow_datasets as tfds

    single = [path for path, one in leaves.items() if isinstance(one, tfds.features.Text)]
    several = [(*path, *more) for path, one in leaves.items() for more in _texts_within(one)]
    texts = {"/".join(path): path for path in (*single, *several)}
    if not text:
        return next((path for path in texts.values() if path[-1] in TEXTS), None)
    if text not in texts:
        raise UserError(unknown(f"dataset.text: {name} has no text", text, texts))
    return texts[text]


def _texts_within(feature: Any) -> Iterator[tuple[str, ...]]:
    """Where in a sequence texts stand: () where it is one of texts, (name,) of a sequence of several features."""
    import tensorflow_datasets as tfds

    inner = getattr(feature, "feature", None) if isinstance(feature, tfds.features.Sequence) else None
    if isinstance(inner, tfds.features.Text):
        yield ()
    if isinstance(inner, tfds.features.FeaturesDict):
        yield from ((name,) for name, one in sorted(inner.items()) if isinstance(one, tfds.features.Text))


def _as_label(path: tuple[str, ...], feature: Any) -> Label | None:
    """None where the feature is no single class, truth or integer."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.ClassLabel):
        return Label(path, tuple(feature.names) if feature.num_classes else None)
    if getattr(feature, "shape", None) != () or feature.np_dtype is None:
        return None
    kind = np.dtype(feature.np_dtype).kind
    return {"b": Label(path, (f"not {path[-1]}", path[-1])), "i": Label(path, None), "u": Label(path, None)}.get(kind)
