"""The paper's VQ-VAE-2 as https://github.com/rosinality/vq-vae-2-pytorch names it.

Codebooks: `embed` [D, K], `cluster_size` [K] and `embed_avg` [D, K], the moving averages of ours. A file whose counts
are 0 (before any training) is imported as it is: its first steps are those of where it came from.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from vqvae_jax import parts
from vqvae_jax.autoencoders.vqvae2 import VQVAE2
from vqvae_jax.interop.matches import Match, Shapes, Tensors, usual_size, vote
from vqvae_jax.interop.places import (
    AS_IT_IS,
    TRANSPOSED,
    Place,
    Places,
    Renames,
    numbers,
    of_params,
    shapes_of,
    without_codes,
)
from vqvae_jax.types import Model, Reconstruction

SHORT = {"top": "t", "bottom": "b"}
INDICES = {"top": "id_t", "bottom": "id_b"}
LEARNING_RATE = 3e-4  # of its Adam
AVERAGED = r"quantize_[tb]\."  # tensors that no gradient moves
COUNTED = "$^"  # and whole numbers: none
STATS = (("cluster_size", "count", AS_IT_IS), ("embed_avg", "sum", TRANSPOSED))
LOSS_WEIGHTS = {"reconstruction": 1.0, "commitment": 0.25}


def match(tensors: Tensors, heads: int) -> Match | None:
    """Any width and codebook. facts: channels, image_size (a guess), range, loss_weights."""
    shapes = shapes_of(tensors)
    width = vote(shapes[name][0] for name in shapes if re.match(r"enc_b\.blocks\..*bias$", name))
    blocks = numbers(shapes, r"enc_b\.blocks\.(\d+)\.conv\.1\.")
    if not width or not blocks:
        return None
    section = {
        "name": "vqvae2",
        "width": width,
        "residual_blocks": len(blocks),
        "residual_width": shapes.get(f"enc_b.blocks.{blocks[0]}.conv.1.bias", (32,))[0],
        "quantizer": quantizer(shapes, "top"),
        "quantizers": {}
        if quantizer(shapes, "top") == quantizer(shapes, "bottom")
        else {"bottom": quantizer(shapes, "bottom")},
    }
    channels = (*shapes.get("enc_b.blocks.0.weight", ()), 3, 3)[1]
    facts = {"channels": channels, "image_size": usual_size(len(SHORT)), "range": (-1.0, 1.0)}
    module = parts.build_autoencoder({"autoencoder": section, "train": {"dtype": "float32"}}, facts)
    like = parts.abstract_autoencoder(module, facts)
    title = f"rosinality's VQ-VAE-2, {width} wide"
    return Match(
        title, "autoencoder", section, facts | {"loss_weights": LOSS_WEIGHTS}, module, like, places(module, like)
    )


def quantizer(shapes: Shapes, level: str) -> dict[str, Any]:
    """Moving averages as there: no code is ever revived."""
    code_dim, size = shapes.get(f"quantize_{SHORT[level]}.embed", (64, 512))
    return {"name": "ema", "codebook_size": size, "code_dim": code_dim, "decay": 0.99, "revive_after": 0}


def places(module: VQVAE2, like: Model) -> Places:
    """Where the tensors of its PyTorch twin lie."""
    found = of_params(like.params, renames(module.residual_blocks))
    for level, short in SHORT.items():
        if not like.codebooks[level].codes.size:
            found |= without_codes(level, like.codebooks[level], f"quantize_{short}")
            continue
        found[f"quantize_{short}.embed"] = Place(("codebooks", level, "codes"), TRANSPOSED)
        for theirs, ours, layout in STATS:
            if ours in like.codebooks[level].stats:
                found[f"quantize_{short}.{theirs}"] = Place(("codebooks", level, "stats", ours), layout)
    return found


def renames(blocks: int) -> Renames:
    """Its stacks are numbered, relus counted; those at the end move with the number of residual blocks."""
    return (
        (r"(residual\d+)\.conv1", r"\1.conv.1"),
        (r"(residual\d+)\.conv2", r"\1.conv.3"),
        *stack("encoder_bottom", "enc_b", ("down0", "down1", "conv"), 5),
        *stack("encoder_top", "enc_t", ("down0", "conv"), 3),
        *stack("decoder_top", "dec_t", ("conv",), 1),
        *stack("decoder", "dec", ("conv",), 1),
        (r"^dec_t\.output", f"dec_t.blocks.{blocks + 2}"),
        (r"^dec\.up0", f"dec.blocks.{blocks + 2}"),
        (r"^dec\.output", f"dec.blocks.{blocks + 4}"),
        (r"^to_code_top", "quantize_conv_t"),
        (r"^to_code_bottom", "quantize_conv_b"),
        (r"^upsample_top", "upsample_t"),
    )


def stack(ours: str, theirs: str, convs: tuple[str, ...], first: int) -> Renames:
    """Convolutions at 0, 2, 4, then residual blocks from `first` on."""
    named = ((rf"^{theirs}\.{conv}\.", f"{theirs}.blocks.{2 * i}.") for i, conv in enumerate(convs))
    residual = (rf"^{theirs}\.residual(\d+)\.", lambda found: f"{theirs}.blocks.{first + int(found[1])}.")
    return ((rf"^{ours}\.", f"{theirs}."), *named, residual)


def outputs(module: VQVAE2, model: Model, images: Any, out: Reconstruction) -> dict[str, Any]:
    """What that model gives for images [B, H, W, C], by the names of a recording; `out` is the forward pass."""
    named = {"dec": out.images, "diff": diff(out.losses)}
    for quantizer, (level, short), tokens in zip(module.quantizers, SHORT.items(), out.tokens, strict=True):
        codes = quantizer.lookup(model.codebooks[level], (tokens,))
        named |= {INDICES[level]: tokens, f"quant_{short}": codes}
    decoded = module.apply({"params": model.params}, out.tokens, model.codebooks, method="decode")
    return named | {"decode_code": decoded}


def left_out(module: VQVAE2) -> dict[str, str]:
    """Names in a recording → why ours are others."""
    return {}


def index_names(module: VQVAE2) -> dict[str, str]:
    """Level → which output its indices are."""
    return INDICES


def diff(losses: Mapping[str, Any]) -> Any:
    """Its commitment loss of both levels, [1]."""
    return jnp.reshape(sum(value for term, value in losses.items() if term.startswith("commitment")), 1)


def training_losses(metrics: Mapping[str, Any]) -> list[Any]:
    """What a recording says of each step."""
    return [metrics["reconstruction"], diff(metrics)[0]]
