"""An .npz is read as it is, divided without overlap, and refused with a line that says what to do."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vqvae_jax import data, evaluate
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


FOREIGN = {
    "Keras": ("x_train", "y_train", "x_test", "y_test"),
    "MedMNIST": ("train_images", "train_labels", "test_images", "test_labels"),
    "scikit-learn": ("X_train", "Y_train", "X_test", "Y_test"),
    "kinds first": ("images_train", "labels_train", "images_test", "labels_test"),
}


@pytest.mark.parametrize("names", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("first", [False, True], ids=["channels last", "channels first"])
def test_other_names_are_the_same_data(path, tmp_path, capsys, names, first):
    """As if they were ours; labels may be a column, as Keras has CIFAR-10's; what is taken for what is told once."""
    with np.load(path) as file:
        image, label = file["train_image"], file["train_label"]
    other = str(tmp_path / "other.npz")
    shown = np.moveaxis(image, -1, 1) if first else image
    np.savez(other, **dict(zip(names, (shown, label[:, None], shown[:9], label[:9, None]), strict=True)))
    ours, arrays, test = npz.read(path, "train", 4), npz.read(other, "train", 4), npz.read(other, "test", 4)
    np.testing.assert_array_equal(arrays.image, ours.image)
    np.testing.assert_array_equal(arrays.label, ours.label)
    np.testing.assert_array_equal(test.image, ours.image[:9])
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{names[0]} uint8 {list(shown.shape)} for train_image" in line
    assert f"{names[3]} int64 [9, 1] for test_label" in line and ("moved last" in line) == first


def test_a_set_without_splits_is_divided(tmp_path, capsys):
    """A twentieth is "test", whatever the order, and equal images are on one side."""
    image = RNG.integers(0, 256, (400, 4, 4), np.uint8)
    image = np.concatenate([image, image[::-1]])
    np.savez(tmp_path / "one.npz", images=image, labels=np.arange(800) % 7)
    train, test = (npz.read(str(tmp_path / "one.npz"), split, 4) for split in ("train", "test"))
    sides = [{one.tobytes() for one in side.image} for side in (train, test)]
    assert len(train) + len(test) == 800 and 10 < len(test) < 100 and not sides[0] & sides[1]
    assert train.num_labels == test.num_labels == 7
    number = {one.tobytes(): {i % 7, (799 - i) % 7} for i, one in enumerate(image[:400])}
    for side in (train, test):
        assert all(label in number[one.tobytes()] for one, label in zip(side.image, side.label, strict=True))
    assert (
        "taken are images uint8 [800, 4, 4] for image; labels int64 [800] for label; others" in capsys.readouterr().err
    )


def test_arrays_may_be_said(tmp_path):
    image = RNG.integers(0, 256, (30, 4, 4, 3), np.uint8)
    path = str(tmp_path / "said.npz")
    np.savez(path, a=image, b=np.arange(30) % 3, train_image=image[::-1])
    said = section(path) | {"keys": "train_image=a, train_label=b,test_image=train_image"}
    arrays = data.read(said, "train")
    np.testing.assert_array_equal(arrays.image, image)
    np.testing.assert_array_equal(arrays.label, np.arange(30) % 3)
    np.testing.assert_array_equal(data.read(said, "test").image, image[::-1])
    for wrong, message in (
        ("train_image", "is no role and array, such as train_image=a"),
        ("train_image=aa", "mean 'a'"),
    ):
        with pytest.raises(UserError, match=f"--config.dataset.keys: .*{message}"):
            data.read(said | {"keys": wrong}, "train")
    np.savez(path, a=image, b=np.arange(30))
    listed = r"a uint8 \[30, 4, 4, 3\], b int64 \[30\]"
    with pytest.raises(UserError, match=f"{listed}; --config.dataset.keys=train_image=a,train_label=b$"):
        npz.read(path, "train", 4)


def test_several_labels_an_image_are_left_out(tmp_path, capsys):
    """As ChestMNIST has them; under our own names they are refused."""
    image, label = np.zeros((5, 4, 4), np.uint8), np.zeros((5, 14), np.uint8)
    np.savez(tmp_path / "x.npz", train_images=image, train_labels=label)
    assert npz.read(str(tmp_path / "x.npz"), "train", 4).label is None
    assert "train_labels has 14 labels an image and is left out" in capsys.readouterr().err
    np.savez(tmp_path / "y.npz", train_image=image, train_label=label)
    with pytest.raises(UserError, match="train_label is uint8"):
        npz.read(str(tmp_path / "y.npz"), "train", 4)


def test_a_model_of_grey_images_reads_colour_ones(path):
    """As grey; one of colour images refuses grey ones, and says what it was trained on."""
    facts = {"image_size": 4, "channels": 1, "label_names": list("01234")}
    model: Any = SimpleNamespace(facts=facts, workdir="runs/x")
    asked = section(path) | {"test_split": "train"}
    grey = evaluate.load_images(model, asked).image
    np.testing.assert_array_equal(grey, data.read(asked | {"channels": 1}, "train").image)
    facts["channels"] = 3
    with pytest.raises(UserError, match="3 channels, colour; these have 1"):
        evaluate.load_images(model, asked | {"test_split": "test"})


def test_channels_as_asked(path):
    """Grey as Pillow makes it; colour of grey three times the same; nothing of it moves an image to another part."""
    colour, grey = section(path), section(path) | {"channels": 1}
    with np.load(path) as file:
        shown = [np.asarray(Image.fromarray(one).convert("L"))[..., None] for one in file["train_image"]]
        small = file["test_image"]
    np.testing.assert_array_equal(data.read(grey, "train").image, shown)
    np.testing.assert_array_equal(data.read(colour | {"channels": 3}, "test").image, np.stack([small] * 3, -1))
    parts = [data.load(grey, part) for part in ("train", "validation")]
    assert sum(map(len, parts)) == 400 and all(part.image.shape[1:] == (4, 4, 1) for part in parts)
    batch = data.batches(parts[0], 8, 0).batch(3)
    np.testing.assert_array_equal(batch["image"], np.asarray(parts[0].image)[batch["index"]])


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
