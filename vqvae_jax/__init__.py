"""Discrete image representations in JAX: quantizers, autoencoders, priors, and one way from images to new images.

model = vqvae_jax.load("runs/demo") opens what was trained, vqvae_jax.fit trains on own arrays: see docs/python.md.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    from vqvae_jax.evaluate import measure
    from vqvae_jax.trained import Trained

    for name, value in (("workdir", workdir), ("autoencoder", autoencoder)):
        _check_path(name, value)
    return Trained(workdir, step, autoencoder_step, autoencoder=autoencoder, measure=measure)


def fit(
    images: Any,
    workdir: str | Path,
    config: str | Mapping[str, Any],
    changes: Mapping[str, Any] | None = None,
    labels: Any = None,
    test_images: Any = None,
    test_labels: Any = None,
) -> "Trained":
    """Trains a config on own images; the same call goes on where it was interrupted, and returns what is finished.

    Args:
        images: uint8 [N, H, H, C] or [N, H, H], grey or in colour; they are kept in DIR/images.npz.
        workdir: of the run, as every command takes it.
        config: "configs/X.py:variant", or a config as a dict.
        changes: fields by their dotted names, {"train.steps": 1000}: what messages call --config.train.steps=1000.
        labels: whole numbers from 0, one an image; None: the priors are told none.
        test_images: what is measured on at the end; None: a twentieth of the images, by hash, which are not trained on.
        test_labels: theirs.

    Raises:
        UserError: arrays of another kind, a wrong config, a workdir of other images.
        SystemExit: an interrupt stopped the training; everything is saved.
    """
    from vqvae_jax import fitted

    _check_path("workdir", workdir, needed=True)
    return fitted.fit(images, workdir, config, changes, labels, test_images, test_labels)


def fit_prior(
    tokens: Any,
    codes: int,
    workdir: str | Path,
    prior: Mapping[str, Any],
    labels: Any = None,
    label_names: Sequence[str] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> "Trained":
    """Trains a prior on own tokens, whatever made them: `sample_tokens`, `nll_tokens` and `fill` of it are there.

    Args:
        tokens: whole numbers [N, h, w] of one map, or a list of several maps of one level; kept in DIR/own_tokens.
        codes: how many values a token has.
        workdir: of the run.
        prior: as a config's section: {"name": "transformer", "width": 64, "train": {"steps": 1000}}.
        labels: whole numbers from 0, one an example, for a prior with label_condition.
        label_names: theirs; None: their numbers.
        changes: other fields of the config, as for `fit`.

    Raises:
        UserError, SystemExit: as `fit`.
    """
    from vqvae_jax import fitted

    _check_path("workdir", workdir, needed=True)
    return fitted.fit_prior(tokens, codes, workdir, prior, labels, label_names, changes)


def _check_path(name: str, value: Any, needed: bool = False) -> None:
    """UserError for what is no path."""
    from vqvae_jax.types import UserError

    if (needed or value is not None) and not isinstance(value, str | Path):
        raise UserError(f"{name} is the path of a folder; got {value!r}")
