"""What family.py trains: recipes, and the fields of each quantizer at so many bits a place."""

import math
from typing import Any

from benchmarks import codebooks

BITS = 8, 10, 16  # a place
PRIORS = {8: math.inf, 10: math.inf, 16: 1}  # first seeds of which a prior is trained, too
LEVELS = {8: (8, 8, 4), 10: (8, 8, 4, 4), 16: (8, 8, 8, 8, 4, 4)}  # finite scalars of so many bits
SHORT = codebooks.Recipe(
    autoencoder={"name": "vqvae", "width": 64, "residual_width": 16},
    optimizer={"learning_rate": 2e-3, "warmup_steps": 50, "schedule": "cosine", "clip": 1.0},
    range=(-1.0, 1.0),
    batch_size=16,
    steps=800,
    prior={"name": "transformer", "width": 64, "layers": 2, "heads": 4, "dropout": 0.1},
    prior_batch=16,
    prior_steps=250,
)
FULL = SHORT._replace(
    autoencoder={"name": "vqvae", "width": 128, "residual_width": 32},
    batch_size=128,
    steps=20000,
    prior={"name": "transformer", "width": 256, "layers": 6, "heads": 8, "dropout": 0.1},
    prior_batch=64,
    prior_steps=10000,
)
TASKS = {  # data set, recipe
    "openmoji": ({"name": "openmoji"}, SHORT),
    "cifar": ({"name": "npz"}, SHORT),
    "cifar_full": ({"name": "cifar10"}, FULL),
}
SIZE = 32  # pixels


def quantizers(bits: int, steps: int) -> dict[str, tuple[dict[str, Any], dict[str, float]]]:
    """Each one's fields, and the weights of its terms beside `codebooks.WEIGHTS`, at so many bits a place."""
    table = {"codebook_size": 2**bits, "code_dim": 32}
    inner = {"name": "ema", "codebook_size": 2 ** (bits // 2), "code_dim": 32}
    drawn = {"name": "gumbel", **table, "ramp_steps": 3 * steps // 4}
    published = {"entropy": 0.1}  # and commitment 0.25
    return {
        "ema": ({"name": "ema", **table}, {}),
        "vq": ({"name": "vq", **table}, {}),
        "vq, rotation": ({"name": "vq", "rotation": True, **table}, {}),
        "cvq": ({"name": "cvq", "distance": "sphere", "decay": 0.9, **table}, {}),
        "cosine": ({"name": "cosine", "codebook_size": 2**bits, "code_dim": 8}, {}),
        "fsq": ({"name": "fsq", "levels": LEVELS[bits]}, {}),
        "lfq, published": ({"name": "lfq", "bits": bits}, published),
        "lfq": ({"name": "lfq", "bits": bits, "temperature": 1.0}, {"entropy": 0.02, "commitment": 0.02}),
        "bsq, published": ({"name": "bsq", "bits": bits}, published),
        "bsq": ({"name": "bsq", "bits": bits}, {"entropy": 0.01}),
        "simvq": ({"name": "simvq", **table}, {}),
        "gumbel": (drawn, {"kl": 1.2e-2}),
        "residual": ({"name": "residual", "depth": 2, "inner": inner}, {}),
        "multiscale": ({"name": "multiscale", "scales": (1, 2, 4, 8), "inner": {"name": "ema", **table}}, {}),
        "kl": ({"name": "kl", "code_dim": 4}, {"kl": 1e-4}),
    }


NAMES = tuple(quantizers(BITS[0], 1))
