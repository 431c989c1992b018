"""How commands end: a line and an exit code, after Ctrl-C and SIGTERM too."""

import os
import signal
import time

import pytest

from vqvae_jax.endings import ended
from vqvae_jax.types import UserError


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_with_a_line(number, code, capsys):
    """SIGTERM between two stages, or in a command without a loop of its own, is not silent."""
    closed = []

    def command():
        try:
            os.kill(os.getpid(), number)
            time.sleep(60)
        finally:
            closed.append(True)

    before = signal.getsignal(signal.SIGTERM)
    assert ended(command) == code and closed
    assert capsys.readouterr().err.startswith("stopped; what was saved stays")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_fork_dies_of_it_as_usual():
    """A worker that is told to end says nothing, and runs nothing of its parent's."""

    def command():
        child = os.fork()
        if not child:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(1)
        return os.WTERMSIG(os.waitpid(child, 0)[1])

    assert ended(command) == signal.SIGTERM


def test_other_ends(capsys):
    def refused():
        raise UserError("name  a folder")

    assert [ended(lambda: None), ended(lambda: 1), ended(refused)] == [0, 1, 2]
    assert capsys.readouterr().err == "error: name a folder\n"
