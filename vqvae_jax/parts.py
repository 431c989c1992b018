"""The modules that a config names, built. Reads plain dicts; needs neither optax nor ml_collections.

`facts` is what a config cannot know: what the data are like. The recipe keeps them in DIR/data.json.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vqvae_jax.autoencoders import AUTOENCODERS
from vqvae_jax.checkpoint import Checkpoints, Step, Steps
from vqvae_jax.config.workdir import check_saved
from vqvae_jax.data import tokens
from vqvae_jax.data.arrays import Arrays
from vqvae_jax.files import read_checked_json
from vqvae_jax.priors import PRIORS
from vqvae_jax.quantizers import QUANTIZERS
from vqvae_jax.types import Condition, Level, Model, Prior, Reconstruction, UserError, map_names, unknown

FACTS = "data.json"
# Fields of a section that no constructor takes as they are.
INSIDE = ("name", "quantizer", "quantizers", "inner", "optimizer", "train")


def arguments(section: Mapping[str, Any]) -> dict[str, Any]:
    """A section without what no constructor takes."""
    return {name: value for name, value in section.items() if name not in INSIDE}


def build_autoencoder(config: Mapping[str, Any], facts: Mapping[str, Any]):
    """The autoencoder with its quantizers, one a level."""
    section = config["autoencoder"]
    kind: Any = AUTOENCODERS[section["name"]]
    quantizers = tuple(
        build_quantizer(section["quantizers"].get(level, section["quantizer"]))
        for level in kind.names(arguments(section))
    )
    dtype = jnp.dtype(config["train"]["dtype"])
    return kind(quantizers=quantizers, channels=facts["channels"], dtype=dtype, **arguments(section))


def build_quantizer(section: Mapping[str, Any]):
    """One quantizer, with the one inside it."""
    inner = {"inner": build_quantizer(section["inner"])} if "inner" in section else {}
    return QUANTIZERS[section["name"]](**inner, **arguments(section))


def build_prior(config: Mapping[str, Any], facts: Mapping[str, Any], level: str) -> Prior:
    """The prior of one level. What its maps are like comes from the autoencoder.

    Raises:
        UserError: it cannot model maps like these, or wants labels where there are none.
    """
    section = config["priors"][level]
    if section.get("label_condition") and not facts["label_names"]:
        raise UserError(
            f"config.priors.{level}.label_condition is on, but the data set {config['dataset']['name']!r} has no "
            f"labels; add --config.priors.{level}.label_condition=false"
        )
    levels, kind = tuple(token_levels(config, facts)), PRIORS[section["name"]]
    own = maps_of(levels, level)
    maps, above = levels[own], levels[: own.start]
    kind.fits(maps, above)
    return kind(
        maps=maps,
        above=above,
        num_labels=len(facts["label_names"]),
        dtype=jnp.dtype(section["train"]["dtype"]),
        **arguments(section),
    )


def maps_of(levels: Sequence[Level], level: str) -> slice:
    """Which of the token maps are a level's: one, or one a depth of a residual quantizer.

    Raises:
        UserError: there are none.
    """
    numbers = [i for i, one in enumerate(levels) if one.name.partition(".")[0] == level]
    if not numbers:
        raise UserError(unknown("there are no tokens of the level", level, [one.name for one in levels]))
    return slice(numbers[0], numbers[-1] + 1)


def token_levels(config: Mapping[str, Any], facts: Mapping[str, Any]) -> list[Level]:
    """The token maps, coarse to fine: as the data say where they are tokens, else the autoencoder's."""
    if "levels" in facts:
        return [Level(name, tuple(shape), *more) for name, shape, *more in facts["levels"]]
    autoencoder = build_autoencoder(config, facts)
    maps = _traced(autoencoder, facts["image_size"], facts["channels"])[1].tokens
    sizes = sum((q.vocab_sizes for q in autoencoder.quantizers), ())
    names = map_names(autoencoder.level_names, autoencoder.quantizers)
    return [
        Level(name, (one.shape[1], one.shape[2]), size, *one.shape[3:])
        for name, one, size in zip(names, maps, sizes, strict=True)
    ]


