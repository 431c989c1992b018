"""How a command ends: its exit code, and a line in place of a traceback."""

import os
import sys
from collections.abc import Callable

from vqvae_jax.types import UserError

MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory", "bad_alloc")  # XLA says so, in errors of its own
DISK = ("No space left on device", "Disk quota exceeded", "ENOSPC")  # Orbax and TensorStore, in theirs
LONGEST = 300  # characters of an error of theirs


def ended(command: Callable[[], int | None]) -> int:
    """Runs a command to its end.

    Returns:
        Its exit code, 0 where it gives none; where the user has something to put right the error's, 2 as a rule; 130
        after Ctrl-C.
    """
    try:
        code = command() or 0
        sys.stdout.flush()
        return code
    except UserError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; what was saved stays, the same command goes on from there", file=sys.stderr)
        return 130
    except Exception as error:
        return exit_code(error)


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
