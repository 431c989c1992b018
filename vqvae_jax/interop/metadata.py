"""What a file that `export` wrote says of itself, because tensors do not show it: words, each a string of JSON.

A .safetensors has them as its metadata (`safetensors.safe_open(F, "pt").metadata()` shows them), an .npz as one array
more, `metadata`: the bytes of all of them as one JSON object.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vqvae_jax import config as configs
from vqvae_jax.autoencoders.vqgan import VQGAN
from vqvae_jax.facts import as_list
from vqvae_jax.interop import diffusers, files, latents, vqgan
from vqvae_jax.interop.matches import LEARNED_WITH, Match
from vqvae_jax.interop.places import differences, shapes, shapes_of
from vqvae_jax.interop.reading import reading
from vqvae_jax.interop.twins import places_of
from vqvae_jax.leaves import checksum
from vqvae_jax.parts import Parts
from vqvae_jax.types import UserError

WRITER = "vqvae_jax"  # the word by which such a file is known: it says which version wrote it
FACTS = ("image_size", "channels", "label_names", "label_counts")

Tensors = Mapping[str, np.ndarray]


class Told(NamedTuple):
    """Where the tensors come from."""

    stage: str
    config: dict[str, Any]
    facts: dict[str, Any]  # data.json: FACTS, and `levels` where the data were tokens
    statistics: Mapping[str, Any] = {}  # by level and name, what no tensor holds: see latents.py


def words(told: Told, tensors: Tensors, version: str) -> dict[str, str]:
    """What to write beside tensors; `format` is what Hugging Face's libraries ask for."""
    said = {
        WRITER: version,
        "stage": told.stage,
        "range": told.config["dataset"]["range"],  # of the values that the network wants, in place of uint8 0 and 255
        **{name: told.facts[name] for name in FACTS},
        "config": told.config,
        "facts": told.facts,
        "checksum": checksum(dict(tensors)),
        **({"statistics": told.statistics} if told.statistics else {}),
    }
    return {"format": "pt", **{name: json.dumps(value) for name, value in said.items()}}


def read(path: Path, tensors: Tensors) -> Told | None:
    """What the file says of these, its own tensors; None where another program wrote it.

    Raises:
        UserError: its tensors are not those that were exported, or its words are damaged.
    """
    found = files.metadata(path)
    if WRITER not in found:
        return None
    with reading(path, "a file that `export` wrote"):
        said = {name: json.loads(found[name]) for name in ("stage", "config", "facts", "checksum")}
        check(path, said["checksum"], checksum(dict(tensors)))
        config, facts = configs.complete(configs.as_it_was_meant(said["config"])), said["facts"]
        if said["stage"] not in configs.stages(config) or not set(FACTS) <= set(facts):
            raise ValueError("its metadata are not whole")
        return Told(said["stage"], config, facts, json.loads(found.get("statistics", "{}")))


def check(path: Path, said: int, there: int) -> None:
    """UserError where the checksums differ."""
    if said != there:
        raise UserError(
            f"{path} holds other tensors than were exported: their checksum is {there}, the metadata say {said}; "
            "export it again; weights that were changed on purpose are saved without metadata, and say --range=A,B"
        )


def match(told: Told, tensors: Tensors, path: Path) -> Match:
    """The module that was exported, as a match.

    Raises:
        UserError: the tensors are not those of the config.
    """
    found = autoencoder(told, tensors) if told.stage == "autoencoder" else prior(told)
    with reading(path, "a file that `export` wrote"):
        found = found._replace(statistics=latents.of_words(told.statistics, found.like))
    there, wanted = shapes_of(tensors), shapes(found.places, found.like)
    known = {name: there[name] for name in wanted if name in there}
    if said := differences(wanted, known):
        raise UserError(f"{path} has not the tensors of the config that its metadata hold. {'; '.join(said)}")
    unused = {name: shape for name, shape in there.items() if name not in wanted}
    beside = {name: shape for name, shape in unused.items() if re.match(vqgan.BESIDE, name)}
    # Beside an autoencoder: averages that PyTorch's class wants, made at export.
    return found._replace(told=True, unused=beside if told.stage == "autoencoder" else unused)


def autoencoder(told: Told, tensors: Tensors) -> Match:
    """facts: as other matches have them; labels, and the sections `dataset`, `optimizer` and `train` besides.

    The tensors tell by which names: its authors', or diffusers'.
    """
    config = told.config
    parts = Parts(config, told.facts)
    module, like = parts.autoencoder, parts.abstract(told.stage)
    facts = {name: told.facts[name] for name in FACTS}
    facts |= {"range": config["dataset"]["range"], "loss_weights": config["loss_weights"]}
    facts |= {name: config[name] for name in ("dataset", "optimizer", "train")}
    title = f"the autoencoder of a workdir, {config['autoencoder']['name']}"
    match = Match(title, "autoencoder", config["autoencoder"], facts, module, like, places_of(module, like))
    if isinstance(module, VQGAN) and diffusers.are_names_of(tensors):
        return match._replace(places=diffusers.places(module, like, diffusers.layers_in(tensors)), diffusers={})
    return match


def prior(told: Told) -> Match:
    """facts: as other matches have them; labels, the sections `autoencoder` and `sample`, all token maps besides."""
    config = told.config
    parts = Parts(config, told.facts)
    module, like = parts.prior(told.stage), parts.abstract(told.stage)
    facts = {name: told.facts[name] for name in FACTS} | {
        "vocab_size": module.maps[0].vocab_size,
        "coarse_sizes": tuple(level.vocab_size for level in module.above),
        "num_labels": module.num_labels if module.label_condition else 0,
        "range": config["dataset"]["range"],
        "autoencoder": config["autoencoder"],
        "levels": list(map(as_list, parts.levels)),
        "sample": config["sample"],
    }
    if config["priors"][told.stage].get("text_condition"):
        facts |= {"text": config["text"], LEARNED_WITH: told.facts.get("tokenizer")}  # None: imported without it
    title = f"the prior {told.stage!r} of a workdir, {config['priors'][told.stage]['name']}"
    return Match(title, "prior", config["priors"][told.stage], facts, module, like, places_of(module, like))
