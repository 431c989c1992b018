"""VQ-GAN's autoencoder by two sets of names: taming's own, https://github.com/CompVis/taming-transformers, and those of
LlamaGen's tokenizers, https://github.com/FoundationVision/LlamaGen (tokenizer/tokenizer_image/vq_model.py).

Taming numbers the levels of both networks from the finest; LlamaGen its decoder's from the coarsest. Taming's codes are
ours of `vq`, and of `gumbel` where a layer of the quantizer says how likely each is; LlamaGen's, of length 1 wherever
they are looked up, ours of `cosine`. Latent diffusion's first stages,
https://github.com/CompVis/latent-diffusion (ldm/models/autoencoder.py), have taming's names and no codes, ours is `kl`;
what diffusers calls them is in diffusers.py. What a file holds beside the autoencoder, taming's critic and VGG16 and
LlamaGen's count of used codes, is kept for `export`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from vqvae_jax import parts
from vqvae_jax.autoencoders.vqgan import LEVEL, VQGAN
from vqvae_jax.interop import maskgit
from vqvae_jax.interop.matches import Match, Shapes, Tensors, vote
from vqvae_jax.interop.places import (
    AS_IT_IS,
    POINTWISE,
    Place,
    Places,
    Renames,
    numbers,
    of_params,
    shapes_of,
)
from vqvae_jax.quantizers.cosine import CosineQuantizer
from vqvae_jax.quantizers.gumbel import GumbelQuantizer
from vqvae_jax.types import Model, Reconstruction

CODES = "quantize.embedding.weight"
DRAWN = "quantize.embed.weight"  # codes that are drawn by Gumbel-softmax
LOGITS = "quantize.proj"  # the layer that says how likely each of these is
BESIDE = r"loss\.|quantize\.(codebook_used|ema_vocab_hit_SV)$"  # tensors that are not the autoencoder's
LOSS_WEIGHTS = {"reconstruction": 1.0, "codebook": 1.0, "commitment": 0.25}
# Taming's published weights: its code has 0.25 on the wrong term, and keeps it so (`legacy`).
LEGACY = LOSS_WEIGHTS | {"codebook": 0.25, "commitment": 1.0}
GUMBEL_WEIGHTS = {"reconstruction": 1.0, "kl": 5e-4}  # the latter is of its quantizer's code
KL_WEIGHT = 1e-6  # latent diffusion's, of sums over an image
LEARNING_RATE = 0.0  # no training is recorded: Adam makes much of keys' biases, whose gradients are rounding alone
AVERAGED = "$^"  # tensors that no gradient moves: none
COUNTED = "$^"  # and whole numbers: none


class Names(NamedTuple):
    """How one of the two calls what it has: regular expressions, {} is a level's number."""

    down: str  # a level of the encoder
    up: str  # of the decoder
    block: str  # inside of a level
    attention: str
    middle: str  # blocks between
    middle_attention: str  # a tensor of theirs, without its last word
    title: str
    quantizer: str  # ours
    distance: str
    loss_weights: dict[str, float]


TAMING = Names(
    r"encoder\.down\.", r"decoder\.up\.", "block", "attn", "mid.block_{}", "mid.attn_1.q", "taming's VQ-GAN",
    "vq", "absolute", LEGACY,
)  # fmt: skip
LLAMAGEN = Names(
    r"encoder\.conv_blocks\.", r"decoder\.conv_blocks\.", "res", "attn", "mid.{}", "mid.1.q", "LlamaGen's VQ-GAN",
    "cosine", "squared", LOSS_WEIGHTS,
)  # fmt: skip
FIRST_STAGE = TAMING._replace(title="latent diffusion's first stage", quantizer="kl", loss_weights={})
GUMBEL = TAMING._replace(title="taming's VQ-GAN of Gumbel codes", quantizer="gumbel", loss_weights=GUMBEL_WEIGHTS)


def match_taming(tensors: Tensors, heads: int) -> Match | None:
    """Any width, levels and codes. facts: channels, image_size and range as published, loss_weights."""
    return None if holds_numbers(shapes_of(tensors)) or DRAWN in tensors else matched(TAMING, tensors)


def match_gumbel(tensors: Tensors, heads: int) -> Match | None:
    """As `match_taming`, of codes that are drawn."""
    return matched(GUMBEL, tensors) if DRAWN in tensors else None


def match_first_stage(tensors: Tensors, heads: int) -> Match | None:
    """As `match_taming`, of numbers in place of codes. Their scale is not among the tensors: see latents.py."""
    return matched(FIRST_STAGE, tensors) if holds_numbers(shapes_of(tensors)) else None


def match_llamagen(tensors: Tensors, heads: int) -> Match | None:
    """As `match_taming`, by LlamaGen's names."""
    return matched(LLAMAGEN, tensors)


