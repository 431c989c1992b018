"""Any image data set of TFDS, https://www.tensorflow.org/datasets, by the name that TFDS gives it.

Prepared once, in a process of its own that imports TensorFlow (tfds_prepare.py); then read without it.
"""

import hashlib
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vqvae_jax import logs
from vqvae_jax.data import decoded
from vqvae_jax.data.arrays import Arrays
from vqvae_jax.data.decoded import Unreadable
from vqvae_jax.data.openmoji import data_dir
from vqvae_jax.data.stream import Lazy
from vqvae_jax.devices import CACHE, cache_dir
from vqvae_jax.files import atomically
from vqvae_jax.types import UserError, unknown

PACKAGES = {  # module: package
    "tensorflow_datasets": "tensorflow-datasets",
    "array_record": "array-record",
    "importlib_resources": "importlib-resources",
    "PIL": "pillow",
}
TEXTS = ("text", "caption", "title")  # what the feature that says what is to be seen may be called
CHUNK = 256  # records read at once for labels
SHOWN = 8  # downloads that an error lists


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


def read(name: str, path: str, split: str, image_size: int, label: str = "") -> Arrays:
    """A split of a TFDS data set, in the order of its files; image uint8 [N, image_size, image_size, 1 or 3].

    Args:
        name: as TFDS writes it: `mnist`, `imagenet_resized/64x64`, `celeb_a:2.1.0`.
        path: TFDS's data folder; "" is TFDS's own default.
        split: as TFDS writes it: `train`, `train[:90%]`, `train+test`.
        image_size: pixels; other images are cropped to the square in their middle and resized.
        label: the feature that is the label, `attributes/Male`; "" is `label`, else the first class label by
            the alphabet.

    The image is the feature `image`, else the first one by the alphabet.

    Raises:
        UserError: there is no such data set, split or label; it cannot be prepared here.
    """
    if not knows(name, path):
        near = get_close_matches(name, names(), 1)
        raise UserError(f"TFDS has no data set {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    with _quiet():
        builder = _prepared(name, Path(path).expanduser() if path else data_dir())
        count = _count(builder, name, split)
        fields = _fields(builder.info.features, name, label)
        return _arrays(builder, name, split, count, image_size, fields)


@cache
def names() -> list[str]:
    """All data sets that this version of TFDS can prepare, without their configs; [] without TFDS."""
    if find_spec("tensorflow_datasets") is None:
        return []
    with _quiet():
        import tensorflow_datasets as tfds

        return tfds.list_builders(with_community_datasets=False)


def knows(name: str, path: str = "") -> bool:
    """Whether TFDS has, or its data folder holds, a data set of this name; its config and version do not matter.

    Raises UserError where TFDS is not installed.
    """
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise UserError(
            f"data set {name!r} would be one of TFDS, which needs packages: pip install {' '.join(missing)}"
        )
    plain = name.split("/")[0].split(":")[0]
    root = Path(path).expanduser() if path else data_dir()
    return bool(plain) and (plain in names() or any((root / plain).rglob("dataset_info.json")))


def fit(image: np.ndarray, size: int) -> np.ndarray:
    """The square in the middle of uint8 [H, W, C], resized to [size, size, C]."""
    from PIL import Image

    height, width, channels = image.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image = image[top : top + side, left : left + side]
    if side == size:
        return image
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    return np.asarray(picture.resize((size, size), Image.Resampling.LANCZOS)).reshape(size, size, channels)


def pixels(content: bytes, channels: int) -> np.ndarray:
    """A PNG or JPEG as uint8 [H, W, channels]; what is transparent becomes white."""
    from PIL import Image, UnidentifiedImageError

    try:
        picture: Any = Image.open(io.BytesIO(content))
        picture.load()
    except UnidentifiedImageError as error:
        raise Unreadable(f"{len(content)} bytes that are no image") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Unreadable(str(error)) from error
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    image = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    return image.reshape(*image.shape[:2], channels)


def _arrays(builder: Any, name: str, split: str, count: int, size: int, fields: Fields) -> Arrays:
    labels, texts = _facts(builder, name, split, fields)
    source = builder.as_data_source(split, file_format="array_record", decoders=_image_bytes(fields))
    shape = (size, size, fields.channels)

    def image(row: int) -> np.ndarray:
        return fit(pixels(_at(source[row], fields.image), fields.channels), size)

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


def _prepared(name: str, root: Path) -> Any:
    """The builder of a data set that stands below `root` in array_record; prepares it if it is not there."""
    builder = _found(name, root)
    if builder is None:
        _check(name, root)
        _prepare(name, root)
        builder = _found(name, root)
    if builder is None:
        raise UserError(f"{name} was prepared and is not found in {root}; delete what is there of it and run again")
    formats = {form.value for form in builder.info.available_file_formats()}
    if "array_record" not in formats:
        raise UserError(
            f"{name} is prepared as {' and '.join(sorted(formats))}, which TensorFlow alone reads. Set dataset.path to "
            "another folder, where it is prepared again, or convert it (pip install apache-beam mlcroissant): "
            f"tfds convert_format --dataset_version_dir={builder.data_path} --out_file_format=array_record"
        )
    return builder


def _found(name: str, root: Path) -> Any:
    """A builder made of the prepared files alone, or None."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.read_only_builder import builder_from_files

    try:
        return builder_from_files(name, data_dir=str(root))
    except tfds.core.DatasetNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"dataset.name {name!r}: {_line(error)}") from error


def _check(name: str, root: Path) -> None:
    """UserError where preparing would fail late or for nothing."""
    import tensorflow_datasets as tfds

    plain, _, config = name.split(":")[0].partition("/")
    try:
        configs = list(tfds.builder_cls(plain).builder_configs)
        if config and config not in configs:
            raise UserError(unknown(f"TFDS's {plain} has no config", config, configs, "There are"))
        features = tfds.builder(name, data_dir=root).info.features
    except UserError:
        raise
    except ImportError as error:
        raise UserError(f"{name} needs a package to be prepared: {_line(error)}") from error
    except (AssertionError, ValueError, RuntimeError) as error:
        why = str(error).split('}": ')[-1]  # without the arguments that TFDS repeats
        raise UserError(f"dataset.name {name!r}: {_line(why)}") from error
    _fields(features, name, "")
    if find_spec("tensorflow") is None:
        raise UserError(
            f"{name} is not in {root} yet and needs TensorFlow once, to prepare it: pip install tensorflow-cpu"
        )


def _prepare(name: str, root: Path) -> None:
    """Runs tfds_prepare.py and says what it failed by."""
    print(f"preparing {name} in {root}, once", file=sys.stderr)
    here = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-m", "vqvae_jax.data.tfds_prepare", name, str(root)]
    errors = None if sys.stderr.isatty() else subprocess.PIPE  # a terminal gets TFDS's progress
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
        try:
            out, said = process.communicate()
        except BaseException:
            process.terminate()  # it removes what is half
            raise
    code = process.returncode
    if code:
        last = (said or "").strip().splitlines()[-1:]
        why = f"signal {-code} ended its process" if code < 0 else " ".join(last) or f"exit status {code}"
        raise UserError(f"{name} cannot be prepared: {why}")
    report = json.loads(out)
    if report:
        raise UserError(_failure(name, root, report))


def _failure(name: str, root: Path, report: Mapping[str, Any]) -> str:
    import tensorflow_datasets as tfds

    builder = tfds.builder_cls(name.split("/")[0].split(":")[0])
    missing = report["missing"]
    if missing:
        infos = builder.url_infos or {}
        files = {url: infos[url].filename or "" if url in infos else "" for url in missing}
        named = {url: "" if file in url else f" ({file})" for url, file in files.items()}
        lines = [f"  {url}{named[url]} → {path}" for url, path in list(missing.items())[:SHOWN]]
        more = [f"  and {len(missing) - SHOWN} more"] if len(missing) > SHOWN else []
        head = f"{name} cannot be downloaded: {report['text']}. Put each file where TFDS looks for it and run again:"
        return "\n".join([head, *lines, *more])
    by_hand = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    if by_hand:
        folder = root / "downloads" / "manual"
        return f"{name} must be downloaded by hand into {folder}: {_line(by_hand)} ({report['error']})"
    return f"{name} cannot be prepared: {report['error']}: {report['text']}"


def _count(builder: Any, name: str, split: str) -> int:
    """How many examples the split has, at least one."""
    splits = list(builder.info.splits)
    try:
        count = builder.info.splits[split].num_examples
    except (KeyError, ValueError) as error:
        message = f"{name} has no split {split!r}; it has: {', '.join(splits)}"
        if len(splits) == 1:
            one = splits[0]
            message += f". Divide it: --config.dataset.split='{one}[:90%]' --config.dataset.test_split='{one}[90%:]'"
        raise UserError(message) from error
    if not count:
        raise UserError(f"{name}: the split {split!r} is empty; choose another slice of: {', '.join(splits)}")
    return count


def _fields(features: Any, name: str, label: str) -> Fields:
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
    texts = [path for path in leaves if path[-1] in TEXTS and isinstance(leaves[path], tfds.features.Text)]
    return Fields(image, channels, _label(leaves, name, label), texts[0] if texts else None)


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


def _as_label(path: tuple[str, ...], feature: Any) -> Label | None:
    """None where the feature is no single class, truth or integer."""
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.ClassLabel):
        return Label(path, tuple(feature.names) if feature.num_classes else None)
    if getattr(feature, "shape", None) != () or feature.np_dtype is None:
        return None
    kind = np.dtype(feature.np_dtype).kind
    return {"b": Label(path, (f"not {path[-1]}", path[-1])), "i": Label(path, None), "u": Label(path, None)}.get(kind)


def _label_names(builder: Any, name: str, label: Label | None) -> tuple[str, ...]:
    """The names of the numbers; of plain integers over all splits, so that each agrees on how many labels there are."""
    if label is None:
        return ()
    if label.names is not None:
        return label.names
    only = Fields(_fields(builder.info.features, name, "").image, 0, label, None)
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
    return label, None if facts["text"] is None else tuple(facts["text"])


def _read_facts(builder: Any, name: str, split: str, fields: Fields) -> dict[str, list[Any] | None]:
    source = builder.as_data_source(split, file_format="array_record", decoders=_image_bytes(fields))
    labels: list[int] | None = None if fields.label is None else []
    texts: list[str] | None = None if fields.text is None else []
    bar = logs.progress_bar(len(source), 0, f"labels of {name} {split}", "image")
    try:
        for start in range(0, len(source), CHUNK):
            rows = range(start, min(start + CHUNK, len(source)))
            for example in source.__getitems__(list(rows)):
                if labels is not None and fields.label is not None:
                    labels.append(int(_at(example, fields.label.path)))
                if texts is not None and fields.text is not None:
                    texts.append(_at(example, fields.text).decode("utf-8", "replace"))
            bar.show(rows.stop, "")
    finally:
        bar.close()
    return {"label": labels, "text": texts}


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


def _line(text: Any, length: int = 300) -> str:
    """At most so many characters, in one line."""
    line = " ".join(str(text).split())
    return line if len(line) <= length else f"{line[:length]} …"


@contextmanager
def _quiet() -> Iterator[None]:
    """TFDS without its log lines."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
