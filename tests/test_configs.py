"""Every config and variant is built and traced at full size: nothing is computed, no data are needed."""

import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from vqvae_jax import codec, sample, train
from vqvae_jax import config as configs
from vqvae_jax.networks.fast import plain
from vqvae_jax.parts import Parts
from vqvae_jax.priors.draw import CHUNK, draw_group
from vqvae_jax.stages import task_of
from vqvae_jax.tasks.optimize import make_optimizer
from vqvae_jax.tasks.prior import PriorTask
from vqvae_jax.types import Condition, Model

LABELS = ("activities", "animals", "extras", "flags", "food", "objects", "people", "symbols", "travel")


def arguments():
    """Every file with each of its variants, as typed after --config=."""
    for path, _ in configs.available():
        spec = importlib.util.spec_from_file_location(Path(path).stem, configs.ROOT / path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield from (path, *(f"{path}:{name}" for name in getattr(module, "VARIANTS", {})))


def facts(config):
    grey = config["dataset"]["name"] in ("mnist", "fashion_mnist")
    size = config["dataset"]["image_size"]
    return {"image_size": size, "channels": 1 if grey else 3, "label_names": list(LABELS)}


def like(shape, dtype=jnp.int32):
    return jax.ShapeDtypeStruct(shape, dtype)


def trained(task, batch):
    """Shapes of the state before and after a step, and of its metrics."""
    state = jax.eval_shape(task.init, jax.random.key(0), batch)
    after, metrics = jax.eval_shape(task.train_step, state, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert all(x.shape == () for x in metrics.values()) and {"loss", "grad_norm"} <= set(metrics)
    return state


def check_float32(state):
    for leaf in jax.tree.leaves((state.params, [book.codes for book in state.codebooks.values()])):
        assert leaf.dtype == jnp.float32


@pytest.mark.parametrize("argument", list(arguments()))
def test_every_stage_of_every_config_traces_at_full_size(argument):
    config = configs.read(argument)
    with plain():  # as on an accelerator: a CPU's formulations have more operations to trace
        trace(config)


def trace(config):
    known = facts(config)
    size = config["dataset"]["image_size"]
    train.make_mesh(config["train"]["batch_size"])

    made = Parts(config, known)
    autoencoder, dataset = made.autoencoder, config["dataset"]
    task = task_of(made, "autoencoder", steps=1000)
    task.check(made.loss_terms("autoencoder"))
    images = like((config["train"]["batch_size"], size, size, known["channels"]), jnp.uint8)
    state = trained(task, {"image": images})
    check_float32(state)
    model = Model(state.params, state.codebooks)
    back = jax.eval_shape(lambda m, x: codec.reconstruct(autoencoder, dataset["range"], m, x), model, images)
    levels = made.levels
    maps = [level.shape for level in levels]
    assert [x.shape for x in back] == [images.shape] * len(maps)

    own = slice(0, len(maps))
    for level in (level for level in configs.levels(config) if level in config["priors"]):
        own, section = made.maps_of(level), config["priors"][level]
        optimizer, pick = tuple(section["optimizer"].items()), sample.pick_of(config["sample"])
        prior = made.prior(level)
        trace_prior(prior, tuple(maps), (own.start, own.stop), section["train"]["batch_size"], optimizer, pick)
    drawn = tuple(like((CHUNK, *level.form), level.dtype) for level in levels[: own.stop])
    decoded = jax.eval_shape(lambda m, t: codec.decode(autoencoder, dataset["range"], m, t), model, drawn)
    assert decoded.shape == (CHUNK, size, size, known["channels"]) and decoded.dtype == jnp.uint8


@functools.cache  # variants of a config share their priors
def trace_prior(prior, maps, own, batch, optimizer, pick):
    """A training step, and CHUNK maps drawn; `maps` the shapes of all levels', of which `own` are the prior's."""
    train.make_mesh(batch)
    task = PriorTask(prior, slice(*own), make_optimizer(dict(optimizer), 1000))
    tokens = tuple(like((batch, *shape)) for shape in maps[: own[1]])
    state = trained(task, {"tokens": tokens, "label": like((batch,))})
    check_float32(state)
    condition = Condition(like((CHUNK,)), tuple(like((CHUNK, *shape)) for shape in maps[: own[0]]))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), CHUNK))
    new = jax.eval_shape(lambda *a: draw_group(prior, pick, *a, None, None), Model(state.params, {}), keys, condition)
    assert [(one.shape, one.dtype) for one in new] == [((CHUNK, *shape), jnp.int32) for shape in maps[slice(*own)]]
