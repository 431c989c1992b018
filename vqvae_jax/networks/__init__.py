"""Layers and networks; those of the table foretell what lies under noise, see `types.Network`."""

from typing import Any

from vqvae_jax.networks.dit import DiT
from vqvae_jax.networks.unet import UNet

NETWORKS: dict[str, Any] = {
    "dit": DiT,
    "unet": UNet,
}
