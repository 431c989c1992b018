"""Token maps as a data set: what a prior learns from, without the autoencoder in memory.

A folder of plain arrays. Each part (train, validation, test, …) is cut into shards; shard 3 of the part `train` holds

    train_top_00003.npy, train_bottom_00003.npy     maps [n, h, w], or [n, h, w, C] of numbers, coarse to fine
    train_facts_00003.json                          names, labels, texts of the n images, and which are held out

and tokens.json, written last, says what the maps are and which autoencoder made them. The facts of a shard hold the
CRC32 of its maps' numbers, tokens.json that of each facts file and its own; folders of earlier versions have none and
are believed.
"""

import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vqvae_jax.data.arrays import HELD_OUT, Arrays, shares
from vqvae_jax.data.stream import readable
from vqvae_jax.data.text import mirrored
from vqvae_jax.data.token_arrays import Shards, TokenArrays, chunks
from vqvae_jax.files import atomically, read_checked_json, read_json, write_checked_json, write_json
from vqvae_jax.lock import alone_in
from vqvae_jax.types import Level, UserError, unknown

FILE = "tokens.json"  # written last: without it the folder is unfinished
DRAFT = "unfinished.json"  # written first: what the shards that are already there were made from
SHARD = 65_536  # images


class Part(NamedTuple):
    """Images to encode."""

    arrays: Arrays
    views: int = 1  # augmented copies of each, one after the other
    flip: bool = False  # whether every other view is mirrored, and its text with it


def write(
    folder: Path,
    parts: Mapping[str, Part],
    levels: Sequence[Level],
    encode: Callable[[np.ndarray, int], Sequence[np.ndarray]],
    facts: Mapping[str, Any],
    source: Mapping[str, Any],
) -> None:
    """Encodes all parts into `folder`, which is whole once it has its tokens.json. Goes on where it was interrupted.

    Args:
        folder: made if missing.
        parts: by name.
        levels: of the maps, coarse to fine.
        encode: (uint8 [n, H, W, C], number of the view) → maps [n, h, w], coarse to fine.
        facts: of the data, as `facts.facts_of` gives them.
        source: plain values that say what the tokens were made from; `is_written` compares them.
    """
    with alone_in(folder):
        _write(folder, parts, levels, encode, facts, source)


def _write(folder: Path, parts: Mapping[str, Part], levels: Sequence[Level], encode, facts, source) -> None:
    if not _is(folder / DRAFT, source):
        for old in (*folder.glob("*_*.npy"), *folder.glob("*_facts_*.json")):
            old.unlink()
        write_json(folder / DRAFT, {"source": source})
    (folder / FILE).unlink(missing_ok=True)
    for name, part in parts.items():
        for number, (view, start, stop) in enumerate(_shards(part)):
            if not _facts_file(folder, name, number).is_file():
                _write_shard(folder, name, number, part, view, range(start, stop), levels, encode)
    counts = {name: len(list(_shards(part))) for name, part in parts.items()}
    levels_said = [one._asdict() for one in levels]
    crcs = {name: [_file_crc32(_facts_file(folder, name, i)) for i in range(count)] for name, count in counts.items()}
    said = {"levels": levels_said, "shards": counts, "facts": facts, "source": source, "facts_crc32": crcs}
    write_checked_json(folder / FILE, said)
    (folder / DRAFT).unlink()


def _shards(part: Part) -> Iterator[tuple[int, int, int]]:
    """(view, first row, behind the last row) of each shard."""
    for view in range(part.views):
        for start in range(0, len(part.arrays), SHARD):
            yield view, start, min(start + SHARD, len(part.arrays))


