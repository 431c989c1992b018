"""Files that are whole or not there: who reads sees the old one or the new, never half of one."""

import itertools
import json
import math
import os
import tempfile
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from vqvae_jax.types import UserError

CRC = "crc32"  # of the other fields of a JSON file


@contextmanager
def atomically(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes it when all went well. The folder is made if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, values: Any) -> None:
    """Plain values as JSON, for people to read; NaN and infinity become null, for JSON has no word for them."""
    with atomically(path) as temporary:
        text = json.dumps(_finite(values), indent=2, allow_nan=False, ensure_ascii=False)
        if not is_text(text):  # a path need not be UTF-8
            text = json.dumps(_finite(values), indent=2, allow_nan=False)
        temporary.write_text(text + "\n", "utf-8")


def is_text(value: Any) -> bool:
    """A string that can be written as UTF-8."""
    return isinstance(value, str) and value.encode("utf-8", "ignore").decode() == value


def pillow() -> Any:
    """Pillow's module `Image`. UserError where it is not installed: the core runs without it."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError("pictures want the package pillow: pip install pillow") from error
    return Image


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises OSError, or ValueError where it is something else."""
    values = json.loads(path.read_text("utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"it holds {type(values).__name__}, not an object")
    return values


def check_place(flag: str, path: Path) -> None:
    """UserError where nothing can be written at `path`, a file or a folder to be; said before anything is computed.

    Asked by writing, for the permissions of root and of a disk that is mounted to be read say nothing.
    """
    try:
        there = next(one for one in (path, *path.absolute().parents) if one.exists())
        if not there.is_dir() and there != path:
            raise NotADirectoryError(f"{there} is a file, not a folder")
        with tempfile.TemporaryFile(dir=there if there.is_dir() else there.absolute().parent):
            pass
    except OSError as error:
        why = f"{said(flag, path)} cannot be written: {error.strerror or error}"
        raise UserError(f"{why}; choose another place, or make room there") from error


def check_file(flag: str, path: Path) -> None:
    """The same of a file, which no folder may stand in the way of."""
    if path.is_dir():
        raise UserError(f"{said(flag, path)} is a folder, and a file is to be written there; choose another name")
    check_place(flag, path)


def said(flag: str, path: Path) -> str:
    """A path as it was typed, or without a flag by itself."""
    return f"{flag}={path}" if flag else str(path)


def write_checked_json(path: Path, values: Mapping[str, Any]) -> None:
    """As `write_json`, with a CRC32 of what JSON gives back of the values."""
    values = json.loads(json.dumps(_finite(values)))
    write_json(path, {**values, CRC: _crc32(values)})


def read_checked_json(path: Path) -> dict[str, Any]:
    """What `write_checked_json` wrote, or an earlier version without a CRC32, which is believed.

    Raises OSError, or ValueError where it is something else or has changed.
    """
    values = read_json(path)
    told = values.pop(CRC, None)
    if told not in (None, _crc32(values)):
        raise ValueError(f"its checksum differs; who changed it on purpose takes the line {CRC!r} out")
    return values


def _crc32(values: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def check_new_folder(output: Path) -> None:
    """UserError unless `output` can become a folder with nothing else in it."""
    check_place("--output", output)
    if output.exists() and not output.is_dir():
        raise UserError(f"--output={output} is no folder; choose a new one")
    if output.is_dir() and any(output.iterdir()):
        raise UserError(f"--output={output} holds other files; choose a new folder, so that nothing is overwritten")


def png_names(names: Sequence[str]) -> list[str]:
    """A file name below some folder for each name, "cats/a.jpg" → "cats/a.png", all different, none outside of it."""
    inside = [_inside(name, number) for number, name in enumerate(names)]
    taken = {str(folder) for path in inside for folder in path.parents}
    wishes = {path: _wishes(path) for path in inside}  # of equal names none is looked at twice
    made = []
    for path in inside:
        made.append(next(wish for wish in wishes[path] if wish not in taken))
        taken.add(made[-1])
    return made


def printable(name: str) -> str:
    """File names are bytes; those that are no UTF-8 become \\xff."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _wishes(path: PurePosixPath) -> Iterator[str]:
    yield f"{path.with_suffix('')}.png"
    yield f"{path}.png"
    yield from (f"{path}.{number}.png" for number in itertools.count())


def _inside(name: str, number: int) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    safe = path.name and not path.is_absolute() and ".." not in path.parts and "\0" not in name
    return path if safe else PurePosixPath(f"{number:06d}")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
