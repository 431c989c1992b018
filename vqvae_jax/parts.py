"""What a config and its data make: modules, the maps between them, shapes, trained weights. Reads plain dicts."""

from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vqvae_jax import facts as facts_file
from vqvae_jax.autoencoders import AUTOENCODERS
from vqvae_jax.checkpoint import Checkpoints, Step
from vqvae_jax.config.sections import AUTOENCODER, NETWORK, TEXT_ENCODER
from vqvae_jax.config.workdir import check_saved
from vqvae_jax.data import tokens
from vqvae_jax.networks import NETWORKS, TEXT_ENCODERS
from vqvae_jax.priors import PRIORS
from vqvae_jax.quantizers import QUANTIZERS
from vqvae_jax.types import (
    Caption,
    Condition,
    Level,
    Model,
    Quantizer,
    Reconstruction,
    UserError,
    by_level,
    map_names,
    unknown,
)

# Fields of a section that no constructor takes as they are.
INSIDE = ("name", "quantizer", "quantizers", "inner", "network", "text_encoder", "optimizer", "train", "loss_weights")


class Parts:
    """Built once each, when they are first asked for.

    Attributes:
        config: complete, as `config.read` gives it.
        facts: what a config cannot know of the data, see `facts`.
    """

    def __init__(self, config: Mapping[str, Any], facts: Mapping[str, Any]):
        self.config, self.facts = config, facts
        self._priors: dict[str, Any] = {}

    @cached_property
    def autoencoder(self) -> Any:
        """The module with its quantizers, one a level."""
        return build_autoencoder(self.config, self.facts)

    @property
    def stride(self) -> int:
        """What the sides of an image are multiples of, in pixels: levels halve them, scales divide the maps."""
        if any(hasattr(quantizer, "scales") for quantizer in self.autoencoder.quantizers):
            return int(self.facts["image_size"])  # where the last scale is a whole map
        section = self.config["autoencoder"]
        kind: Any = AUTOENCODERS[section["name"]]
        return int(kind.stride(section))

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The maps, coarse to fine: as the data say where they are tokens, else the autoencoder's."""
        if "levels" in self.facts:
            return tuple(Level(name, tuple(shape), *more) for name, shape, *more in self.facts["levels"])
        quantizers = self.autoencoder.quantizers
        sizes = sum((quantizer.vocab_sizes for quantizer in quantizers), ())
        named = zip(map_names(self.autoencoder.level_names, quantizers), self._traced[1].tokens, sizes, strict=True)
        return tuple(Level(name, (one.shape[1], one.shape[2]), size, *one.shape[3:]) for name, one, size in named)

    def loss_terms(self, stage: str) -> tuple[str, ...]:
        """Names of a stage's losses."""
        return tuple(self._traced[1].losses) if stage == AUTOENCODER else _traced_prior(self.prior(stage))[1]

    def maps_of(self, level: str) -> slice:
        """Which of the maps are a level's: one, or one a depth of a residual quantizer.

        Raises:
            UserError: there are none.
        """
        numbers = [i for i, one in enumerate(self.levels) if one.name.partition(".")[0] == level]
        if not numbers:
            raise UserError(unknown("there are no tokens of the level", level, [one.name for one in self.levels]))
        return slice(numbers[0], numbers[-1] + 1)

    def prior(self, level: str) -> Any:
        """The prior of one level. What its maps are like comes from the autoencoder.

        Raises:
            UserError: it cannot model maps like these, or wants labels where there are none.
        """
        if level not in self._priors:
            self._priors[level] = self._built(level)
        return self._priors[level]

    def _built(self, level: str) -> Any:
        section, names = self.config["priors"][level], self.facts["label_names"]
        if section.get("label_condition") and not names:
            raise UserError(
                f"config.priors.{level}.label_condition is on, but the data set {self.config['dataset']['name']!r} has "
                f"no labels; add --config.priors.{level}.label_condition=false"
            )
        own, kind = self.maps_of(level), PRIORS[section["name"]]
        maps, above = self.levels[own], self.levels[: own.start]
        kind.fits(maps, above)
        inside: dict[str, Any] = {}
        if section.get("text_condition"):
            said = self.config["text"]
            inside["text"] = Caption(said["vocab_size"], said["length"])
        dtype = jnp.dtype(section["train"]["dtype"])
        if NETWORK in section:
            inside[NETWORK] = build_network(section[NETWORK], maps[0].channels, dtype)
        if TEXT_ENCODER in section:
            inside[TEXT_ENCODER] = build_text_encoder(section[TEXT_ENCODER], inside.get("text"), dtype)
        return kind(maps=maps, above=above, num_labels=len(names), dtype=dtype, **inside, **arguments(section))

    def abstract(self, stage: str) -> Model:
        """Shapes of what a stage learns; nothing is computed."""
        return self._traced[0] if stage == AUTOENCODER else abstract_prior(self.prior(stage))

    @property
    def _traced(self) -> tuple[Model, Reconstruction]:
        return _traced(self.autoencoder, self.facts["image_size"], self.facts["channels"])

    def load(self, workdir: Path, stage: str, step: Step = None, flag: str = "--step={step}") -> Model:
        """What a stage learned: at the latest step, at the best ("best", the latest where none is) or at a number.

        `flag` is what a message says of another step, see `Checkpoints`.

        Raises:
            UserError: it was not trained, or with another config; its checkpoint is damaged.
        """
        with checkpoints_of(workdir, stage, flag) as checkpoints:
            folder = checkpoints.directory
            if checkpoints.latest() is None:
                train = f"python launch.py --config=… --workdir={workdir} --stage={stage}"
                raise UserError(f"{folder} has no checkpoint: the stage {stage!r} was not trained; {train}")
            step = known(checkpoints, step)
            check_saved(self.config, checkpoints.config(step), stage, str(folder))
            return checkpoints.restore_model(step, self.abstract(stage))


