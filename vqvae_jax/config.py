"""Configs: read from a file and the command line, completed, checked, kept in the workdir.

    configs/x.py + --config.a.b=v ──► complete ──► check ──► plain dict ──► DIR/config.json

A config file writes what differs from the defaults. The defaults of a part (autoencoder, quantizer, prior) stand in
its class, chosen by `name`; those of the other sections in the four dataclasses below. Nothing here
needs ml_collections.
"""

import ast
import contextlib
import copy
import dataclasses
import difflib
import importlib.util
import json
import os
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vqvae_jax.types import UserError

ROOT = Path(__file__).resolve().parent.parent
FILE = "config.json"
SECTIONS = ("seed", "dataset", "autoencoder", "loss_weights", "optimizer", "train", "priors", "sample")
# What the recipe fills in, from the data and the stages before.
FILLED = {"quantizers", "channels", "dtype", "vocab_size", "shape", "coarse_sizes", "num_labels", "parent", "name"}
# What may change when a run goes on, in each `train` section; all of `sample` may.
CADENCES = {"steps", "epochs", "log_every", "evaluate_every", "checkpoint_every", "pictures_every", "keep"}
POSITIVE = {"image_size", "views", "learning_rate", "eps", "batch_size", "keep", "count", "top_p"}
POSITIVE |= {"log_every", "evaluate_every", "checkpoint_every"}
POSITIVE |= {"codebook_size", "code_dim", "levels", "width", "depth", "heads", "horizontal", "vertical"}
SEEDS = 2**31  # negative ones included


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Where the images come from and how they are shown to the model."""

    name: str = "openmoji"  # a key of vqvae_jax.data.DATASETS
    path: str = ""  # file or folder, for data that must be told where it lies
    split: str = "train"  # what is trained on
    test_split: str = "test"  # read by evaluation only
    image_size: int = 64  # pixels, height and width
    range: tuple[float, float] = (0.0, 1.0)  # of the values that the model sees; uint8 0 and 255 go there
    flip: bool = False  # left and right at random
    crop: int = 0  # pixels of random shift, at most; 0 none
    views: int = 1  # augmented copies of the training images whose tokens the priors see


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Adam, its schedule, and what is done to gradients and weights."""

    learning_rate: float = 1e-3  # the highest of the schedule
    schedule: Literal["constant", "cosine"] = "constant"  # after the warm-up; cosine ends at 0
    warmup_steps: int = 0  # linear, from 0
    clip: float = 0.0  # global norm of the gradient; 0 none
    weight_decay: float = 0.0  # of the networks, never of codes
    b1: float = 0.9  # Adam's decay of the mean
    b2: float = 0.999  # Adam's decay of the square
    eps: float = 1e-8  # Adam's denominator
    ema_rate: float = 0.0  # share of the old average of the weights that a step keeps; 0 no average


@dataclasses.dataclass(frozen=True)
class Train:
    """How long and how often. Exactly one of `steps` and `epochs` is above 0."""

    batch_size: int = 32  # images, over all devices
    steps: int = 0  # batches
    epochs: int = 0  # passes over the training data
    log_every: int = 50  # steps
    evaluate_every: int = 500  # steps
    checkpoint_every: int = 500  # steps
    pictures_every: int = 0  # steps; 0 at each epoch's end
    keep: int = 2  # newest checkpoints that stay, beside the best
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the networks; codebooks are float32 always


@dataclasses.dataclass(frozen=True)
class Sample:
    """How the images at the end of training are drawn."""

    count: int = 64  # images
    temperature: float = 1.0  # 0 takes the likeliest token
    top_k: int = 0  # likeliest tokens that stay; 0 all
    top_p: float = 1.0  # share of the probability that stays
    guidance: float = 1.0  # weight of the label


class Block(NamedTuple):
    """One section of a config."""

    path: str  # "config.priors.top.train"
    values: dict[str, Any]  # the section itself
    kind: Any  # the dataclass whose fields these are
    table: Mapping[str, Any] = {}  # where its `name` was looked up; empty for the four sections above
    inside: tuple[str, ...] = ()  # sections within


