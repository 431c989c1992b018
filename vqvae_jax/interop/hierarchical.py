"""The hierarchical VAE of https://github.com/unixpickle/vq-vae-2 by its own names.

Encoders and decoders are numbered as ours are, encoders from the bottom up. Codebooks: `dictionary` [K, D] and
`usage_count` [K], which counts down from `dead_rate` to 0; ours counts up the steps a code was unused.
"""

import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from vqvae_jax import parts
from vqvae_jax.autoencoders.hierarchical import LAST, HierarchicalVAE, level_names
from vqvae_jax.interop.matches import Match, Shapes, Tensors, usual_size, vote
from vqvae_jax.interop.places import (
    AS_IT_IS,
    Place,
    Places,
    Renames,
    countdown,
    numbers,
    of_params,
    shapes_of,
    without_codes,
)
from vqvae_jax.quantizers.vq import VectorQuantizer
from vqvae_jax.types import Model, Reconstruction

DEAD_RATE = 100  # the reference's default
RENAMES: Renames = ((r"(residual\d+)\.conv1", r"\1.1"), (r"(residual\d+)\.conv2", r"\1.3"))  # 0 and 2 are relus
LEARNING_RATE = 1e-3  # of its Adam
AVERAGED = "$^"  # tensors that no gradient moves: none
COUNTED = r"encoder_\d+\.vq\.usage_count"  # whole numbers
LOSS_WEIGHTS = {"reconstruction": 1.0, "feature": 1.0, "codebook": 1.0, "commitment": 0.25}


def match(tensors: Tensors, heads: int) -> Match | None:
    """Any width, codebook and number of levels. facts: channels, image_size (a guess), range, loss_weights."""
    shapes = shapes_of(tensors)
    found = numbers(shapes, r"encoder_(\d+)\.")
    width = vote(shapes[name][0] for name in shapes if re.match(r"encoder_\d+\.(conv|residual).*bias$", name))
    if not found or not width or len(found) > 8:
        return None
    levels, channels = len(found), (*shapes.get("encoder_0.conv1.weight", ()), 3, 3)[1]
    last = shapes.get(f"decoder_{levels - 1}.{LAST.get(levels, 'output')}.bias", (channels,))[0]
    section = {
        "name": "hierarchical",
        "levels": levels,
        "width": width,
        "classes": last // channels if last > channels else 0,
        **quantizers(shapes, levels, width, dead_rate(tensors)),
    }
    facts = {"channels": channels, "image_size": usual_size(levels), "range": (0.0, 1.0)}
    module = parts.build_autoencoder({"autoencoder": section, "train": {"dtype": "float32"}}, facts)
    like = parts.abstract_autoencoder(module, facts)
    weights = {term: weight for term, weight in LOSS_WEIGHTS.items() if levels > 1 or term != "feature"}
    title = f"the reference's hierarchical VAE, {levels} level{'s'[: levels - 1]}, {width} wide"
    return Match(title, "autoencoder", section, facts | {"loss_weights": weights}, module, like, places(module, like))


def quantizers(shapes: Shapes, levels: int, width: int, revive_after: int) -> dict[str, Any]:
    """The sections `quantizer` and `quantizers`, where a level differs from the top."""
    names, each = level_names(levels), []
    for name, i in zip(names, reversed(range(levels)), strict=True):
        size, _ = shapes.get(f"encoder_{i}.vq.dictionary", (512, width))
        code_dim = shapes.get(f"to_code_{name}.bias", (width,))[0]  # the reference has no projections, ours may
        fields = {"codebook_size": size, "code_dim": code_dim, "revive_after": revive_after}
        each.append({"name": "vq", **fields})
    others = {name: one for name, one in zip(names, each, strict=True) if one != each[0]}
    return {"quantizer": each[0], "quantizers": others}


def dead_rate(tensors: Tensors) -> int:
    """What counts start from: a code used in the last step has it."""
    counts = [array for name, array in tensors.items() if name.endswith(".vq.usage_count") and array.size]
    largest = max((int(array.max()) for array in counts if np.isfinite(array).all()), default=0)
    return largest if largest > 0 else DEAD_RATE