def loss_terms(autoencoder, facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of its losses."""
    return tuple(_traced(autoencoder, facts["image_size"], facts["channels"])[1].losses)


def abstract_autoencoder(autoencoder, facts: Mapping[str, Any]) -> Model:
    """Shapes of its parameters and codebooks; nothing is computed."""
    return _traced(autoencoder, facts["image_size"], facts["channels"])[0]


@lru_cache(maxsize=8)
def _traced(autoencoder, image_size: int, channels: int) -> tuple[Model, Reconstruction]:
    """Shapes of what it remembers and of what it makes of one image."""

    def init(key, images):
        codebooks = autoencoder.init_codebooks(key)
        out, variables = autoencoder.init_with_output(key, images, codebooks)
        return Model(variables["params"], codebooks), out

    image = jax.ShapeDtypeStruct((1, image_size, image_size, channels), jnp.float32)
    return jax.eval_shape(init, jax.random.key(0), image)


def abstract_prior(prior: Any) -> Model:
    """Shapes of its parameters; nothing is computed."""
    maps, above = (tuple(map(_abstract_map, levels)) for levels in (prior.maps, prior.above))
    label: Any = jax.ShapeDtypeStruct((1,), jnp.int32) if prior.num_labels else None
    init = lambda key, *given: prior.init(key, *given, key[None], method="loss")  # noqa: E731
    variables = jax.eval_shape(init, jax.random.key(0), maps, Condition(label, above))
    return Model(variables["params"], {})


def _abstract_map(level: Level) -> Any:
    """Shape and type of one map of a level."""
    return jax.ShapeDtypeStruct((1, *level.form), level.dtype)


def facts_of(images: Arrays) -> dict[str, Any]:
    """What a config cannot know of the data, as plain values."""
    names = images.label_names or tuple(map(str, range(images.num_labels)))
    counts = [] if images.label is None else np.bincount(images.label, minlength=len(names)).tolist()
    return {
        "image_size": images.image.shape[1],
        "channels": images.image.shape[3],
        "label_names": list(names),
        "label_counts": counts,
    }


def facts_of_tokens(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same of the images that were encoded, the maps, and the checksum of the autoencoder that made them.

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
    here = token_levels(config, facts)
    if here != told["levels"]:
        raise UserError(
            f"the tokens in {folder} are {', '.join(map(str, told['levels']))}, the config's autoencoder makes "
            f"{', '.join(map(str, here))}; "
            "use the config that they were encoded with"
        )
    return {**facts, "levels": [as_list(level) for level in here], "autoencoder": told["source"]["autoencoder"]}


def as_list(level: Level) -> list[Any]:
    """A level as data.json has it: [name, [height, width], codes], or [name, [height, width], null, numbers]."""
    numbers = [level.channels] if level.vocab_size is None else []
    return [level.name, list(level.shape), level.vocab_size, *numbers]


def read_facts(workdir: Path) -> dict[str, Any]:
    """What the recipe wrote of the data.

    Raises:
        UserError: nothing was trained here.
    """
    path = Path(workdir) / FACTS
    if not path.is_file():
        raise UserError(
            f"{workdir} has no {FACTS}: nothing was trained here; python launch.py --config=… --workdir={workdir}"
        )
    try:
        facts = read_checked_json(path)
        check_shape(facts)
        return facts
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); restore it, or use another --workdir") from error


def check_shape(facts: Mapping[str, Any]) -> None:
    """ValueError where what is known of the data is not of the kind that `facts_of` gives."""
    missing = [name for name in ("image_size", "channels", "label_names", "label_counts") if name not in facts]
    if missing:
        raise ValueError(f"without {', '.join(missing)}")
    for name in ("image_size", "channels"):
        if not _is_count(facts[name]) or not facts[name]:
            raise ValueError(f"{name} is {facts[name]!r}, not a whole number above 0")
    names, counts = facts["label_names"], facts["label_counts"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("label_names is no list of names")
    if not isinstance(counts, list) or not all(map(_is_count, counts)) or len(counts) != len(names):
        raise ValueError("label_counts is no list of numbers, one a label")
    if "levels" in facts and not (isinstance(facts["levels"], list) and all(map(_is_level, facts["levels"]))):
        raise ValueError("levels is no list of [name, [height, width], codes or null, numbers]")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_level(value: Any) -> bool:
    if not isinstance(value, list) or len(value) not in (3, 4) or not isinstance(value[1], list):
        return False
    name, shape, codes, *numbers = value
    of_numbers = codes is None and len(numbers) == 1
    counts = [*shape, *(numbers if of_numbers else (codes, *numbers))]
    return isinstance(name, str) and len(shape) == 2 and all(map(_is_count, counts))


def load_autoencoder(
    workdir: Path, config: Mapping[str, Any], facts: Mapping[str, Any], step: Step = None, flag: str = "--step={step}"
):
    """(module, Model) of the trained autoencoder; the latest step unless another is said.

    `flag` is what a message says of another step, see `Checkpoints`.
    """
    autoencoder = build_autoencoder(config, facts)
    return autoencoder, _restore(workdir, config, "autoencoder", abstract_autoencoder(autoencoder, facts), step, flag)


def load_prior(
    workdir: Path,
    config: Mapping[str, Any],
    facts: Mapping[str, Any],
    level: str,
    step: Steps = "best",
    flag="--step={step}",
):
    """(module, Model) of a trained prior; the best step unless another is said. `flag` as for the autoencoder."""
    prior = build_prior(config, facts, level)
    step = step.get(level, "best") if isinstance(step, Mapping) else step
    return prior, _restore(workdir, config, level, abstract_prior(prior), step, flag)


def autoencoder_checksum(workdir: Path, step: Step = None, flag: str = "--step={step}") -> int:
    """Of the trained autoencoder's weights and codebooks."""
    with _checkpoints(workdir, "autoencoder", flag) as checkpoints:
        return checkpoints.model_checksum(_known(checkpoints, step))


def _checkpoints(workdir: Path, stage: str, flag: str) -> Checkpoints:
    return Checkpoints(Path(workdir) / stage / "checkpoints", flag=flag)


def _known(checkpoints: Checkpoints, step: Step) -> Step:
    """The latest in place of the best where none is: interrupted before the first evaluation."""
    return None if step == "best" and checkpoints.best() is None else step


def _restore(workdir: Path, config: Mapping[str, Any], stage: str, like: Model, step: Step, flag: str) -> Model:
    with _checkpoints(workdir, stage, flag) as checkpoints:
        folder = checkpoints.directory
        if checkpoints.latest() is None:
            train = f"python launch.py --config=… --workdir={workdir} --stage={stage}"
            raise UserError(f"{folder} has no checkpoint: the stage {stage!r} was not trained; {train}")
        step = _known(checkpoints, step)
        check_saved(config, checkpoints.config(step), stage, str(folder))
        return checkpoints.restore_model(step, like)
