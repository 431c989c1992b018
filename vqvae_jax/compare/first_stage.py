"""A first stage of latent diffusion on the inputs of a recording: moments, a sample of the recorded noise, its losses.

They sum over an image, and divide by the number of images: nll = Σ (|x - x̂| / e^s + s), s a log-variance that was never
trained, total = nll + 1e-6 kl. `grad/…` is of the total of the sample at s = 0, `grad_kl/…` of kl alone.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vqvae_jax.autoencoders.vqgan import VQGAN
from vqvae_jax.compare.recording import Recording
from vqvae_jax.interop.vqgan import KL_WEIGHT
from vqvae_jax.quantizers.kl import KLBottleneck, divergence, moments, noisy
from vqvae_jax.types import Array

LOSS = re.compile(r"loss/logvar_([\d.]+)/(mode|sample)/")


def is_one(module: Any) -> bool:
    """Whether such recordings are of this module's kind."""
    return isinstance(module, VQGAN) and isinstance(module.quantizers[0], KLBottleneck)


def forward(module: VQGAN, params: Any, images: Array, noise: Array) -> dict[str, Array]:
    """Outputs for images [B, H, W, C] and noise [B, h, w, D]."""
    apply: Callable[..., Any] = partial(module.apply, {"params": params})
    mean, log_variance = moments(apply(images, method=lambda module, x: module.to_code(module.encoder(x))))
    sample = noisy(mean, log_variance, noise)
    decode = partial(apply, method=lambda module, z: module.decoder(module.from_code(z)))
    return {
        "mean": mean,
        "logvar": log_variance,
        "std": jnp.exp(0.5 * log_variance),
        "kl": jnp.sum(divergence(mean, log_variance), (1, 2, 3)),
        "sample": sample,
        "reconstruction": decode(mean),
        "reconstruction_of_sample": decode(sample),
    }


def losses(found: Mapping[str, Array], images: Array, of: str, log_variance: float) -> dict[str, Array]:
    """Those of the reconstruction of the mode or of the sample."""
    made = found["reconstruction" if of == "mode" else "reconstruction_of_sample"]
    apart, kl = jnp.abs(images - made), jnp.mean(found["kl"])
    nll = jnp.sum(apart / jnp.exp(log_variance) + log_variance) / len(images)
    return {"total": nll + KL_WEIGHT * kl, "nll": nll, "kl": kl, "mean_l1": jnp.mean(apart)}


def computed(module: VQGAN, params: Any, recording: Recording) -> tuple[dict[str, Any], dict[str, Any]]:
    """Outputs by the names of the recording, and by section gradients like `params`."""
    images, noise = (jnp.asarray(recording[f"input/{name}"], jnp.float32) for name in ("images", "noise"))
    asked = {found[0]: found for name in recording.of("output") if (found := LOSS.match(name))}

    def sums(params: Any) -> tuple[tuple[Array, Array], dict[str, Array]]:
        found = forward(module, params, images, noise)
        named = {start: losses(found, images, words[2], float(words[1])) for start, words in asked.items()}
        flat = {f"{start}{term}": value for start, terms in named.items() for term, value in terms.items()}
        return (losses(found, images, "sample", 0.0)["total"], jnp.mean(found["kl"])), found | flat

    @jax.jit
    def both(params: Any) -> tuple[dict[str, Array], dict[str, Any]]:
        _, pull, found = jax.vjp(sums, params, has_aux=True)
        ways = {"grad": (1.0, 0.0), "grad_kl": (0.0, 1.0)}
        return found, {section: pull(tuple(map(jnp.float32, way)))[0] for section, way in ways.items()}

    return jax.tree.map(np.asarray, both(params))