def _write_shard(folder: Path, name: str, number: int, part: Part, view: int, rows: range, levels, encode) -> None:
    images = part.arrays.take(np.arange(rows.start, rows.stop))
    maps = encode(images.image, view)
    whole = readable(images.image, np.arange(len(images)))  # known now; a stand-in's tokens would have a wrong name
    images = images.take(whole.nonzero()[0])
    crcs = {}
    for level, tokens in zip(levels, maps, strict=True):
        with atomically(folder / f"{name}_{level.name}_{number:05d}.npy") as path, path.open("wb") as file:
            np.save(file, kept := np.asarray(tokens, _kept_as(level))[whole])
        crcs[level.name] = _crc32(kept)
    facts = {
        "crc32": crcs,
        "label": None if images.label is None else images.label.tolist(),
        "name": images.name,
        "share": shares(images).tolist(),
        "text": list(map(mirrored, images.text)) if images.text and part.flip and view % 2 else images.text,
    }
    with atomically(_facts_file(folder, name, number)) as path:  # last: where it stands, the maps stand
        path.write_text(json.dumps(facts), "utf-8")


def _facts_file(folder: Path, name: str, number: int) -> Path:
    return folder / f"{name}_facts_{number:05d}.json"


def _crc32(tokens: np.ndarray) -> int:
    """Of the numbers, part by part: they may lie in a file."""
    crc = 0
    for part in chunks(tokens):
        crc = zlib.crc32(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data, crc)
    return crc


def _file_crc32(path: Path) -> int:
    return zlib.crc32(path.read_bytes())


def _kept_as(level: Level) -> Any:
    """The smallest type for its codes; numbers, of deviation 1, lose less than 0.0002 dB as float16."""
    if level.vocab_size is None:
        return np.float16
    return next(t for t in (np.uint8, np.uint16, np.uint32) if level.vocab_size - 1 <= np.iinfo(t).max)


def is_written(folder: Path, source: Mapping[str, Any]) -> bool:
    """Whether the folder is whole and was made from this source."""
    return _is(folder / FILE, source)


