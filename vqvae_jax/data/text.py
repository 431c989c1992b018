"""Captions as numbers, for priors that are told them.

    "a red heart" ──► byte-level BPE, https://arxiv.org/abs/1508.07909 ──► int32 [T]: 17, 403, 88, 0, 0, …

The vocabulary is learned from the captions of the training, or given as a `tokenizer.json` of the `tokenizers` package
(CLIP's is one), and lies in the workdir. The numbers are the package's plus 1: 0 is a place where nothing stands, and
a caption of zeros alone is none.

The text of a picture is a string whose lines are its captions: mostly one, of several a training draws one each time.
"""

import contextlib
import json
import re
import unicodedata
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vqvae_jax.types import UserError

FILE = "tokenizer.json"
MOST = 16  # captions of a picture: all pictures have room for as many as any of them has
WORDS = "words.txt"  # beside it: those of the training's captions, one a line
WORD = re.compile(r"[^\W_]+")
# What to do where a file is no tokenizer: of one that a user gives, of one that a config does, of a run's own.
GIVE = "give a tokenizer.json of the package `tokenizers`"
LEARN = f"{GIVE}, or leave text.tokenizer out, so that one is learned from the captions"
RESTORE = "restore it"
SIDE = re.compile(r"(?<![^\W_])(left|right)(?=\b|[-_]|wards?|most\b|hand(?:ed)?\b)", re.IGNORECASE)


class Tokenizer:
    """Captions → numbers.

    Args:
        json: the text of a `tokenizer.json`.
        length: T, places of a caption; what is longer is cut off.
        source: where it was read, for messages.
        words: of the captions that it is used with, as `words` gives them; None: nobody knows.

    Raises:
        UserError: it is none, or the package `tokenizers` is not installed.
    """

    def __init__(self, json: str, length: int, source: str = FILE, words: frozenset[str] | None = None):
        self.json, self.length, self.source, self.words = json, length, source, words
        package = _package()
        try:
            self._bpe = package.Tokenizer.from_str(json)
            self._bpe.no_padding()  # which many files ask for: 0 is what stands where nothing stands
            self._bpe.no_truncation()
        except Exception as error:  # the package raises no other kind
            raise UserError(f"{source} is no tokenizer of the package `tokenizers`: {error}") from error

    @property
    def crc32(self) -> int:
        """CRC32 of the text of its file; the facts of a run hold it."""
        return zlib.crc32(self.json.encode())

    @property
    def size(self) -> int:
        """One more than the largest number that a text can have."""
        return 2 + max(self._bpe.get_vocab().values(), default=-1)  # which may have gaps

    def numbers(self, texts: Sequence[str]) -> np.ndarray:
        """int32 [N, T] of N texts."""
        out = np.zeros((len(texts), self.length), np.int32)
        for row, ids in zip(out, self._ids(texts), strict=True):
            kept = ids[: self.length]
            row[: len(kept)] = np.asarray(kept, np.int32) + 1
        return out

    def lengths(self, texts: Sequence[str]) -> np.ndarray:
        """Places that each of N texts wants, int [N]: those above T lose their end."""
        return np.array([len(ids) for ids in self._ids(texts)])

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The package's own numbers of each text, whole."""
        encoded = self._bpe.encode_batch([text.strip() for text in texts], add_special_tokens=False)
        return [one.ids for one in encoded]


def captions(text: str) -> list[str]:
    """Those of a picture: the first MOST lines of its text that are not empty."""
    return _lines(text)[:MOST]


def first_captions(texts: Iterable[str]) -> list[str]:
    """The first of each picture that has any."""
    return [one[0] for one in map(captions, texts) if one]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def numbers_of(tokenizer: Tokenizer, texts: Sequence[str]) -> np.ndarray:
    """The captions of N pictures, int32 [N, T]; where one has several [N, n, T], zeros behind those that it has."""
    each = [captions(text) or [""] for text in texts]
    every = tokenizer.numbers([caption for several in each for caption in several])
    if len(every) == len(each):
        return every
    numbers = np.zeros((len(each), max(map(len, each)), tokenizer.length), np.int32)
    places = [(row, number) for row, several in enumerate(each) for number in range(len(several))]
    numbers[tuple(np.transpose(places))] = every
    return numbers


def checksum(parts: Iterable[Sequence[str] | None]) -> int:
    """CRC32 of the texts of some parts of the data."""
    return zlib.crc32(json.dumps([list(texts or ()) for texts in parts]).encode())


def words(texts: Iterable[str]) -> list[str]:
    """The words of some texts, each once, in small letters: what stands between spaces and marks."""
    plain = (unicodedata.normalize("NFKC", text).lower() for text in texts)
    return list(dict.fromkeys(word for text in plain for word in WORD.findall(text)))


