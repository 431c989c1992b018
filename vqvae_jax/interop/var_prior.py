"""VAR's transformers by the names of https://github.com/FoundationVision/VAR (models/var.py, models/basic_var.py).

What they hear of the scales before they compute from the tokenizer's codes and φ, which their files have not: those
come from the autoencoder of the workdir. Their buffers, which scale a place is of, the mask that follows from it and
biases of keys that are 0, are kept for `export`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vqvae_jax import parts
from vqvae_jax.autoencoders.published import SCALES
from vqvae_jax.autoencoders.vqgan import LEVEL
from vqvae_jax.code_features import FEATURES, features, form, quantizer_of
from vqvae_jax.interop.matches import Match, Shapes, Tensors
from vqvae_jax.interop.places import Layout, Places, Renames, numbers, of_params, shapes_of
from vqvae_jax.priors.var import VARPrior
from vqvae_jax.types import Level, Model, UserError

TITLE = "VAR's transformer"
TABLE, PLACES, SCALE, READ = "class_emb.weight", "pos_1LC", "lvl_embed.weight", "word_embed.weight"
SCALE_OF, MASK, KEY_BIAS = "lvl_1L", "attn_bias_for_masking", ".attn.zero_k_bias"  # buffers; the last ends names
SHARED = "shared_ada_lin.1.weight"  # of var_d36.pth
HEAD = 64  # channels of a head of the published sizes
# Per 256 images; theirs falls linearly to a hundredth.
ADAM = {"learning_rate": 1e-4, "b1": 0.9, "b2": 0.95, "weight_decay": 0.05, "clip": 2.0}


def match(tensors: Tensors, heads: int) -> Match | None:
    """Any width, layers, heads, labels, codes and scales. facts: vocab_size, coarse_sizes, num_labels; sides of its
    maps, () where neither the file nor the published ones show them.

    Raises:
        UserError: it has one adaLN for all blocks, another mask, or biases of keys.
    """
    shapes = shapes_of(tensors)
    if not {TABLE, PLACES, SCALE, READ} <= set(shapes):
        return None
    if SHARED in shapes:
        raise UserError(
            f"{SHARED}: {TITLE} with one adaLN for all blocks, var_d36.pth, is not known; var_d16 … d30 are"
        )
    sides = sides_of(tensors)
    section = described(shapes, heads)
    codes, labels = shapes.get("head.bias", (4096,))[0], max(1, shapes[TABLE][0] - 1)  # the last row: "no label"
    module = built(section, [(side, side) for side in sides] or of_any_sides(shapes), codes, labels)
    like = parts.abstract_prior(module)
    facts = {"vocab_size": codes, "coarse_sizes": (), "num_labels": labels, "sides": sides}
    title = f"{TITLE}, {section['width']} wide, {section['layers']} layers, {shapes[SCALE][0]} scales, {labels} labels"
    unused = {name: shape for name, shape in shapes.items() if is_buffer(name)}
    return Match(title, "prior", section | {"optimizer": ADAM}, facts, module, like, places(module, like), unused)


def is_buffer(name: str) -> bool:
    """Whether it follows from the others."""
    return name in (SCALE_OF, MASK) or name.endswith(KEY_BIAS)


def described(shapes: Shapes, heads: int) -> dict[str, Any]:
    """The section of a config; its last two lines are of the tokenizer, and as published."""
    width, layers = shapes[READ][0], len(numbers(shapes, r"blocks\.(\d+)\."))
    sharpness = shapes.get("blocks.0.attn.scale_mul_1H11", (1, 0))
    return {
        "name": "var",
        "width": width,
        "layers": layers,
        "heads": heads_of(width, sharpness[1] if len(sharpness) > 1 else 0, heads),
        "mlp": max(1, shapes.get("blocks.0.ffn.fc1.bias", (4 * width,))[0] // width),
        "local": False,
        "l2_norm": "blocks.0.attn.scale_mul_1H11" in shapes,
        "drop_path": 0.1 * layers / 24,
        "label_condition": True,
        "label_dropout": 0.1,
        "sample_growing_guidance": True,
        "held_features": True,
        "code_dim": shapes[READ][-1],
        "phis": 4,
        "shared": True,
    }


def heads_of(width: int, shown: int, asked: int) -> int:
    """As its sharpness shows, one a head; without it as asked, else of the published size.

    Raises:
        UserError: they do not divide the width.
    """
    heads = shown or asked or max(1, width // HEAD)
    if width % heads:
        raise UserError(f"--heads={heads}: {width} channels of {TITLE} do not divide among them; --heads=N")
    return heads


def sides_of(tensors: Tensors) -> tuple[int, ...]:
    """Of its maps, by the scale of every place; without it the published ones of as many places; else ().

    Raises:
        UserError: these are no square maps, or the mask is another than sees a place's own scale and those before.
    """
    places, scales = tensors[PLACES].shape[1], len(tensors[SCALE])
    if SCALE_OF not in tensors:
        known = (sides for sides in SCALES.values() if (len(sides), sum(one**2 for one in sides)) == (scales, places))
        return next(known, ())
    of_place = np.asarray(tensors[SCALE_OF]).reshape(-1)
    sides = tuple(math.isqrt(int(np.count_nonzero(of_place == scale))) for scale in range(scales))
    wanted = buffers(sides, 0)
    if not np.array_equal(of_place, wanted[SCALE_OF].reshape(-1)) or len(of_place) != places:
        raise UserError(f"{SCALE_OF} is not that of {scales} square maps of {places} places in all")
    if MASK in tensors and not np.array_equal(tensors[MASK], wanted[MASK]):
        raise UserError(f"{MASK} is not {TITLE}'s, by which a place sees its own scale and those before")
    return sides


def buffers(sides: tuple[int, ...], layers: int, width: int = 0) -> dict[str, np.ndarray]:
    """What follows from the sides of the maps, and biases that are 0."""
    of_place = np.repeat(np.arange(len(sides)), [side**2 for side in sides])[None]
    mask = np.where(of_place[0][:, None] >= of_place, 0.0, -np.inf).astype(np.float32)
    zeros = {f"blocks.{i}{KEY_BIAS}": np.zeros(width, np.float32) for i in range(layers)}
    return {SCALE_OF: of_place, MASK: mask[None, None], **zeros}


def fixed(prior: Any) -> dict[str, np.ndarray]:
    """Tensors that the authors' class wants besides what is learned."""
    square = isinstance(prior, VARPrior) and all(level.shape[0] == level.shape[1] for level in prior.maps)
    return buffers(tuple(level.shape[0] for level in prior.maps), prior.layers, prior.width) if square else {}


