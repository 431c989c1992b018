"""Stable Diffusion 1, https://github.com/CompVis/stable-diffusion: first stage, U-Net and CLIP's text encoder, as one
file of its authors' names, or as the folder of https://github.com/huggingface/diffusers.

    first_stage_model.…              vae/           the autoencoder
    model.diffusion_model.…          unet/          ┐ the prior
    cond_stage_model.transformer.…   text_encoder/  ┘

A prior is known by the names of the one file, whatever its U-Net's are inside. What lies beside these, schedules and
averages, is not read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vqvae_jax import parts
from vqvae_jax.autoencoders.vqgan import LEVEL
from vqvae_jax.data.text import FILE as TOKENIZER
from vqvae_jax.interop import clip, diffusion, files, unet
from vqvae_jax.interop.matches import Match, Tensors
from vqvae_jax.interop.places import Places, inside, of_params, shapes_of, under
from vqvae_jax.interop.state_dicts import CLIP, FIRST_STAGE, SCALE, UNET
from vqvae_jax.interop.unet_names import NAMES, original_renames
from vqvae_jax.networks.clip_text import CLIPText
from vqvae_jax.networks.unet import UNet
from vqvae_jax.priors.diffusion import DiffusionPrior
from vqvae_jax.types import Caption, Level, Model, UserError

TITLE = "Stable Diffusion 1's prior"
SIDE, STRIDE = 64, 8  # places of the map that it was trained on, pixels of a place
OTHERS = {1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}  # by the width of what their U-Nets are told
FIELDS: dict[str, Any] = {"path": "linear", "foretold": "noise", "text_condition": True, "text_dropout": 0.1}
SUBFOLDERS = {"vae": "diffusion_pytorch_model", "unet": "diffusion_pytorch_model", "text_encoder": "model"}
SUFFIXES = (".safetensors", ".fp16.safetensors", ".bin", ".fp16.bin")
ALONE = "its first stage alone: --key=first_stage_model"


class Whole(NamedTuple):
    """All of it, as it was found."""

    first_stage: dict[str, np.ndarray]
    prior: dict[str, np.ndarray]  # by the names of one file
    first_stage_file: Path  # beside which a config.json may lie
    encoder_file: Path  # likewise
    factor: Any = None  # the file's tensor `scale_factor`
    tokenizer: Path | None = None  # that came along


def match(tensors: Tensors, heads: int) -> Match | None:
    """Any width, levels, transformers of the U-Net; any width, layers and words of the encoder. facts: as of DiT, and
    `text`, the config's section.

    Raises:
        UserError: the U-Net is told vectors of another width, or is given other numbers than it foretells.
    """
    own, text = inside(tensors, UNET), clip.encoder_in(inside(tensors, CLIP))
    kind = unet.kind_of(own)
    if kind is None or not text:
        return None
    layer = unet.described(shapes_of(own), kind, heads or unet.HEADS)
    encoder = clip.described(shapes_of(text)) | {"pooled": False}
    check(layer, encoder["width"])
    section = {"name": "diffusion", **FIELDS, "network": network_section(layer), "text_encoder": encoder}
    prior = built(section, layer["channels"])
    like = parts.abstract_prior(prior)
    facts = {
        "vocab_size": None,
        "coarse_sizes": (),
        "num_labels": 0,
        "shape": (SIDE, SIDE),
        "autoencoder": diffusion.described(layer["channels"]),
        "image_size": SIDE * STRIDE,
        "text": clip.texts(encoder),
    }
    title = f"{TITLE}, U-Net {layer['width']} wide, text encoder {encoder['width']} wide, {encoder['layers']} layers"
    found = places(prior, like, kind)
    unused = {name: shape for name, shape in shapes_of(tensors).items() if clip.is_beside(name.removeprefix(CLIP))}
    return Match(title, "prior", {**section, "optimizer": diffusion.ADAM}, facts, prior, like, found, unused)


def network_section(layer: Mapping[str, Any]) -> dict[str, Any]:
    """The section `network` of a config."""
    named = {name: layer[name] for name in ("width", "factors", "blocks", "attention", "heads")}
    return {"name": "unet", **{name: tuple(one) if isinstance(one, list) else one for name, one in named.items()}}


def built(section: Mapping[str, Any], channels: int) -> DiffusionPrior:
    """The prior of a section, over the map of its training."""
    text, dtype = Caption(**clip.texts(section["text_encoder"])), np.dtype("float32")
    return DiffusionPrior(
        maps=(Level(LEVEL, (SIDE, SIDE), None, channels),),
        network=parts.build_network(section["network"], channels, dtype),
        text_encoder=parts.build_text_encoder(section["text_encoder"], text, dtype),
        text=text,
        **FIELDS,
    )


def check(layer: Mapping[str, Any], width: int) -> None:
    """UserError unless the U-Net is told what the encoder says, and given as many numbers as it foretells."""
    if layer["context"] != width:
        raise UserError(
            f"{unet.TITLE} is told vectors of {layer['context']}{of_others(layer['context'])}, the text encoder's are "
            f"{width} wide; they do not belong together"
        )
    if layer["given"] != layer["channels"]:
        raise UserError(
            f"{unet.TITLE} is given {layer['given']} numbers a place and foretells {layer['channels']}: such as those "
            "that are told a picture with a hole are not read; take the plain one"
        )


def of_others(context: int) -> str:
    """Whose U-Net is told so wide vectors."""
    other = OTHERS.get(context)
    return f", as {other}'s, whose text encoder is not read" if other else ""


def places(prior: DiffusionPrior, like: Model, kind: str = "original") -> Places:
    """Where the tensors of a diffusion prior lie: of a U-Net with CLIP's text encoder by the names of the one file."""
    if not isinstance(prior.network, UNet) or not isinstance(prior.text_encoder, CLIPText):
        return diffusion.places(prior, like)
    network = of_params(like.params["network"], NAMES[kind].renames(prior.network))
    others = {name: one for name, one in like.params.items() if name not in ("network", "text_encoder")}
    return {
        **under(UNET, network, "network"),
        **under(f"{CLIP}{clip.MODEL}", clip.places(like.params["text_encoder"]), "text_encoder"),
        **of_params(others, original_renames(prior.network)),
    }


