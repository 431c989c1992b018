"""The sections of a config: their fields, and where the parts that they name are looked up."""

import copy
import dataclasses
import math
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from vqvae_jax.limits import Count, Natural, NotNegative, Positive, Rate
from vqvae_jax.types import UserError, unknown

AUTOENCODER = "autoencoder"  # the first stage; the others are named like their levels
TOKENS = "tokens"  # the data set that needs no autoencoder
SECTIONS = ("seed", "dataset", "autoencoder", "task", "loss_weights", "optimizer", "train", "priors", "text", "sample")
# What the recipe fills in, from the data and the stages before.
FILLED = {"quantizers", "channels", "dtype", "maps", "above", "num_labels", "text", "parent", "name"}
FILLED |= {"autoencoder", "tx", "loss_weights", "range", "flip", "crop", "ema_rate", "accumulate"}
INNER = "inner"  # the section of the quantizer inside a quantizer
NETWORK = "network"  # of the network inside a prior
TEXT_ENCODER = "text_encoder"  # of what reads texts inside a prior; only where it is written


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Where the images come from and how they are shown to the model."""

    name: str = "openmoji"  # a key of vqvae_jax.data.DATASETS, or any name of TFDS
    path: str = ""  # file or folder, for data that must be told where it lies
    split: str = "train"  # what is trained on
    test_split: str = "test"  # read by evaluation only
    label: str = ""  # which feature of a TFDS set is the label: "attributes/Male"; else its first class label
    text: str = ""  # which feature of a TFDS set is the text: "captions/text"; else one called text, caption or title
    keys: str = ""  # which arrays of an .npz are which, "train_image=A,train_label=B"; else as their names say
    image_size: Count = 64  # pixels, height and width
    channels: Literal[0, 1, 3] = 0  # of the images: 1 grey, 3 colour; 0 as the data have them, colour of a folder
    range: tuple[float, float] = (0.0, 1.0)  # of the values that the model sees; uint8 0 and 255 go there
    flip: bool = False  # left and right at random
    crop: Natural = 0  # pixels of random shift, at most; 0 none
    views: Count = 1  # augmented copies of the training images whose tokens the priors see


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Adam, its schedule, and what is done to gradients and weights."""

    learning_rate: Positive = 1e-3  # the highest of the schedule
    schedule: Literal["constant", "cosine"] = "constant"  # after the warm-up; cosine ends at 0
    warmup_steps: Natural = 0  # linear, from 0
    clip: NotNegative = 0.0  # global norm of the gradient; 0 none
    weight_decay: NotNegative = 0.0  # of the networks, never of codes
    b1: Rate = 0.9  # Adam's decay of the mean
    b2: Rate = 0.999  # Adam's decay of the square
    eps: Positive = 1e-8  # Adam's denominator
    ema_rate: Rate = 0.0  # share of the old average of the weights that a step keeps; 0 no average


@dataclasses.dataclass(frozen=True)
class Train:
    """How long and how often. One of `steps` and `epochs` is above 0; neither takes the weights of `init_from`."""

    batch_size: Count = 32  # images, over all devices
    accumulate: Count = 1  # parts in which the networks see a batch, one after the other: less memory, the same update
    steps: Natural = 0  # batches
    epochs: Natural = 0  # passes over the training data
    log_every: Count = 50  # steps
    evaluate_every: Count = 500  # steps
    checkpoint_every: Count = 500  # steps
    pictures_every: Natural = 0  # steps; 0 at the ends of epochs, twenty times a training or less
    keep: Count = 2  # newest checkpoints that stay, beside the best
    init_from: str = ""  # workdir of another run: start from the weights of its stage of the same name
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the networks; codebooks are float32 always
    on_nan: Literal["stop", "skip"] = "stop"  # a step with NaN or infinity ends the run, or is left out
    profile: str = ""  # "100:5" traces 5 steps from the 100th on: profile/ and profile.txt in the stage's folder


@dataclasses.dataclass(frozen=True)
class Text:
    """How the texts of images become numbers, for priors with text_condition."""

    vocab_size: Count = 1024  # numbers, at most
    length: Count = 24  # places of a text; what is longer is cut off
    tokenizer: str = ""  # a tokenizer.json; else one is learned from the texts of the training


@dataclasses.dataclass(frozen=True)
class Sample:
    """How the images at the end of training are drawn."""

    count: Count = 64  # images
    temperature: NotNegative = 1.0  # 0 takes the likeliest token
    top_k: Natural = 0  # likeliest tokens that stay; 0 all
    top_p: Positive = 1.0  # share of the probability that stays
    guidance: NotNegative = 1.0  # weight of label and text


