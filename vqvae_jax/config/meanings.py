"""All fields of a config with their meaning, as they are typed; what a field means stands beside it in its class."""

import inspect
import re
import textwrap
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from vqvae_jax.config.sections import Block, blocks, fields, plain

WIDTH = 120  # characters
BESIDE = re.compile(r"^    (\w+): .*?  # (.*)$", re.M)  # width: Count = 64  # channels
NAMED = re.compile(r"^    (\w+(?:, \w+)*): (.*(?:\n      .*)*)", re.M)  # in a docstring's Attributes


def meanings(kind: Any) -> dict[str, str]:
    """What each field of a class means, by name; those of the classes that it is made from too."""
    found: dict[str, str] = {}
    for one in reversed(inspect.getmro(kind)):
        if one.__module__.startswith("vqvae_jax"):
            found |= dict(BESIDE.findall(inspect.getsource(one)))
            listed = inspect.cleandoc(one.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
            for names, text in NAMED.findall(listed):
                found |= dict.fromkeys(names.split(", "), " ".join(text.split()).rstrip("."))
    return found


def explained(config: Mapping[str, Any]) -> list[str]:
    """Lines: every section, every field of it with its value and what it means.

    Args:
        config: complete, as `config.read` gives it.
    """
    lines = ["", "--config.seed=" + typed(config["seed"]), *_below("of all randomness")]
    for block in blocks(plain(config)):
        lines += ["", *_heading(block), *_fields(block)]
    weights = {"config": config, **{f"config.priors.{level}": prior for level, prior in config["priors"].items()}}
    for path, section in weights.items():
        for term, weight in section["loss_weights"].items():
            lines += ["", f"--{path}.loss_weights.{term}={typed(weight)}", *_below(f"weight of the loss term {term}")]
    return lines


def _heading(block: Block) -> list[str]:
    first = inspect.cleandoc(block.kind.__doc__ or "").partition("\n")[0]
    if not block.table:
        return [f"{block.path}: {first}"]
    return [f"{block.path}: {first}", f"--{block.path}.name={block.values['name']}", *_below(_one_of(block.table))]


def _one_of(names: Any) -> str:
    return f"one of {', '.join(map(str, names))}"


def _fields(block: Block) -> Iterator[str]:
    said = meanings(block.kind)
    for name, (hint, _) in fields(block.kind).items():
        if name not in block.inside:
            words = _one_of(typing.get_args(hint)) if typing.get_origin(hint) is Literal else ""
            yield f"--{block.path}.{name}={typed(block.values[name])}"
            yield from _below("; ".join(filter(None, (said.get(name, ""), words))))


def _below(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)


def typed(value: Any) -> str:
    """A value as one types it."""
    if isinstance(value, tuple) and value:
        return ",".join(map(typed, value)) + ("," if len(value) == 1 else "")
    if isinstance(value, Mapping):
        return repr(dict(value))
    return str(value).lower() if isinstance(value, bool) else str(value)
