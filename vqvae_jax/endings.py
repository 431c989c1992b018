"""How a command ends that the machine, or who reads it, stopped: a line in place of a traceback."""

import os
import sys

MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory", "bad_alloc")  # XLA says so, in errors of its own
DISK = ("No space left on device", "Disk quota exceeded", "ENOSPC")  # Orbax and TensorStore, in theirs
LONGEST = 300  # characters of an error of theirs


def exit_code(error: Exception) -> int:
    """Says in a line what to put right, and gives the exit code; a mistake of ours is raised again."""
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
