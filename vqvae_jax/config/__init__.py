"""Configs: read from a file and the command line, completed, checked, kept in the workdir.

A config file writes what differs from the defaults. The defaults of a part (autoencoder, quantizer, prior) stand in
its class, chosen by `name`; those of the other sections in the dataclasses of `sections.py`. Nothing here needs
ml_collections.
"""

from vqvae_jax.config.checking import check, check_part, check_stage, nearest_size
from vqvae_jax.config.meanings import explained
from vqvae_jax.config.reading import ROOT, as_it_was_meant, available, complete, read
from vqvae_jax.config.sections import (
    AUTOENCODER,
    SECTIONS,
    Dataset,
    Optimizer,
    Sample,
    Train,
    autoencoder_kind,
    levels,
    of_stage,
    path_of,
    stages,
    told_texts,
)
from vqvae_jax.config.switching import Switch
from vqvae_jax.config.workdir import (
    BEGUN_IN,
    FILE,
    OWN,
    agree,
    changed,
    check_saved,
    differs,
    listed,
    load,
    located,
    of_drawing,
    save,
)
from vqvae_jax.limits import WHOLE

__all__ = [
    "AUTOENCODER",
    "BEGUN_IN",
    "FILE",
    "OWN",
    "ROOT",
    "SECTIONS",
    "WHOLE",
    "Dataset",
    "Optimizer",
    "Sample",
    "Switch",
    "Train",
    "agree",
    "as_it_was_meant",
    "autoencoder_kind",
    "available",
    "changed",
    "check",
    "check_part",
    "check_saved",
    "check_stage",
    "complete",
    "differs",
    "explained",
    "levels",
    "listed",
    "load",
    "located",
    "nearest_size",
    "of_drawing",
    "of_stage",
    "path_of",
    "read",
    "save",
    "stages",
    "told_texts",
]
