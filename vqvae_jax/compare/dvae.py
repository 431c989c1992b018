"""DALL-E's first stage on the inputs of a recording: logits, codes, what they decode to, the likelihood of the images.

`soft/…` is of softmax(logits / temperature) in place of codes, and `grad/…` of mean(soft/stats · weight) through it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from vqvae_jax.autoencoders.dvae import DVAE, LEVEL, from_pixels, to_pixels
from vqvae_jax.compare.recording import Recording
from vqvae_jax.networks.likelihood import logit_laplace
from vqvae_jax.quantizers.gumbel import GumbelQuantizer, divergence
from vqvae_jax.types import Array, Model


def is_one(module: Any) -> bool:
    """Whether such recordings are of this module's kind."""
    drawn = isinstance(module, DVAE) and isinstance(module.quantizers[0], GumbelQuantizer)
    return drawn and module.likelihood == "logit_laplace"


def computed(module: DVAE, model: Model, recording: Recording) -> tuple[dict[str, Any], dict[str, Any], Model]:
    """Outputs by the names of the recording, those of `soft/…`, and gradients like the model."""
    images = jnp.asarray(recording["input/image"], jnp.float32)
    weight = jnp.asarray(recording["soft/weight_on_stats"], jnp.float32)
    temperature = float(recording["soft/temperature"])
    book = model.codebooks[LEVEL]

    def weighed(params: Any, codes: Array) -> tuple[Array, tuple[dict[str, Array], dict[str, Array]]]:
        apply: Callable[..., Any] = partial(module.apply, {"params": params})
        logits = apply(images, method=lambda module, x: module.encoder(from_pixels(x)))
        share = jax.nn.softmax(logits / temperature, axis=-1)
        z_q = jnp.matmul(share, codes, precision=lax.Precision.HIGHEST)
        stats = apply(z_q, method=lambda module, z: module.decoder(z))
        hard = outputs(module, params, book, images, logits)
        return jnp.mean(stats * weight), (hard, {"probabilities": share, "stats": stats})

    grads, (hard, soft) = jax.jit(jax.grad(weighed, (0, 1), has_aux=True))(model.params, book.codes)
    hard, soft, (params, codes) = jax.tree.map(np.asarray, (hard, soft, grads))
    return hard, soft, Model(params, {LEVEL: book.replace(codes=codes)})


def outputs(module: DVAE, params: Any, book: Any, images: Array, logits: Array) -> dict[str, Array]:
    """Of the likeliest codes; sums of the likelihood are over an image."""
    tokens = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    z_q = module.quantizers[0].lookup(book, (tokens,))
    stats: Any = module.apply({"params": params}, z_q, method=lambda module, z: module.decoder(z))
    location, log_scale = jnp.split(stats, 2, axis=-1)
    nll = logit_laplace(from_pixels(images), location, log_scale)
    return {
        "logits": logits,
        "tokens": tokens,
        "stats": stats,
        "picture": to_pixels(jax.nn.sigmoid(location)),
        "unmapped_image": to_pixels(from_pixels(images)),
        "nll": nll,
        "nll_mean": jnp.mean(nll),
        "nll_per_image": jnp.sum(nll, (1, 2, 3)),
        "kl_uniform": divergence(logits),
    }
