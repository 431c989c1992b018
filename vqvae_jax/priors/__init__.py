"""One file a paper. To add one: write the file, add its line here, a config that uses it, a test."""

from typing import Any

from vqvae_jax.priors.diffusion import DiffusionPrior
from vqvae_jax.priors.maskgit import MaskGITPrior
from vqvae_jax.priors.pixelcnn import PixelCNNPrior
from vqvae_jax.priors.published import BottomPrior, MNISTGenerator, TopPrior
from vqvae_jax.priors.transformer import TransformerPrior
from vqvae_jax.priors.var import VARPrior

PRIORS: dict[str, Any] = {
    "pixelcnn": PixelCNNPrior,
    "mnist_generator": MNISTGenerator,
    "top_prior": TopPrior,
    "bottom_prior": BottomPrior,
    "transformer": TransformerPrior,
    "maskgit": MaskGITPrior,
    "var": VARPrior,
    "diffusion": DiffusionPrior,
}
