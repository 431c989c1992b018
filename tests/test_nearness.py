"""Distances and LPIPS in evaluate, compare and the report; what is said where something is missing."""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from small_features import narrow, write_features
from test_recipe import trained_run

import vqvae_jax
from vqvae_jax import evaluate, nearness, report
from vqvae_jax.compare import models
from vqvae_jax.data.arrays import Arrays
from vqvae_jax.distance import protocol
from vqvae_jax.distance.pictures import between
from vqvae_jax.features import NETS, file
from vqvae_jax.features.frozen import load
from vqvae_jax.types import UserError

FRECHET, KERNEL = "fd_mobilenet_v2", "kd_mobilenet_v2"
NAMES = {FRECHET, f"{FRECHET}_spread", KERNEL, f"{KERNEL}_spread", "precision", "recall"}
SAMPLES = 24


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return trained_run(tmp_path_factory)


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained[0], tmp_path / "run"))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Where the file of frozen nets is looked for; a narrow net passes for MobileNetV2, and 20 images are enough."""
    monkeypatch.setitem(NETS, "mobilenet_v2", narrow()[0])
    monkeypatch.setattr(protocol, "FEWEST", protocol.FEW)
    path = tmp_path / "features.npz"
    monkeypatch.setenv(file.PLACE, str(path))
    return path


def test_without_a_file_one_line_says_so_and_evaluation_goes_on(run, place, capsys):
    metrics = evaluate.evaluate(run)
    said = capsys.readouterr().err.splitlines()
    assert (
        len(said) == 1
        and f"{place}: there is no file of frozen nets" in said[0]
        and "python -m vqvae_jax features --from=" in said[0]
    )
    assert "distances" not in metrics and "psnr" in metrics["autoencoder"]


def test_distances_stand_in_the_metrics_and_on_the_page(run, place, capsys):
    write_features(place, "mobilenet_v2")
    metrics = evaluate.evaluate(run, samples=SAMPLES)
    assert f"drawing {SAMPLES} samples" in capsys.readouterr().err
    assert json.loads((run / "metrics.json").read_text())["distances"] == metrics["distances"]
    assert {kind: one["count"] for kind, one in metrics["distances"].items()} == {"reconstructions": 20, "samples": 24}
    for one in metrics["distances"].values():
        assert set(one) == NAMES | {"count", "reference", "floor"} and set(one["floor"]) == NAMES
        assert one["fd_mobilenet_v2"] >= 0 and one["fd_mobilenet_v2_spread"] > 0
    model = vqvae_jax.load(run)
    training = nearness.training_images(model, model.sample(2, 0))
    again = between(load("mobilenet_v2"), training, model.sample(SAMPLES, nearness.SEED))
    assert again == metrics["distances"]["samples"]
    page = report.write(run).read_text().replace("<wbr>", "")
    assert "FD, samples" in page and "distances/samples/floor/kd_mobilenet_v2" in page


def test_no_samples_are_drawn_where_none_are_asked_for_or_a_level_has_no_prior(run, place):
    write_features(place, "mobilenet_v2")
    assert set(evaluate.evaluate(run, samples=0)["distances"]) == {"reconstructions"}
    shutil.rmtree(run / "bottom" / "checkpoints")
    assert set(evaluate.evaluate(run, samples=SAMPLES)["distances"]) == {"reconstructions"}


def test_what_is_missing_is_told_in_a_line(run, place, trained, capsys, tmp_path):
    write_features(place, "mobilenet_v2")
    assert nearness.measure([vqvae_jax.load(run)], split(trained[1], 5), 0) == [{"distances": {}}]
    assert "no distances of reconstructions: distances want 20 images" in capsys.readouterr().err
    assert nearness.drawn(vqvae_jax.load(run), 5) == {}
    assert "--samples=5 are too few, at least 20; --samples=500 has all" in capsys.readouterr().err
    model = vqvae_jax.load(run)
    model.config["dataset"]["path"] = str(tmp_path / "gone.npz")
    assert nearness.training_images(model, model.sample(2, 0)) is None
    assert "the training images are not to be had" in capsys.readouterr().err
    model = vqvae_jax.load(run)
    assert nearness.training_images(model, np.zeros((2, 32, 32, 3), np.uint8)) is None
    assert "[16, 16, 3], these [32, 32, 3]" in capsys.readouterr().err


def test_why_there_is_no_frechet_distance_is_told_in_a_line(capsys):
    found = {"count": 100, "reference": 1497, KERNEL: 0.1}
    nearness.say_without_frechet(found, "samples")
    nearness.say_without_frechet(found, "reconstructions")
    nearness.say_without_frechet({**found, FRECHET: 1.0}, "samples")
    why = "it wants 500 a side, there are 100 images and 1497 training images"
    said = [f"no fd of samples: {why}; --samples=500", f"no fd of reconstructions: {why}"]
    assert capsys.readouterr().err.splitlines() == said


def test_a_file_without_a_net_for_distances_is_told(place, capsys):
    np.savez(place, **{"other/kernel": np.ones(3)})
    assert nearness.frozen_net() is None
    assert f"{place} holds none of mobilenet_v2, eff" in capsys.readouterr().err


def split(path, count):
    """So many test images."""
    return Arrays(np.load(path)["test_image"][:count])


def test_images_of_other_sizes_are_told(place):
    write_features(place, "mobilenet_v2")
    small, large = (np.zeros((60, size, size, 3), np.uint8) for size in (8, 16))
    with pytest.raises(UserError, match=r"16 x 16 pixels beside training images of 8 x 8"):
        between(load("mobilenet_v2"), small, large)


def test_of_both_nets_the_first_is_taken(place):
    assert nearness.frozen_net() is None
    write_features(place, "efficientnet_lite0")
    assert nearness.frozen_net().net.name == "efficientnet_lite0"
    write_features(place, "mobilenet_v2")
    assert nearness.frozen_net().net.name == "mobilenet_v2"


def test_lpips_is_a_metric_where_vgg16_is_there(run, place, monkeypatch):
    """The net and its heads are handed over; of equal pictures it is 0."""
    monkeypatch.setattr(nearness, "has_lpips", lambda: True)
    net, arrays = narrow("vgg16")
    heads = {"heads/0": np.ones(4, np.float32), "heads/1": np.full(8, 2, np.float32)}
    monkeypatch.setattr(nearness, "load_perceptual", lambda name: (net, arrays | heads))
    assert evaluate.evaluate(run, samples=0)["lpips"] > 0
    same = np.zeros((3, 16, 16, 3), np.uint8)
    assert nearness.mean_lpips(same, same)["lpips"] == pytest.approx(0, abs=1e-9)
    one, other = np.random.default_rng(0).integers(0, 256, (2, 70, 16, 16, 3), np.uint8)
    each = nearness._apart(net, arrays | heads, jnp.asarray(one), jnp.asarray(other))
    assert nearness.mean_lpips(one, other)["lpips"] == pytest.approx(float(jnp.mean(each)), rel=1e-4)


def test_two_models_are_compared_and_a_tie_is_called_one(run, place, tmp_path):
    write_features(place, "mobilenet_v2")
    found = models.compare(run, run, tmp_path / "x.png", {}, samples=SAMPLES)
    rows = {line.split()[0]: line for line in models.table(found)}
    assert rows["fd_mobilenet_v2/samples"].endswith("+0.0000  a tie")
    assert rows["mse"].endswith("+0.0000  of images in [0, 1]")
    assert not rows["psnr"].endswith("tie") and "fd_mobilenet_v2/samples/floor" in rows
    found["B"]["metrics"]["fd_mobilenet_v2/samples"] += 50
    rows = {line.split()[0]: line for line in models.table(found)}
    assert rows["fd_mobilenet_v2/samples"].endswith("+50.0000")