# ---------------------------------------------------------------------------------------------------------- reading


def read(argument: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The config of `argument` ("configs/x.py" or "configs/x.py:variant") as a plain dict, complete and checked.

    Args:
        argument: file and variant, as typed after --config=.
        overrides: as typed: "--config.optimizer.learning_rate=1e-3". Values are Python literals; other text is text.

    Raises:
        UserError: one line that names what is wrong, the nearest valid thing, and what to type.
    """
    written = _plain(_from_file(argument))
    before = complete(written)
    for path, text in _pairs(overrides):
        section, _, field = path.rpartition(".")
        _check_is_section(before, section)
        _section(written, section)[field] = _value(text, _like(before, path))
    config = complete(written)
    check(config)
    return config


def complete(written: Any) -> dict[str, Any]:
    """Every field of every section, defaults filled in; `written` (a ConfigDict or dict) stays as it is.

    Raises:
        UserError: unknown part, level or field; a field of the wrong type.
    """
    config = _plain(written)
    config.setdefault("seed", 0)
    _section(config, "config.priors")
    _fill_loss_weights(config)
    for block in _blocks(config):
        _fill(block)
        _check_fields(block)
    return config


def available() -> list[tuple[str, str]]:
    """The configs there are: path and first line of the docstring."""
    folders = ROOT / "configs", Path("configs")
    files = {path.name: path for folder in folders for path in folder.glob("[!_]*.py")}
    return [(f"configs/{name}", _first_line(files[name])) for name in sorted(files)]


def _first_line(path: Path) -> str:
    with contextlib.suppress(SyntaxError):
        return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
    return "(does not parse)"


def _from_file(argument: str) -> Any:
    """What get_config(variant) of the file returns."""
    name, _, variant = argument.partition(":")
    module = _module(_find(name))
    variants = getattr(module, "VARIANTS", {})
    if variant and variant not in variants:
        raise UserError(unknown(f"{name} has no variant", variant, variants))
    with _told(name):
        return module.get_config(variant or None)


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
    except Exception as error:
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


def _like(config: Any, path: str) -> Any:
    """The value at a path, or None."""
    for key in path.split(".")[1:]:
        config = config.get(key) if isinstance(config, dict) else None
    return config


def _value(text: str, like: Any) -> Any:
    """Typed text as a value; `like` is what stands there now."""
    if isinstance(like, str):
        return text
    try:
        value = _plain(ast.literal_eval({"true": "True", "false": "False"}.get(text, text)))
    except (ValueError, SyntaxError):
        value = text
    return (value,) if isinstance(like, tuple) and not isinstance(value, tuple) else value


# ---------------------------------------------------------------------------------------------------- what there is


def _tables() -> dict[str, Mapping[str, Any]]:
    from vqvae_jax.autoencoders import AUTOENCODERS
    from vqvae_jax.data import DATASETS
    from vqvae_jax.priors import PRIORS
    from vqvae_jax.quantizers import QUANTIZERS

    return {"autoencoder": AUTOENCODERS, "dataset": DATASETS, "prior": PRIORS, "quantizer": QUANTIZERS}


def levels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the autoencoder's levels, coarse to fine."""
    from vqvae_jax.autoencoders import level_names

    return level_names(config["autoencoder"]["levels"])


def stages(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What is trained, in order: the autoencoder, then its priors coarse to fine."""
    return ("autoencoder", *(level for level in levels(config) if level in config["priors"]))


def _blocks(config: dict[str, Any]) -> Iterator[Block]:
    """Every section, outer before inner. A caller that fills sections in does so as they come."""
    tables = _tables()
    yield Block("config.dataset", _section(config, "config.dataset"), Dataset)
    yield _part(config, "config.autoencoder", tables["autoencoder"], ("quantizer", "quantizers"))
    yield from _quantizer_blocks(config, tables["quantizer"])
    yield from _training_blocks(config, "config")
    for level in _known_levels(config, "config.priors"):
        yield _part(config, f"config.priors.{level}", tables["prior"], ("optimizer", "train"))
        yield from _training_blocks(config, f"config.priors.{level}")
    yield Block("config.sample", _section(config, "config.sample"), Sample)


def _quantizer_blocks(config: dict[str, Any], table: Mapping[str, Any]) -> Iterator[Block]:
    """The quantizer of all levels, then those of single levels, which differ from it in what they say."""
    path = "config.autoencoder.quantizer"
    yield _part(config, path, table)
    shared = _section(config, path)
    for level in _known_levels(config, f"{path}s"):
        own = _section(config, f"{path}s.{level}")
        if own.get("name", shared["name"]) == shared["name"]:
            own.update({**shared, **own})
        yield _part(config, f"{path}s.{level}", table)


def _training_blocks(config: dict[str, Any], path: str) -> Iterator[Block]:
    yield Block(f"{path}.optimizer", _section(config, f"{path}.optimizer"), Optimizer)
    yield Block(f"{path}.train", _section(config, f"{path}.train"), Train)


def _known_levels(config: dict[str, Any], path: str) -> list[str]:
    for level in (found := _section(config, path)):
        if level not in levels(config):
            raise UserError(unknown(f"{path} has no level", level, levels(config)))
    return list(found)


def _part(config: dict[str, Any], path: str, table: Mapping[str, Any], inside: tuple[str, ...] = ()) -> Block:
    values = _section(config, path)
    if "name" not in values:
        raise UserError(f"{path}.name is missing: it says which one. There are: {', '.join(table)}")
    if values["name"] not in table:
        raise UserError(unknown(f"{path}.name: there is no", values["name"], table, "There are"))
    return Block(path, values, table[values["name"]], table, inside)


def _section(config: dict[str, Any], path: str) -> dict[str, Any]:
    """The section at a dotted path, made where it is missing."""
    here, so_far = config, "config"
    for key in path.split(".")[1:]:
        here, so_far = here.setdefault(key, {}), f"{so_far}.{key}"
        if not isinstance(here, dict):
            raise UserError(f"{so_far} is {here!r}, but it is a section, set field by field: --{so_far}.FIELD=VALUE")
    return here


def _check_is_section(config: dict[str, Any], path: str) -> None:
    found = _like(config, path)
    if found is not None and not isinstance(found, dict):
        raise UserError(f"{path} is no section, it has a value, {found!r}: --{path}=VALUE")


def _fields(kind: Any) -> dict[str, tuple[Any, Any]]:
    """Type and default of the fields that a config may set."""
    hints = typing.get_type_hints(kind)
    skipped = set() if kind in (Dataset, Optimizer, Train, Sample) else FILLED
    return {f.name: (hints[f.name], _default(f)) for f in dataclasses.fields(kind) if f.init and f.name not in skipped}


def _default(field: Any) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _fill(block: Block) -> None:
    """Defaults where nothing is written; whole numbers become floats where floats are meant."""
    for name, (hint, default) in _fields(block.kind).items():
        value = block.values.setdefault(name, default)
        if value is dataclasses.MISSING:
            raise UserError(f"{block.path}.{name} is missing and has no default: --{block.path}.{name}=VALUE")
        block.values[name] = _cast(value, hint)


def _fill_loss_weights(config: dict[str, Any]) -> None:
    weights = _section(config, "config.loss_weights")
    weights.update({term: _cast(weight, float) for term, weight in weights.items()})


def _cast(value: Any, hint: Any) -> Any:
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is tuple and isinstance(value, tuple) and float in inner:
        return tuple(_cast(one, float) for one in value)
    return float(value) if hint is float and _fits(value, int) else value


# --------------------------------------------------------------------------------------------------------- checking


def check(config: dict[str, Any]) -> None:
    """All that can be known without the data.

    Raises:
        UserError: the first thing that is wrong, in one line.
    """
    for name in config:
        if name not in SECTIONS:
            raise UserError(unknown("config has no section", name, SECTIONS))
    if not _fits(config["seed"], int):
        raise UserError(f"config.seed wants a whole number, got {config['seed']!r}")
    if not -SEEDS <= config["seed"] < SEEDS:  # JAX would cut off the rest
        raise UserError(f"config.seed must lie between {-SEEDS} and {SEEDS - 1}, got {config['seed']}")
    for block in _blocks(config):
        _check_fields(block)
        _check_numbers(block)
        if block.kind is Train:
            _check_duration(block)
    _check_dataset(config)
    _check_loss_weights(config)


def check_stage(config: Mapping[str, Any], stage: str) -> None:
    """UserError unless `stage` is one of the config's."""
    if stage not in stages(config):
        raise UserError(unknown("the config has no stage", stage, stages(config)))


def unknown(sentence: str, word: str, valid: Iterable[str], listing: str = "It has") -> str:
    """The message for a word that is not among the valid ones: the nearest of them, then all."""
    valid = tuple(valid)
    near = difflib.get_close_matches(str(word), valid, n=1, cutoff=0.5)
    guess = f"; did you mean {near[0]!r}?" if near else "."
    return f"{sentence} {word!r}{guess} {listing}: {', '.join(valid) or 'none'}"


def _check_fields(block: Block) -> None:
    """No field but the part's own, and each of its type."""
    fields = _fields(block.kind)
    valid = (*(["name"] if block.table else []), *fields, *block.inside)
    for name, value in block.values.items():
        if name not in valid:
            raise UserError(unknown(f"{block.path} has no field", name, valid) + _owner(block, name))
        if name in fields and name not in block.inside and not _fits(value, fields[name][0]):
            raise UserError(f"{block.path}.{name} wants {_said(fields[name][0])}, got {value!r}")


def _owner(block: Block, name: str) -> str:
    """Whose field it is, when the name of the part was changed and its fields were not."""
    owners = [repr(other) for other, kind in block.table.items() if name in _fields(kind)]
    if not owners:
        return ""
    return f"; {name!r} belongs to {' and '.join(owners)}, and {block.path}.name is {block.values['name']!r}"


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in inner
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is tuple and isinstance(value, tuple):
        hints = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        return len(hints) == len(value) and all(map(_fits, value, hints))
    if hint in (int, float):
        return isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool)
    return hint is Any or isinstance(value, origin or hint)


def _said(hint: Any) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)
        many = "any number of values" if inner[-1] is Ellipsis else f"{len(inner)} values"
        return f"{many}, each {words.get(inner[0], inner[0])}, with commas between"
    return words.get(hint, str(hint))


