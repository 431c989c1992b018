"""Diffusion priors by the names of others: DiT, https://github.com/facebookresearch/DiT (models.py), and
U-Nets as unet_names.py has them.

A DiT's file holds its fixed places besides, `pos_embed`; ours computes them. The published weights foretell noise, and
variances after it, in latents of Stable Diffusion's autoencoder; their β grow linearly.
"""

import math
from typing import Any

import numpy as np

from vqvae_jax import parts
from vqvae_jax.autoencoders.published import PRESETS
from vqvae_jax.autoencoders.vqgan import LEVEL
from vqvae_jax.interop.matches import Match, Tensors
from vqvae_jax.interop.places import Layout, Place, Places, Renames, numbers, of_params, shapes_of
from vqvae_jax.interop.unet_names import original_renames
from vqvae_jax.networks.dit import DiT, waves
from vqvae_jax.networks.unet import UNet
from vqvae_jax.priors.diffusion import DiffusionPrior
from vqvae_jax.types import Level, Model, UserError

TITLE = "DiT"
POSITIONS, TABLE, PATCHES = "pos_embed", "y_embedder.embedding_table.weight", "x_embedder.proj.weight"
HEAD = 64  # channels of a head of the published sizes S, B and L
HEADS_OF_XL = {1152: 16}
STRIDE = 8  # pixels a place of the map, of the published autoencoder
CLOSE = 1e-2  # of positions, which may have been saved in 16 bits
ADAM = {"learning_rate": 1e-4}


def match(tensors: Tensors, heads: int) -> Match | None:
    """Any width, layers, patch and square map. facts: vocab_size (None), coarse_sizes, num_labels, shape; autoencoder
    and image_size, as published.

    Raises:
        UserError: its places are other ones; heads do not divide the width.
    """
    shapes = shapes_of(tensors)
    if not {POSITIONS, TABLE, PATCHES} <= set(shapes):
        return None
    width, channels, patch, _ = shapes[PATCHES]
    side = patch * math.isqrt(shapes[POSITIONS][1])
    check_positions(tensors[POSITIONS], width)
    network = network_section(tensors, heads)
    labels = max(1, shapes[TABLE][0] - 1)  # the last row says "no label"
    fields: dict[str, Any] = {"path": "ddpm", "foretold": "noise", "label_condition": True, "label_dropout": 0.1}
    prior = DiffusionPrior(
        maps=(Level(LEVEL, (side, side), None, channels),),
        network=parts.build_network(network, channels, np.dtype("float32")),
        num_labels=labels,
        **fields,
    )
    like = parts.abstract_prior(prior)
    facts = {
        "vocab_size": None,
        "coarse_sizes": (),
        "num_labels": labels,
        "shape": (side, side),
        "autoencoder": described(channels),
        "image_size": side * STRIDE,
    }
    section = {"name": "diffusion", **fields, "network": network, "optimizer": ADAM}
    title = f"{TITLE}, {width} wide, {network['layers']} layers, {side}x{side} of {channels} numbers, {labels} labels"
    unused = {POSITIONS: shapes[POSITIONS]}
    return Match(title, "prior", section, facts, prior, like, places(prior, like), unused)


def network_section(tensors: Tensors, heads: int) -> dict[str, Any]:
    """The section `network` of a config, for a DiT of these shapes."""
    shapes = shapes_of(tensors)
    width, channels, patch, _ = shapes[PATCHES]
    heads = heads or HEADS_OF_XL.get(width, max(1, width // HEAD))
    if width % heads:
        raise UserError(f"--heads={heads}: {width} channels of {TITLE} do not divide among them; --heads=N")
    given = shapes.get("final_layer.linear.bias", (patch**2 * channels,))[0] // patch**2
    return {
        "name": "dit",
        "width": width,
        "layers": len(numbers(shapes, r"blocks\.(\d+)\.")),
        "heads": heads,
        "mlp": max(1, shapes.get("blocks.0.mlp.fc1.bias", (4 * width,))[0] // width),
        "patch": patch,
        "spare": max(0, given - channels),
    }


def described(channels: int) -> dict[str, Any]:
    """Stable Diffusion's autoencoder, with so many numbers a place."""
    preset = PRESETS["kl_f8"]
    quantizer = {**preset["quantizer"], "code_dim": channels}
    return {"name": "vqgan", **preset, "z": channels, "quantizer": quantizer}


def check_positions(there: np.ndarray, width: int) -> None:
    """UserError unless they are the waves that DiT has."""
    side = math.isqrt(there.shape[1])
    wanted = waves((side, side), width) if width % 4 == 0 else np.zeros((0, 0))
    if there[0].shape != wanted.shape or np.max(np.abs(there[0] - wanted)) > CLOSE:
        raise UserError(f"{POSITIONS} are not {TITLE}'s sines and cosines of a square map: such a network is not known")


def fixed(prior: Any) -> dict[str, np.ndarray]:
    """Tensors that the authors' class of a prior wants besides what is learned."""
    if not isinstance(prior, DiffusionPrior) or not isinstance(prior.network, DiT):
        return {}
    network, (height, width) = prior.network, prior.maps[0].shape
    there = waves((height // network.patch, width // network.patch), network.width)
    return {POSITIONS: there[None].astype(np.float32)}


def numbers_of(prior: DiffusionPrior) -> str:
    """One line for users of the authors' code: what goes into the network."""
    (height, width), channels = prior.maps[0].shape, prior.maps[0].channels
    return f"float32 [N, {channels}, {height}, {width}], data with noise, and times, here {prior.path} · 1000"


def places(prior: DiffusionPrior, like: Model) -> Places:
    """Where the tensors of its twin lie; what the authors have no name for keeps ours.

    Raises:
        UserError: of such a network there is none.
    """
    network = prior.network
    if isinstance(network, UNet):
        own = ((r"^network\.", ""), (r"^embed_label\.", "label_emb."))
        return of_params(like.params, (*own, *original_renames(network)))
    if not isinstance(network, DiT):
        raise UserError(f"there is no PyTorch reference of a prior with {type(network).__name__} inside")
    found = of_params(like.params, RENAMES)
    return found | {PATCHES: Place(("params", "network", "read", "kernel"), patches(network.patch))}


def patches(size: int) -> Layout:
    """A dense layer of patches, numbers as (row, column, channel), is a convolution there."""
    return Layout(
        lambda kernel: kernel.reshape(size, size, -1, kernel.shape[-1]).transpose(3, 2, 0, 1),
        lambda kernel: kernel.transpose(2, 3, 1, 0).reshape(-1, kernel.shape[0]),
    )


RENAMES: Renames = (
    (r"^network\.", ""),
    (r"^embed_label\.", "y_embedder.embedding_table."),
    (r"^read\.", "x_embedder.proj."),
    (r"^time1\.", "t_embedder.mlp.0."),
    (r"^time2\.", "t_embedder.mlp.2."),
    (r"^blocks_(\d+)\.", r"blocks.\1."),
    (r"^(blocks\.\d+)\.modulate\.", r"\1.adaLN_modulation.1."),
    (r"\.qkv\.", ".attn.qkv."),
    (r"\.mix_heads\.", ".attn.proj."),
    (r"\.up\.", ".mlp.fc1."),
    (r"\.down\.", ".mlp.fc2."),
    (r"^modulate\.", "final_layer.adaLN_modulation.1."),
    (r"^write\.", "final_layer.linear."),
)