class Block(NamedTuple):
    """One section of a config."""

    path: str  # "config.priors.top.train"
    values: dict[str, Any]  # the section itself
    kind: Any  # the dataclass whose fields these are
    table: Mapping[str, Any] = {}  # where its `name` was looked up; empty for the four sections above
    inside: tuple[str, ...] = ()  # sections within


def tables() -> dict[str, Mapping[str, Any]]:
    """What a `name` may be, for each kind of part."""
    from vqvae_jax.autoencoders import AUTOENCODERS
    from vqvae_jax.networks import NETWORKS, TEXT_ENCODERS
    from vqvae_jax.priors import PRIORS
    from vqvae_jax.quantizers import INSIDE, QUANTIZERS
    from vqvae_jax.tasks import TASKS

    return {
        "autoencoder": AUTOENCODERS,
        "task": TASKS,
        "prior": PRIORS,
        "quantizer": QUANTIZERS,
        INNER: INSIDE,
        NETWORK: NETWORKS,
        TEXT_ENCODER: TEXT_ENCODERS,
    }


def levels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the autoencoder's levels, coarse to fine."""
    return autoencoder_kind(config).names(config["autoencoder"])


def autoencoder_kind(config: Mapping[str, Any]) -> Any:
    """The class of the autoencoder."""
    return tables()["autoencoder"][config["autoencoder"]["name"]]


