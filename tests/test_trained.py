"""What was trained, as one object: sampling, encoding, decoding. The run is the one of test_recipe.py."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from test_codec import Pending, check_dispatched_ahead
from test_recipe import models, picture, trained_run

import vqvae_jax
from vqvae_jax import backend, data, drawn, sample
from vqvae_jax.asked import Asked, Told
from vqvae_jax.priors.draw import maps_at_once
from vqvae_jax.sample import label_numbers
from vqvae_jax.types import Pick, UserError


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return trained_run(tmp_path_factory)


@pytest.fixture(scope="module")
def model(trained):
    return vqvae_jax.load(trained[0])


@pytest.fixture(scope="module")
def images(model):
    return data.load(model.config["dataset"], "test").image


def test_tokens_of_images_and_images_of_tokens(model, images):
    tokens = model.encode(images)
    assert [(one.shape, one.dtype) for one in tokens] == [((20, 2, 2), np.int32), ((20, 4, 4), np.int32)]
    versions = model.reconstruct(images)
    assert [version.shape for version in versions] == [images.shape] * 2 and versions[0].dtype == np.uint8
    np.testing.assert_array_equal(model.decode(tokens), versions[1])
    np.testing.assert_array_equal(model.decode(tokens[:1]), versions[0])
    assert (versions[0] != versions[1]).any()


def test_images_of_another_size(model, images):
    wide = np.concatenate([images, images], axis=2)[:, :8]
    assert [one.shape for one in model.encode(wide)] == [(20, 1, 4), (20, 2, 8)]
    assert model.reconstruct(wide)[1].shape == wide.shape


def test_batches_do_not_change_what_comes_out(model, images):
    many = np.concatenate([images] * 4)  # more than are taken at once
    for one, other in zip(model.encode(many), model.encode(images), strict=True):
        np.testing.assert_array_equal(one[-20:], other)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 16, 16, 3)),
        np.zeros((16, 16, 3), np.uint8),
        np.zeros((2, 16, 16, 1), np.uint8),
        np.zeros((2, 12, 16, 3), np.uint8),
        np.zeros((0, 16, 16, 3), np.uint8),
        np.zeros((2, 0, 16, 3), np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)
def test_arrays_that_are_no_images(model, wrong):
    with pytest.raises(UserError, match=r"got .*\["):
        model.encode(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda top, bottom: (),
        lambda top, bottom: (top[0],),
        lambda top, bottom: (bottom, top),
        lambda top, bottom: (top, bottom[:3]),
        lambda top, bottom: (top, bottom, bottom),
        lambda top, bottom: (top + 99, bottom),
        lambda top, bottom: (top - 99, bottom),
    ],
)
def test_arrays_that_are_no_tokens(model, images, wrong):
    with pytest.raises(UserError):
        model.decode(wrong(*model.encode(images)))


def test_samples_that_are_none(model):
    for count in (0, -1, "3", 1.0, True):
        with pytest.raises(UserError, match="count is a whole number of at least 1; got"):
            model.sample(count)
    for wrong, near in (("temprature", "temperature"), ("cuont", "count"), ("lable", "label")):
        with pytest.raises(UserError, match=f"takes '{wrong}'; did you mean '{near}'"):
            model.sample(**{wrong: 1})


def test_weights_lie_on_the_device(model):
    """Else each batch would bring them there anew."""
    for array in jax.tree.leaves([model.autoencoder[1], *(weights for _, weights in model.priors.values())]):
        assert isinstance(array, jax.Array) and array.devices() == {backend.device()}


# --- sampling


@pytest.mark.parametrize("memory", [None, 8 << 30])
def test_maps_are_dispatched_before_the_last_ones_are_fetched(monkeypatch, memory):
    """In chunks as large as memory allows, and no larger than what is asked for."""
    events, sizes, chunk = [], [], maps_at_once(memory)

    def draw(asked, keys, told, given, bar):
        sizes.append(len(keys))
        return (Pending(len(sizes) - 1, np.asarray(told.label)[:, None, None], events),)

    monkeypatch.setattr("vqvae_jax.drawn.memory", lambda: memory)
    monkeypatch.setattr(drawn, "draw_levels", draw)
    labels = np.arange(5 * chunk - 3, dtype=np.int32)
    (maps,) = drawn.in_chunks(Asked(1, 0, Pick(), {}), Told(labels))
    np.testing.assert_array_equal(maps[:, 0, 0], labels)
    assert sizes == [chunk] * 5
    check_dispatched_ahead(events, 5)
    drawn.in_chunks(Asked(1, 0, Pick(), {}), Told(labels[:7]))
    assert sizes[5:] == [7]


def test_more_maps_at_once_are_the_same_maps(model, monkeypatch):
    few = model.sample_tokens(130, 2)
    monkeypatch.setattr("vqvae_jax.drawn.memory", lambda: 4 << 30)
    for one, other in zip(model.sample_tokens(130, 2), few, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_seed_is_its_images(model):
    images = [model.sample(64, seed) for seed in (3, 3, 4)]
    assert images[0].shape == (64, 16, 16, 3) and images[0].dtype == np.uint8
    assert images[0].tobytes() == images[1].tobytes() != images[2].tobytes()


def test_more_images_than_are_drawn_at_once(model):
    many = model.sample(70)
    assert len(many) == 70
    np.testing.assert_array_equal(many[:64], model.sample(64))
    assert not np.array_equal(many[64:], many[:6])


def test_samples_at_the_end_are_those_of_the_configs_seed(model, trained, tmp_path):
    sample.save(model.sample(64), tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes() == (trained[0] / "samples.png").read_bytes()


def test_a_negative_seed_is_a_seed(model):
    assert not np.array_equal(model.sample(64, -1), model.sample(64, 0))


def test_sampled_tokens_are_the_sampled_images(model):
    np.testing.assert_array_equal(model.decode(model.sample_tokens(5, 2)), model.sample(5, 2))


def test_labels_are_drawn_as_often_as_they_were_seen(model):
    counts = np.bincount(label_numbers(model.facts, 0, 3000, None, True), minlength=3) / 3000
    seen = np.array(model.facts["label_counts"])
    np.testing.assert_allclose(counts, seen / seen.sum(), atol=0.04)


def test_a_label_by_name_or_number(model):
    assert (
        list(label_numbers(model.facts, 0, 2, "1", True)) == list(label_numbers(model.facts, 0, 2, 1, True)) == [1, 1]
    )
    assert sample.find_label("happy", ["sad", "happy"]) == 1
    uncounted = {"label_names": ["sad", "happy"], "label_counts": [0, 0]}
    assert set(label_numbers(uncounted, 0, 50, None, True)) == {0, 1}
    months, years = list(map(str, range(1, 13))), ["2024", "1", "0"]
    assert [sample.find_label(name, months) for name in months] == list(range(12))  # a name goes before a number
    assert [sample.find_label(name, years) for name in years] == [0, 1, 2]
    assert [sample.find_label(number, years) for number in (0, 1, 2, np.int64(2), 2024)] == [0, 1, 2, 2, 0]
    assert sample.find_label(12, months) == 11 and sample.find_label("0", months) == 0  # what is no number, no name
    for names, wrong in (
        (months, "13"),
        (years, "3"),
        (years, -1),
        (["sad"], "-0"),
        (["sad"], 5000 * "9"),
        (["sad"], "1.0"),
        (["sad"], "²"),
    ):
        with pytest.raises(UserError, match=f"no label '{wrong}'"):
            sample.find_label(wrong, names)
    same = model.sample(64, label="1"), model.sample(64, label=1), model.sample(64, label=2)
    assert same[0].tobytes() == same[1].tobytes() != same[2].tobytes()
    with pytest.raises(UserError, match="no label '7'.*There are: 0, 1, 2"):
        model.sample(64, label="7")


def test_a_label_for_priors_that_know_none(model):
    """Left out silently, the pictures would be of any label."""
    assert list(label_numbers(model.facts, 0, 2, None, False)) == list(label_numbers(model.facts, 0, 2, None, True))
    with pytest.raises(UserError, match="without label_condition; leave label out"):
        label_numbers(model.facts, 0, 1, "1", False)


def test_priors_that_always_saw_the_label(trained, images):
    """label_dropout=0: what they say without one was never learned."""
    model = vqvae_jax.load(trained[0])
    priors = {level: (prior.clone(label_dropout=0.0), weights) for level, (prior, weights) in model.priors.items()}
    model.__dict__["priors"] = priors
    assert model.sample_tokens(2)[0].shape == (2, 2, 2)
    assert model.complete(images[:1], label="1").shape == (1, 1, 16, 16, 3)
    for ask in (model.sample, lambda **pick: model.complete(images[:1], label="1", **pick)):
        with pytest.raises(
            UserError, match="guidance=2 .*--config.priors.top.label_dropout=0.1, or leave guidance at 1"
        ):
            ask(guidance=2.0)
    with pytest.raises(UserError, match="no label is told.*--config.priors.top.label_dropout=0.1, or tell a label"):
        model.complete(images[:1])


def test_forms_of_output(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    for name in ("a.png", "b.npz", "folder"):
        sample.save(images, tmp_path / "new" / name)
    assert list(np.load(tmp_path / "new/b.npz")) == ["arr_0"]
    np.testing.assert_array_equal(np.load(tmp_path / "new/b.npz")["arr_0"], images)
    pictures = [picture(path) for path in sorted((tmp_path / "new/folder").iterdir())]
    np.testing.assert_array_equal(pictures, images)
    with pytest.raises(UserError, match="x.jpg"):
        sample.save(images, tmp_path / "x.jpg")


def test_sampling_reads_no_optimizer(trained, tmp_path):
    """The checkpoint's item `train` may be gone."""
    copy = Path(shutil.copytree(trained[0], tmp_path / "run"))
    for folder in copy.glob("*/checkpoints/*/train"):
        shutil.rmtree(folder)
    jax.tree.map(np.testing.assert_array_equal, models(copy), models(trained[0]))
