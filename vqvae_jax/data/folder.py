"""A folder of pictures: `split/label/name.png`, where the folders of splits, or of labels, or both may be missing.

A `.txt` beside a picture, of the same name, is its text, each line a caption; a `captions.csv` in any of the folders
has captions of the pictures below it, see `captions.py`.
"""

import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from functools import cache
from typing import NamedTuple

import numpy as np

from vqvae_jax.data import captions, pictures
from vqvae_jax.data.arrays import TEST, Arrays, Images, share
from vqvae_jax.data.decoded import Decoded, Unreadable, decode_once, fits
from vqvae_jax.data.stream import Lazy
from vqvae_jax.files import printable
from vqvae_jax.types import UserError, guess, unknown

TYPE = "--config.dataset.path=FOLDER"  # what every error here begins with
ALL = "all"  # the split that is every picture, whatever the folders are called
USUAL = {"train", "test", "val", "valid", "validation", "dev", "training", "testing"}  # what one calls splits
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
USUAL_ENDINGS = ".jpg, .png, .webp, or in others that Pillow reads"
COLOUR = 3  # channels
LOOKED_AT = 32  # pictures, to see whether all are grey
NAMED = 5  # of many files, in a message
VERSION = 2  # of the way from a file to pixels; another one decodes anew


class Listing(NamedTuple):
    """What lies in a folder, hidden things left out. Paths are relative to it, with "/"."""

    pictures: list[str]  # sorted
    texts: dict[str, str]  # path without suffix → path of the .txt
    tables: list[str]  # paths of captions.csv, sorted


class Split(NamedTuple):
    """The pictures of one split. Names are relative to `root`."""

    root: str  # "" or "train/", relative to the folder
    names: list[str]  # sorted
    label_names: tuple[str, ...]  # the same ones for every split; empty where this one has no labels


def read(path: str, split: str, image_size: int, channels: int = 0) -> Arrays:
    """The pictures of a split, sorted by path; image uint8 [N, image_size, image_size, C], the middle of each.

    C is `channels`, 1 for grey; 0 is 3, for colour, and that all pictures are grey is said.

    `path/split` is the split if there is such a folder; "all" is every picture. Where there is none for "test", a
    twentieth of "train", or of the whole folder, is "test", by hash of the names. Labels are the folders below, if
    every picture lies in one; they are counted in the order of `in_order`.
    Pictures that cannot be used are told on standard error and left out.

    Raises:
        UserError: there is nothing to read.
    """
    folder, listing = opened(path)
    root, names, label_names = _split(folder, listing.pictures, split)
    image, kept = _images(os.path.join(folder, root), names, image_size, channels or COLOUR)
    if not channels:
        _tell_grey(folder, image)
    names = [names[row] for row in kept]
    shown = tuple(map(printable, names))
    texts = _texts(folder, listing, [root + name for name in names])
    return Arrays(image, _labels(names, label_names), tuple(map(printable, label_names)), shown, texts, shown)


def pictures_in(path: str | os.PathLike[str]) -> list[str]:
    """The pictures in a folder and below, sorted, relative to it, with "/".

    Raises:
        UserError: there is no such folder, or no picture in it.
    """
    return opened(os.fspath(path))[1].pictures


def opened(path: str) -> tuple[str, Listing]:
    """The absolute path of a folder, and what lies in it; of a picture's own file that picture alone."""
    folder, name = os.path.split(os.path.abspath(os.path.expanduser(path)))
    stem, suffix = os.path.splitext(name)
    if suffix.lower() in pictures.suffixes() and os.path.isfile(os.path.join(folder, name)):
        text = {stem: f"{stem}.txt"} if os.path.isfile(os.path.join(folder, f"{stem}.txt")) else {}
        return folder, Listing([name], text, [])
    return (folder := _folder(path)), _list(folder)


def fingerprint_of(path: str) -> str:
    """Of all pictures in a folder, see `fingerprint`."""
    folder, listing = opened(path)
    return fingerprint(folder, listing.pictures)