def stages(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What is trained, in order: the autoencoder, unless the data are tokens; then its priors coarse to fine."""
    first = () if config["dataset"]["name"] == TOKENS else (AUTOENCODER,)
    return (*first, *(level for level in levels(config) if level in config["priors"]))


def of_stage(config: Mapping[str, Any], stage: str) -> Mapping[str, Any]:
    """Where a stage's sections `optimizer` and `train` lie."""
    return config if stage == AUTOENCODER else config["priors"][stage]


def told_texts(config: Mapping[str, Any]) -> bool:
    """Whether any prior is told the texts of the images."""
    return any(prior.get("text_condition") for prior in config["priors"].values())


def path_of(stage: str) -> str:
    """The same as it is typed: "config", "config.priors.top"."""
    return "config" if stage == AUTOENCODER else f"config.priors.{stage}"


def blocks(config: dict[str, Any]) -> Iterator[Block]:
    """Every section, outer before inner. A caller that fills sections in does so as they come."""
    parts = tables()
    yield Block("config.dataset", section(config, "config.dataset"), Dataset)
    yield _part(config, "config.autoencoder", parts["autoencoder"], ("quantizer", "quantizers"))
    yield from _quantizer_blocks(config, parts)
    section(config, "config.task").setdefault("name", "autoencode")
    yield _part(config, "config.task", parts["task"])
    yield from _training_blocks(config, "config")
    for level in _known_levels(config, "config.priors"):
        section(config, f"config.priors.{level}.loss_weights")
        yield from _prior(config, f"config.priors.{level}", parts)
        yield from _training_blocks(config, f"config.priors.{level}")
    yield Block("config.text", section(config, "config.text"), Text)
    yield Block("config.sample", section(config, "config.sample"), Sample)


def _quantizer_blocks(config: dict[str, Any], parts: Mapping[str, Mapping[str, Any]]) -> Iterator[Block]:
    """The quantizer of all levels, then those of single levels, which differ from it in what they say."""
    path = "config.autoencoder.quantizer"
    yield from _quantizer(config, path, parts)
    for level in _known_levels(config, f"{path}s"):
        _inherit(section(config, f"{path}s.{level}"), section(config, path))
        yield from _quantizer(config, f"{path}s.{level}", parts)


def _quantizer(config: dict[str, Any], path: str, parts: Mapping[str, Mapping[str, Any]]) -> Iterator[Block]:
    """One quantizer, and the one inside it where its class has such a field."""
    outer = _part(config, path, parts["quantizer"])
    inside = tuple(field.name for field in dataclasses.fields(outer.kind) if field.name == INNER)
    yield outer._replace(inside=inside)
    if inside:
        yield _part(config, f"{path}.{INNER}", parts[INNER])


def _prior(config: dict[str, Any], path: str, parts: Mapping[str, Mapping[str, Any]]) -> Iterator[Block]:
    """One prior, and inside it where its class has such fields the network, and a text encoder if it is written."""
    outer = _part(config, path, parts["prior"], ("optimizer", "train", "loss_weights"))
    has = [field.name for field in dataclasses.fields(outer.kind) if field.name in (NETWORK, TEXT_ENCODER)]
    yield outer._replace(inside=(*outer.inside, *has))
    if NETWORK in has and "name" not in section(config, f"{path}.{NETWORK}"):
        _check_numbers(config, path.rpartition(".")[2], outer.kind, parts["quantizer"])
    for name in has:
        if name == NETWORK or name in outer.values:
            yield _part(config, f"{path}.{name}", parts[name])
    for name, value in getattr(outer.kind, "usual_optimizer", {}).items():
        section(config, f"{path}.optimizer").setdefault(name, value)


def _check_numbers(config: dict[str, Any], level: str, kind: Any, quantizers: Mapping[str, Any]) -> None:
    """UserError for a prior of numbers alone over codes, which no network would help."""
    autoencoder = config["autoencoder"]
    quantizer = quantizers[autoencoder["quantizers"].get(level, autoencoder["quantizer"])["name"]]
    if config["dataset"]["name"] != TOKENS and hasattr(kind, "refused") and not hasattr(quantizer, "numbers"):
        raise kind.refused(repr(level), level)


def _inherit(own: dict[str, Any], shared: Mapping[str, Any]) -> None:
    """What a section does not say is as in the shared one, if both are of the same name; sections within likewise."""
    if own.get("name", shared["name"]) != shared["name"]:
        return
    for name, value in shared.items():
        if not isinstance(value, dict):
            own.setdefault(name, value)
        elif isinstance(own.setdefault(name, {}), dict):
            _inherit(own[name], value)


def _training_blocks(config: dict[str, Any], path: str) -> Iterator[Block]:
    yield Block(f"{path}.optimizer", section(config, f"{path}.optimizer"), Optimizer)
    yield Block(f"{path}.train", section(config, f"{path}.train"), Train)


def _known_levels(config: dict[str, Any], path: str) -> list[str]:
    for level in (found := section(config, path)):
        if level not in levels(config):
            without = f"; without it: --{path}.{level}="
            raise UserError(unknown(f"{path} has no level", level, levels(config)) + without)
    return list(found)


def _part(config: dict[str, Any], path: str, table: Mapping[str, Any], inside: tuple[str, ...] = ()) -> Block:
    values = section(config, path)
    if "name" not in values:
        which = f"it says which one, --{path}.name={next(iter(table))}"
        raise UserError(f"{path}.name is missing: {which}. There are: {', '.join(table)}")
    if not isinstance(values["name"], str) or values["name"] not in table:
        raise UserError(unknown(f"{path}.name: there is no", values["name"], table, "There are"))
    if not dataclasses.is_dataclass(kind := table[values["name"]]) or kind.__hash__ is None:
        raise UserError(
            f"{kind.__name__} is no frozen dataclass, as every part is; docs/extending.md shows a whole one"
        )
    return Block(path, values, kind, table, inside)


def section(config: dict[str, Any], path: str) -> dict[str, Any]:
    """The section at a dotted path, made where it is missing."""
    here, so_far = config, "config"
    for key in path.split(".")[1:]:
        here, so_far = here.setdefault(key, {}), f"{so_far}.{key}"
        if not isinstance(here, dict):
            raise UserError(f"{so_far} is {here!r}, but it is a section: --{so_far}.FIELD=VALUE, or {{}} for none")
    return here


def fields(kind: Any) -> dict[str, tuple[Any, Any]]:
    """Type and default of the fields that a config may set."""
    hints = typing.get_type_hints(kind)
    skipped = set() if kind in (Dataset, Optimizer, Train, Text, Sample) else FILLED | {INNER, NETWORK, TEXT_ENCODER}
    return {f.name: (hints[f.name], _default(f)) for f in dataclasses.fields(kind) if f.init and f.name not in skipped}


def names(block: Block) -> tuple[str, ...]:
    """All that may stand in a section."""
    return (*(["name"] if block.table else []), *fields(block.kind), *block.inside)


def _default(field: Any) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a field's type."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in inner)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if origin is tuple and isinstance(value, tuple):
        hints = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        return len(hints) == len(value) and all(map(fits, value, hints))
    if hint in (int, float):
        return isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool)
    return hint is Any or isinstance(value, origin or hint)


def cast(value: Any, hint: Any) -> Any:
    """Whole numbers as floats where floats are meant."""
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is tuple and isinstance(value, tuple) and float in inner:
        return tuple(cast(one, float) for one in value)
    if hint is not float or not fits(value, int):
        return value
    return float(value) if abs(value) <= sys.float_info.max else math.inf  # which is refused as any other


def like(config: Any, path: str) -> Any:
    """The value at a path, or None."""
    for key in path.split(".")[1:]:
        config = config.get(key) if isinstance(config, dict) else None
    return config


def plain(values: Any) -> Any:
    """A copy of dicts, tuples and plain values; ConfigDicts become dicts, lists tuples."""
    values = values.to_dict() if hasattr(values, "to_dict") else values
    if isinstance(values, Mapping):
        return {key: plain(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return tuple(plain(value) for value in values)
    return copy.copy(values)
