"""Files that are whole or not there: who reads sees the old one or the new, never half of one."""

import json
import math
import os
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any


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
        temporary.write_text(text + "\n", "utf-8")


def png_names(names: Sequence[str]) -> list[str]:
    """A file name below some folder for each name, "cats/a.jpg" → "cats/a.png", all different, none outside of it."""
    inside = [_inside(name, number) for number, name in enumerate(names)]
    stems = [str(path.with_suffix("")) for path in inside]
    twins = {stem for stem, count in Counter(stems).items() if count > 1}
    return [f"{path if stem in twins else stem}.png" for path, stem in zip(inside, stems, strict=True)]


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
