"""One file a quantizer. To add one: write the file, add its line here, a config that uses it, a test."""

from typing import Any

from vqvae_jax.quantizers.bsq import BinarySphericalQuantizer
from vqvae_jax.quantizers.cosine import CosineQuantizer
from vqvae_jax.quantizers.cvq import CVQuantizer
from vqvae_jax.quantizers.ema import EMAQuantizer
from vqvae_jax.quantizers.fsq import FiniteScalarQuantizer
from vqvae_jax.quantizers.gumbel import GumbelQuantizer
from vqvae_jax.quantizers.kl import KLBottleneck
from vqvae_jax.quantizers.lfq import LookupFreeQuantizer
from vqvae_jax.quantizers.multiscale import MultiscaleQuantizer
from vqvae_jax.quantizers.residual import ResidualQuantizer
from vqvae_jax.quantizers.simvq import SimVQuantizer
from vqvae_jax.quantizers.vq import VectorQuantizer

QUANTIZERS: dict[str, Any] = {
    "vq": VectorQuantizer,
    "ema": EMAQuantizer,
    "cvq": CVQuantizer,
    "cosine": CosineQuantizer,
    "fsq": FiniteScalarQuantizer,
    "lfq": LookupFreeQuantizer,
    "bsq": BinarySphericalQuantizer,
    "simvq": SimVQuantizer,
    "gumbel": GumbelQuantizer,
    "kl": KLBottleneck,
    "multiscale": MultiscaleQuantizer,
    "residual": ResidualQuantizer,
}
# Which of them a residual quantizer may have inside.
INSIDE = {name: kind for name, kind in QUANTIZERS.items() if hasattr(kind, "subtractable")}
