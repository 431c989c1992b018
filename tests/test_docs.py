"""Every command in README and docs runs in its dry form: its flags are known, its config and its script are there."""

import re
import shlex
from pathlib import Path

import pytest

import launch
from vqvae_jax import __main__ as package
from vqvae_jax import config as configs

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]
CODE = re.compile(r"^```(?:bash|sh|console)\n(.*?)^```", re.S | re.M)
OURS = re.compile(r"^(?:python3?(?: -m vqvae_jax| launch\.py| (?:benchmarks|scripts)/\w+\.py)|make)(?= |$)")
LEFT_OPEN = ("X.py", "…", "NAME", "myquantizer")  # places that the reader fills in


def commands():
    """(page, command) of every block of a shell: joined over lines, without comments and variables before it."""
    for page in PAGES:
        for block in CODE.findall(page.read_text("utf-8")):
            for line in block.replace("\\\n", " ").splitlines():
                for words in split(line):
                    if OURS.match(" ".join(words)) and not any(open_ in " ".join(words) for open_ in LEFT_OPEN):
                        yield pytest.param(words, id=f"{page.name}: {' '.join(words)}")


def split(line):
    """The commands of a line."""
    words = shlex.split(line, comments=True) if OURS.search(re.sub(r"^([A-Z_]+=\S+ +)+", "", line)) else []
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    while words:
        end = words.index("&&") if "&&" in words else len(words)
        yield words[:end]
        words = words[end + 1 :]


def test_there_are_commands():
    assert len(list(commands())) > 40


@pytest.mark.parametrize("words", list(commands()))
def test_a_command_is_understood(words, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    if words[0] == "make":
        check_make(words[1:])
    elif words[1] == "launch.py":
        check_launch(words[2:])
    elif words[1] == "-m":
        monkeypatch.chdir(tmp_path)
        check_package(words[3:])
    else:
        check_script(ROOT / words[1], words[2:])


def check_make(words):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
    assert [word for word in words if "=" not in word and word not in targets] == []


def check_launch(words):
    given, overrides = launch.parser().parse_known_args(words)
    if not words:  # help
        return
    launch.check_flags(given, overrides)
    if not given.config.endswith(".json"):  # of a run that is not here
        config = configs.read(given.config, overrides)
        if given.stage:
            configs.check_stage(config, given.stage)


def check_package(words):
    """Files that a flag wants to be there are made first."""
    for word in words:
        path = Path(word.partition("=")[2])
        if word.startswith("--") and path.suffix and not path.is_absolute():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    package.parser().parse_args(words)


def check_script(path, words):
    """Each flag stands in the script, or in what it imports from its folder."""
    assert path.is_file()
    near = "".join(one.read_text("utf-8") for one in path.parent.glob("*.py"))
    for word in words:
        if word.startswith("--"):
            assert f'"{word.partition("=")[0]}"' in near, word