def splits_in(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The splits that have folders of their own, if "train" and "test" have; else "all"."""
    own = [split for split in ("train", "test") if os.path.isdir(os.path.join(os.fspath(path), split))]
    return tuple(own) if len(own) == 2 else (ALL,)


def _folder(path: str) -> str:
    """The absolute path, checked."""
    folder = os.path.abspath(os.path.expanduser(path))
    if not path:
        raise UserError(f"{TYPE}: data set 'folder' needs a folder of pictures")
    if not os.path.exists(folder):
        is_file = os.path.splitext(folder)[1].lower() in pictures.suffixes()
        near = guess(os.path.basename(folder), _beside(folder, is_file))
        raise UserError(f"{TYPE}: there is no {'file' if is_file else 'folder'} {path}{near}")
    if not os.path.isdir(folder):
        raise UserError(f"{TYPE}: {path} is a file; type the folder it lies in")
    return folder


def _beside(path: str, files: bool) -> list[str]:
    """The names of the folders, or files, that lie where this one was looked for."""
    try:
        return [entry.name for entry in os.scandir(os.path.dirname(path)) if entry.is_dir() is not files]
    except OSError:  # nor is there what it was to lie in
        return []


def _list(folder: str) -> Listing:
    readable, found, texts, tables = pictures.suffixes(), [], {}, []
    names = list(_walk(folder))
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in readable:
            found.append(name)
        elif suffix.lower() == ".txt":
            texts[stem] = name
        elif os.path.basename(name).lower() == captions.FILE:
            tables.append(name)
    if not found:
        others = f", and {len(names)} other files; pictures end in {USUAL_ENDINGS}" if names else ", nor other files"
        raise UserError(f"{TYPE}: {folder} holds no pictures{others}")
    return Listing(sorted(found), texts, sorted(tables))


def _walk(folder: str, prefix: str = "", above: tuple[tuple[int, int], ...] = ()) -> Iterator[str]:
    """Relative paths of all files, and of links that lead nowhere."""
    try:
        facts = os.stat(folder)
        here = (facts.st_dev, facts.st_ino)
        entries = [] if here in above else list(os.scandir(folder))  # a link may lead back up
    except OSError as error:
        raise UserError(f"{TYPE}: {folder} cannot be listed: {error.strerror}") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
            yield from _walk(entry.path, f"{prefix}{entry.name}/", (*above, here))
        elif entry.is_symlink() or entry.is_file():
            yield prefix + entry.name


def _split(folder: str, names: list[str], split: str) -> Split:
    """Raises UserError where there is no such split, or nothing in it."""
    tops = _by_folder(names)
    if split == ALL and ALL not in tops:
        return Split("", names, _label_names([names]) if _labelled(names, folder) else ())
    root = split if split in tops else "train" if split == "test" and "train" in tops else ""
    if not root and (split not in ("train", "test") or (split == "train" and "test" in tops)):
        raise UserError(unknown(f"{TYPE}: {folder} has no split", split, _splits(tops), "Its splits"))
    _tell_strangers(folder, root, names)
    below = tops[root] if root else names
    label_names = _label_names(list(tops.values()) if root else [names])
    if not _labelled(below, os.path.join(folder, root)):
        label_names = ()
    chosen = below if root == split and (split != "train" or "test" in tops) else _share(below, split)
    if not chosen:
        raise UserError(f"{TYPE}: {len(below)} pictures are too few to share; put some into {folder}/{split}")
    return Split(root and root + "/", chosen, label_names)


def _by_folder(names: list[str]) -> dict[str, list[str]]:
    """First-level folder → what lies below it."""
    tops: dict[str, list[str]] = {}
    for name in names:
        top, slash, rest = name.partition("/")
        if slash:
            tops.setdefault(top, []).append(rest)
    return tops


def _splits(tops: dict[str, list[str]]) -> list[str]:
    return sorted({*tops, "test"}) if {"train", "test"} & set(tops) else ["train", "test"]


def _share(names: list[str], split: str) -> list[str]:
    """A twentieth for "test", the others for "train"; a name is always on the same side."""
    return [name for name in names if (share(b"test " + os.fsencode(name)) < TEST) == (split == "test")]


def _label_names(splits: list[list[str]]) -> tuple[str, ...]:
    """The folders of all splits in which every picture lies in one."""
    labelled = (names for names in splits if all("/" in name for name in names))
    return tuple(in_order({name.partition("/")[0] for names in labelled for name in names}))


def in_order(names: Iterable[str]) -> list[str]:
    """Sorted as text; where all are numbers, as numbers: 2 before 10."""
    names = sorted(names)
    return sorted(names, key=Decimal) if all(NUMBER.fullmatch(name) for name in names) else names


def _labelled(names: list[str], root: str) -> bool:
    beside = [name for name in names if "/" not in name]
    if beside and len(beside) < len(names):
        _tell(f"{root}: no labels, because {len(beside)} pictures lie beside the folders: {_some(beside)}")
    return not beside


def _labels(names: list[str], label_names: tuple[str, ...]) -> np.ndarray | None:
    """int32 [N]"""
    if not label_names:
        return None
    number = {name: i for i, name in enumerate(label_names)}
    return np.array([number[name.partition("/")[0]] for name in names], np.int32)


def _images(folder: str, names: list[str], size: int, channels: int) -> tuple[Images, Sequence[int]]:
    """uint8 [M, S, S, C], and which of the names these are."""

    def one(row: int) -> np.ndarray:
        return pictures.read(os.path.join(folder, names[row]), size, channels)

    shape = (size, size, channels)
    if not fits(len(names), shape):
        return Lazy(len(names), shape, _naming(one, names)), range(len(names))
    key = {"folder": os.fsencode(folder).hex(), "size": size, "files": fingerprint(folder, names), "version": VERSION}
    key |= {} if channels == COLOUR else {"channels": channels}
    decoded = decode_once(key, len(names), shape, one, os.path.basename(folder.rstrip(os.sep)))
    _tell_skipped(folder, names, decoded)
    return decoded.image, decoded.kept.tolist()


def _naming(read: Callable[[int], np.ndarray], names: list[str]) -> Callable[[int], np.ndarray]:
    """The same, with the name in its reasons: who reads a stream knows only numbers."""

    def named(row: int) -> np.ndarray:
        try:
            return read(row)
        except Unreadable as why:
            raise Unreadable(f"{printable(names[row])} ({why})") from why

    return named


def fingerprint(folder: str, names: list[str]) -> str:
    """Another one as soon as a file is another: its path, size, time of change, or who may read it."""
    digest = hashlib.blake2b(digest_size=16)
    for name in names:
        digest.update(os.fsencode(name) + b"\0")
        try:
            facts = os.stat(os.path.join(folder, name))
            digest.update(f"{facts.st_size} {facts.st_mtime_ns} {facts.st_mode}\0".encode())
        except OSError:
            digest.update(b"not there\0")
    return digest.hexdigest()


def _texts(folder: str, listing: Listing, names: list[str]) -> tuple[str, ...] | None:
    """The text of each picture, a line a caption, "" where it has none; None if none has one."""
    said = _in_tables(folder, listing)
    beside = [listing.texts.get(os.path.splitext(name)[0]) for name in names]
    if not any(beside) and not any(map(said.get, names)):
        return None
    texts = [[_text(os.path.join(folder, txt))] if txt else [] for txt in beside]
    return tuple("\n".join(filter(None, [*text, *said.get(name, ())])) for name, text in zip(names, texts, strict=True))


def _in_tables(folder: str, listing: Listing) -> dict[str, list[str]]:
    """Path of a picture → what the captions.csv above it say."""
    said: dict[str, list[str]] = {}
    for table in listing.tables:
        above = os.path.dirname(table) and os.path.dirname(table) + "/"
        below = {name.removeprefix(above) for name in listing.pictures if name.startswith(above)}
        for name, texts in captions.read(os.path.join(folder, table), below).items():
            said.setdefault(above + name, []).extend(texts)
    return said


def _text(path: str) -> str:
    """UTF-8, or UTF-16 that says so, or else Latin-1, which takes any bytes."""
    try:
        with open(path, "rb") as file:
            raw = file.read()
    except OSError as error:
        raise UserError(f"{TYPE}: {path} cannot be read: {error.strerror}") from error
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return raw.decode("utf-16", "replace").strip()
    try:
        return raw.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return raw.decode("latin-1").strip()


def _tell_skipped(folder: str, names: list[str], decoded: Decoded) -> None:
    """Raises UserError if none is left."""
    if not decoded.skipped:
        return
    which = _some([f"{printable(names[row])} ({why})" for row, why in decoded.skipped])
    if not len(decoded.kept):
        raise UserError(f"{TYPE}: none of the {len(names)} pictures in {folder} can be used: {which}")
    count = f"{len(decoded.skipped)} of {len(names)} pictures in {folder}"
    _tell(f"{count} cannot be used and are left out: {which}")


def _tell_grey(folder: str, image: Images) -> None:
    """Of some of the pictures that are decoded already."""
    if isinstance(image, Lazy) or not len(image):
        return
    some = np.asarray(image[np.linspace(0, len(image) - 1, LOOKED_AT).astype(int)])
    if (some == some[..., :1]).all():
        _tell(f"{folder}: the pictures are grey, and are read as colour; --config.dataset.channels=1 takes one channel")


def _tell_strangers(folder: str, root: str, names: list[str]) -> None:
    """A label may be called "train", as in COCO, and a split "training": what is meant cannot be known."""
    tops = {name.partition("/")[0] for name in names}
    strangers = sorted(tops - USUAL - {root} if root else tops & USUAL)
    if strangers and root:
        _tell(f"{folder}: {root} is read as a split, to which these do not belong: {_some(strangers)}")
    elif strangers:
        _tell(f"{folder}: read as a whole, {_some(strangers)} too; is that a split? Then set --config.dataset.split")


def _some(things: list[str]) -> str:
    return ", ".join(map(printable, things[:NAMED])) + (", …" if len(things) > NAMED else "")


@cache
def _tell(line: str) -> None:
    """Once, though every part of the data is read by itself."""
    print(line, file=sys.stderr)