def holds_numbers(shapes: Shapes) -> bool:
    """Whether there are no codes, and on the way to them twice as many channels as behind: means, log-variances."""
    to_code, from_code = shapes.get("quant_conv.bias", (0,))[0], (*shapes.get("post_quant_conv.weight", ()), 0, 0)[1]
    given, taken = shapes.get("encoder.conv_out.bias", (0,))[0], (*shapes.get("decoder.conv_in.weight", ()), 0, 0)[1]
    coded = any(name.startswith("quantize.") for name in shapes)
    return not coded and (to_code == 2 * from_code > 0 or given == 2 * taken > 0)


def matched(
    names: Names,
    tensors: Tensors,
    places_in: Callable[[VQGAN, Model], Places] | None = None,
    of_scales: dict[str, Any] | None = None,
) -> Match | None:
    """What has such names: the module that its shapes say.

    Args:
        names: what its layers are called.
        tensors: of the file.
        places_in: as `places`, which it is by itself.
        of_scales: the section of a quantizer of maps of several sizes, which no shape shows; the last is the code's.
    """
    shapes = {name: shape for name, shape in shapes_of(tensors).items() if not re.match(BESIDE, name)}
    levels = numbers(shapes, rf"{names.down}(\d+)\.{names.block}\.")
    width = shapes.get("encoder.conv_in.bias", (0,))[0]
    if not width or not levels or levels != list(range(len(levels))):
        return None
    section = described(names, shapes, len(levels), width)
    section["quantizer"] = of_scales or section["quantizer"]
    size = (of_scales["scales"][-1] if of_scales else 2) * 2 ** (len(levels) - 1)
    channels = (*shapes.get("encoder.conv_in.weight", ()), 3, 3)[1]
    weights = names.loss_weights or weights_of_sums(section["quantizer"]["code_dim"], channels, len(levels))
    facts = {
        "channels": channels,
        "image_size": size if of_scales else 256,
        "range": (-1.0, 1.0),
        "loss_weights": weights,
    }
    module = parts.build_autoencoder({"autoencoder": section, "train": {"dtype": "float32"}}, facts)
    like = parts.abstract_autoencoder(module, facts | {"image_size": size})
    beside = {name: shape for name, shape in shapes_of(tensors).items() if re.match(BESIDE, name)}
    title = f"{names.title}, {width} wide, {len(levels)} levels"
    return Match(title, "autoencoder", section, facts, module, like, (places_in or places)(module, like), beside)


def weights_of_sums(code_dim: int, channels: int, levels: int) -> dict[str, float]:
    """Latent diffusion sums over an image what here are means; the same ratio, where levels halve the sides."""
    return {"reconstruction": 1.0, "kl": KL_WEIGHT * code_dim / (channels * 4 ** (levels - 1))}


