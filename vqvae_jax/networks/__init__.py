"""Layers and networks. Those of the first table foretell what lies under noise, see `types.Network`; those of the
second read texts, see `types.TextEncoder`."""

from typing import Any

from vqvae_jax.networks.clip_text import CLIPText
from vqvae_jax.networks.dit import DiT
from vqvae_jax.networks.text_transformer import TextTransformer
from vqvae_jax.networks.unet import UNet

NETWORKS: dict[str, Any] = {
    "dit": DiT,
    "unet": UNet,
}
TEXT_ENCODERS: dict[str, Any] = {
    "clip": CLIPText,
    "transformer": TextTransformer,
}
