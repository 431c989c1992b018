"""A part by another name than the file's: what the file says of the old one is left out, with its loss terms, and said.

Fields that both parts have stay as the file has them, and so do the weights of loss terms that both have. New terms get
the weight that their part's `terms` says is usual; what was typed itself is never touched.
"""

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from vqvae_jax.config.sections import Block, cast, fields, fits, levels, like, names, section, tables
from vqvae_jax.loss_weights import Weight

PRIORS = "config.priors."
QUANTIZER = "config.autoencoder.quantizer"  # of all levels; quantizers.LEVEL of one
WEIGHTS = "loss_weights"


class Left(NamedTuple):
    """A part that has another name now."""

    path: str
    before: str
    now: str
    fields: dict[str, Any]  # of the file, that it does not have


class Switch:
    """The parts that a command line names otherwise than the file.

    Args:
        before: the file's config, complete.
        typed: paths of what was typed: "config.autoencoder.quantizer.name".
    """

    def __init__(self, before: Mapping[str, Any], typed: tuple[str, ...]):
        self.before, self.typed = before, typed
        self.left: list[Left] = []
        self.weights: dict[str, Weight] = {}  # that were left out
        self.added: dict[str, Weight] = {}

    def leave_out(self, block: Block) -> None:
        """The file's fields that a part of another name does not have, and a prior's loss weights."""
        stood = self._stood(block.path)
        if not block.table or stood is None or stood["name"] == (now := block.values["name"]):
            return
        foreign = {name: value for name, value in block.values.items() if not has_room(block, name, value)}
        if block.path.startswith(PRIORS) and block.values.get(WEIGHTS):  # another prior has other terms
            foreign[WEIGHTS] = block.values[WEIGHTS]
        foreign = {name: value for name, value in foreign.items() if not self._typed(f"{block.path}.{name}")}
        for name in foreign:
            del block.values[name]
        self.left.append(Left(block.path, stood["name"], now, foreign))

    def _stood(self, path: str) -> Any:
        """The section in the file; of a level's quantizer that it does not have the one of all levels."""
        shared, _, level = path.partition("s.")
        return like(self.before, path) or (like(self.before, shared) if shared == QUANTIZER and level else None)

    def weigh(self, config: dict[str, Any]) -> None:
        """Loss terms that went and came with the parts of the autoencoder and its task."""
        if all(left.path.startswith(PRIORS) for left in self.left):
            return
        weights, old, new = section(config, f"config.{WEIGHTS}"), terms(self.before), terms(config)
        said = {str(term).partition("/")[0] for term in weights}
        gone = [term for term in weights if (base := str(term).partition("/")[0]) in old and base not in new]
        self.weights = {term: weights.pop(term) for term in gone if not self._typed(f"config.{WEIGHTS}.{term}")}
        fresh = {term: weight for term, weight in new.items() if term not in old and term not in said}
        self.added = {term: weight for term, weight in fresh.items() if not self._typed(f"config.{WEIGHTS}.{term}")}
        weights.update(self.added)

    def say(self) -> None:
        """One line of it all on standard error, where something was left out or added."""
        if any(left.fields for left in self.left) or self.weights or self.added:
            print("; ".join([*map(said_of, self.left), *self._said_of_weights()]), file=sys.stderr, flush=True)

    def _said_of_weights(self) -> list[str]:
        gone = [f"without {_listed(self.weights)}"] if self.weights else []
        came = [f"with the usual {_listed(self.added)}"] if self.added else []
        return [f"config.{WEIGHTS}: {' and '.join(gone + came)}"] if gone + came else []

    def _typed(self, path: str) -> bool:
        """Itself, something in it, or all that it lies in."""
        return any(f"{path}.".startswith(f"{one}.") or one.startswith(f"{path}.") for one in self.typed)


def has_room(block: Block, name: str, value: Any) -> bool:
    """Whether a part has such a field, and of this type."""
    known = fields(block.kind)
    return name in names(block) and (name not in known or fits(cast(value, known[name][0]), known[name][0]))


def said_of(left: Left) -> str:
    """In words."""
    fields = f" without the file's {_listed(left.fields)}" if left.fields else ""
    return f"{left.path}: {left.now} in place of {left.before},{fields or ' all fields fit'}"


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(name if isinstance(value, Mapping) else f"{name}={value}" for name, value in values.items())


def terms(config: Mapping[str, Any]) -> dict[str, float]:
    """The loss terms of the autoencoder, its quantizers and its task, each with its usual weight."""
    parts, autoencoder = tables(), config["autoencoder"]
    own, shared = autoencoder["quantizers"], autoencoder["quantizer"]
    found = {"reconstruction": 1.0, **_of(autoencoder, parts["autoencoder"])}
    for level in levels(config):
        quantizer = own.get(level, shared)
        found |= _of(quantizer.get("inner", {}), parts["inner"]) | _of(quantizer, parts["quantizer"])
    return found | _of(config["task"], parts["task"])


def _of(part: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, float]:
    """Those that a part says; one of a user's own need not."""
    kind: Any = table.get(part.get("name", ""))
    return dict(kind.terms(part)) if hasattr(kind, "terms") else {}
