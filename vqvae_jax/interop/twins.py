"""Which of our modules have a twin in PyTorch, or in MaskGIT's Flax, and where its tensors lie."""

from typing import Any

import numpy as np

from vqvae_jax.autoencoders import DVAE, VQGAN, VQVAE2, HierarchicalVAE
from vqvae_jax.interop import dvae, hierarchical, maskgit, pixelcnn, stable_diffusion, var, var_prior, vqgan, vqvae2
from vqvae_jax.interop.places import AS_IT_IS, Place, Places
from vqvae_jax.priors.diffusion import DiffusionPrior
from vqvae_jax.priors.maskgit import MaskGITPrior
from vqvae_jax.priors.pixelcnn import PixelCNNPrior
from vqvae_jax.priors.var import VARPrior
from vqvae_jax.types import Model, UserError


def places_of_vqgan(module: VQGAN, like: Model) -> Places:
    """By its quantizer."""
    return (var.tokenizer_places if var.is_tokenizer(module) else vqgan.places)(module, like)


PLACES: dict[type, Any] = {
    HierarchicalVAE: hierarchical.places,
    VQVAE2: vqvae2.places,
    VQGAN: places_of_vqgan,
    DVAE: dvae.places,
    PixelCNNPrior: pixelcnn.places,
    MaskGITPrior: maskgit.transformer_places,
    VARPrior: var_prior.places,
    DiffusionPrior: stable_diffusion.places,
}


def places_of(module: Any, model: Model) -> Places:
    """Where the tensors of a module's PyTorch twin lie.

    Raises:
        UserError: it has none.
    """
    for kind, places in PLACES.items():
        if isinstance(module, kind):
            return with_params_of_codebooks(places(module, model), model)
    names = ", ".join(kind.__name__ for kind in PLACES)
    raise UserError(f"there is no PyTorch reference of {type(module).__name__}; what is exported: {names}")


def with_params_of_codebooks(places: Places, model: Model) -> Places:
    """And of what a quantizer learns beside its codes, for which its twin has no names."""
    there = {place.path for place in places.values()}
    every = {
        (level, name): ("codebooks", level, "params", name)
        for level, book in model.codebooks.items()
        for name in book.params
    }
    own = {f"quantizer.{level}.{name}": path for (level, name), path in every.items() if path not in there}
    return places | {name: Place(path, AS_IT_IS) for name, path in own.items()}


def averages(module: Any, model: Model) -> dict[str, np.ndarray]:
    """For rosinality's buffers where codes are no moving averages: as if each stood for one vector. VAR's counts: 0.

    Those of unixpickle's where it is not known when a code was used.
    """
    if isinstance(module, HierarchicalVAE):
        return hierarchical.counts(module, model)
    if not isinstance(module, VQVAE2):
        return var.hits(module)
    found: dict[str, np.ndarray] = {}
    for level, short in vqvae2.SHORT.items():
        codes = np.asarray(model.codebooks[level].codes)
        if codes.size and "count" not in model.codebooks[level].stats:
            found[f"quantize_{short}.cluster_size"] = np.ones(len(codes), np.float32)
            found[f"quantize_{short}.embed_avg"] = codes.T
    return found