def numbers_of(prior: VARPrior) -> str:
    """One line for users of the authors' code: what goes into the network."""
    return (
        f"Long [N], labels of which {prior.num_labels} means none, and float32 [N, {prior.length - prior.sizes[0]}, "
        f"{prior.code_dim}], idxBl_to_var_input of the tokenizer's codes"
    )


def built(section: Mapping[str, Any], shapes: Sequence[tuple[int, int]], codes: int, labels: int) -> VARPrior:
    """The prior of a section over such maps."""
    names = [LEVEL] if len(shapes) == 1 else [f"{LEVEL}.{i}" for i in range(len(shapes))]
    maps = tuple(Level(name, shape, codes) for name, shape in zip(names, shapes, strict=True))
    return VARPrior(maps=maps, num_labels=labels, **parts.arguments(section))


def of_any_sides(shapes: Shapes) -> list[tuple[int, int]]:
    """Maps of as many places, until the tokenizer says which."""
    scales, places, first = shapes[SCALE][0], shapes[PLACES][1], shapes.get("pos_start", (1, 1))[1]
    return [*[(1, first)] * (scales - 1), (1, max(first, places - first * (scales - 1)))]


# What is not in its file.


def wants_tokenizer(match: Match) -> bool:
    """Whether its codes and φ are a tokenizer's, which has to be there."""
    return isinstance(match.module, VARPrior) and match.module.held_features


def refused(match: Match, workdir: object) -> UserError:
    """Of such a prior without its tokenizer."""
    return UserError(
        f"{match.title} reads its maps by the codes of a tokenizer, which its file has not: import that one first, "
        f"vae_ch160v4096z32.pth, into the same --workdir={workdir}"
    )


