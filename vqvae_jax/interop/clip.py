"""CLIP's text encoder by the names of https://github.com/huggingface/transformers, its class CLIPTextModel: alone, in a
file of all of CLIP, or in one of Stable Diffusion 1.

No tensor shows how many heads there are, nor the activation: a config.json beside the file says it, else heads have 64
channels, as published.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vqvae_jax.files import read_json
from vqvae_jax.interop import files
from vqvae_jax.interop.matches import Shapes, Tensors
from vqvae_jax.interop.places import (
    Places,
    Renames,
    differences,
    from_torch,
    inside,
    numbers,
    of_params,
    shapes,
    shapes_of,
)
from vqvae_jax.interop.reading import plain, reading
from vqvae_jax.interop.state_dicts import CLIP
from vqvae_jax.networks.clip_text import MARKS, CLIPText
from vqvae_jax.types import Model, UserError

TITLE = "CLIP's text encoder"
MODEL = "text_model."
WORDS, PLACES = "embeddings.token_embedding.weight", "embeddings.position_embedding.weight"
BESIDE = re.compile(r"vision_model\.|(visual|text)_projection\.|logit_scale$|.*\bposition_ids$")  # in files of CLIP
HEAD = 64  # channels
CONFIG, LONGEST = "config.json", 1 << 20  # bytes


def is_beside(name: str) -> bool:
    """Whether a tensor of such a file is not the text encoder's."""
    return BESIDE.match(name) is not None


def encoder_in(tensors: Tensors) -> dict[str, Any]:
    """Those of the text encoder, by their names in it; nothing where there is none."""
    own = {name: one for name, one in tensors.items() if not is_beside(name)}
    found = {name.removeprefix(MODEL): one for name, one in own.items()}
    return found if WORDS in found else {}


def read(path: Path) -> dict[str, Any]:
    """The same in a file of CLIP, of Stable Diffusion 1, or of the encoder alone.

    Raises:
        UserError: it holds none.
    """
    tensors = files.read(path)
    if found := encoder_in(inside(tensors, CLIP) or tensors):
        return found
    raise UserError(
        f"{path} holds no text encoder that is known, but {len(tensors)} tensors such as "
        f"{', '.join(map(plain, list(tensors)[:3]))}; CLIP's is wanted, by the names of transformers: {MODEL}{WORDS} …"
    )


def described(shapes: Shapes) -> dict[str, Any]:
    """The section `text_encoder` of a config."""
    vocab, width = shapes[WORDS]
    return {
        "name": "clip",
        "width": width,
        "layers": max(1, len(numbers(shapes, r"encoder\.layers\.(\d+)\."))),
        "heads": max(1, width // HEAD),
        "vocab": vocab,
        "length": shapes.get(PLACES, (0,))[0],
    }


def texts(section: Mapping[str, Any]) -> dict[str, Any]:
    """The section `text` of a config that goes with it."""
    return {"vocab_size": section["vocab"] + 1, "length": max(1, section["length"] - MARKS)}


def beside(path: Path) -> dict[str, Any]:
    """The fields of the section that the config.json in the folder of a file says: heads.

    Raises:
        UserError: it is damaged, or of another network.
    """
    path = path.parent / CONFIG
    if not path.is_file():
        return {}
    with reading(path, "a config of transformers"):
        if path.stat().st_size > LONGEST:
            raise ValueError(f"it has more than {LONGEST} bytes")
        found = read_json(path)
        found = found.get("text_config") or found
        act, heads = found.get("hidden_act"), found.get("num_attention_heads")
    if "num_hidden_layers" not in found:
        return {}
    if act not in (None, "quick_gelu"):
        raise UserError(f"{path} says hidden_act {plain(act)}; {TITLE} has quick_gelu, as Stable Diffusion 1's")
    if heads is not None and (type(heads) is not int or heads < 1):
        raise UserError(f"{path} says num_attention_heads {plain(heads)}, which is none")
    return {} if heads is None else {"heads": heads}


def places(params: Any) -> Places:
    """Where the tensors of an encoder with such parameters lie."""
    return of_params(params, RENAMES)


def weights(path: Path, encoder: CLIPText, like: Any) -> Any:
    """Parameters like these from a file.

    Raises:
        UserError: it holds no such encoder; all that differs is named. It has other heads.
    """
    tensors, where = read(path), places(like)
    if said := differences(shapes(where, Model(like, {})), shapes_of(tensors)):
        raise UserError(f"{path} is not the text encoder that the config says. {'; '.join(said)}")
    if beside(path).get("heads", encoder.heads) != encoder.heads:
        heads = beside(path)["heads"]
        raise UserError(f"{path.parent / CONFIG} says {heads} heads: --config.priors.LEVEL.text_encoder.heads={heads}")
    return from_torch(tensors, where, Model(like, {})).params


RENAMES: Renames = (
    (r"^embed_word\.", "embeddings.token_embedding."),
    (r"^embed_place\.", "embeddings.position_embedding."),
    (r"^layer(\d+)\.", r"encoder.layers.\1."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"\.(query|key|value)\.", lambda found: f".self_attn.{found[1][0]}_proj."),
    (r"\.mix_heads\.", ".self_attn.out_proj."),
    (r"\.up\.", ".mlp.fc1."),
    (r"\.down\.", ".mlp.fc2."),
    (r"^norm_out\.", "final_layer_norm."),
)