def _check_numbers(block: Block) -> None:
    """What no value of a field can be: sizes and cadences of 0, negative numbers in the plain sections."""
    for name, value in block.values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        if name in POSITIVE and not value > 0:
            raise UserError(f"{block.path}.{name} must be above 0, got {value}")
        if not block.table and not value >= 0:
            raise UserError(f"{block.path}.{name} must not be negative, got {value}")


def _check_duration(block: Block) -> None:
    steps, epochs = block.values["steps"], block.values["epochs"]
    if not steps and not epochs:
        raise UserError(f"{block.path} says not how long: --{block.path}.steps=1000 or --{block.path}.epochs=10")
    if steps and epochs:
        both = f"{block.path} has steps={steps} and epochs={epochs}, exactly one may be set"
        raise UserError(f"{both}: add --{block.path}.steps=0 or --{block.path}.epochs=0")


def _check_dataset(config: Mapping[str, Any]) -> None:
    dataset, table = config["dataset"], _tables()["dataset"]
    if dataset["name"] not in table:
        raise UserError(unknown("config.dataset.name: there is no", dataset["name"], table, "There are"))
    low, high = dataset["range"]
    if not low < high:
        raise UserError(f"config.dataset.range must rise, got {low}, {high}: --config.dataset.range=0,1")
    _check_image_size(config)


