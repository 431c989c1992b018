"""Orbax, imported when it is needed, kept quiet, its errors in one line."""

import contextlib
import logging
import sys
import textwrap
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

from vqvae_jax.types import UserError

NOT_AWAITED = r"coroutine '\S*(_get_array_metadatas|_read_array_index_and_device_put)' was never awaited"
OF_A_READER = "tensorstore", "orbax", "OCDBT"  # what an error names where an array cannot be read


class Damaged(Exception):
    """What is wrong with the files of a step."""


def orbax() -> Any:
    from orbax.checkpoint import v1  # 0.4 s: paid by those who read or write checkpoints only

    _quieten()
    return v1


def _not_orbax_chatter(record: logging.LogRecord) -> bool:
    said_again = bool(record.exc_info)  # by a thread whose error is raised, and said in one line
    return "orbax" not in record.pathname or (record.levelno > logging.INFO and not said_again)


def _not_said_already(record: logging.LogRecord) -> bool:
    """A damaged file fails once an array; the first failure is raised, the others would be printed."""
    text = record.getMessage()
    return not ("never retrieved" in text and any(word in text for word in OF_A_READER))


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """What Orbax logs of files that it cannot read is said in one line instead."""
    logger = logging.getLogger("absl")
    logger.addFilter(_not_of_orbax)
    try:
        yield
    finally:
        logger.removeFilter(_not_of_orbax)


def _not_of_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in record.pathname


@cache
def _quieten() -> None:
    logging.getLogger("absl").addFilter(_not_orbax_chatter)
    logging.getLogger("asyncio").addFilter(_not_said_already)
    for said in ("Sharding info not provided when restoring", NOT_AWAITED):
        warnings.filterwarnings("ignore", said)
    hook = sys.unraisablehook
    sys.unraisablehook = lambda what: None if _comes_late(what) else hook(what)


def _comes_late(what: Any) -> bool:
    """Where one array cannot be read, the others that are still being read find their loop closed."""
    code = getattr(what.object, "cr_code", None)
    return str(what.exc_value) == "Event loop is closed" or (code is not None and "orbax" in code.co_filename)


@contextlib.contextmanager
def one_line(doing: str) -> Iterator[None]:
    """Turns Orbax' errors into one line with the innermost cause, which they hide."""
    try:
        yield
    except (UserError, Damaged):
        raise
    except Exception as error:
        cause = innermost(error)
        if isinstance(cause, UserError):  # said already
            raise cause from None
        full = isinstance(cause, OSError) and doing.startswith("saving")
        room = "; make room there, the same command goes on" if full else ""
        raise UserError(f"{doing} failed: {type(cause).__name__}: {first_line(cause)}{room}") from error


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return textwrap.shorten(lines[0], 200, placeholder=" …")


def innermost(error: BaseException) -> BaseException:
    chain = [error]
    while inner := chain[-1].__cause__ or (None if chain[-1].__suppress_context__ else chain[-1].__context__):
        if any(inner is one for one in chain):  # threads that raise one error anew make rings of causes
            return next((one for one in chain if isinstance(one, OSError)), chain[-1])
        chain.append(inner)
    return chain[-1]