def with_tokenizer(match: Match, level: str, there: parts.Parts, model: Model, workdir: object) -> Match:
    """The match of a prior with the codes and φ of the autoencoder that makes its maps.

    Args:
        match: of VAR's transformer, or of a prior that `export` wrote.
        level: which level's it is.
        there: the autoencoder's; `model` is its weights.
        model: its weights.
        workdir: for messages.

    Raises:
        UserError: its maps are of other sides, or its codes of another size.
    """
    maps, quantizer = there.levels[there.maps_of(level)], quantizer_of(there, level)
    check_sides(match, maps, workdir)
    own, dim = form(quantizer), match.section["code_dim"]
    if dim != (here := own["code_dim"]):
        raise UserError(f"{match.title} is of codes of {dim} numbers, those of {workdir} are of {here}")
    module = match.module.clone(maps=maps, **own)
    borrowed = {FEATURES: {name: np.asarray(one) for name, one in features(quantizer, model.codebooks[level]).items()}}
    like, section = parts.abstract_prior(module), {**match.section, **own}
    return match._replace(section=section, module=module, like=like, borrowed=borrowed)


def check_sides(match: Match, maps: tuple[Level, ...], workdir: object) -> None:
    """UserError unless the maps are of the sides that the prior knows; where its file shows none, of as many places."""
    here, sides = [level.shape for level in maps], match.facts.get("sides", ())
    places = sum(height * width for height, width in here)
    if sides and [(side, side) for side in sides] == here:
        return
    if not sides and (match.wanted[SCALE][0], match.wanted[PLACES][1]) == (len(maps), places):
        return
    known = ",".join(map(str, sides))
    said = f"maps of sides {known}" if sides else f"{match.wanted[SCALE][0]} scales, {match.wanted[PLACES][1]} places"
    made = ", ".join(f"{height}x{width}" for height, width in here)
    raise UserError(
        f"{match.title} is of {said}, {workdir} makes maps of {made}; import the tokenizer into a new --workdir with "
        f"--scales={known or 'A,B,…'}"
    )


# Names.


def places(prior: VARPrior, like: Model) -> Places:
    """Where the tensors of its twin lie; what the authors have no name for (text, coarser maps) keeps ours.

    Codes and φ are the tokenizer's there: here they have a place where this prior has learned its own.
    """
    learned = {name: one for name, one in like.params.items() if not (name == FEATURES and prior.held_features)}
    found = of_params(learned, RENAMES)
    layouts = {name: LAYOUTS.get(name.rpartition(".")[2], place.layout) for name, place in found.items()}
    return {name: place._replace(layout=layouts[name]) for name, place in found.items()}


AS_A_ROW = Layout(lambda x: x[None], lambda x: x[0])
A_HEAD = Layout(lambda x: x[None, :, None, None], lambda x: x[0, :, 0, 0])
LAYOUTS = {"pos_start": AS_A_ROW, "pos_1LC": AS_A_ROW, "scale_mul_1H11": A_HEAD}
RENAMES: Renames = (
    (r"^start\.embedding$", "pos_start"),
    (r"^places\.embedding$", "pos_1LC"),
    (r"^scales\.", "lvl_embed."),
    (r"^embed_label\.", "class_emb."),
    (r"^read\.", "word_embed."),
    (r"^blocks_(\d+)\.", r"blocks.\1."),
    (r"^(blocks\.\d+)\.modulate\.", r"\1.ada_lin.1."),
    (r"\.sharpness$", ".attn.scale_mul_1H11"),
    (r"\.query_bias$", ".attn.q_bias"),
    (r"\.value_bias$", ".attn.v_bias"),
    (r"\.qkv\.", ".attn.mat_qkv."),
    (r"\.mix_heads\.", ".attn.proj."),
    (r"\.up\.", ".ffn.fc1."),
    (r"\.down\.", ".ffn.fc2."),
    (r"^modulate\.", "head_nm.ada_lin.1."),
    (r"^to_logits\.", "head."),
)