def _check_image_size(config: Mapping[str, Any]) -> None:
    """The levels halve the image; it must come out even."""
    size, count = config["dataset"]["image_size"], config["autoencoder"]["levels"]
    stride = _tables()["autoencoder"][config["autoencoder"]["name"]].stride(count)
    if size % stride:
        nearest = max(stride, round(size / stride) * stride)
        wish = f"with levels={count} it must be a multiple of {stride}"
        raise UserError(f"config.dataset.image_size={size}: {wish}; nearest: --config.dataset.image_size={nearest}")


def _check_loss_weights(config: Mapping[str, Any]) -> None:
    """Numbers, each for a term ("commitment") or for one level's ("commitment/top"). The task knows the terms."""
    for term, weight in config["loss_weights"].items():
        if not _fits(weight, float):
            raise UserError(f"config.loss_weights.{term} wants a number, got {weight!r}")
        base, _, level = term.partition("/")
        if level and level not in levels(config):
            valid = [f"{base}/{name}" for name in levels(config)]
            raise UserError(unknown("config.loss_weights has no term", term, valid, f"For {base!r} there are"))


# ----------------------------------------------------------------------------------------------------- in the workdir


def save(config: Mapping[str, Any], workdir: str | Path) -> None:
    """Write config.json, whole or not at all."""
    path = Path(workdir) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    draft.write_text(json.dumps(config, indent=2) + "\n")
    draft.replace(path)


