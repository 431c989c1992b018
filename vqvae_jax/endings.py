"""How a command ends: its exit code, and a line in place of a traceback."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vqvae_jax.types import UserError

MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory", "bad_alloc")  # XLA says so, in errors of its own
DISK = ("No space left on device", "Disk quota exceeded", "ENOSPC")  # Orbax and TensorStore, in theirs
LONGEST = 300  # characters of an error of theirs
GOES_ON = "stopped; what was saved stays, the same command goes on from there"


class Terminated(KeyboardInterrupt):
    """SIGTERM, which is to end a command as Ctrl-C does."""


def ended(command: Callable[[], int | None]) -> int:
    """Runs a command to its end.

    Returns:
        Its exit code, 0 where it gives none; where the user has something to put right the error's, 2 as a rule; 130
        after Ctrl-C, 143 after SIGTERM.
    """
    try:
        with terminated():
            code = command() or 0
        sys.stdout.flush()
        return code
    except UserError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as stop:
        print(stop.args[0] if stop.args else GOES_ON, file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)
    except Exception as error:
        return exit_code(error)


@contextmanager
def terminated() -> Iterator[None]:
    """Inside, the first SIGTERM raises Terminated, between the stages of a training too; the second ends at once.

    Whoever has asked for something else at SIGTERM, and a thread, which hears no signals, is left alone.
    """
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def stop(number, frame):
        signal.signal(number, signal.SIG_DFL)
        raise Terminated

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def stopping(words: Callable[[], str]) -> Iterator[None]:
    """Inside, what stops a command is told in these words, which are asked for then; see `ended`."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.args = (words(),)
        raise


def exit_code(error: Exception) -> int:
    """Says in a line what the machine, or who reads, stopped; a mistake of ours is raised again."""
    if isinstance(error, BrokenPipeError):  # who reads has seen enough: … | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    if (line := line_of(error)) is None:
        raise error
    print(f"error: {line}", file=sys.stderr)
    return 2


def line_of(error: BaseException) -> str | None:
    """What to put right, where it is the machine's doing: memory, a disk, a place. None for a mistake of ours."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError):  # a place that cannot be written, a disk that is full
        return f"{text}; choose another place, or make room"
    if any(word in text for word in DISK):
        return f"{_cut(text)}; make room, or choose another place; what was saved stays"
    if isinstance(error, MemoryError) or any(word in text for word in MEMORY):
        less = "ask for less at once: a smaller batch_size, width, image_size or --count"
        return f"there is not enough memory ({_cut(text) or type(error).__name__}); {less}"
    return None


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
