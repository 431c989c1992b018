"""What can be known to be wrong with a config before there are data."""

import math
import typing
from collections.abc import Mapping
from typing import Any, Literal

from vqvae_jax.config.numbers import check_numbers, check_sizes
from vqvae_jax.config.sections import (
    SECTIONS,
    TOKENS,
    Block,
    Train,
    autoencoder_kind,
    blocks,
    fields,
    fits,
    levels,
    names,
    stages,
)
from vqvae_jax.loss_weights import RAMP
from vqvae_jax.profiling import window
from vqvae_jax.types import UserError, unknown

SEEDS = 2**31  # negative ones included


def check(config: dict[str, Any]) -> None:
    """All that can be known without the data.

    Raises:
        UserError: the first thing that is wrong, in one line.
    """
    for name in config:
        if name not in SECTIONS:
            raise UserError(unknown("config has no section", name, SECTIONS))
    if not fits(config["seed"], int):
        raise UserError(f"config.seed wants a whole number, got {config['seed']!r}")
    if not -SEEDS <= config["seed"] < SEEDS:  # JAX would cut off the rest
        raise UserError(f"config.seed must lie between {-SEEDS} and {SEEDS - 1}, got {config['seed']}")
    for block in blocks(config):
        check_fields(block)
        check_numbers(block)
        if block.kind is Train and not (block.path == "config.train" and config["dataset"]["name"] == TOKENS):
            _check_duration(block)
        if block.kind is Train:
            _check_profile(block)
    _check_dataset(config)
    _check_loss_weights(config)
    for level, prior in config["priors"].items():
        for name in ("label", "text"):
            _check_hidden(name, level, prior, config["sample"]["guidance"])


def check_stage(config: Mapping[str, Any], stage: str) -> None:
    """UserError unless `stage` is one of the config's."""
    if stage not in stages(config):
        raise UserError(unknown("the config has no stage", stage, stages(config)))


def check_fields(block: Block) -> None:
    """No field but the part's own, each of its type, and no number that cannot be."""
    known, valid = fields(block.kind), names(block)
    for name, value in block.values.items():
        if name not in valid:
            raise UserError(unknown(f"{block.path} has no field", name, valid) + _owner(block, name))
        if name in known and name not in block.inside and not fits(value, known[name][0]):
            raise UserError(f"{block.path}.{name} wants {_said(known[name][0])}, got {value!r}")
    check_sizes(block)


def check_part(path: str, kind: Any, values: Mapping[str, Any]) -> None:
    """UserError unless these are fields of a part, each of its type, with numbers that can be."""
    block = Block(path, dict(values), kind)
    check_fields(block)
    check_numbers(block)


def _owner(block: Block, name: str) -> str:
    """Whose field it is, when the name of the part was changed and its fields were not."""
    for inner in block.inside:
        if isinstance(block.values.get(inner), dict) and name in block.values[inner]:
            return f"; {name!r} belongs to the one inside: --{block.path}.{inner}.{name}"
    owners = [repr(other) for other, kind in block.table.items() if name in fields(kind)]
    if not owners:
        return ""
    return f"; {name!r} belongs to {' and '.join(owners)}, and {block.path}.name is {block.values['name']!r}"


def _said(hint: Any) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)
        many = "any number of values" if inner[-1] is Ellipsis else f"{len(inner)} values"
        return f"{many}, each {words.get(inner[0], inner[0])}, with commas between"
    return words.get(hint, str(hint))


def _check_duration(block: Block) -> None:
    """Without one, the weights of `init_from` are taken as they are."""
    steps, epochs = block.values["steps"], block.values["epochs"]
    if not steps and not epochs and not block.values["init_from"]:
        raise UserError(f"{block.path} says not how long: --{block.path}.steps=1000 or --{block.path}.epochs=10")
    if steps and epochs:
        both = f"{block.path} has steps={steps} and epochs={epochs}, exactly one may be set"
        raise UserError(f"{both}: add --{block.path}.steps=0 or --{block.path}.epochs=0")


def _check_profile(block: Block) -> None:
    """Steps are counted from 1."""
    try:
        window(block.values["profile"])
    except ValueError as error:
        wish = "wants START:COUNT, steps counted from 1, or nothing"
        example = f"--{block.path}.profile=100:5 traces five steps from the hundredth on"
        raise UserError(f"{block.path}.profile {wish}, got {block.values['profile']!r}: {example}") from error


