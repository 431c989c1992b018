"""An .npz is read as it is, divided without overlap, and refused with a line that says what to do."""

from pathlib import Path

import numpy as np
import pytest

from vqvae_jax import data
from vqvae_jax.data import npz
from vqvae_jax.types import UserError

RNG = np.random.default_rng(0)


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "tiny.npz"
    image = RNG.integers(0, 256, (400, 4, 4, 3), np.uint8)
    label = RNG.integers(0, 5, 400)
    grey = RNG.integers(0, 256, (6, 4, 4), np.uint8)
    zeros = np.zeros(6, np.uint8)
    np.savez(file, train_image=image, train_label=label, test_image=grey, test_label=zeros, odd_image=image)
    return str(file)


def section(path):
    return {"name": "npz", "path": path, "split": "train", "test_split": "test", "image_size": 4}


def test_images_and_labels_are_those_of_the_file(path):
    arrays = npz.read(path, "train", 4)
    with np.load(path) as file:
        np.testing.assert_array_equal(arrays.image, file["train_image"])
        np.testing.assert_array_equal(arrays.label, file["train_label"])
    assert arrays.label.dtype == np.int32 and arrays.text is None
    assert npz.read(path, "odd", 4).label is None


def test_grey_images_gain_a_channel_and_splits_agree_on_the_labels(path):
    test = npz.read(path, "test", 4)
    assert test.image.shape == (6, 4, 4, 1)
    assert test.num_labels == npz.read(path, "train", 4).num_labels == 5


def test_train_and_validation_divide_the_split(path):
    parts = [data.load(section(path), part) for part in ("train", "validation")]
    whole = {image.tobytes() for image in npz.read(path, "train", 4).image}
    train, validation = ({image.tobytes() for image in part.image} for part in parts)
    assert train | validation == whole and not train & validation and validation
    assert len(data.load(section(path), "test")) == 6


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"test_image": np.zeros((2, 4, 4, 3), np.uint8)}, "no array 'train_image'; its splits: test"),
        ({"train_image": np.zeros((2, 4, 4, 3), np.float32)}, "train_image is float32; it must be uint8"),
        ({"train_image": np.zeros((4, 4), np.uint8)}, r"shape \(4, 4\); it must be"),
        ({"train_image": np.zeros((2, 8, 8, 3), np.uint8)}, "not 4: --config.dataset.image_size=8"),
        ({"train_image": np.zeros((2, 4, 6, 3), np.uint8)}, "4 x 6 pixels; crop or resize"),
        ({"train_image": np.zeros((2, 4, 4), np.uint8), "train_label": np.zeros(3, int)}, "3 labels for 2 images"),
        ({"train_image": np.zeros((2, 4, 4), np.uint8), "train_label": np.zeros(2)}, "train_label is float64"),
        ({"train_image": np.array([None])}, "cannot be read"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(UserError, match=message):
        npz.read(str(tmp_path / "bad.npz"), "train", 4)


def test_a_file_that_is_missing_or_no_npz_is_named(tmp_path, path):
    with pytest.raises(UserError, match="none.npz: there is no such file"):
        npz.read(str(tmp_path / "none.npz"), "train", 4)
    with pytest.raises(UserError, match="--config.dataset.path=FILE.npz"):
        npz.read("", "train", 4)
    np.save(tmp_path / "one.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("no arrays")
    (tmp_path / "cut.npz").write_bytes(Path(path).read_bytes()[:5000])
    for name, message in [("one.npy", "one array without a name"), ("text.npz", "text.npz"), ("cut.npz", "cut.npz")]:
        with pytest.raises(UserError, match=message):
            npz.read(str(tmp_path / name), "train", 4)


def test_real_cifar_images(request):
    path = request.config.rootpath.parent / "shared/data/cifar10_subset.npz"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    config = {**section(str(path)), "image_size": 32}
    train, validation, test = (data.load(config, part) for part in data.PARTS)
    assert len(train) + len(validation) == 4068 and len(test) == 508
    assert train.num_labels == test.num_labels == 10
    assert 120 < len(validation) < 290
