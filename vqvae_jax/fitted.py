"""Training from Python: own arrays in, what was trained out. The arrays are kept in the workdir, where it reads them.

A run is what launch.py makes of the same config: it is resumed by the same call, and every command takes its workdir.
"""

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vqvae_jax import codec, recipe
from vqvae_jax import config as configs
from vqvae_jax.config.sections import plain, section
from vqvae_jax.data import Arrays
from vqvae_jax.data import tokens as token_files
from vqvae_jax.data.arrays import laid_out
from vqvae_jax.devices import check_platform, use_compilation_cache
from vqvae_jax.evaluate import measure
from vqvae_jax.files import atomically, check_place
from vqvae_jax.trained import Trained
from vqvae_jax.types import Level, UserError

IMAGES, TOKENS = configs.OWN  # in the workdir
MOST_LABELS = 1 << 20  # more kinds than anybody has; a table is kept of each
LEVEL = "codes"  # the one of `vqvae`, whose section stands in for what made own tokens


def fit(
    images: Any,
    workdir: str | Path,
    config: str | Mapping[str, Any],
    changes: Mapping[str, Any] | None = None,
    labels: Any = None,
    test_images: Any = None,
    test_labels: Any = None,
) -> Trained:
    """See `vqvae_jax.fit`."""
    arrays, workdir = _splits(images, labels, test_images, test_labels), Path(workdir).expanduser()
    path, size = workdir.resolve() / IMAGES, arrays[next(iter(arrays))].shape[1]
    own = {"dataset.name": "npz", "dataset.path": str(path), "dataset.image_size": size}
    said = _fields(changes)
    complete = configured(config, own | said)
    if labels is None:
        sections = complete["priors"].items()
        own |= {f"priors.{level}.label_condition": False for level, one in sections if "label_condition" in one}
        complete = configured(config, own | said)
    check_place("workdir", workdir)
    _keep(path, arrays)
    return _run(complete, workdir)