def arguments(section: Mapping[str, Any]) -> dict[str, Any]:
    """A section without what no constructor takes."""
    return {name: value for name, value in section.items() if name not in INSIDE}


def build_autoencoder(config: Mapping[str, Any], facts: Mapping[str, Any]) -> Any:
    """The autoencoder with its quantizers, one a level."""
    section = config["autoencoder"]
    kind: Any = AUTOENCODERS[section["name"]]
    quantizers = tuple(
        build_quantizer(section["quantizers"].get(level, section["quantizer"]))
        for level in kind.names(arguments(section))
    )
    dtype = jnp.dtype(config["train"]["dtype"])
    return kind(quantizers=quantizers, channels=facts["channels"], dtype=dtype, **arguments(section))


def build_quantizer(section: Mapping[str, Any]) -> Any:
    """One quantizer, with the one inside it.

    Raises:
        UserError: its class lacks what `types.Quantizer` asks for.
    """
    inner = {"inner": build_quantizer(section["inner"])} if "inner" in section else {}
    quantizer = QUANTIZERS[section["name"]](**inner, **arguments(section))
    if lacking := _lacking(quantizer, Quantizer):
        kind = type(quantizer).__name__
        raise UserError(f"the quantizer {kind} lacks {', '.join(lacking)}; docs/extending.md shows a whole one")
    return quantizer


def _lacking(part: Any, contract: type) -> list[str]:
    """What a contract asks for and a part does not have; nothing of the part is called."""
    asked = [name for name in vars(contract) if name == "__call__" or not name.startswith("_")]
    return [name for name in asked if name not in dir(part)]


def build_network(section: Mapping[str, Any], channels: int, dtype: jnp.dtype) -> Any:
    """The network inside a prior, of so many numbers a place."""
    return NETWORKS[section["name"]](channels=channels, dtype=dtype, **arguments(section))


def build_text_encoder(section: Mapping[str, Any], text: Caption | None, dtype: jnp.dtype) -> Any:
    """What reads texts inside a prior; the prior says where there are none."""
    return TEXT_ENCODERS[section["name"]](text=text, dtype=dtype, **arguments(section))


def abstract_autoencoder(autoencoder: Any, facts: Mapping[str, Any]) -> Model:
    """Shapes of its parameters and codebooks; nothing is computed."""
    return _traced(autoencoder, facts["image_size"], facts["channels"])[0]


@lru_cache(maxsize=8)
def _traced(autoencoder: Any, size: int, channels: int) -> tuple[Model, Reconstruction]:
    """Shapes of what it remembers and of what it makes of one image."""

    def init(key, images):
        codebooks = autoencoder.init_codebooks(key)
        out, variables = autoencoder.init_with_output(key, images, codebooks)
        return Model(variables["params"], codebooks), out

    image = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    model, out = jax.eval_shape(init, jax.random.key(0), image)
    _check_scales(autoencoder, out, size)
    return model, out


