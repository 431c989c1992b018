"""One file a paper. To add one: write the file, add its line here, a config that uses it, a test."""

from vqvae_jax.autoencoders.dvae import DVAE
from vqvae_jax.autoencoders.hierarchical import HierarchicalVAE
from vqvae_jax.autoencoders.patch_vqvae import PatchVQVAE
from vqvae_jax.autoencoders.vqgan import VQGAN
from vqvae_jax.autoencoders.vqvae import VQVAE
from vqvae_jax.autoencoders.vqvae2 import VQVAE2

AUTOENCODERS = {
    "hierarchical": HierarchicalVAE,
    "vqvae": VQVAE,
    "vqvae2": VQVAE2,
    "patch_vqvae": PatchVQVAE,
    "vqgan": VQGAN,
    "dvae": DVAE,
}

__all__ = ["AUTOENCODERS", "DVAE", "VQGAN", "VQVAE", "VQVAE2", "HierarchicalVAE", "PatchVQVAE"]