def _check_weight(path: str, weight: Any) -> None:
    """UserError unless it is a number or a ramp between two of them."""
    if isinstance(weight, Mapping):
        for name, value in weight.items():
            if name not in RAMP:
                raise UserError(unknown(f"{path} has no field", name, RAMP))
            if not fits(value, type(RAMP[name])) or not math.isfinite(value):
                raise UserError(f"{path}.{name} wants {_said(type(RAMP[name]))}, got {value!r}")
        if weight["steps"] < 1 or weight["start"] < 0:
            raise UserError(f"{path}: a ramp starts at a step from 0 on and takes 1 step or more, got {dict(weight)}")
    elif not fits(weight, float) or not math.isfinite(weight):
        ramp = "or a ramp {'begin': 0, 'end': 1, 'start': 1000, 'steps': 5000}"
        raise UserError(f"{path} wants a number, got {weight!r}; {ramp}")


def _check_dataset(config: Mapping[str, Any]) -> None:
    from vqvae_jax.data import check_name

    dataset = config["dataset"]
    check_name(dataset["name"], dataset["path"])
    low, high = dataset["range"]
    if not low < high:
        raise UserError(f"config.dataset.range must rise, got {low}, {high}: --config.dataset.range=0,1")
    _check_range(config)
    _check_image_size(config)
    size, crop = dataset["image_size"], dataset["crop"]
    if crop >= size:
        shifts = f"config.dataset.crop={crop} shifts images of {size} pixels away"
        raise UserError(f"{shifts}: --config.dataset.crop={size // 8}")


def _check_range(config: Mapping[str, Any]) -> None:
    """Some autoencoders are of pixels in one range alone."""
    kind, given = autoencoder_kind(config), tuple(config["dataset"]["range"])
    wanted = kind.image_range(config["autoencoder"]) if hasattr(kind, "image_range") else None
    if wanted not in (None, given):
        low, high = wanted
        why = f"this autoencoder is of pixels from {low:g} to {high:g}"
        raise UserError(f"config.dataset.range={given}: {why}: --config.dataset.range={low:g},{high:g}")


def _check_image_size(config: Mapping[str, Any]) -> None:
    """The levels halve the image; it must come out even."""
    if config["dataset"]["name"] == TOKENS:
        return
    size, stride = config["dataset"]["image_size"], autoencoder_kind(config).stride(config["autoencoder"])
    nearest = nearest_size(size, stride)
    if size != nearest:
        wish = f"for the levels of this autoencoder ({', '.join(levels(config))}) it must be a multiple of {stride}"
        raise UserError(f"config.dataset.image_size={size}: {wish}; nearest: --config.dataset.image_size={nearest}")


def nearest_size(size: int, stride: int) -> int:
    """The size in pixels nearest to this one that the levels of an autoencoder divide."""
    return max(stride, round(size / stride) * stride)


def _check_hidden(name: str, level: str, prior: Mapping[str, Any], guidance: float) -> None:
    """What a prior that is told labels or texts must learn; it is drawn from in training already."""
    if not prior.get(f"{name}_condition"):
        return
    path, share = f"config.priors.{level}.{name}_dropout", prior[f"{name}_dropout"]
    if not 0 <= share < 1:
        raise UserError(f"{path} is a share of the images, from 0 to below 1, got {share}: --{path}=0.1")
    if not share and guidance != 1:
        why = f"guidance weighs the {name} against none, which the prior learns from the images whose {name} is hidden"
        raise UserError(
            f"config.sample.guidance={guidance:g} and {path}=0: {why}; add --{path}=0.1 or --config.sample.guidance=1"
        )
    if name == "label" and not share and prior.get("text_condition"):
        raise UserError(f"{path}=0: where a text is told, the label is not, which the prior has to learn: --{path}=0.1")


def _check_loss_weights(config: Mapping[str, Any]) -> None:
    """Each is for a term ("commitment") or for one level's ("commitment/top"). The task knows the terms."""
    for level, prior in config["priors"].items():
        for term, weight in prior["loss_weights"].items():
            _check_weight(f"config.priors.{level}.loss_weights.{term}", weight)
    for term, weight in config["loss_weights"].items():
        _check_weight(f"config.loss_weights.{term}", weight)
        base, _, level = term.partition("/")
        if level and level not in levels(config):
            valid = [f"{base}/{name}" for name in levels(config)]
            raise UserError(unknown("config.loss_weights has no term", term, valid, f"For {base!r} there are"))
