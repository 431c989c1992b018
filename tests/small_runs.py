"""Workdirs that are made and not trained: parameters by numpy, so that all that is told changes what is drawn."""

import jax
import jax.numpy as jnp
from small_models import drawn
from test_models import EVERY, NUMBERS
from test_recipe import tiny

from vqvae_jax import config as configs
from vqvae_jax import recipe
from vqvae_jax.checkpoint import Checkpoints
from vqvae_jax.quantizers.kl import statistics
from vqvae_jax.types import Model

DIFFUSION = {
    "name": "diffusion",
    "network": {"name": "dit", "width": 16, "layers": 1, "heads": 2, "patch": 2},
    "label_condition": True,
    "sample_steps": 2,
}


def of_numbers(path, prior=DIFFUSION, **changes):
    """The config of a KL autoencoder, 16 pixels to 4×4 places of three numbers, and a prior; one step each."""
    train = {**EVERY, "steps": 1}
    config = tiny(path)
    config["dataset"]["flip"] = False
    config["autoencoder"] = {"name": "vqvae", "width": 8, "residual_width": 4, "quantizer": NUMBERS}
    config |= {"loss_weights": {"reconstruction": 1.0, "kl": 1e-3}, "train": train}
    config["priors"] = {"codes": {**prior, "train": dict(train)}}
    for section, fields in changes.items():
        config[section] |= fields
    config = configs.complete(config)
    configs.check(config)
    return config


def made(config, workdir, seed=0):
    """A finished run of a config, as far as sampling is concerned."""
    run = recipe.Recipe(config, workdir)
    run.check()
    for stage in configs.stages(config):
        params, books = drawn(run.parts.abstract(stage).params), {}
        if stage == configs.AUTOENCODER:
            stats = statistics(jnp.full(3, 0.1 + seed), jnp.full(3, 2.0))
            books = run.parts.autoencoder.init_codebooks(jax.random.key(0))
            books = {level: book.replace(stats=stats) for level, book in books.items()}
        with Checkpoints(workdir / stage / "checkpoints") as checkpoints:
            checkpoints.save(1, Model(params, books), {}, config)
    return workdir
