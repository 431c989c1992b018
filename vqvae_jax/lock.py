"""One writer a folder: a second one is told who is there, a killed one locks nothing, and readers need no lock."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from vqvae_jax.types import UserError

LOCK = ".lock"  # locked by the system as long as its process lives; names host and process


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Made if missing, and locked for other writers until the end, however this process ends.

    What was made and is empty at the end is removed.

    Raises:
        UserError: another process is at it, or one of another host was and did not say that it ended.
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
    try:
        file, by_system = _opened(path)
    except PermissionError:  # nobody writes where nobody may
        yield
        return
    with file:
        host, process = _owner(file)
        if (host and host != socket.gethostname()) or not (by_system or _ended(process)):
            raise UserError(_taken(file, path))
        file.truncate(0)
        file.write(f"{socket.gethostname()} {os.getpid()}")
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _opened(path: Path) -> tuple[TextIO, bool]:
    """The file, and whether it is locked by the system: not every file system knows how."""
    while True:
        file = path.open("a+", encoding="utf-8")
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
    host, _, process = file.read().rpartition(" ")
    return (host, int(process)) if host and process.isdecimal() else ("", 0)


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
    if host in ("", socket.gethostname()):
        who = f" (process {process})" if process else ""
        return f"another process is writing to {path.parent}{who}; wait for it, or choose another folder"
    return (
        f"another process is writing to {path.parent} (process {process} of the host {host}, which cannot be asked "
        f"from here); wait for it, or choose another folder; if it is no more: rm {path}"
    )
