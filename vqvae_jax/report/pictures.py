"""Pictures inside the page."""

import base64
import io
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vqvae_jax.report.libraries import imported
from vqvae_jax.report.words import in_order

PICTURE = 1_000_000  # bytes; larger pictures are halved until they are below
PNG = b"\x89PNG\r\n\x1a\n"


class Picture(NamedTuple):
    """A PNG inside the page."""

    uri: str
    width: int  # pixels
    height: int
    note: str  # where it is from


def picture(workdir: Path, name: str, stages: Iterable[str]) -> Picture | None:
    """DIR/name.png; before the run is finished, the last one that a stage's training drew; or None."""
    path = workdir / f"{name}.png"
    if path.is_file():
        return _picture(path, "")
    for stage in stages:
        if last := _last(workdir / stage / "pictures", name):
            return _picture(last, f"drawn while training {stage}, {_when(last.stem)}")
    return None


def _last(folder: Path, name: str) -> Path | None:
    """What training drew last: of several levels a strip, of one the reconstructions, of a prior its samples."""
    for drawn in {"reconstructions": ("levels", "reconstruction")}.get(name, (name,)):
        found = [*folder.glob(f"{drawn}_*.png"), *folder.glob(f"epoch_*_{drawn}.png")]
        if found:
            return max(found, key=lambda path: (path.stat().st_mtime_ns, path.name))
    return None


def _when(stem: str) -> str:
    """`at step 320` for levels_0000320, `at the end of epoch 5` for epoch_5_levels."""
    number = re.sub(r"\D", "", stem).lstrip("0") or "0"
    return f"at the end of epoch {number}" if stem.startswith("epoch") else f"at step {number}"


def captions(metrics: Mapping[str, Any], entries: list[dict[str, Any]], levels: Sequence[str]) -> list[str]:
    """What the rows of the strip show: the original, then decoded from more and more maps.

    A level of whose codes nothing was measured, as it holds numbers, is one map.
    """
    measured = [name for row in (metrics.get("autoencoder", {}), *entries) for name in row if "usage/" in name]
    maps = in_order([*(name.rpartition("/")[2] for name in measured), *levels], levels)
    if len(maps) == 1:
        return ["original", "decoded"]
    return ["original", f"{maps[0]} only", *(f"+ {name}" for name in maps[1:-1]), "all"]


def code_map_captions(metrics: Mapping[str, Any], levels: Sequence[str]) -> list[str]:
    """What the rows of code_maps.png show."""
    measured = metrics.get("autoencoder", {})
    return ["image", *in_order((name.removeprefix("usage/") for name in measured), levels)]


def _picture(path: Path, note: str) -> Picture | None:
    """None for what is no whole PNG."""
    data = path.read_bytes()
    if not data.startswith(PNG) or len(data) < 24:
        return None
    while len(data) > PICTURE:
        if (smaller := _halved(data)) is None:
            return None
        data, note = smaller, note or "shown smaller; the file is in the workdir"
    width, height = struct.unpack(">II", data[16:24])
    return Picture(f"data:image/png;base64,{base64.b64encode(data).decode()}", width, height, note)


def _halved(data: bytes) -> bytes | None:
    """None for what Pillow cannot read; its readers raise whatever a broken file leads them into."""
    image, out = imported("PIL.Image"), io.BytesIO()
    try:
        image.open(io.BytesIO(data)).convert("RGB").reduce(2).save(out, format="PNG", optimize=True)
    except Exception:
        return None
    return out.getvalue()
