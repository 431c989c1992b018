"""captions.csv in a folder of pictures: what is to be seen on each, a line a caption.

    file,caption
    hearts/red.png,a red heart
    hearts/red.png,"a heart, all red"

A file may come several times; files are named as seen from the folder of the captions.csv. Other columns are not read.
"""

import csv
import os
import posixpath
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches

from vqvae_jax.types import UserError

FILE = "captions.csv"
COLUMNS = ("file", "caption")
NEAR = 10_000  # names at most that are looked at for the nearest one


def read(path: str, names: Collection[str]) -> dict[str, list[str]]:
    """Picture → its captions, in the order of the file; empty ones are left out.

    Args:
        path: of a captions.csv.
        names: of the pictures in its folder and below.

    Raises:
        UserError: a line that is none; it is named with its number.
    """
    found: dict[str, list[str]] = {}
    rows = _rows(path)
    header = [name.strip().lower() for name in next(rows, (1, []))[1]]
    if any(header.count(name) != 1 for name in COLUMNS):
        raise UserError(
            f"{path}, line 1: the header is {','.join(COLUMNS)}, got {','.join(header)!r}; write that "
            "line, or give a file that is something else another name"
        )
    file, caption = map(header.index, COLUMNS)
    composed = {unicodedata.normalize("NFC", name): name for name in names}
    for line, row in rows:
        if len(row) != len(header):
            columns = "1 column" if len(row) == 1 else f"{len(row)} columns"
            raise UserError(
                f"{path}, line {line}: {columns}, and the header has {len(header)}; a caption with a comma stands "
                'between quotes: a.png,"red, and round"'
            )
        name = _name(row[file], composed, names, path, line)
        found.setdefault(name, []).extend(filter(None, [" ".join(row[caption].split())]))
    return found


def _rows(path: str) -> Iterator[tuple[int, Sequence[str]]]:
    """Number of its first line, and cells, of each row that is not empty."""
    lines = _lines(path)
    rows, line = csv.reader(lines, strict=True, skipinitialspace=True), 1
    try:
        for row in rows:
            if any(cell.strip() for cell in row):
                yield line, row
            line = rows.line_num + 1
    except csv.Error as error:
        raise UserError(
            f'{path}, line {line}: {error}; a quote within a caption is written twice: "a ""red"" heart"'
        ) from error


def _lines(path: str) -> list[str]:
    try:
        with open(path, "rb") as file:
            raw = file.read().removeprefix(b"\xef\xbb\xbf").splitlines(keepends=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    return [_decoded(line, path, number) for number, line in enumerate(raw, start=1)]


def _decoded(line: bytes, path: str, number: int) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, line {number}: is not UTF-8; save the file as UTF-8") from error


def _name(said: str, composed: Mapping[str, str], names: Collection[str], path: str, line: int) -> str:
    """The picture that a row speaks of; an "é" is one, whether written as one character or as two (macOS)."""
    plain = said.strip()
    for name in (plain, posixpath.normpath(plain.replace("\\", "/"))):
        if name in names:
            return name
        if found := composed.get(unicodedata.normalize("NFC", name)):
            return found
    alike = {name.lower(): name for name in list(names)[:NEAR]}
    near = get_close_matches(plain.lower(), alike, n=1)
    guess = f"did you mean {alike[near[0]]!r}? Else " if near else ""
    raise UserError(
        f"{path}, line {line}: there is no picture {plain!r} in {os.path.dirname(path)}; {guess}take the line out"
    )
