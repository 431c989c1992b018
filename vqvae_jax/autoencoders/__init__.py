"""One file a paper. To add one: write the file, add its line here, a config that uses it, a test."""

from vqvae_jax.autoencoders.hierarchical import HierarchicalVAE, level_names

AUTOENCODERS = {"hierarchical": HierarchicalVAE}

__all__ = ["AUTOENCODERS", "HierarchicalVAE", "level_names"]
