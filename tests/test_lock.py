"""One writer a folder: trainings, imports and encodings that meet in one workdir."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
from test_recipe import DONE, files, latest, tiny, trained_run

import launch
from vqvae_jax import __main__ as package
from vqvae_jax import lock, recipe
from vqvae_jax.lock import LOCK, alone_in
from vqvae_jax.trained import Trained
from vqvae_jax.types import UserError

ROOT = Path(__file__).parents[1]
ALONE = """
import pathlib, sys
from vqvae_jax.lock import alone_in
with alone_in(pathlib.Path(sys.argv[1])):
    print("alone", flush=True)
    sys.stdin.read()
"""

ASKED_BY_ANOTHER_USER = """
import os, pathlib, sys
from vqvae_jax.lock import alone_in
from vqvae_jax.types import UserError
os.setgid(65534)
os.setuid(65534)
for _ in sys.stdin:
    try:
        with alone_in(pathlib.Path(sys.argv[1])):
            said = (pathlib.Path(sys.argv[1]) / ".lock").exists()
    except UserError as error:
        said = error
    print(said, flush=True)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return trained_run(tmp_path_factory)


@pytest.fixture
def writer():
    """Starts a process that writes into a folder."""
    started = []

    def start(folder):
        command = [sys.executable, "-c", ALONE, str(folder)]
        environment = dict(os.environ, PYTHONPATH=str(ROOT))
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment))
        assert started[-1].stdout.readline() == b"alone\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_second_writer_is_told_who_is_there(tmp_path, writer):
    folder = tmp_path / "new"
    other = writer(folder)
    said = f"another process is writing to {folder} .process {other.pid}.; wait for it"
    with pytest.raises(UserError, match=said), alone_in(folder):
        pass
    other.kill()
    other.wait()
    assert (folder / LOCK).is_file()
    with alone_in(folder):  # what was killed locks nothing
        assert (folder / LOCK).read_text() == f"{socket.gethostname()} {os.getpid()} 0"
    assert list(folder.iterdir()) == []


def test_what_was_made_for_nothing_is_removed(tmp_path):
    with alone_in(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / LOCK).is_file()
    assert list(tmp_path.iterdir()) == []
    with alone_in(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "mine").write_text("")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["mine"]


def test_another_hosts_writer_that_gives_no_sign_is_dead(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lock, "SILENCE", 0.2)
    (tmp_path / LOCK).write_text("elsewhere.example 7 3")
    with alone_in(tmp_path):
        assert (tmp_path / LOCK).read_text() == f"{socket.gethostname()} {os.getpid()} 0"
    assert capsys.readouterr().err == f"{tmp_path} was process 7's of elsewhere.example; waiting 0 s for a sign of it\n"


def test_another_hosts_writer_that_lives_is_let_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SILENCE", 20.0)
    monkeypatch.setattr(lock, "BEAT", 0.05)
    with alone_in(tmp_path):  # this process, as seen from elsewhere
        shown = tmp_path / "seen"
        shown.mkdir()
        os.link(tmp_path / LOCK, shown / LOCK)
        monkeypatch.setattr(lock, "_opened", lambda path: (path.open("a+", encoding="utf-8"), True))
        monkeypatch.setattr(lock, "_owner", lambda file: ("elsewhere.example", os.getpid()))
        said = f"process {os.getpid()} of the host elsewhere.example.; wait for it, or choose another folder$"
        with pytest.raises(UserError, match=said), alone_in(shown):
            pass


@pytest.mark.parametrize("content", [b"\xff 7", b""], ids=["no text", "just being written"])
def test_another_hosts_lock_that_says_little(tmp_path, monkeypatch, content):
    monkeypatch.setattr(lock, "SILENCE", 0.1)
    (tmp_path / LOCK).write_bytes(content)
    monkeypatch.setattr(lock, "_owner", lambda file: ("elsewhere.example", 7))
    with alone_in(tmp_path):
        assert (tmp_path / LOCK).read_text().startswith(socket.gethostname())


def test_another_hosts_lock_that_goes_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_said", lambda path: None)
    monkeypatch.setattr(lock, "_owner", lambda file: ("elsewhere.example", 7))
    with pytest.raises(UserError, match="wait for it"), alone_in(tmp_path):
        pass


