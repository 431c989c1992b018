"""One writer a folder: a second one is told who is there, a dead one locks nothing, and readers need no lock.

On one host the system knows whether the writer lives. Of another host's it is known by the signs of life that it writes
into the lock: a job that is put onto another machine, because the first one died, waits for one, and goes on.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO, cast

from vqvae_jax.types import UserError

LOCK = ".lock"  # locked by the system as long as its process lives; names host, process, and how often it gave a sign
BEAT = 10.0  # seconds between two signs of life
SILENCE = 60.0  # seconds without one after which another host's process is taken for dead


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Made if missing, and locked for other writers until the end, however this process ends.

    What was made and is empty at the end is removed.

    Raises:
        UserError: another process is at it.
    """
    if folder.is_symlink() and not folder.exists():
        raise UserError(f"{folder} is a link to a folder that is not there; make it: mkdir -p {folder.resolve()}")
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(folder / LOCK):
            yield
    finally:
        for path in missing:
            with suppress(OSError):  # something is in it, or it got another name
                path.rmdir()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    opened = _own(path)
    if opened is None:  # nobody writes where nobody may
        yield
        return
    file, by_system = opened
    with file:
        _check_dead(file, path, by_system)
        try:
            with _beating(file):
                yield
        finally:
            path.unlink(missing_ok=True)


def _own(path: Path) -> tuple[TextIO, bool] | None:
    """As `_opened`; None where the folder cannot be written."""
    while True:
        try:
            return _opened(path)
        except PermissionError:
            if not os.access(path.parent, os.W_OK | os.X_OK) or not path.exists():
                return None
            _clear(path)


def _clear(path: Path) -> None:
    """Removes another user's lock, which at most can be read, if its process is no more."""
    try:
        file, by_system = _opened(path, "r")  # a lock by the system asks for no more
        with file:
            _check_dead(file, path, by_system)
            path.unlink()
    except FileNotFoundError:  # its owner removed it
        return
    except PermissionError as error:
        raise UserError(
            f"{path} is another user's; if nobody writes there, let its owner remove it: rm {path}"
        ) from error


def _check_dead(file: TextIO, path: Path, by_system: bool) -> None:
    """UserError if the process that a lock names lives."""
    host, process = _owner(file)
    elsewhere = host not in ("", socket.gethostname())
    if not (_silent(path) if elsewhere else by_system or _ended(process)):
        raise UserError(_taken(file, path))


@contextmanager
def _beating(file: TextIO) -> Iterator[None]:
    """Signs of life until the end."""
    _sign(file, 0)
    over = threading.Event()

    def beat() -> None:
        count = 0
        while not over.wait(BEAT):
            count += 1
            with suppress(OSError):
                _sign(file, count)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _sign(file: TextIO, count: int) -> None:
    file.truncate(0)
    file.write(f"{socket.gethostname()} {os.getpid()} {count}")
    file.flush()


def _silent(path: Path) -> bool:
    """Whether a process of another host gives no sign; opened anew each time, for file systems over a network."""
    until = time.monotonic() + SILENCE
    while (before := _said(path)) == "" and time.monotonic() < until:  # it is just being written
        time.sleep(min(1.0, SILENCE / 4))
    if before is None:
        return False
    host, process = _named(before)
    print(f"{path.parent} was process {process}'s of {host}; waiting {SILENCE:.0f} s for a sign of it", file=sys.stderr)
    while time.monotonic() < until:
        time.sleep(min(1.0, SILENCE / 4))
        if _said(path) not in (before, ""):
            return False
    return True


def _said(path: Path) -> str | None:
    """What is written in a lock; None where it is gone."""
    with suppress(FileNotFoundError):
        return path.read_text("utf-8", errors="replace")
    return None


def _opened(path: Path, mode: str = "a+") -> tuple[TextIO, bool]:
    """The file, and whether it is locked by the system: not every file system knows how."""
    while True:
        file = cast(TextIO, path.open(mode, encoding="utf-8", errors="replace"))
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            with file:
                raise UserError(_taken(file, path)) from error
        except (ImportError, OSError):
            return file, False
        if _is_there(file, path):
            return file, True
        file.close()  # its owner removed it after it had been opened here


def _is_there(file: TextIO, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _owner(file: TextIO) -> tuple[str, int]:
    """Host and process; ("", 0) where nobody is named."""
    file.seek(0)
    host, process = _named(file.read())
    return (host, int(process)) if process.isdecimal() else ("", 0)


def _named(text: str) -> tuple[str, str]:
    """Host and process, as a lock says them; "" for what it does not."""
    host, process, *_ = [*text.split(), "", ""]
    return host, process


def _ended(process: int) -> bool:
    """Whether a process of this host is no more, or is this one: after a restart the number may be the same."""
    if process in (0, os.getpid()) or os.name != "posix":
        return True
    with suppress(PermissionError):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
    return False


def _taken(file: TextIO, path: Path) -> str:
    host, process = _owner(file)
    at = "" if host == socket.gethostname() else f" of the host {host}"
    who = f" (process {process}{at})" if process else ""
    return f"another process is writing to {path.parent}{who}; wait for it, or choose another folder"