def _check_scales(autoencoder: Any, out: Reconstruction, size: int) -> None:
    """UserError unless the scales of a quantizer end at the side of its level's map."""
    maps = by_level(out.tokens, autoencoder.quantizers)
    for name, quantizer, own in zip(autoencoder.level_names, autoencoder.quantizers, maps, strict=True):
        if hasattr(quantizer, "scales") and (side := own[-1].shape[1]) != quantizer.side:
            section = "quantizer" if len(autoencoder.level_names) == 1 else f"quantizers.{name}"
            raise UserError(
                f"scales={','.join(map(str, quantizer.scales))} end at {quantizer.side}, but of images of {size} "
                f"pixels the code map {name!r} is {side}x{side}; end them at {side}: "
                f"--config.autoencoder.{section}.scales={','.join(map(str, _ending(quantizer.scales, side)))}"
            )


def _ending(scales: tuple[int, ...], side: int) -> tuple[int, ...]:
    """Those below a side, and it."""
    return (*(scale for scale in scales if scale < side), side)


def abstract_prior(prior: Any) -> Model:
    """Shapes of its parameters; nothing is computed."""
    return _traced_prior(prior)[0]


@lru_cache(maxsize=8)
def _traced_prior(prior: Any) -> tuple[Model, tuple[str, ...]]:
    """Shapes of its parameters, and names of its losses."""
    one = lambda level: jax.ShapeDtypeStruct((1, *level.form), level.dtype)  # noqa: E731
    maps, above = tuple(map(one, prior.maps)), tuple(map(one, prior.above))
    label: Any = jax.ShapeDtypeStruct((1,), jnp.int32) if prior.num_labels else None
    told = getattr(prior, "text", None)
    text: Any = jax.ShapeDtypeStruct((1, told.length), jnp.int32) if told else None
    init = lambda key, *given: prior.init_with_output(key, *given, key[None], method="loss")  # noqa: E731
    terms, variables = jax.eval_shape(init, jax.random.key(0), maps, Condition(label, above, text))  # type: ignore[arg-type]
    return Model(variables["params"], {}), tuple(terms)


def facts_of_tokens(config: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of images that were encoded, the maps, and the checksum of the autoencoder that made them.

    Raises:
        UserError: the maps are not those of the config's autoencoder.
    """
    folder, size = Path(config["dataset"]["path"]), config["dataset"]["image_size"]
    told = tokens.about(folder)
    facts = {name: told["facts"].get(name) for name in ("image_size", "channels", "label_names", "label_counts")}
    if None in facts.values() or "autoencoder" not in told["source"]:
        raise UserError(f"the tokens in {folder} do not say of what they were made; encode the images again")
    if facts["image_size"] != size:
        there = facts["image_size"]
        raise UserError(
            f"the tokens in {folder} are of images of {there} pixels, not {size}: --config.dataset.image_size={there}"
        )
    if told["source"].get("own"):  # that no autoencoder of ours made
        return {**facts, "levels": list(map(facts_file.as_list, told["levels"])), "autoencoder": None, "own": True}
    here = Parts(config, facts).levels
    if here != tuple(told["levels"]):
        raise UserError(
            f"the tokens in {folder} are {', '.join(map(str, told['levels']))}, the config's autoencoder makes "
            f"{', '.join(map(str, here))}; use the config that they were encoded with"
        )
    return {**facts, "levels": list(map(facts_file.as_list, here)), "autoencoder": told["source"]["autoencoder"]}


def autoencoder_checksum(workdir: Path, step: Step = None, flag: str = "--step={step}") -> int:
    """Of the trained autoencoder's weights and codebooks."""
    with checkpoints_of(workdir, AUTOENCODER, flag) as checkpoints:
        return checkpoints.model_checksum(known(checkpoints, step))


def checkpoints_of(workdir: Path, stage: str, flag: str) -> Checkpoints:
    """The checkpoints of a stage, to be read; `flag` as for `Parts.load`."""
    return Checkpoints(Path(workdir) / stage / "checkpoints", flag=flag)


def known(checkpoints: Checkpoints, step: Step) -> Step:
    """The latest in place of the best where none is: interrupted before the first evaluation."""
    return None if step == "best" and checkpoints.best() is None else step