def places(module: HierarchicalVAE, like: Model) -> Places:
    """Where the tensors of its PyTorch twin lie."""
    found = of_params(like.params, RENAMES)
    for i, level in enumerate(reversed(module.level_names)):
        stats, quantizer = ("codebooks", level, "stats"), module.quantizers[module.level_names.index(level)]
        if not like.codebooks[level].codes.size:
            found |= without_codes(level, like.codebooks[level], f"encoder_{i}.bottleneck")
            continue
        found[f"encoder_{i}.vq.dictionary"] = Place(("codebooks", level, "codes"), AS_IT_IS)
        if "idle" in like.codebooks[level].stats:
            start = getattr(quantizer, "revive_after", 0) or DEAD_RATE
            found[f"encoder_{i}.vq.usage_count"] = Place((*stats, "idle"), countdown(start))
    return found


def counts(module: HierarchicalVAE, model: Model) -> dict[str, np.ndarray]:
    """The reference's buffers where nothing is kept of the steps that a code was unused: as if all were just used."""
    books = [model.codebooks[level] for level in reversed(module.level_names)]
    without = [i for i, book in enumerate(books) if book.codes.size and "idle" not in book.stats]
    return {f"encoder_{i}.vq.usage_count": np.full(len(books[i].codes), DEAD_RATE, np.int64) for i in without}


def outputs(module: HierarchicalVAE, model: Model, images: Any, out: Reconstruction) -> dict[str, Any]:
    """What the reference's model gives for images [B, H, W, C], by the names of a recording; encoders bottom up.

    `out` is the forward pass.
    """
    variables, books, names = {"params": model.params}, model.codebooks, module.level_names
    features = module.apply(variables, images, method="features")
    codes = [q.lookup(books[n], (t,)) for q, n, t in zip(module.quantizers, names, out.tokens, strict=True)]
    from_top = [module.apply(variables, out.tokens[: i + 1], books, method="decode") for i in range(module.levels)]
    return {
        "loss": total(out.losses),
        **many("losses", decoder_losses(out.losses)),
        **many("reconstructions", out.levels),
        **many("z_e", features[::-1]),
        **many("z_q", codes[::-1]),
        **many("indices", out.tokens[::-1]),
        **many("full_reconstructions", from_top),
    }


def left_out(module: HierarchicalVAE) -> dict[str, str]:
    """Names in a recording → why ours are others."""
    found = {}
    if module.levels > 2:
        found["output/full_reconstructions/"] = "the reference fills in from decoders that saw the real middle codes"
    if not all(isinstance(quantizer, VectorQuantizer) for quantizer in module.quantizers):
        found |= dict.fromkeys(
            ("output/loss$", r"grad/.*\.vq\.dictionary$"), "these codes have no loss term of their own"
        )
    return found


def index_names(module: HierarchicalVAE) -> dict[str, str]:
    """Level → which output its indices are."""
    return {level: f"indices/{i}" for i, level in enumerate(reversed(module.level_names))}


def training_losses(metrics: Mapping[str, Any]) -> list[Any]:
    """What a recording says of each step: the total, then one loss a decoder."""
    return [metrics["loss"], *decoder_losses(metrics)]


def decoder_losses(losses: Mapping[str, Any]) -> list[Any]:
    """One a decoder, from the top down: those of features, then that of the image."""
    return [value for term, value in losses.items() if term.startswith("feature/")] + [losses["reconstruction"]]


def total(losses: Mapping[str, Any]) -> Any:
    """The reference's loss."""
    return jnp.sum(jnp.stack([LOSS_WEIGHTS[term.split("/")[0]] * value for term, value in losses.items()]))


def many(name: str, values: Any) -> dict[str, Any]:
    """name/0, name/1, …"""
    return {f"{name}/{i}": value for i, value in enumerate(values)}
