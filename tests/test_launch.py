"""launch.py: flags in, exit codes and one line out. The recipe is replaced: here nothing is trained."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import launch
from vqvae_jax.__main__ import parser
from vqvae_jax.types import UserError

ROOT = Path(launch.__file__).parent
DEMO = "configs/openmoji_hierarchical.py"


@pytest.fixture
def ran(monkeypatch):
    """What the recipe was called with."""
    calls = []
    recipe = types.ModuleType("vqvae_jax.recipe")
    recipe.run = lambda *args: calls.append(args)
    monkeypatch.setitem(sys.modules, "vqvae_jax.recipe", recipe)
    monkeypatch.setattr("vqvae_jax.recipe", recipe, raising=False)
    return calls


def shell(*argv):
    """launch.py as its users run it."""
    return subprocess.run([sys.executable, "launch.py", *argv], cwd=ROOT, capture_output=True, text=True)


def test_bare_launch_shows_help_and_the_configs():
    done = shell()
    assert done.returncode == 0 and not done.stderr
    assert "--workdir" in done.stdout and DEMO in done.stdout and "The demo" in done.stdout


@pytest.mark.parametrize("argv", [["launch.py", "--help"], ["-m", "vqvae_jax", "--help"]])
def test_who_reads_may_have_seen_enough(argv):
    """python launch.py --help | head -1"""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, *argv], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert not done.stderr and done.returncode in (0, 141)


def test_a_mistake_is_one_line_and_exit_2():
    done = shell(f"--config={DEMO}", "--config.train.stepps=3")
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: config.train has no field 'stepps'; did you mean 'steps'?")
    assert done.stderr.count("\n") == 1


def test_jax_waits_for_the_flags():
    code = "import sys, launch; launch.parser().parse_args([]); assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_recipe_is_handed_config_workdir_and_stage(ran, tmp_path):
    argv = [f"--config={DEMO}:tiny", f"--workdir={tmp_path}", "--stage=top", "--config.train.steps=3"]
    assert launch.main(argv) == 0
    [(config, workdir, stage)] = ran
    assert (config["train"]["steps"], workdir, stage) == (3, tmp_path, "top")


def test_flags_and_values_may_stand_apart(ran):
    assert launch.main(["--config", DEMO, "--config.train.steps", "3", "--config.seed", "-1"]) == 0
    assert (ran[0][0]["train"]["steps"], ran[0][0]["seed"], ran[0][2]) == (3, -1, None)


@pytest.mark.parametrize(
    ("argument", "workdir"),
    [(DEMO, "runs/openmoji_hierarchical"), (f"{DEMO}:tiny", "runs/openmoji_hierarchical-tiny")],
)
def test_the_workdir_is_named_after_the_config(ran, argument, workdir):
    launch.main([f"--config={argument}"])
    assert ran[0][1] == Path(workdir)


def test_help_is_help(capsys):
    assert launch.main(["--help"]) == 0
    assert DEMO in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--workdir=x"], ["--config=FILE is missing", DEMO]),
        ([f"--config={DEMO}", "--workdr=x"], ["there is no flag '--workdr'", "did you mean '--workdir'?"]),
        ([f"--config={DEMO}", "--train.steps=3"], ["there is no flag '--train.steps'"]),
        ([DEMO], ["--config=FILE is missing"]),
        ([f"--config={DEMO}", "extra"], ["'extra'"]),
        (["--config=configs/openmoji.py"], ["there is no config 'configs/openmoji.py'", "did you mean"]),
        ([f"--config={DEMO}:tin"], ["did you mean 'tiny'?"]),
        ([f"--config={DEMO}", "--stage=botom"], ["no stage 'botom'", "did you mean 'bottom'?"]),
        ([f"--config={DEMO}", "--config.dataset.image_size=30"], ["nearest: --config.dataset.image_size=32"]),
    ],
)
def test_bad_flags_are_one_line_and_exit_2(ran, capsys, argv, words):
    assert launch.main(argv) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and err.count("\n") == 1 and not out
    assert all(word in err for word in words), err
    assert not ran


def test_a_flag_without_its_value_is_one_line_and_exit_2(capsys):
    with pytest.raises(SystemExit) as caught:
        launch.main(["--config"])
    assert caught.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_what_the_recipe_finds_wrong_is_one_line_too(ran, monkeypatch, capsys):
    def run(*_):
        raise UserError("config.priors.top.label_condition=True, but npz has no labels")

    monkeypatch.setattr(sys.modules["vqvae_jax.recipe"], "run", run)
    assert launch.main([f"--config={DEMO}"]) == 2
    assert capsys.readouterr().err == "error: config.priors.top.label_condition=True, but npz has no labels\n"


def test_home_is_expanded(ran, monkeypatch, tmp_path):
    """A shell leaves it as it is behind a =."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert launch.main([f"--config={DEMO}", "--workdir=~/run"]) == 0
    assert ran[0][1] == tmp_path / "run"
    assert parser().parse_args(["report", "--workdir=~/run"]).workdir == tmp_path / "run"