def as_told(match: Match, encoder_file: Path) -> Match:
    """The match with what the config.json beside the encoder's file says and tensors do not show.

    Raises:
        UserError: another activation; heads that do not divide its width.
    """
    said = clip.beside(encoder_file)
    encoder = match.module.text_encoder.clone(**said)
    if encoder.width % encoder.heads:
        where = encoder_file.parent / clip.CONFIG
        raise UserError(f"{where} says {encoder.heads} heads, which do not divide {encoder.width} channels")
    section = {**match.section, "text_encoder": {**match.section["text_encoder"], **said}}
    return match._replace(module=match.module.clone(text_encoder=encoder), section=section)


def with_shape(match: Match, shape: tuple[int, int]) -> Match:
    """Of a map of another size, which no tensor shows.

    Raises:
        UserError: the U-Net does not halve it evenly.
    """
    stride, (level,) = match.module.network.stride, match.module.maps
    if any(side % stride for side in shape):
        raise UserError(
            f"{match.title} takes maps whose sides are multiples of {stride}; here they are {shape[0]}x{shape[1]}: "
            f"import the first stage with another --image_size, such as {SIDE * STRIDE}"
        )
    module = match.module.clone(maps=(level._replace(shape=shape),))
    return match._replace(module=module, facts=match.facts | {"shape": shape})


# What is found


def in_file(tensors: dict[str, np.ndarray], file: Path, encoder: Path | None) -> Whole | None:
    """All of it in one file, `encoder` another one with the text encoder; None where it holds no U-Net that is told.

    Raises:
        UserError: it has no text encoder that is known.
    """
    first, own, text = (inside(tensors, start) for start in (FIRST_STAGE, UNET, CLIP))
    context = unet.context_of(own) if unet.kind_of(own) else 0
    if not first or not context:
        return None
    if encoder:
        text = clip.read(encoder)
    elif not clip.encoder_in(text):
        raise UserError(
            f"{file} holds a U-Net that is told vectors of {context}{of_others(context)}, and no text encoder that is "
            f"known, CLIP's by the names {CLIP}{clip.MODEL}…; {ALONE}; CLIP's from another file: --text_encoder=FILE"
        )
    return Whole(first, joined(own, text), file, encoder or file, tensors.get(SCALE))


def in_folder(folder: Path, encoder: Path | None) -> Whole:
    """All of it in a folder of diffusers.

    Raises:
        UserError: a part is missing.
    """
    found = {name: weights_in(folder, name) for name in SUBFOLDERS if name != "text_encoder" or not encoder}
    encoder = encoder or found["text_encoder"]
    own, tokenizer = files.read(found["unet"]), folder / "tokenizer" / TOKENIZER
    if (context := unet.context_of(own)) in OTHERS:
        raise UserError(
            f"{found['unet']} is told vectors of {context}{of_others(context)}; Stable Diffusion 1 is wanted"
        )
    prior = joined(own, clip.read(encoder))
    first = files.read(found["vae"])
    return Whole(first, prior, found["vae"], encoder, None, tokenizer if tokenizer.is_file() else None)


def weights_in(folder: Path, name: str) -> Path:
    """The file of one part in a folder of diffusers.

    Raises:
        UserError: there is none.
    """
    stems = {"model": ("model", "pytorch_model")}.get(SUBFOLDERS[name], (SUBFOLDERS[name],))
    there = [folder / name / f"{stem}{suffix}" for suffix in SUFFIXES for stem in stems]
    if found := [path for path in there if path.is_file()]:
        return found[0]
    instead = "; or --text_encoder=FILE" if name == "text_encoder" else ""
    raise UserError(
        f"{folder} is a folder without {name}/{SUBFOLDERS[name]}.safetensors: give a file, or a folder of diffusers "
        f"with {', '.join(f'{one}/' for one in SUBFOLDERS)}{instead}"
    )


def with_encoder(tensors: Tensors, file: Path, encoder: Path) -> dict[str, np.ndarray]:
    """A U-Net's tensors with those of a text encoder from another file.

    Raises:
        UserError: they are none.
    """
    own = inside(tensors, UNET) or tensors
    if not unet.kind_of(own):
        raise UserError(
            f"--text_encoder={encoder} goes with a U-Net that is told texts, and {file} is none; leave it out"
        )
    return joined(own, clip.read(encoder))


def joined(own: Tensors, text: Tensors) -> dict[str, np.ndarray]:
    """A U-Net and a text encoder by the names of one file."""
    named = {f"{UNET}{name.removeprefix(UNET)}": one for name, one in own.items()}
    return named | {f"{CLIP}{clip.MODEL}{name}": one for name, one in clip.encoder_in(text).items()}
