"""What a command does before JAX: pages of 2 MB, and where compiled programs are kept."""

import os
import platform
import subprocess
import sys

import jax  # noqa: F401  is there when large pages are asked for
import pytest

from vqvae_jax import devices

CODE = """
import os, sys
from vqvae_jax.devices import use_large_pages
use_large_pages()
print(os.environ["GLIBC_TUNABLES"], os.getpid(), *sys.argv[1:])
"""


def started(tmp_path, **environment):
    """What a program prints that asks for large pages, and the number of its process."""
    (tmp_path / "program.py").write_text(CODE)
    given = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    given |= {"PYTHONPATH": os.getcwd(), **environment}
    command = [sys.executable, "-u", str(tmp_path / "program.py"), "--a=b c"]
    process = subprocess.Popen(command, env=given, stdout=subprocess.PIPE, text=True)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return said, process.pid


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of the GNU C library only")
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.perturb=3", "glibc.malloc.perturb=3:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
    ],
)
def test_a_program_starts_anew_once_as_the_same_process_with_its_arguments(tmp_path, before, after):
    said, number = started(tmp_path, **({"GLIBC_TUNABLES": before} if before else {}))
    assert said == f"{after} {number} --a=b c\n"


def test_what_cannot_start_anew_goes_on_as_it_is(monkeypatch):
    """With JAX there already something could be lost; from standard input nothing could be read again."""
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(os, "execv", lambda *given: pytest.fail(f"started anew: {given}"))
    devices.use_large_pages()
    monkeypatch.delitem(sys.modules, "jax")
    monkeypatch.setattr(sys, "argv", ["-"])
    devices.use_large_pages()
    assert "GLIBC_TUNABLES" not in os.environ


def test_compiled_programs_are_kept_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv(devices.CACHE, str(tmp_path))
    assert devices.cache_dir("compiled") == tmp_path / "compiled"
    monkeypatch.delenv(devices.CACHE)
    assert devices.cache_dir("compiled").parts[-3:] == (".cache", "vqvae_jax", "compiled")
