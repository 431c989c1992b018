"""VAR's tokenizer and transformer by the names of https://github.com/FoundationVision/VAR (models/), and what its
trainer (trainer.py) saves, which holds both.

The tokenizer is taming's network with its attention's three layers in one, and the quantizer of `multiscale`. How often
each code was taken at each scale, which it counts beside, is kept for `export`.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vqvae_jax import parts
from vqvae_jax.autoencoders.published import SCALES
from vqvae_jax.autoencoders.vqgan import LEVEL, VQGAN
from vqvae_jax.interop import vqgan
from vqvae_jax.interop.matches import Match, Shapes, Tensors
from vqvae_jax.interop.places import AS_IT_IS, CONV, Place, Places, fused, inside, numbers, of_params, shapes_of
from vqvae_jax.interop.state_dicts import TRAINED
from vqvae_jax.quantizers.multiscale import MultiscaleQuantizer
from vqvae_jax.quantizers.vq import VectorQuantizer
from vqvae_jax.types import Model, UserError

TOKENIZER, QUANTIZER = "VAR's tokenizer", "VAR's quantizer"  # begin the titles
LAYER = "multiscale"
NAMES = vqgan.TAMING._replace(
    title=TOKENIZER, middle_attention="mid.attn_1.qkv", quantizer="multiscale", loss_weights=vqgan.LOSS_WEIGHTS
)
PHIS = "quant_resi."  # begin the names of its convolutions, inside of the quantizer
HITS = "quantize.ema_vocab_hit_SV"  # how often which scale took which code, [S, K]
ATTENTION = r".*\.attn(?:_1|\.\d+)\.(q|k|v)\.(?:weight|bias)$"


def in_trainer(tensors: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]] | None:
    """Tokenizer and transformer of what VAR's trainer saves; None where it is something else."""
    tokenizer, transformer = (inside(tensors, f"{part}.") for part in TRAINED)
    return (tokenizer, transformer) if tokenizer and transformer else None


# The tokenizer.


def match_tokenizer(tensors: Tensors, heads: int) -> Match | None:
    """Any width, levels, codes and φ; sides of the scales as published, `with_scales` says otherwise. facts: channels,
    image_size, at which the last scale is the code map, range, loss_weights.
    """
    shapes = shapes_of(tensors)
    if not any(name.startswith(f"quantize.{PHIS}") for name in shapes) and HITS not in shapes:
        return None
    count = shapes.get(HITS, (len(SCALES[256]),))[0]
    scales = SCALES[256] if count == len(SCALES[256]) else tuple(range(1, count + 1))
    return vqgan.matched(NAMES, tensors, tokenizer_places, quantizer(shapes, scales))


def quantizer(shapes: Shapes, scales: tuple[int, ...], start: str = "quantize.") -> dict[str, Any]:
    """The section of that name; `start`: what its tensors' names begin with."""
    size, code_dim = shapes.get(f"{start}embedding.weight", (4096, 32))
    several = numbers(shapes, rf"{start}{PHIS}qresi_ls\.(\d+)\.")
    inner = {"name": "vq", "codebook_size": size, "code_dim": code_dim, "revive_after": 0}
    phis = len(several) or int(f"{start}{PHIS}qresi.weight" in shapes)
    return {"name": "multiscale", "inner": inner, "scales": scales, "phis": phis, "shared": True}


def is_tokenizer(module: Any) -> bool:
    """Whether its codes are of several scales, as VAR's."""
    return isinstance(module, VQGAN) and isinstance(module.quantizers[0], MultiscaleQuantizer)


def tokenizer_places(module: VQGAN, like: Model) -> Places:
    """Where the tensors of its twin lie."""
    found = fused(of_params(like.params, vqgan.RENAMES), ATTENTION, ("q", "k", "v"), "qkv")
    return found | quantizer_places(like, "quantize.")