def learned(texts: Sequence[str], vocab_size: int) -> str:
    """The text of a `tokenizer.json` with at most so many numbers, learned from these; the same for the same texts."""
    texts = [caption for text in texts for caption in captions(text)]
    package = _package()
    bpe = package.Tokenizer(package.models.BPE())
    bpe.normalizer = package.normalizers.Sequence([package.normalizers.NFKC(), package.normalizers.Lowercase()])
    bpe.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = package.decoders.ByteLevel()
    alphabet = sorted(package.pre_tokenizers.ByteLevel.alphabet())  # a set, whose order differs between processes
    trainer = package.trainers.BpeTrainer(vocab_size=vocab_size - 1, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(texts, trainer)
    return bpe.to_str()


def of_run(section: Mapping[str, Any], origins: Sequence[Path], texts: Sequence[str] | None) -> Tokenizer:
    """That of a run that has begun, else the given one, else one that is learned.

    Args:
        section: `config.text`.
        origins: the workdir, then those of runs whose weights are taken.
        texts: of the training; None where the data have none.

    Raises:
        UserError: a file that is none, a vocabulary larger than the config says, no texts.
    """
    if texts is None or not any(map(str.strip, texts)):
        raise UserError(
            "text_condition is on, but the data have no texts: a .txt beside each picture, of the same name, or lines "
            "file,caption in a captions.csv, or another data set; or --config.priors.LEVEL.text_condition=false"
        )
    own, *others = (origin / FILE for origin in origins)
    if own.is_file():
        return _fitting(read(own, section["length"], RESTORE), section)
    given = {path: RESTORE for path in others if path.is_file()}
    given |= {Path(section["tokenizer"]): LEARN} if section["tokenizer"] else {}
    if given:
        found = [read(path, section["length"], instead) for path, instead in given.items()]
        if len({one.crc32 for one in found}) > 1:
            files = " and ".join(map(str, given))
            raise UserError(f"{files} differ: words have the same numbers for all priors of a run")
        return _fitting(found[0], section)
    return _fitting(Tokenizer(learned(texts, section["vocab_size"]), section["length"]), section)


def read(path: Path, length: int, instead: str = GIVE) -> Tokenizer:
    """From a file; UserError where it is none, which says what to do `instead`."""
    _package()
    try:
        return Tokenizer(path.read_text("utf-8"), length, str(path))
    except (OSError, UnicodeDecodeError, UserError) as error:
        raise UserError(f"{_why_not(path, error)}; {instead}") from error


def _why_not(path: Path, error: Exception) -> str:
    """In words, why this is no tokenizer."""
    if isinstance(error, OSError):
        return f"{path} cannot be read: {error.strerror or error}"
    return f"{path} is no tokenizer, nor any text" if isinstance(error, UnicodeDecodeError) else str(error)


def kept(workdir: Path, length: int, crc32: int) -> Tokenizer:
    """The one that a run began with, and the words of its captions where they are written.

    Raises:
        UserError: it is missing or another one.
    """
    tokenizer = read(workdir / FILE, length, RESTORE)
    if tokenizer.crc32 != crc32:
        raise UserError(f"{workdir / FILE} is not the one that the run began with; restore it")
    with contextlib.suppress(OSError, UnicodeDecodeError):  # runs of before have none, and can do without
        tokenizer.words = frozenset((workdir / WORDS).read_text("utf-8").split())
    return tokenizer


def remarks(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """What a user should know of the texts, in lines."""
    each = [captions(text) for text in texts]
    none, every = each.count([]), [caption for several in each for caption in several or [""]]
    cut = int(np.sum(tokenizer.lengths(every) > tokenizer.length))
    said = [f"{none} of {len(each)} images have no text"] if none else []
    if (count := len(every) - none) > len(each) - none:
        said += [f"{len(each) - none} images have {count} texts: of several a step draws one"]
    if many := sum(len(_lines(text)) > MOST for text in texts):
        said += [f"{many} of {len(each)} images have more than {MOST} texts: the first {MOST} of each are read"]
    if cut:
        places = f"config.text.length={tokenizer.length}"
        said += [f"{cut} of {len(every)} texts lose their end: they are longer than {places}"]
    return said


def _fitting(tokenizer: Tokenizer, section: Mapping[str, Any]) -> Tokenizer:
    size = tokenizer.size
    if size > section["vocab_size"]:
        raise UserError(
            f"{tokenizer.source} has {size} numbers with the empty one, config.text.vocab_size is "
            f"{section['vocab_size']}: --config.text.vocab_size={size}"
        )
    return tokenizer


def mirrored(text: str) -> str:
    """The text of the picture's mirror image: left is right, where a word begins so ("left-facing", not "bright")."""

    def other(found: re.Match[str]) -> str:
        word = found[1]
        turned = "right" if word.lower() == "left" else "left"
        return turned.upper() if word.isupper() else turned.capitalize() if word[0].isupper() else turned

    return SIDE.sub(other, text)


def _package() -> Any:
    try:
        import tokenizers
        from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers  # noqa: F401
    except ImportError as error:
        raise UserError("texts want the package `tokenizers`: pip install tokenizers") from error
    return tokenizers
