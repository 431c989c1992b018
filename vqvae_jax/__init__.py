"""Discrete image representations in JAX: quantizers, autoencoders, priors, and one way from images to new images.

model = vqvae_jax.load("runs/demo") opens what was trained: see trained.py.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vqvae_jax.checkpoint import Steps
    from vqvae_jax.trained import Trained

__version__ = "0.1.0"


def load(
    workdir: str | Path,
    step: "Steps" = "best",
    autoencoder_step: int | str | None = None,
    autoencoder: str | Path | None = None,
) -> "Trained":
    """What was trained in a workdir: encode, decode, sample, reconstruct.

    Args:
        workdir: of a training.
        step: of the priors' checkpoints: a number, "best" or None for the latest; by level, {"top": 280}, of some.
        autoencoder_step: the same of the autoencoder's.
        autoencoder: of priors that were trained on tokens: the workdir that made them.

    Raises:
        UserError: nothing was trained there, or it is damaged.
    """
    from vqvae_jax.trained import Trained

    return Trained(workdir, step, autoencoder_step, autoencoder=autoencoder)
