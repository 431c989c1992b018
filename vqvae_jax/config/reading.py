"""A config, read from a file and the command line, completed with defaults.

configs/x.py + --config.a.b=v ──► complete ──► check ──► plain dict ──► DIR/config.json
"""

import ast
import contextlib
import dataclasses
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vqvae_jax.config.checking import check, check_fields
from vqvae_jax.config.sections import Block, blocks, cast, fields, like, plain, section
from vqvae_jax.config.switching import Switch
from vqvae_jax.files import read_json
from vqvae_jax.loss_weights import RAMP
from vqvae_jax.types import UserError, unknown

ROOT = Path(__file__).resolve().parent.parent.parent


def read(argument: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The config of `argument` ("configs/x.py" or "configs/x.py:variant") as a plain dict, complete and checked.

    Args:
        argument: file and variant, as typed after --config=.
        overrides: as typed: "--config.optimizer.learning_rate=1e-3". Values are Python literals; other text is text.

    "--config.loss_weights.codebook=", without a value, takes a field away that is no text. Where a part has another
    `name` than in the file, what the new one does not have goes, which a line says: see `switching`.

    Raises:
        UserError: one line that names what is wrong, the nearest valid thing, and what to type.
    """
    written, pairs = plain(_from_file(argument)), list(_pairs(overrides))
    before = complete(written)
    for path, text in pairs:
        inside, _, field = path.rpartition(".")
        _check_is_section(before, inside)
        if not text and not isinstance(like(before, path), str):
            _take_away(written, before, path)
        else:
            section(written, inside)[field] = _value(text, like(before, path))
    switch = Switch(before, tuple(path for path, _ in pairs))
    config = complete(written, switch)
    check(config)
    switch.say()
    return config


def complete(written: Any, switch: Switch | None = None) -> dict[str, Any]:
    """Every field of every section, defaults filled in; `written` (a ConfigDict or dict) stays as it is.

    Of parts that `switch` knows by another name, what they do not have is left out.

    Raises:
        UserError: unknown part, level or field; a field of the wrong type.
    """
    config = plain(written)
    config.setdefault("seed", 0)
    section(config, "config.priors")
    for block in blocks(config):
        if switch:
            switch.leave_out(block)
        fill(block)
        check_fields(block)
    if switch:
        switch.weigh(config)
    for path in ("config", *(f"config.priors.{level}" for level in config["priors"])):
        _fill_loss_weights(section(config, f"{path}.loss_weights"))
    return config


def as_it_was_meant(stored: Any) -> Any:
    """A stored config, plain; where values have other names now, these: to be asked of every config that was saved."""
    if not isinstance(stored, Mapping):
        return plain(stored)
    section = {name: as_it_was_meant(value) for name, value in stored.items()}
    if section.get("name") == "cvq" and section.get("distance") == "cosine":
        section["distance"] = "sphere"
    return section


def available() -> list[tuple[str, str]]:
    """The configs there are: path and first line of the docstring."""
    folders = ROOT / "configs", Path("configs")
    files = {path.name: path for folder in folders for path in folder.glob("[!_]*.py")}
    return [(f"configs/{name}", _first_line(files[name])) for name in sorted(files)]


def _first_line(path: Path) -> str:
    with contextlib.suppress(SyntaxError, ValueError, OSError):  # ValueError: no text
        return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
    return "(does not parse)"


def _from_file(argument: str) -> Any:
    """What get_config(variant) of the file returns, or the config.json of another run says."""
    if argument.endswith(".json"):
        return _from_json(_find(argument))
    name, _, variant = argument.partition(":")
    module = _module(_find(name))
    variants = getattr(module, "VARIANTS", {})
    if variant and variant not in variants:
        raise UserError(unknown(f"{name} has no variant", variant, variants))
    with _told(name):
        found = plain(module.get_config(variant or None))
    if not isinstance(found, dict):
        kind = type(found).__name__
        raise UserError(f"get_config of {name} returned {kind}, not a config: end it with return config")
    return found


def _from_json(path: Path) -> Any:
    try:
        return as_it_was_meant(read_json(path))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); restore it, or name a config: --config=configs/X.py") from error


def _find(name: str) -> Path:
    for path in (Path(name), ROOT / name):
        if path.is_file():
            return path
    raise UserError(unknown("there is no config", name, [path for path, _ in available()], "There are"))


def _module(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no Python file; a config is one, with get_config(variant=None): see configs/")
    module = importlib.util.module_from_spec(spec)
    with _told(str(path)):
        spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(f"{path} is no config: it defines no get_config(variant=None)")
    return module


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    """A mistake inside a config file becomes one line; the traceback stays in __cause__."""
    try:
        yield
    except (Exception, SystemExit) as error:  # a config that calls sys.exit is a mistake as well
        cause = " ".join(str(error).split())
        raise UserError(f"{name} cannot be run: {type(error).__name__}: {cause}") from error


def _pairs(overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    """("config.a.b", "v") of each "--config.a.b=v", also of "--config.a.b v"; no value means true."""
    rest = list(overrides)
    while rest:
        flag, equals, text = rest.pop(0).partition("=")
        if not flag.startswith("--config."):
            raise UserError(f"{flag!r} is no override; they look like this: --config.train.steps=100")
        if not equals:
            text = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        yield flag.removeprefix("--"), text


def _check_is_section(config: dict[str, Any], path: str) -> None:
    found = like(config, path)
    if found is not None and not isinstance(found, dict):
        raise UserError(f"{path} is no section, it has a value, {found!r}: --{path}=VALUE")


def _take_away(written: dict[str, Any], before: dict[str, Any], path: str) -> None:
    """What has a default has it again."""
    inside, _, field = path.rpartition(".")
    if like(before, path) is None:
        raise UserError(f"{path} is not there, so nothing can take it away; with a value: --{path}=VALUE")
    section(written, inside).pop(field, None)


def _value(text: str, like: Any) -> Any:
    """Typed text as a value; `like` is what stands there now."""
    if isinstance(like, str):
        return text
    try:
        value = plain(ast.literal_eval({"true": "True", "false": "False"}.get(text, text)))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        value = text
    return (value,) if isinstance(like, tuple) and not isinstance(value, tuple) else value


def fill(block: Block) -> None:
    """Defaults where nothing is written; whole numbers become floats where floats are meant."""
    for name, (hint, default) in fields(block.kind).items():
        value = block.values.setdefault(name, default)
        if value is dataclasses.MISSING:
            raise UserError(f"{block.path}.{name} is missing and has no default: --{block.path}.{name}=VALUE")
        block.values[name] = cast(value, hint)


def _fill_loss_weights(weights: dict[str, Any]) -> None:
    """Whole numbers become floats; a ramp has all its fields."""
    for term, weight in weights.items():
        if not isinstance(term, str):
            raise UserError(f"loss_weights has a term {term!r}; terms are names, as 'commitment'")
        if isinstance(weight, dict):
            said = {**RAMP, **weight}
            weight = {name: cast(value, type(RAMP.get(name, value))) for name, value in said.items()}
        weights[term] = cast(weight, float)