def _is(path: Path, source: Mapping[str, Any]) -> bool:
    try:
        return read_json(path)["source"] == json.loads(json.dumps(source))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def about(folder: Path) -> dict[str, Any]:
    """What tokens.json says: levels (each a Level), shards (how many a part has), facts, source, facts_crc32.

    Raises:
        UserError: no whole folder of tokens.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        make = f"python -m vqvae_jax encode --workdir=DIR --output={folder}"
        raise UserError(f"{folder} holds no whole set of tokens; this makes one: {make}")
    try:
        told = read_checked_json(path)
        levels = [Level(**{**one, "shape": tuple(one["shape"])}) for one in told["levels"]]
        _check_about(levels, told)
        said = {"levels": levels, "facts": told["facts"], "source": told["source"]}
        return said | {name: dict(told.get(name, {})) for name in ("shards", "facts_crc32")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({_said(error)}); rm -r {folder} and encode the images again") from error


def _said(error: Exception) -> str:
    return str(error) if type(error) is ValueError else repr(error)


def _check_about(levels: Sequence[Level], told: Mapping[str, Any]) -> None:
    """ValueError where a value is of a kind that would be found late."""
    sizes = [(*level.shape, level.channels if level.vocab_size is None else level.vocab_size) for level in levels]
    whole = [*told["shards"].values(), *(number for size in sizes for number in size)]
    if not all(isinstance(number, int) and number > 0 for number in whole) or not levels:
        raise ValueError("its levels and shards are no numbers above 0")
    if not isinstance(told["facts"], dict) or not isinstance(told["source"], dict):
        raise ValueError("its facts or source are no object")


def read(folder: Path, part: str) -> TokenArrays:
    """One part of a whole folder, memory-mapped.

    Raises:
        UserError: there is no such part, or a file is damaged.
    """
    folder, told = Path(folder), about(folder)
    if part not in told["shards"]:
        raise UserError(unknown(f"the tokens in {folder} have no part", part, told["shards"]))
    try:
        facts = _facts(folder, part, told["shards"][part], told["facts_crc32"].get(part))
        maps = [_maps(folder, part, level, [one.get("crc32", {}) for one in facts]) for level in told["levels"]]
        label, name, share = (_joined([one[key] for one in facts]) for key in ("label", "name", "share"))
        text = _joined([one.get("text") for one in facts])  # folders of before have none
        arrays = TokenArrays(
            tuple(maps),
            None if label is None else np.asarray(label, np.int32),
            None if name is None else tuple(map(str, name)),
            np.array(share, float, ndmin=1),
            None if text is None else tuple(map(str, text)),
        )
    except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
        raise UserError(f"the tokens in {folder} are damaged: {error}; encode the images again") from error
    beside = [one for one in (arrays.label, arrays.name, arrays.share, arrays.text) if one is not None]
    if len({*map(len, maps), *map(len, beside)}) != 1:
        raise UserError(f"the tokens in {folder} are damaged: its files differ in length; encode the images again")
    return arrays


def _maps(folder: Path, part: str, level: Level, crcs: Sequence[Mapping[str, int]]) -> Any:
    files = [folder / f"{part}_{level.name}_{number:05d}.npy" for number in range(len(crcs))]
    arrays = [np.load(file, mmap_mode="r") for file in files]
    for file, array, crc in zip(files, arrays, crcs, strict=True):
        if array.shape[1:] != level.form or array.dtype.kind != np.dtype(_kept_as(level)).kind:
            raise ValueError(f"{file} is {array.dtype} {array.shape}, no maps of {level.form}")
        if level.vocab_size is not None and len(array) and int(array.max()) >= level.vocab_size:
            raise ValueError(f"{file} has a token {array.max()}, but there are {level.vocab_size} codes")
        if level.vocab_size is None and not all(np.isfinite(part).all() for part in chunks(array)):
            raise ValueError(f"{file} has numbers that are not finite")
        if level.name in crc and _crc32(array) != crc[level.name]:
            raise ValueError(f"the checksum of {file} differs")
    return arrays[0] if len(arrays) == 1 else Shards(arrays)


def _facts(folder: Path, part: str, count: int, crcs: Sequence[int] | None) -> list[dict[str, Any]]:
    files = [_facts_file(folder, part, number) for number in range(count)]
    for file, crc in zip(files, crcs or (), strict=crcs is not None):
        if _file_crc32(file) != crc:
            raise ValueError(f"the checksum of {file} differs")
    return [read_json(file) for file in files]


def _joined(lists: Sequence[list | None]) -> list | None:
    return None if any(one is None for one in lists) else [value for one in lists for value in (one or [])]


def load(dataset: Mapping[str, Any], part: str) -> TokenArrays:
    """One part of the tokens that a config's section `dataset` names, as `data.load` divides images.

    An image is held out here if it is held out there. Where the folder has no part "test", that is another 5 % of
    `dataset.split`. The folder DIR/tokens of a training has its part "validation" already.
    """
    folder, split, test_split = Path(_path(dataset)), dataset["split"], dataset["test_split"]
    there = about(folder)["shards"]
    has_test = test_split in there or test_split != "test"
    if part == "test" and has_test:
        return read(folder, test_split)
    of_training = "validation" in there and split == "train"
    if part == "validation" and of_training:
        return read(folder, part)
    arrays = read(folder, split)
    share = np.asarray(arrays.share)
    held = (share < HELD_OUT) & (not of_training)
    test = (share < 2 * HELD_OUT) & ~held & (not has_test)
    rows = {"validation": held, "test": test, "train": ~(held | test)}[part]
    return arrays.take(rows.nonzero()[0])


def _path(dataset: Mapping[str, Any]) -> str:
    if not dataset["path"]:
        make = "python -m vqvae_jax encode --workdir=DIR --output=FOLDER"
        raise UserError(f"data set 'tokens' needs --config.dataset.path=FOLDER, made by {make}")
    return dataset["path"]
