"""Texts that pictures are asked for by: read from a file, and what is odd about them said in a line."""

import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from vqvae_jax.data.text import Tokenizer, words
from vqvae_jax.types import UserError

SUFFIX = ".txt"
NAMED = 5  # of many words, in a message
SHOWN = 40  # characters of a text, in a message


def lines_of(text: str | None) -> list[str] | None:
    """The texts in the file that --text=FILE names, a line each; None where it is a text itself.

    Raises:
        UserError: there is no such file, or nothing in it.
    """
    if text is None or not text.lower().endswith(SUFFIX):
        return None
    path = Path(text).expanduser()
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"--text={text} is no file of text in UTF-8: {error.reason}; save it as UTF-8") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL
        why = getattr(error, "strerror", None) or error
        raise UserError(f"--text={text} is read as a file, a text a line, which fails: {why}") from error
    if not any(lines):
        raise UserError(f"--text={text} holds no text; write one a line")
    return [line for line in lines if line]


def tell(tokenizer: Tokenizer, texts: str | Sequence[str]) -> None:
    """On standard error, each once: words that no caption of the training had, and texts that lose their end."""
    each = list(dict.fromkeys([texts] if isinstance(texts, str) else texts))
    if tokenizer.words is not None and (unseen := [one for one in words(each) if one not in tokenizer.words]):
        _tell(f"no caption of the training has {some(unseen)}: what is drawn of that is a guess")
    longer = tokenizer.lengths(each) > tokenizer.length
    if cut := [text for text, one in zip(each, longer, strict=True) if one]:
        places = f"config.text.length={tokenizer.length}"
        _tell(f"{some(cut)}: the end is not read, it is longer than {places}")


def some(texts: Iterable[str]) -> str:
    """The first of them, as a user may read them in a line."""
    texts = list(texts)
    short = [text if len(text) <= SHOWN else text[:SHOWN] + "…" for text in texts[:NAMED]]
    more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return ", ".join(map(repr, short)) + more


@cache
def _tell(line: str) -> None:
    print(line, file=sys.stderr)
