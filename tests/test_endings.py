"""How commands end: a line and an exit code, after Ctrl-C and SIGTERM too."""

import os
import signal
import time

import pytest

from vqvae_jax.endings import GOES_ON, ended
from vqvae_jax.types import UserError


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_with_a_line(number, code, capsys):
    """What is open is closed on the way, and the next command hears signals as before."""
    closed = []

    def command():
        try:
            os.kill(os.getpid(), number)
            time.sleep(60)
        finally:
            closed.append(True)

    before = signal.getsignal(signal.SIGTERM)
    assert ended(command) == code and closed
    assert capsys.readouterr().err == f"{GOES_ON}\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_ends(capsys):
    def refused():
        raise UserError("name  a folder")

    assert [ended(lambda: None), ended(lambda: 1), ended(refused)] == [0, 1, 2]
    assert capsys.readouterr().err == "error: name a folder\n"
