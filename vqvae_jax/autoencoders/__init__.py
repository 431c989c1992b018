"""One file a paper. To add one: write the file, add its line here, a config that uses it, a test."""

from vqvae_jax.autoencoders.hierarchical import HierarchicalVAE
from vqvae_jax.autoencoders.vqvae import VQVAE

AUTOENCODERS = {"hierarchical": HierarchicalVAE, "vqvae": VQVAE}

__all__ = ["AUTOENCODERS", "VQVAE", "HierarchicalVAE"]
