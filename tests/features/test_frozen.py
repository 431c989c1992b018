"""Features of images of a data set: their shape, batches, devices, grey images; a perceptual loss in a training."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_features import narrow, torch_tensors, write_features
from test_train import Patches

from vqvae_jax import config as configs
from vqvae_jax import recipe
from vqvae_jax.features import NETS, file
from vqvae_jax.features.frozen import Frozen
from vqvae_jax.features.perceptual import perceptual
from vqvae_jax.tasks.autoencode import AutoencodeTask
from vqvae_jax.types import UserError

ROOT = Path(__file__).parents[2]
NET, ARRAYS = narrow()
WEIGHTS = {"reconstruction": 1.0, "commitment": 0.25, "codebook": 1.0}


@pytest.fixture
def frozen(monkeypatch):
    """A narrow net under the name of MobileNetV2."""
    monkeypatch.setitem(NETS, NET.name, NET)
    return Frozen(NET, ARRAYS)


@pytest.fixture
def place(tmp_path, monkeypatch):
    path = tmp_path / "features.npz"
    monkeypatch.setenv(file.PLACE, str(path))
    return path


def pictures(count, size=32, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, channels), np.uint8)


def test_features_are_means_over_places_in_batches_of_any_size(frozen, monkeypatch):
    images = pictures(11, 24)
    expected = np.asarray(jax.jit(NET.maps)(frozen.arrays, images / 255.0)[3]).mean((1, 2))
    assert expected.shape == (11, 8)
    for pixels in (1, 4 * 24 * 24):
        monkeypatch.setattr("vqvae_jax.features.frozen.PIXELS", pixels)
        np.testing.assert_allclose(frozen.pooled(images), expected, rtol=1e-4, atol=1e-5)


def test_grey_images_are_repeated_to_three_channels(frozen):
    grey = pictures(2, 28, 1)
    np.testing.assert_array_equal(frozen.pooled(grey), frozen.pooled(grey.repeat(3, -1)))


@pytest.mark.parametrize("wrong", [pictures(2, 16, 2), pictures(2)[0], pictures(0), pictures(2) / 255])
def test_what_are_no_images_is_told(wrong, frozen):
    with pytest.raises(UserError, match="uint8"):
        frozen.pooled(wrong)


def test_lpips_wants_sixteen_pixels():
    with pytest.raises(UserError, match="16 pixels"):
        NETS["vgg16"].maps({}, jnp.zeros((1, 12, 12, 3)))


def test_four_devices_see_what_one_sees(tmp_path):
    """13 images do not divide among them: what fills up is not counted."""
    arrays = NETS["mobilenet_v2"].from_torch(torch_tensors("mobilenet_v2"))
    write_features(tmp_path / "x.npz", "mobilenet_v2")
    np.save(tmp_path / "images.npy", pictures(13, 16))
    code = "import sys, numpy as np; from pathlib import Path; from vqvae_jax.features.frozen import load; import jax; "
    code += "assert jax.device_count() == 4; here = Path(sys.argv[1]); net = load('mobilenet_v2', here / 'x.npz'); "
    code += "np.save(here / 'seen.npy', net.pooled(np.load(here / 'images.npy')))"
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    environment = dict(os.environ, PYTHONPATH=str(ROOT), JAX_PLATFORMS="cpu", XLA_FLAGS=flags)
    subprocess.run([sys.executable, "-c", code, tmp_path], env=environment, check=True, timeout=120)
    seen = np.load(tmp_path / "seen.npy")
    assert seen.shape == (13, 96)
    np.testing.assert_allclose(
        seen, Frozen(NETS["mobilenet_v2"], arrays).pooled(pictures(13, 16)), rtol=1e-4, atol=1e-4
    )


# --- the loss term


class Painted(Patches):
    """Its image is what it decoded."""

    def __call__(self, images, codebooks, **more):
        out = super().__call__(images, codebooks, **more)
        b, height, width, c = images.shape
        tiles = out.levels[0].reshape(b, height // 4, width // 4, 4, 4, c).swapaxes(2, 3)
        return out._replace(images=tiles.reshape(images.shape))


def task(low=0.0, high=1.0, weights=None, **more):
    weights = WEIGHTS | {"perceptual": 0.1} if weights is None else weights
    return AutoencodeTask(Painted(), optax.sgd(0.1), weights, (low, high), **more)


def stepped(one, images, arrays):
    batch = {"image": images}
    state = jax.jit(one.init)(jax.random.key(0), batch)
    new, metrics = jax.jit(one.train_step)(state, batch, arrays, None)
    return state, new, metrics


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_the_term_is_the_distance_and_has_its_weight(low, frozen):
    one, images = task(low), pictures(4, 16)
    state, _, metrics = stepped(one, images, frozen.arrays)
    seen = low + (1 - low) * images / 255
    apply = partial(one.autoencoder.apply, train=True)
    out = jax.jit(apply)({"params": state.params}, seen, state.codebooks, key=jax.random.key(0))
    made = (out.images - low) / (1 - low)
    apart = np.mean(jax.jit(partial(perceptual, NET))(frozen.arrays, made, jnp.asarray(images / 255.0)))
    assert float(metrics["perceptual"]) == pytest.approx(float(apart), rel=1e-3)
    weighed = sum(float(one._weight(term)) * float(metrics[term]) for term in out.losses)
    assert float(metrics["loss"]) == pytest.approx(weighed + 0.1 * float(metrics["perceptual"]), rel=1e-5)


def test_the_term_moves_the_network_and_parts_change_nothing(frozen):
    images = pictures(4, 16)
    whole, parts, without = (
        stepped(one, images, arrays)[1].params
        for one, arrays in (
            (task(), frozen.arrays),
            (task(accumulate=2), frozen.arrays),
            (task(weights=WEIGHTS), None),
        )
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), whole, parts)
    apart = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), whole, without)
    assert max(jax.tree.leaves(apart)) > 1e-4


def test_the_net_is_handed_to_the_step_and_not_baked_into_it(frozen):
    one, batch = task(), {"image": pictures(4, 16)}
    state = jax.eval_shape(one.init, jax.random.key(0), batch)
    program = jax.make_jaxpr(one.train_step)(state, batch, dict(frozen.arrays), None)
    assert max((np.size(const) for const in program.consts), default=0) < 100


def test_gradients_are_finite_at_equal_pictures_and_at_white_ones(frozen):
    white = jnp.ones((2, 16, 16, 3))
    for images in (white, jnp.asarray(pictures(2, 16) / 255.0, jnp.float32)):
        apart = lambda x, y: jnp.sum(perceptual(NET, frozen.arrays, x, y))  # noqa: E731
        value, gradient = jax.jit(jax.value_and_grad(apart))(images, images)
        assert float(value) < 1e-9 and np.all(np.isfinite(gradient))


def test_frozen_arrays_are_those_of_the_net_that_the_config_names(place):
    assert task(weights=WEIGHTS).frozen() is None
    write_features(place, "efficientnet_lite0")
    assert set(task(perceptual_net="efficientnet_lite0").frozen()) == set(NETS["efficientnet_lite0"].shapes)
    with pytest.raises(UserError, match="holds no mobilenet_v2"):
        task().check(("reconstruction", "commitment/top", "codebook/bottom"))
    with pytest.raises(UserError, match="did you mean 'perceptual'"):
        task(weights=WEIGHTS | {"perceptal": 1.0}).check(("reconstruction", "commitment/top", "codebook/bottom"))


def test_a_missing_file_is_told_before_anything_and_when_a_run_goes_on(place, frozen, tmp_path):
    from test_recipe import tiny, write_data

    run, config = tmp_path / "run", tiny(write_data(tmp_path / "data.npz", count=64))
    config = configs.complete(config | {"priors": {}, "loss_weights": config["loss_weights"] | {"perceptual": 0.1}})
    with pytest.raises(UserError, match="there is no file of frozen nets"):
        recipe.run(config, run)
    assert not (run / "config.json").exists()
    write_features(place, "mobilenet_v2")
    recipe.Recipe(config, run).check()
    assert (run / "config.json").exists()
    place.unlink()
    with pytest.raises(UserError, match="there is no file of frozen nets"):
        recipe.Recipe(config, run).check()


def test_a_stored_config_of_before_has_the_default_net():
    stored = configs.read("configs/openmoji_hierarchical.py")
    before = stored | {"task": {"name": "autoencode"}}
    assert configs.complete(before) == stored
