"""Every command in README and docs runs in its dry form: all of it but the work.

launch.py reads and checks the config with its overrides; python -m vqvae_jax and the scripts read their flags with
their own parsers; make has the targets and the variables.
"""

import argparse
import importlib
import importlib.util
import re
import shlex
import sys
from pathlib import Path

import pytest

import launch
from vqvae_jax import __main__ as package
from vqvae_jax import config as configs
from vqvae_jax.types import UserError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)
SHELLS = ("bash", "sh", "console")
IN_TEXT = re.compile(r"`([^`]+)`")
OURS = re.compile(r"^(?:python3?(?: -m vqvae_jax| launch\.py| (?:benchmarks|scripts)/\w+\.py)|make)(?= |$)")
LEFT_OPEN = ("X.py", "…", "NAME", "manhattan")  # places that the reader fills in, files that the reader writes
A_RUN = "configs/openmoji_hierarchical.py"  # in place of runs that are not here


def commands():
    """(page, command) of every block of a shell, and of every line of code in the text."""
    for page in PAGES:
        for words in written(page.read_text("utf-8")):
            if not any(open_ in " ".join(words) for open_ in LEFT_OPEN):
                yield pytest.param(words, id=f"{page.name}: {' '.join(words)}")


def written(text):
    """The commands of a page that are ours, as words: joined over lines, without comments and variables before them."""
    blocks = [code for language, code in FENCED.findall(text) if language in SHELLS]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    lines += [" ".join(code.split()) for code in IN_TEXT.findall(FENCED.sub("", text))]
    for line in lines:
        yield from (words for words in split(line) if OURS.match(" ".join(words)))


def split(line):
    """The commands of a line."""
    words = shlex.split(line, comments=True) if OURS.search(re.sub(r"^([A-Z_]+=\S+ +)+", "", line)) else []
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    while words:
        end = words.index("&&") if "&&" in words else len(words)
        yield words[:end]
        words = words[end + 1 :]


def test_commands_are_found():
    text = "`make demo`, `x`, or\n`python -m\nvqvae_jax report`\n"
    text += "```bash\nA=1 make \\\n  test && ls && make check  # `make x`\n```\n```python\nmake\n```\n"
    found = [["make", "test"], ["make", "check"], ["make", "demo"], ["python", "-m", "vqvae_jax", "report"]]
    assert list(written(text)) == found
    assert len(list(commands())) > 70


@pytest.mark.parametrize("words", list(commands()))
def test_a_command_runs_dry(words, tmp_path, monkeypatch):
    dry(words, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "command",
    [
        "make dmeo",
        "make demo PYTHNO=python3",
        "python launch.py --config=configs/openmoji_hierarchical.py:vqq",
        "python launch.py --config=configs/openmoji_hierarchical.py --config.train.stesp=1",
        "python launch.py --config=configs/openmoji_hierarchical.py --stage=middle",
        "python launch.py --config=runs/demo/config.json --workdir=runs/b --config.priors.top.train.stpes=1",
        "python launch.py --config=runs/demo/config.json",
        "python -m vqvae_jax sampel",
        "python -m vqvae_jax sample --workdir=runs/demo --cuont=1",
        "python -m vqvae_jax sample --count=1",
        "python benchmarks/codebooks.py train --task=cifra --data=x.npz --json=y.json",
        "python benchmarks/codebooks.py train --task=cifar --data=x.npz",
        "python scripts/readme.py page --workdir=runs/demo --row=x --output=y.png",
        "python scripts/none.py",
    ],
)
def test_a_wrong_command_fails(command, tmp_path, monkeypatch):
    with pytest.raises((AssertionError, UserError, SystemExit)) as error:
        dry(shlex.split(command), tmp_path, monkeypatch)
    assert not isinstance(error.value, SystemExit) or error.value.code == 2


def dry(words, tmp_path, monkeypatch):
    """A command in an empty folder, up to where its work would begin."""
    monkeypatch.chdir(tmp_path)
    if words[0] == "make":
        check_make(words[1:])
    elif words[1] == "launch.py":
        check_launch(words[2:])
    elif words[1] == "-m":
        check_package(words[3:])
    else:
        check_script(ROOT / words[1], words[2:], monkeypatch)


def check_make(words):
    """Targets and variables are the Makefile's."""
    text = (ROOT / "Makefile").read_text("utf-8")
    known = re.findall(r"^([\w-]+):", text, re.M) + [f"{name}=" for name in re.findall(r"\$\((\w+)\)", text)]
    assert [word for word in words if re.sub(r"=.*", "=", word) not in known] == []


def check_launch(words):
    """All that launch.py does before it trains; a run's config.json is the demo's."""
    given, overrides = launch.parser().parse_known_args(words)
    if not words:  # help
        return
    launch.check_flags(given, overrides)
    launch.check_workdir(given)
    if given.config.endswith(".json"):
        configs.save(configs.read(A_RUN), Path(given.config).parent)
    config = configs.read(given.config, overrides)
    if given.stage:
        configs.check_stage(config, given.stage)


def check_package(words):
    """Its flags; a command that is only named is asked for its help."""
    make_files(words)
    parse(package.parsed, words if words[1:] else [*words, "--help"])


def make_files(words):
    """Empty ones, for flags that want them to be there."""
    for path in (Path(word.partition("=")[2]) for word in words if word.startswith("--")):
        if path.suffix and not path.is_absolute():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


def parse(parse_args, words):
    """Reads flags; --help ends well."""
    try:
        parse_args(words)
    except SystemExit as end:
        if end.code:
            raise


class Understood(BaseException):
    """The flags are right: in place of the work."""


def check_script(path, words, monkeypatch):
    """main() as far as its parser, the real one."""
    parse_args = argparse.ArgumentParser.parse_args

    def only_parse(flags):
        parse(lambda words: parse_args(flags, words), words)
        raise Understood

    assert path.is_file()
    make_files(words)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
    monkeypatch.setattr(sys, "argv", [str(path), *words])
    monkeypatch.syspath_prepend(path.parent)
    with pytest.raises(Understood):
        imported(path).main()


def imported(path):
    """A script as a module, not as the program."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def chosen(config):
    """Names of the parts of a config that models.md has rows for."""
    autoencoder = config["autoencoder"]
    named = [autoencoder, autoencoder["quantizer"], *autoencoder["quantizers"].values(), *config["priors"].values()]
    return {part["name"] for part in named}


def test_models_md_names_the_configs_of_each_part():
    """A variant is named where its own config does not have the part already."""
    found = {}
    for path in sorted((ROOT / "configs").glob("[a-z]*.py")):
        plain = chosen(configs.read(str(path)))
        variants = getattr(importlib.import_module(f"configs.{path.stem}"), "VARIANTS", {})
        others = ((f"{path.name}:{name}", chosen(configs.read(f"{path}:{name}")) - plain) for name in variants)
        for shown, parts in [(path.name, plain), *others]:
            for name in parts:
                found.setdefault(name, set()).add(shown)
    lines = (ROOT / "docs" / "models.md").read_text("utf-8").splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| [") and line.count(" | ") == 3]
    named = [(IN_TEXT.findall(row[2]), set(IN_TEXT.findall(row[3]))) for row in rows]
    assert found.keys() <= {name for names, _ in named for name in names}
    for names, shown in named:
        assert shown == set().union(*(found.get(name, ()) for name in names)), names
