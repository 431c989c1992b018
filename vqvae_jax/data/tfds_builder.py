"""TFDS data sets by name: which there are, and where they stand prepared, or how they come to."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vqvae_jax.data.openmoji import data_dir
from vqvae_jax.data.tfds_features import find_fields
from vqvae_jax.types import UserError, unknown

PACKAGES = {  # module: package
    "tensorflow_datasets": "tensorflow-datasets",
    "array_record": "array-record",
    "importlib_resources": "importlib-resources",
    "PIL": "pillow",
}
SHOWN = 8  # downloads that an error lists


@cache
def names() -> list[str]:
    """All data sets that this version of TFDS can prepare, without their configs; [] without TFDS."""
    if find_spec("tensorflow_datasets") is None:
        return []
    with quiet():
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


def prepared(name: str, root: Path) -> Any:
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
        raise UserError(f"dataset.name {name!r}: {line(error)}") from error


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
        raise UserError(f"{name} needs a package to be prepared: {line(error)}") from error
    except (AssertionError, ValueError, RuntimeError) as error:
        why = str(error).split('}": ')[-1]  # without the arguments that TFDS repeats
        raise UserError(f"dataset.name {name!r}: {line(why)}") from error
    find_fields(features, name, "")
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
        return f"{name} must be downloaded by hand into {folder}: {line(by_hand)} ({report['error']})"
    return f"{name} cannot be prepared: {report['error']}: {report['text']}"


def count_of(builder: Any, name: str, split: str) -> int:
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


def line(text: Any, length: int = 300) -> str:
    """At most so many characters, in one line."""
    line = " ".join(str(text).split())
    return line if len(line) <= length else f"{line[:length]} …"


@contextmanager
def quiet() -> Iterator[None]:
    """TFDS without its log lines."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
