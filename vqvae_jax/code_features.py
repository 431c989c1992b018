"""The codes of a tokenizer as what a prior begins to read with: of one that hears running maps of numbers, as VAR's.

They are read when a training starts, never again: its checkpoints hold them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vqvae_jax import config as configs
from vqvae_jax.config import AUTOENCODER
from vqvae_jax.networks.scales import PHI
from vqvae_jax.parts import Parts
from vqvae_jax.types import Codebook, Model, UserError

FEATURES = "features"  # the part of such a prior's parameters


def given(parts: Parts, workdir: Path, level: str) -> Callable[[Model], Model] | None:
    """Shapes of a prior → its features, the autoencoder's codes and φ; None where it has none, or of another form."""
    if not _begins_with_codes(parts, level):
        return None
    quantizer = quantizer_of(parts, level)
    return lambda _: Model({FEATURES: features(quantizer, parts.load(workdir, AUTOENCODER).codebooks[level])}, {})


def check(parts: Parts, level: str) -> None:
    """UserError for features that would stay as they are and know nothing."""
    prior, path = parts.prior(level), f"--config.priors.{level}"
    if not getattr(prior, "held_features", False) or parts.config["priors"][level]["train"]["init_from"]:
        return
    if not _begins_with_codes(parts, level):
        want = " ".join(f"{path}.{name}={value}" for name, value in _form_of(parts, level).items())
        raise UserError(
            f"{path}.held_features=true holds the features as they begin, and they are not of the form of the "
            f"autoencoder's codes: {want or f'{path}.held_features=false'}"
        )


def _begins_with_codes(parts: Parts, level: str) -> bool:
    fields = _form_of(parts, level)  # first: what a prior's section has wrong is said later, after the data
    return bool(fields) and all(getattr(parts.prior(level), name, None) == value for name, value in fields.items())


def _form_of(parts: Parts, level: str) -> dict[str, int | bool]:
    """What a prior's fields must be to begin with the codes of its level; {} where these have no running map."""
    if AUTOENCODER not in configs.stages(parts.config):
        return {}
    quantizer = quantizer_of(parts, level)
    return form(quantizer) if hasattr(quantizer, "scales") else {}


def form(quantizer: Any) -> dict[str, int | bool]:
    """The fields of a prior that reads by the codes of such a quantizer."""
    return {"code_dim": quantizer.output_dim, "shared": quantizer.shared, "phis": quantizer.phis}


def quantizer_of(parts: Parts, level: str) -> Any:
    """The quantizer of a level of the autoencoder."""
    return parts.autoencoder.quantizers[configs.levels(parts.config).index(level)]


def features(quantizer: Any, codebook: Codebook) -> dict[str, Any]:
    """Codes and φ as a prior names them; the codes as they are looked up, since not every table is made of them."""
    return {"codes": quantizer.codes(codebook), **{name: x for name, x in codebook.params.items() if name in PHI}}