def fit_prior(
    tokens: Any,
    codes: int,
    workdir: str | Path,
    prior: Mapping[str, Any],
    labels: Any = None,
    label_names: Sequence[str] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Trained:
    """See `vqvae_jax.fit_prior`."""
    maps, workdir = _maps(tokens, codes), Path(workdir).expanduser()
    folder = workdir.resolve() / TOKENS
    if not isinstance(prior, Mapping):
        raise UserError(
            f"prior is a section such as {{'name': 'transformer', 'train': {{'steps': 1000}}}}; got {prior!r}"
        )
    stand_in = {"name": "vqvae", "quantizer": {"name": "vq", "codebook_size": int(codes), "code_dim": 1}}
    written = {"autoencoder": stand_in, "priors": {LEVEL: dict(prior)}}
    size = _stride(written) * max(side for one in maps for side in one.shape[1:])
    data = {"dataset.name": "tokens", "dataset.path": str(folder), "dataset.image_size": size}
    complete = configured(written, data | _fields(changes))
    check_place("workdir", workdir)
    _keep_tokens(folder, maps, codes, size, _labels(labels, len(maps[0])), _names(label_names))
    return _run(complete, workdir)


def _stride(written: Mapping[str, Any]) -> int:
    """Pixels that a token of the stand-in is wide: own tokens are of images that nobody has seen."""
    complete = configs.complete(written)
    return int(configs.autoencoder_kind(complete).stride(complete["autoencoder"]))


def _run(config: Mapping[str, Any], workdir: Path) -> Trained:
    use_compilation_cache()
    check_platform()
    recipe.run(config, workdir)
    return Trained(workdir, measure=measure)


def configured(config: str | Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A config, of a file or as it is, with fields changed by their dotted names; complete and checked."""
    if isinstance(config, str | Path):
        typed = ((name, value if isinstance(value, str) else repr(value)) for name, value in changes.items())
        return configs.read(str(config), [f"--config.{name}={value}" for name, value in typed])
    if not isinstance(config, Mapping) and not hasattr(config, "to_dict"):
        raise UserError(f"config is the name of a file, 'configs/X.py:variant', or a dict; got {type(config).__name__}")
    written = plain(config)
    for name, value in changes.items():
        inside, _, field = f"config.{name}".rpartition(".")
        section(written, inside)[field] = value
    complete = configs.complete(written)
    configs.check(complete)
    return complete


def _fields(changes: Any) -> dict[str, Any]:
    """By dotted name; NumPy's numbers are Python's then."""
    if not (changes is None or isinstance(changes, Mapping)):
        raise UserError(f"changes are a dict, {{'train.steps': 500}}; got {changes!r}")
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in (changes or {}).items()}


def _splits(images: Any, labels: Any, test_images: Any, test_labels: Any) -> dict[str, np.ndarray]:
    """The arrays of the .npz. Without test images there is one set, of which a twentieth becomes the test split."""
    apart, found = test_images is not None, {}
    if test_labels is not None and not apart:
        raise UserError("test_labels are of test_images; give both or neither")
    for split, image, label in (("train", images, labels), ("test", test_images, test_labels)):
        if image is None:
            continue
        checked = _images(image, "test_images" if split == "test" else "images")
        found[f"{split}_image" if apart else "image"] = checked
        if (numbers := _labels(label, len(checked))) is not None:
            found[f"{split}_label" if apart else "label"] = numbers
    if apart and (labels is None) != (test_labels is None):
        raise UserError("labels and test_labels go together: give both or neither")
    return found


def _images(images: Any, name: str) -> np.ndarray:
    """uint8 [N, H, H, C] of [N, H, H] too, checked."""
    images = _array(images, name)
    grey = images.ndim == 3
    shaped = images[..., None] if grey else images
    fits = shaped.ndim == 4 and shaped.shape[3] in (1, 3) and shaped.shape[1] == shaped.shape[2]
    if images.dtype != np.uint8 or not fits or not len(images):
        raise UserError(
            f"{name} are uint8 [N, H, H, C] or [N, H, H], squares of 0 to 255, grey or in colour; got {images.dtype} "
            f"{list(images.shape)}{laid_out(images.shape)}"
        )
    return shaped


def _array(values: Any, name: str) -> np.ndarray:
    """UserError for lists of several lengths."""
    try:
        return np.asarray(values)
    except ValueError as error:
        raise UserError(f"{name} are one array; those given are not of one shape") from error


def _labels(labels: Any, count: int) -> np.ndarray | None:
    """int32 [N]"""
    if labels is None:
        return None
    found = _array(labels, "labels")
    if found.dtype.kind not in "iu" or found.shape != (count,) or (count and found.min() < 0):
        got = f"{found.dtype} {list(found.shape)}"
        raise UserError(f"labels are whole numbers from 0 up, one for each of {count}; got {got}")
    if count and found.max() >= MOST_LABELS:
        raise UserError(f"labels are numbers of kinds, below {MOST_LABELS}; got {found.max()}: count yours from 0")
    return found.astype(np.int32)


def _names(names: Any) -> tuple[str, ...] | None:
    if names is not None and not (isinstance(names, Sequence) and all(isinstance(name, str) for name in names)):
        raise UserError(f"label_names are a list of names; got {names!r}")
    return None if names is None else tuple(names)


def _begun(workdir: Path) -> bool:
    """Whether a training was: before, what a call left that was refused stands in nobody's way."""
    return (workdir / configs.FILE).is_file()


def _keep(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes them once. UserError where a training has others."""
    if path.is_file() and _begun(path.parent):
        if not _same(path, arrays):
            raise UserError(f"{path.parent} was begun with other images; use another workdir")
        return
    with atomically(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **dict(arrays))  # type: ignore[arg-type]


def _same(path: Path, arrays: Mapping[str, np.ndarray]) -> bool:
    try:
        with np.load(path) as file:
            return set(file) == set(arrays) and all(np.array_equal(file[name], arrays[name]) for name in arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged; restore it, or use another workdir") from error


def _maps(tokens: Any, codes: Any) -> list[np.ndarray]:
    """The maps of one level [N, h, w], checked: of one, or of several."""
    if not isinstance(codes, int | np.integer) or isinstance(codes, bool) or codes < 1:
        raise UserError(f"codes is how many there are, a whole number above 0; got {codes!r}")
    each = [codec.as_map(one) for one in tokens] if isinstance(tokens, Sequence) and len(tokens) else []
    maps = each if each and all(one.ndim == 3 for one in each) else [codec.as_map(tokens)]
    for one in maps:
        if one.dtype.kind not in "iu" or one.ndim != 3 or not one.size or len(one) != len(maps[0]):
            got = f"{one.dtype} {list(one.shape)}"
            raise UserError(f"tokens are whole numbers [N, h, w], or several such maps of as many examples; got {got}")
        if one.min() < 0 or one.max() >= codes:
            raise UserError(f"tokens are from 0 to {codes - 1}, of codes={codes}; got {one.min()} to {one.max()}")
    return maps


def _keep_tokens(
    folder: Path, maps: list[np.ndarray], codes: int, size: int, labels: np.ndarray | None, names: Sequence[str] | None
) -> None:
    """As a folder of tokens that nothing made. UserError where a training has others."""
    count, rows = len(maps[0]), np.arange(len(maps[0]))
    names = names if names is not None else tuple(map(str, range(0 if labels is None else labels.max() + 1)))
    if labels is not None and labels.max() >= len(names):
        raise UserError(f"label_names are {len(names)} names, and labels go up to {labels.max()}")
    digests = [hashlib.blake2b(b"".join(one[row].tobytes() for one in maps), digest_size=8).hexdigest() for row in rows]
    whole = hashlib.blake2b(repr((digests, None if labels is None else labels.tolist())).encode(), digest_size=8)
    source = {"autoencoder": None, "own": whole.hexdigest()}
    called = [LEVEL] if len(maps) == 1 else [f"{LEVEL}.{i}" for i in range(len(maps))]
    levels = [Level(name, one.shape[1:], int(codes)) for name, one in zip(called, maps, strict=True)]
    counts = [] if labels is None else np.bincount(labels, minlength=len(names)).tolist()
    facts = {"image_size": size, "channels": 1, "label_names": list(names) if counts else [], "label_counts": counts}
    if _begun(folder.parent):
        if not _same_tokens(folder, source, levels, facts):
            raise UserError(f"{folder.parent} was begun with other tokens; use another workdir")
        return
    in_place = Arrays(rows.reshape(count, 1, 1, 1), labels, group=tuple(digests))  # of images: their numbers
    take = lambda some, _: [one[np.asarray(some[:]).ravel()] for one in maps]  # noqa: E731
    token_files.write(folder, {"train": token_files.Part(in_place)}, levels, take, facts, source)


def _same_tokens(folder: Path, source: Mapping[str, Any], levels: Sequence[Level], facts: Mapping[str, Any]) -> bool:
    """The same numbers under the same names: of as many codes, in maps of the same form, with the same labels."""
    if not token_files.is_written(folder, source):
        return False
    told = token_files.about(folder)
    return told["levels"] == list(levels) and told["facts"] == dict(facts)