def load(workdir: str | Path) -> dict[str, Any]:
    """The config of a workdir, as it was saved.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = Path(workdir) / FILE
    if not path.is_file():
        train = f"python launch.py --config=configs/X.py --workdir={workdir}"
        raise UserError(f"{workdir} is not a workdir: no {FILE}; train first: {train}")
    try:
        return _plain(json.loads(path.read_text()))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); restore it, or use another --workdir") from error


def agree(config: Mapping[str, Any], workdir: str | Path) -> None:
    """Before a run starts or goes on: the workdir's config is this one, from now on.

    Durations, cadences and `sample` may differ from what is stored, and are stored anew.

    Raises:
        UserError: anything else differs; all of it is listed, nothing is written.
    """
    if differs(config, workdir):
        save(config, workdir)


def differs(config: Mapping[str, Any], workdir: str | Path) -> bool:
    """Whether `agree` would write; it raises the same error, and nothing is written."""
    if not (Path(workdir) / FILE).is_file():
        return True
    stored, asked = _flat(load(workdir)), _flat(config)
    changed = [path for path in sorted({*stored, *asked}) if stored.get(path) != asked.get(path)]
    refused = [f"{path}: {_shown(stored, path)} → {_shown(asked, path)}" for path in changed if not _may_change(path)]
    if refused:
        listed = "; ".join(refused)
        raise UserError(f"{workdir} holds a run of another config, use another --workdir; stored → asked: {listed}")
    return bool(changed)


def _may_change(path: str) -> bool:
    *_, section, field = path.split(".")
    return path.startswith("config.sample.") or (section == "train" and field in CADENCES)


def _shown(flat: Mapping[str, Any], path: str) -> str:
    return repr(flat[path]) if path in flat else "(not set)"


def _flat(values: Mapping[str, Any], path: str = "config") -> dict[str, Any]:
    """Every value by its dotted path."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        here = f"{path}.{key}"
        flat |= _flat(value, here) if isinstance(value, dict) else {here: value}
    return flat


def _plain(values: Any) -> Any:
    """A copy of dicts, tuples and plain values; ConfigDicts become dicts, lists tuples."""
    values = values.to_dict() if hasattr(values, "to_dict") else values
    if isinstance(values, Mapping):
        return {key: _plain(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return tuple(_plain(value) for value in values)
    return copy.copy(values)