def described(names: Names, shapes: Shapes, levels: int, width: int) -> dict[str, Any]:
    """The section of a config."""
    of_level = [rf"{names.down}{level}\.{names.block}\.\d+\.(conv|norm2).*bias$" for level in range(levels)]
    widths = [vote(shape[0] for name, shape in shapes.items() if re.match(one, name)) or width for one in of_level]
    middle = [number for number in range(3) if f"encoder.{names.middle.format(number)}.norm1.weight" in shapes]
    return {
        "name": "vqgan",
        "width": width,
        "factors": tuple(max(1, wide // width) for wide in widths),
        "blocks": len(numbers(shapes, rf"{names.down}0\.{names.block}\.(\d+)\.")),
        "decoder_blocks": len(numbers(shapes, rf"{names.up}0\.{names.block}\.(\d+)\.")),
        "attention": tuple(numbers(shapes, rf"{names.down}(\d+)\.{names.attention}\.")),
        "middle_blocks": len(middle),
        "middle_attention": f"encoder.{names.middle_attention}.weight" in shapes,
        "z": max(1, shapes.get("encoder.conv_out.bias", (256,))[0] // (2 if names.quantizer == "kl" else 1)),
        "code_kernel": shapes.get("quant_conv.weight", (1,))[-1],
        "distance": names.distance,
        "quantizer": quantizer(names, shapes),
        "quantizers": {},
    }


def quantizer(names: Names, shapes: Shapes) -> dict[str, Any]:
    """The section of that name."""
    if names.quantizer == "kl":
        return {"name": "kl", "code_dim": max(1, shapes.get("quant_conv.bias", (8,))[0] // 2)}
    if names.quantizer == "gumbel":
        size, code_dim = shapes.get(DRAWN, (8192, 256))
        vector_dim = (*shapes.get(f"{LOGITS}.weight", ()), 0, 0)[1]
        own = {"straight_through": True, "vector_dim": vector_dim}
        return {"name": "gumbel", "codebook_size": size, "code_dim": code_dim, **own}
    size, code_dim = shapes.get(CODES, (1024, 256))
    return {"name": names.quantizer, "codebook_size": size, "code_dim": code_dim, "revive_after": 0}


def places(module: VQGAN, like: Model) -> Places:
    """Where the tensors of its twin lie: LlamaGen's names for codes of length 1, MaskGIT's for its network, else
    taming's."""
    levels, cosine = len(module.factors), isinstance(module.quantizers[0], CosineQuantizer)
    book = like.codebooks[LEVEL]
    if maskgit.is_tokenizer(module) and book.codes.size and not cosine:
        return maskgit.tokenizer_places(module, like)
    found = of_params(like.params, renames_of_llamagen(levels) if cosine else RENAMES)
    if not book.codes.size:  # finite scalars, and numbers: their scale goes beside the tensors
        return found
    codes = Place(("codebooks", LEVEL, "codes"), AS_IT_IS)
    if not isinstance(module.quantizers[0], GumbelQuantizer):
        return found | {CODES: codes}
    kernel, bias = (("codebooks", LEVEL, "params", name) for name in ("kernel", "bias"))
    of_logits = {f"{LOGITS}.weight": Place(kernel, POINTWISE), f"{LOGITS}.bias": Place(bias, AS_IT_IS)}
    return found | {DRAWN: codes} | (of_logits if book.params else {})


BOTH: Renames = (
    (r"\.project\.", ".proj_out."),
    (r"\.shortcut\.", ".nin_shortcut."),
    (r"^to_code\.", "quant_conv."),
    (r"^from_code\.", "post_quant_conv."),
)
RENAMES: Renames = (
    (r"\.(down|up)(\d+)_block", r".\1.\2.block."),
    (r"\.(down|up)(\d+)_attention", r".\1.\2.attn."),
    (r"\.down(\d+)_half", r".down.\1.downsample.conv"),
    (r"\.up(\d+)_double", r".up.\1.upsample.conv"),
    (r"\.middle_block(\d+)", lambda found: f".mid.block_{int(found[1]) + 1}"),
    (r"\.middle_attention", ".mid.attn_1"),
    *BOTH,
)


def renames_of_llamagen(levels: int) -> Renames:
    """Its decoder's levels are numbered from the coarsest, and the middle through."""
    up = lambda found: f".conv_blocks.{levels - 1 - int(found[1])}."  # noqa: E731
    return (
        (r"\.(?:middle_attention)", ".mid.1"),
        (r"\.middle_block(\d+)", lambda found: f".mid.{2 * int(found[1])}"),
        (r"_block(\d+)", r"_res.\1"),
        (r"_attention(\d+)", r"_attn.\1"),
        (r"_half", "_downsample.conv"),
        (r"_double", "_upsample.conv"),
        (r"\.down(\d+)_", r".conv_blocks.\1."),
        (r"\.up(\d+)_", up),
        *BOTH,
    )


def outputs(module: VQGAN, model: Model, images: Any, out: Reconstruction) -> dict[str, Any]:
    """What that model gives for images [B, H, W, C], by the names of a recording; `out` is the forward pass."""
    encoded = module.apply({"params": model.params}, images, method=lambda module, x: module.encoder(x))
    z_e = module.apply({"params": model.params}, encoded, method=lambda module, x: module.to_code(x))
    terms = {term.split("/")[0]: value for term, value in out.losses.items()}
    of_codes = terms.get("codebook", 0.0) + 0.25 * terms.get("commitment", 0.0)
    loss = terms["reconstruction"] + of_codes
    return {
        "encoder": encoded,
        "z_e": z_e,
        "indices": out.tokens[0],
        "z_q": module.quantizers[0].lookup(model.codebooks[LEVEL], out.tokens),
        "reconstruction": out.images,
        "l1": jnp.mean(jnp.abs(out.images - images)),
        "mse": jnp.mean(jnp.square(out.images - images)),
        **{f"codebook_loss{one}": of_codes for one in LEGACIES},
        **{f"loss{one}": loss for one in LEGACIES},
    }


LEGACIES = ("", "/legacy_false", "/legacy_true")  # 0.25 is of two terms that are of one value


def left_out(module: VQGAN) -> dict[str, str]:
    """Names in a recording → why ours are others."""
    return {
        "output/gap$": "how far each place is from a tie: the recording's own matter",
        r"grad/.*\.(attn\w*|mid)\.\d+\.k\.bias$": "adds the same to all scores of a place: 0 but for rounding",
        r"grad/.*\.attn_1\.k\.bias$": "adds the same to all scores of a place: 0 but for rounding",
    }


def index_names(module: VQGAN) -> dict[str, str]:
    """Level → which output its indices are."""
    return {LEVEL: "indices"}


def training_losses(metrics: Mapping[str, Any]) -> list[Any]:
    """What a recording says of each step."""
    return [metrics["reconstruction"]]