def quantizer_places(like: Model, start: str = "") -> Places:
    """The same of its codes and φ, by names that begin with `start`."""
    book, path = like.codebooks[LEVEL], ("codebooks", LEVEL)
    found = {f"{start}embedding.weight": Place((*path, "codes"), AS_IT_IS)}
    count = book.params["kernel"].shape[0] if book.params else 0
    for i in range(count):
        name = f"{start}{PHIS}" + (f"qresi_ls.{i}" if count > 1 else "qresi")
        found[f"{name}.weight"] = Place((*path, "params", "kernel"), CONV, i)
        found[f"{name}.bias"] = Place((*path, "params", "bias"), AS_IT_IS, i)
    return found


# The quantizer alone, whose workdir has no stages: {"stack": [{"layer": "multiscale", "codebook_size": 4096, …}]}


def match_quantizer(tensors: Tensors, heads: int) -> Match | None:
    """Any codes and φ; of what scales they are a recording says. facts are empty."""
    shapes = shapes_of(tensors)
    if "embedding.weight" not in shapes or not any(name.startswith(PHIS) for name in shapes):
        return None
    found = quantizer(shapes, (1,), "")
    sizes = {name: found["inner"][name] for name in ("codebook_size", "code_dim")}
    section = {"stack": [{"layer": LAYER, **sizes, "phis": found["phis"]}]}
    module, like, own = loaded(section)
    title = f"{QUANTIZER}, {sizes['codebook_size']} codes of {sizes['code_dim']} numbers"
    return Match(title, "stack", section, {}, module, like, own)


def is_one(config: Mapping[str, Any]) -> bool:
    """Whether a workdir's config says a quantizer alone."""
    return bool(config["stack"][0]["layer"] == LAYER)


def loaded(config: Mapping[str, Any]) -> tuple[MultiscaleQuantizer, Model, Places]:
    """The quantizer of a workdir's config, shapes of its codes and φ, and where the tensors of its twin lie."""
    (layer,) = config["stack"]
    inner = VectorQuantizer(layer["codebook_size"], layer["code_dim"], revive_after=0)
    module = MultiscaleQuantizer(inner, (1,), phis=layer["phis"], shared=True)
    like = Model({}, {LEVEL: jax.eval_shape(module.init, jax.random.key(0))})
    return module, like, quantizer_places(like)


def with_scales(match: Match, asked: tuple[int, ...] | None, image_size: int, source: object) -> Match:
    """The match of a tokenizer with the sides of its maps.

    Args:
        match: any; another is given back as it is.
        asked: the sides that the user says; None: as published for images of that size.
        image_size: pixels, 0: as published.
        source: the file, for the message.

    Raises:
        UserError: sides are asked for another file, or are of another number than its scales; or of its scales none are
            published.
    """
    if match.told or not is_tokenizer(match.module):
        if asked:
            why = "says them itself" if match.told else f"is {match.title}"
            raise UserError(f"--scales: {source} {why}; leave it out")
        return match
    count = match.unused.get(HITS, (len(SCALES[256]),))[0]
    scales = asked or SCALES.get(image_size or 256, SCALES[256])
    if len(scales) != count:
        sides = ",".join(map(str, scales))
        raise UserError(f"{source} has {count} scales, and {sides} are {len(scales)} sides: --scales=A,B,…")
    section = {**match.section, "quantizer": {**match.section["quantizer"], "scales": scales}}
    size = scales[-1] * 2 ** (len(section["factors"]) - 1)
    if image_size not in (0, size):
        raise UserError(
            f"--image_size={image_size}: scales {','.join(map(str, scales))} are of images of {size} pixels; say the "
            f"sides for yours, {count} numbers: --scales=A,B,…"
        )
    facts = match.facts | {"image_size": size}
    module = parts.build_autoencoder({"autoencoder": section, "train": {"dtype": "float32"}}, facts)
    like = parts.abstract_autoencoder(module, facts)
    return match._replace(section=section, facts=facts, module=module, like=like)


def hits(module: Any) -> dict[str, np.ndarray]:
    """What its authors' class wants beside what is learned: counts, of a training elsewhere none."""
    if not is_tokenizer(module):
        return {}
    (quantizer,) = module.quantizers
    return {HITS: np.zeros((len(quantizer.scales), quantizer.inner.codebook_size), np.float32)}
