"""Every config and variant is built and traced at full size: nothing is computed, no data are needed."""

import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from small_features import write_features

from vqvae_jax import codec, sample, train
from vqvae_jax import config as configs
from vqvae_jax.networks.fast import plain
from vqvae_jax.parts import Parts
from vqvae_jax.priors.draw import CHUNK, draw_group
from vqvae_jax.stages import task_of
from vqvae_jax.tasks.optimize import make_optimizer
from vqvae_jax.tasks.prior import PriorTask
from vqvae_jax.types import Condition

LATE = 999_999  # steps
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


def maps_of(levels, count):
    return tuple(like((count, *level.form), level.dtype) for level in levels)


def trained(task, batch):
    """Shapes of the model after a step of the last phase, which changes no shape of the state."""
    state = jax.eval_shape(task.init, jax.random.key(0), batch)
    step = functools.partial(task.train_step, frozen=task.frozen(), phase=task.phase(LATE))
    after, metrics = jax.eval_shape(step, state, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert all(x.shape == () for x in metrics.values()) and {"loss", "grad_norm"} <= set(metrics)
    model = jax.eval_shape(task.model, state)
    for leaf in jax.tree.leaves((model.params, [book.codes for book in model.codebooks.values()])):
        assert leaf.dtype == jnp.float32
    return model


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """Frozen nets of random weights, for the configs that compare in their maps."""
    path = tmp_path_factory.mktemp("nets") / "features.npz"
    write_features(path, "mobilenet_v2", "vgg16")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VQVAE_JAX_FEATURES", str(path))
        yield


def marks(argument):
    """The demo's are traced by `make test`, the others by `make thorough` alone."""
    return () if "openmoji_hierarchical" in argument else pytest.mark.thorough


@pytest.mark.parametrize("argument", [pytest.param(one, marks=marks(one)) for one in arguments()])
def test_every_stage_of_every_config_traces_at_full_size(argument, request):
    config = configs.read(argument)
    if "perceptual" in config["loss_weights"]:
        request.getfixturevalue("nets")
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
    model = trained(task, {"image": images})
    back = jax.eval_shape(lambda m, x: codec.reconstruct(autoencoder, dataset["range"], m, x), model, images)
    levels = made.levels
    assert [x.shape for x in back] == [images.shape] * len(levels)

    own = slice(0, len(levels))
    for level in (level for level in configs.levels(config) if level in config["priors"]):
        own, section = made.maps_of(level), config["priors"][level]
        optimizer, pick = tuple(section["optimizer"].items()), sample.pick_of(config["sample"])
        prior = made.prior(level)
        trace_prior(prior, section["train"]["batch_size"], optimizer, pick)
    drawn = maps_of(levels[: own.stop], CHUNK)
    decoded = jax.eval_shape(lambda m, t: codec.decode(autoencoder, dataset["range"], m, t), model, drawn)
    assert decoded.shape == (CHUNK, size, size, known["channels"]) and decoded.dtype == jnp.uint8


@functools.cache  # variants of a config share their priors
def trace_prior(prior, batch, optimizer, pick):
    """A training step, and CHUNK maps drawn."""
    train.make_mesh(batch)
    levels = (*prior.above, *prior.maps)
    task = PriorTask(prior, slice(len(prior.above), len(levels)), make_optimizer(dict(optimizer), 1000))
    model = trained(task, {"tokens": maps_of(levels, batch), "label": like((batch,))})
    condition = Condition(like((CHUNK,)), maps_of(prior.above, CHUNK))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), CHUNK))
    new = jax.eval_shape(lambda *a: draw_group(prior, pick, *a, None, None), model, keys, condition)
    assert [(one.shape, str(one.dtype)) for one in new] == [((CHUNK, *level.form), level.dtype) for level in prior.maps]
