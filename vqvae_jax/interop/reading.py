"""Reading bytes that others wrote: whatever is wrong with them is one UserError that names the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from vqvae_jax.types import UserError

CHUNK = 4 << 20  # bytes at once; a zip member is copied once more, by so much at a time


@contextmanager
def reading(path: str | Path, what: str) -> Iterator[None]:
    """Whatever goes wrong inside becomes a UserError: the file is no good `what`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # parsers of broken bytes raise nearly everything
        reason = f"{type(error).__name__}: {plain(error)}".removesuffix(": ")
        raise UserError(f"{path} cannot be read as {what}; it is damaged or cut off ({reason})") from error


def plain(text: object) -> str:
    """A word out of a file as it may be shown: one line, no control characters, not too long."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text)[:200])
    return shown if len(str(text)) <= 200 else shown + "…"


def filled(stream: IO[bytes], count: int, dtype: np.dtype) -> np.ndarray:
    """The next `count` elements, [count]. Compare `count` with the size of the file first: memory is taken at once.

    Raises:
        EOFError: the stream ends before.
    """
    array = np.empty(count, dtype)
    bytes_ = array.view(np.uint8).data
    for start in range(0, len(bytes_), CHUNK):
        part = bytes_[start : start + CHUNK]
        if stream.readinto(part) != len(part):  # type: ignore[attr-defined]  # all binary streams have it
            raise EOFError(f"{len(bytes_)} bytes are announced and not there")
    return array


def widened(bits: np.ndarray) -> np.ndarray:
    """bfloat16 as uint16 → the same numbers in float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