def test_a_file_system_without_locks(tmp_path, writer, monkeypatch):
    """Then the process that the file names is asked for."""
    other = writer(tmp_path)

    def unknown(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", unknown)
    with pytest.raises(UserError, match=f"process {other.pid}"), alone_in(tmp_path):
        pass
    other.kill()
    other.wait()
    for text in (None, f"{socket.gethostname()} {os.getpid()}", "", "what is this"):
        if text is not None:
            (tmp_path / LOCK).write_text(text)
        with alone_in(tmp_path):
            pass


@pytest.fixture
def shared():
    """A folder that any user may write to; pytest's own ones are for one user."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        (inside := Path(folder) / "run").mkdir()
        inside.chmod(0o777)
        yield inside


@pytest.fixture
def another_user():
    """Starts a process of another user that tries to write into a folder each time it reads a line."""
    with ExitStack() as started:

        def start(folder):
            command = [sys.executable, "-c", ASKED_BY_ANOTHER_USER, str(folder)]
            environment = dict(os.environ, PYTHONPATH=str(ROOT))
            pipe = subprocess.PIPE
            return started.enter_context(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment))

        yield start


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_users_lock_is_a_lock(shared, writer, another_user):
    """It can be read only; its folder can be written."""
    other = writer(shared)
    asker = another_user(shared)

    def answer():
        asker.stdin.write("?\n")
        asker.stdin.flush()
        return asker.stdout.readline().strip()

    (shared / LOCK).chmod(0o644)
    assert f"(process {other.pid}); wait for it" in answer()
    (shared / LOCK).chmod(0o600)
    assert "is another user's; if nobody writes there" in answer()
    (shared / LOCK).chmod(0o644)
    other.kill()
    other.wait()
    shared.chmod(0o755)
    assert answer() == "True"  # there nothing can be written
    shared.chmod(0o1777)
    assert "is another user's; if nobody writes there" in answer()  # nor removed
    shared.chmod(0o777)
    assert answer() == "True" and list(shared.iterdir()) == []
    shared.chmod(0o755)
    assert answer() == "False"


def test_a_link_to_nowhere(tmp_path):
    (tmp_path / "run").symlink_to(tmp_path / "there")
    with pytest.raises(UserError, match=rf"run is a link .*: mkdir -p {tmp_path}/there$"), alone_in(tmp_path / "run"):
        pass


def refused(capsys, main, *argv):
    assert main(list(map(str, argv))) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    return line


def test_two_trainings_in_one_workdir(trained, tmp_path, writer, capsys):
    """The second one changes nothing; whoever reads is not disturbed."""
    workdir, _ = trained
    config = f"--config={workdir / 'config.json'}"
    writer(workdir)
    try:
        before = files(workdir)
        for more in ([], ["--stage=bottom"], ["--stage=bottom", "--from_step=2"]):
            line = refused(capsys, launch.main, config, f"--workdir={workdir}", *more)
            assert line.startswith(f"error: another process is writing to {workdir} (process ")
        assert files(workdir) == before and latest(workdir)["bottom"] == DONE
        assert Trained(workdir).autoencoder
    finally:
        (workdir / LOCK).unlink(missing_ok=True)


def test_a_prior_is_not_imported_where_a_training_writes(trained, tmp_path, writer, capsys):
    exported = tmp_path / "top.safetensors"
    assert package.main(["export", f"--workdir={trained[0]}", "--stage=top", f"--output={exported}"]) == 0
    autoencoder = tmp_path / "autoencoder.safetensors"
    assert package.main(["export", f"--workdir={trained[0]}", f"--output={autoencoder}"]) == 0
    run = tmp_path / "run"
    assert package.main(["import", f"--workdir={run}", f"--checkpoint={autoencoder}"]) == 0
    capsys.readouterr()
    writer(run)
    line = refused(capsys, package.main, "import", f"--workdir={run}", f"--checkpoint={exported}")
    assert f"another process is writing to {run} (process " in line and not (run / "top").exists()


def test_two_encodings_into_one_folder(trained, tmp_path, writer, capsys):
    output = tmp_path / "tokens"
    output.mkdir()
    (output / "unfinished.json").write_text(json.dumps({"source": {}}))  # of the first one
    writer(output)
    line = refused(capsys, package.main, "encode", f"--workdir={trained[0]}", f"--output={output}")
    assert f"another process is writing to {output} (process " in line


def test_a_run_leaves_no_lock(trained, tmp_path):
    assert not (trained[0] / LOCK).exists()
    with pytest.raises(UserError, match="no array 'tets_image'"):
        recipe.run(tiny(trained[1], dataset__split="tets"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
