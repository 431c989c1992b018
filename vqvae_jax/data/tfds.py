"""Any image data set of TFDS, https://www.tensorflow.org/datasets, by the name that TFDS gives it.

Prepared once, in a process of its own that imports TensorFlow (tfds_prepare.py); then read without it.
"""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from vqvae_jax.data import decoded, pictures
from vqvae_jax.data.arrays import Arrays
from vqvae_jax.data.openmoji import data_dir
from vqvae_jax.data.stream import Lazy
from vqvae_jax.data.tfds_builder import count_of, knows, names, prepared, quiet
from vqvae_jax.data.tfds_features import Fields, Label, find_fields
from vqvae_jax.devices import CACHE, cache_dir
from vqvae_jax.files import atomically
from vqvae_jax.progress import progress_bar
from vqvae_jax.types import UserError

__all__ = ["knows", "names", "read"]

CHUNK = 256  # records read at once for labels


def read(name: str, path: str, split: str, image_size: int, label: str = "", text: str = "") -> Arrays:
    """A split of a TFDS data set, in the order of its files; image uint8 [N, image_size, image_size, 1 or 3].

    Args:
        name: as TFDS writes it: `mnist`, `imagenet_resized/64x64`, `celeb_a:2.1.0`.
        path: TFDS's data folder; "" is TFDS's own default.
        split: as TFDS writes it: `train`, `train[:90%]`, `train+test`.
        image_size: pixels; other images are cropped to the square in their middle and resized.
        label: the feature that is the label, `attributes/Male`; "" is `label`, else the first class label by
            the alphabet.
        text: the feature that is the text, `caption`, or several, `captions/text`; "" is the first one called text,
            caption or title.

    The image is the feature `image`, else the first one by the alphabet.

    Raises:
        UserError: there is no such data set, split, label or text; it cannot be prepared here.
    """
    if not knows(name, path):
        near = get_close_matches(name, names(), 1)
        raise UserError(f"TFDS has no data set {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    with quiet():
        builder = prepared(name, Path(path).expanduser() if path else data_dir())
        count = count_of(builder, name, split)
        fields = find_fields(builder.info.features, name, label, text)
        return _arrays(builder, name, split, count, image_size, fields)


def _arrays(builder: Any, name: str, split: str, count: int, size: int, fields: Fields) -> Arrays:
    labels, texts = _facts(builder, name, split, fields)
    source = builder.as_data_source(split, file_format="array_record", decoders=_image_bytes(fields))
    shape = (size, size, fields.channels)

    def image(row: int) -> np.ndarray:
        return pictures.decode(_at(source[row], fields.image), size, fields.channels)

    label_names = _label_names(builder, name, fields.label) if labels is not None else ()
    if not decoded.fits(count, shape):
        group = tuple(map(str, range(count)))  # to hash the images themselves, all would have to be decoded
        return Arrays(Lazy(count, shape, image), labels, label_names, text=texts, group=group)
    whole = decoded.decode_once({**_key(builder, split), "size": size}, count, shape, image, f"{name} {split}")
    if whole.skipped:
        row, why = whole.skipped[0]
        print(f"{name}: {len(whole.skipped)} images left out, number {row} because: {why}", file=sys.stderr)
        labels = None if labels is None else labels[whole.kept]
        texts = texts and tuple(texts[row] for row in whole.kept)
    return Arrays(whole.image, labels, label_names, text=texts)


def _label_names(builder: Any, name: str, label: Label | None) -> tuple[str, ...]:
    """The names of the numbers; of plain integers over all splits, so that each agrees on how many labels there are."""
    if label is None:
        return ()
    if label.names is not None:
        return label.names
    only = Fields(find_fields(builder.info.features, name, "").image, 0, label, None)
    found = [_facts(builder, name, split, only)[0] for split in builder.info.splits]
    return tuple(map(str, range(1 + max(int(one.max(initial=-1)) for one in found if one is not None))))


def _facts(builder: Any, name: str, split: str, fields: Fields) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Labels int32 [N] and texts [N] of all examples, read once and then kept; None where there are none."""
    if fields.label is None and fields.text is None:
        return None, None
    key = {**_key(builder, split), "label": fields.label and fields.label.path, "text": fields.text}
    path = cache_dir("images") / f"{_digest(key)}.facts.json"
    try:
        facts = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        facts = _read_facts(builder, name, split, fields)
        try:
            with atomically(path) as temporary:
                temporary.write_text(json.dumps(facts), "utf-8")
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error}; set {CACHE} to a folder with room") from error
    label = None if facts["label"] is None else np.asarray(facts["label"], np.int32)
    if label is not None and label.min(initial=0) < 0:  # a test split whose labels are secret
        label = None
    return label, None if facts["text"] is None else tuple(map(_lines, facts["text"]))


def _lines(text: str | Sequence[str]) -> str:
    """The text of an example: of several a line each."""
    return "\n".join(" ".join(one.split()) for one in ([text] if isinstance(text, str) else text))


def _read_facts(builder: Any, name: str, split: str, fields: Fields) -> dict[str, list[Any] | None]:
    source = builder.as_data_source(split, file_format="array_record", decoders=_image_bytes(fields))
    labels: list[int] | None = None if fields.label is None else []
    texts: list[Any] | None = None if fields.text is None else []
    bar = progress_bar(len(source), 0, f"labels of {name} {split}", "image")
    try:
        for start in range(0, len(source), CHUNK):
            rows = range(start, min(start + CHUNK, len(source)))
            for example in source.__getitems__(list(rows)):
                if labels is not None and fields.label is not None:
                    labels.append(int(_at(example, fields.label.path)))
                if texts is not None and fields.text is not None:
                    texts.append(_decoded(_at(example, fields.text)))
            bar.show(rows.stop, "")
    finally:
        bar.close()
    return {"label": labels, "text": texts}


def _decoded(text: Any) -> str | list[str]:
    """As it is read: bytes, or several."""
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else list(map(_decoded, text))  # type: ignore[arg-type]


def _key(builder: Any, split: str) -> dict[str, Any]:
    """What the images and labels of a split depend on."""
    facts = (Path(builder.data_path) / "dataset_info.json").read_bytes()
    folder = str(Path(builder.data_path).resolve())  # name, config and version are in it
    return {"tfds": folder, "info": hashlib.blake2b(facts, digest_size=12).hexdigest(), "split": split}


def _digest(key: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=12).hexdigest()


def _image_bytes(fields: Fields) -> dict[str, Any]:
    """Decoders that leave the image as it is stored."""
    import tensorflow_datasets as tfds

    decoders: Any = tfds.decode.SkipDecoding()
    for name in reversed(fields.image):
        decoders = {name: decoders}
    return decoders


def _at(example: Any, path: Sequence[str]) -> Any:
    for name in path:
        example = example[name]
    return example
