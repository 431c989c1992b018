"""Any TFDS name: read without TensorFlow, prepared by a process of its own, and refused with what to do."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from vqvae_jax.data import decoded, pictures, tfds, tfds_builder
from vqvae_jax.data.stream import Lazy
from vqvae_jax.data.tfds_features import find_fields
from vqvae_jax.types import UserError

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "fashion_mnist_from_debian.py"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
BAD, COUNT = 7, 40  # of tiny_tfds.py
pytestmark = pytest.mark.skipif(find_spec("tensorflow_datasets") is None, reason="tensorflow-datasets is not installed")
needs_tensorflow = pytest.mark.skipif(find_spec("tensorflow") is None, reason="tensorflow is not installed")
needs_debian = pytest.mark.skipif(
    not DEBIAN.is_dir(), reason="not installed: apt-get update && apt-get install dataset-fashion-mnist"
)
READ = """
import json, socket, sys
def refuse(*args): raise OSError("no network in this test")
socket.socket.connect = socket.getaddrinfo = refuse
from vqvae_jax.data import tfds
tfds.names()
arrays = tfds.read("tiny_set/grey", sys.argv[1], "full", 6)
heavy = [name for name in ("tensorflow", "grain", "cv2") if name in sys.modules]
print(json.dumps({"shape": arrays.image.shape, "heavy": heavy}))
"""


def run(*command, **environment) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run([sys.executable, *map(str, command)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VQVAE_JAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A data folder that holds tiny_set/grey and tiny_set/rgba."""
    path = tmp_path_factory.mktemp("tiny")
    run(Path(__file__).with_name("tiny_tfds.py"), path)
    return str(path)


def number(arrays) -> list[int]:
    """Which row of tiny_tfds.py each example was."""
    return [int(text.removeprefix("row ")) for text in arrays.text]


def test_reading_needs_neither_tensorflow_nor_network(tiny, tmp_path):
    facts = json.loads(run("-c", READ, tiny, VQVAE_JAX_CACHE=str(tmp_path)).stdout)
    assert facts == {"shape": [COUNT - 1, 6, 6, 1], "heavy": []}


def test_images_labels_and_texts_belong_together(tiny, capfd):
    arrays = tfds.read("tiny_set/grey", tiny, "full", 6)
    rows = number(arrays)
    assert sorted(rows) == [row for row in range(COUNT) if row != BAD]
    assert "1 images left out" in capfd.readouterr().err
    assert arrays.label_names == ("a", "b", "c") and arrays.label.tolist() == [row % 3 for row in rows]
    for row, image in zip(rows, arrays.image, strict=True):
        whole = np.random.default_rng(row).integers(0, 256, (6, 8, 1), np.uint8)
        np.testing.assert_array_equal(image, whole[:, 1:7])  # the square in its middle


def test_opening_again_decodes_nothing_and_changes_nothing(tiny, monkeypatch):
    first = tfds.read("tiny_set/grey", tiny, "full", 6)
    monkeypatch.setattr(pictures, "decode", None)
    monkeypatch.setattr(tfds, "_read_facts", None)
    again = tfds.read("tiny_set/grey", tiny, "full", 6)
    assert isinstance(again.image, np.memmap) and again.text == first.text and again.group is None
    np.testing.assert_array_equal(again.image, first.image)


def test_what_does_not_fit_is_streamed_in_the_same_order(tiny, monkeypatch):
    whole = tfds.read("tiny_set/grey", tiny, "full", 6)
    monkeypatch.setattr(decoded, "FITS", 0)
    lazy = tfds.read("tiny_set/grey", tiny, "full", 6)
    assert isinstance(lazy.image, Lazy) and len(lazy) == len(lazy.label) == len(lazy.text) == COUNT
    assert len(set(lazy.group)) == COUNT
    readable = [i for i, row in enumerate(number(lazy)) if row != BAD]
    np.testing.assert_array_equal(lazy.image[np.array(readable)], whole.image)
    lazy.image[:]
    assert lazy.image.readable(np.arange(COUNT)).nonzero()[0].tolist() == readable


def test_transparent_pixels_are_white_and_sizes_fit(tiny):
    arrays = tfds.read("tiny_set/rgba", tiny, "full", 6)
    assert arrays.image.shape == (COUNT - 1, 6, 6, 3)
    assert (arrays.image[:, :, 3:] == 255).all() and not (arrays.image[:, :, :3] == 255).all()
    assert tfds.read("tiny_set/rgba", tiny, "full", 3).image.shape[1:] == (3, 3, 3)


def test_a_label_may_be_a_truth_or_an_integer(tiny):
    arrays = tfds.read("tiny_set/grey", tiny, "full", 6, "attributes/Odd")
    assert arrays.label_names == ("not Odd", "Odd") and arrays.label.tolist() == [row % 2 for row in number(arrays)]
    arrays = tfds.read("tiny_set/grey", tiny, "full[:10%]", 6, "attributes/number")
    assert arrays.label.tolist() == number(arrays) and arrays.num_labels == COUNT
    with pytest.raises(
        UserError, match="did you mean 'attributes/Odd'. It has: attributes/Odd, attributes/number, kind"
    ):
        tfds.read("tiny_set/grey", tiny, "full", 6, "attributes/odd")


def test_a_text_may_be_another_feature_or_several_in_a_sequence(tiny):
    """A line each; a line break in one is a space."""
    plain = number(tfds.read("tiny_set/grey", tiny, "full", 6))
    arrays = tfds.read("tiny_set/grey", tiny, "full", 6, text="said/how")
    assert arrays.text == tuple("\n".join(f"{row} so or {i}" for i in range(row % 3)) for row in plain)
    assert arrays.text == tfds.read("tiny_set/grey", tiny, "full", 6, text="said/how").text  # as it was kept
    assert tfds.read("tiny_set/grey", tiny, "full", 6, text="id").text == tuple(map(str, plain))
    with pytest.raises(UserError, match="dataset.text: tiny_set/grey has no text 'said'; .* caption, id, said/how$"):
        tfds.read("tiny_set/grey", tiny, "full", 6, text="said")


def test_which_of_several_features_is_taken_does_not_depend_on_their_order():
    import tensorflow_datasets

    kinds = tensorflow_datasets.features
    label = kinds.ClassLabel(num_classes=2)
    features = {"back": kinds.Image(), "image": kinds.Image(shape=(2, 2, 1)), "coarse_label": label, "label": label}
    features["depth"] = kinds.Image(dtype=np.uint16, encoding_format="png", shape=(2, 2, 1))
    for names in (list(features), list(features)[::-1]):
        found = find_fields(kinds.FeaturesDict({name: features[name] for name in names}), "some", "")
        assert found.image == ("image",) and found.channels == 1 and found.label.path == ("label",)
    del features["image"]
    assert find_fields(kinds.FeaturesDict(features), "some", "coarse_label").image == ("back",)


def test_slices_divide_a_split(tiny):
    parts = [number(tfds.read("tiny_set/grey", tiny, part, 6)) for part in ("full[:90%]", "full[90%:]")]
    assert parts[0] + parts[1] == number(tfds.read("tiny_set/grey:1.2.0", tiny, "full", 6)) and len(parts[1]) >= 3
    slices = r"--config.dataset.split='full\[:90%\]' --config.dataset.test_split='full\[90%:\]'"
    with pytest.raises(UserError, match=f"no split 'train'; it has: full. Divide it: {slices}"):
        tfds.read("tiny_set/grey", tiny, "train", 6)
    with pytest.raises(UserError, match="is empty"):
        tfds.read("tiny_set/grey", tiny, "full[:0]", 6)


def test_another_file_format_says_how_to_convert_it(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "other")
    info = tmp_path / "other" / "tiny_set" / "grey" / "1.2.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match="tfds convert_format --dataset_version_dir=.*/tiny_set/grey/1.2.0 "):
        tfds.read("tiny_set/grey", str(tmp_path / "other"), "full", 6)


def test_names_are_those_of_tfds(tiny, tmp_path):
    assert {"mnist", "cifar10", "celeb_a"} <= set(tfds.names())
    assert tfds.knows("imagenet_resized/64x64:0.1.0") and not tfds.knows("fashion_mnits")
    assert tfds.knows("tiny_set", tiny) and not tfds.knows("tiny_set", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fashion_mnits", "no data set 'fashion_mnits'; did you mean 'fashion_mnist'"),
        ("", "no data set ''"),
        ("imdb_reviews", "no feature that is a plain image; it has: label .*, text"),
        ("imagenet_resized/63x63", "no config '63x63'; did you mean '64x64'. There are: 8x8"),
        ("celeb_a:1.0.0", "cannot be loaded at version 1.0.0, only"),
        ("cifar10", "needs TensorFlow once, to prepare it: pip install tensorflow-cpu"),
    ],
)
def test_what_cannot_be_prepared_is_named_at_once(tmp_path, monkeypatch, name, message):
    monkeypatch.setattr(tfds_builder, "find_spec", lambda module: None if module == "tensorflow" else find_spec(module))
    with pytest.raises(UserError, match=message):
        tfds.read(name, str(tmp_path), "train", 32)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(tfds_builder, "PACKAGES", {"no_such_module": "no-such-package"})
    with pytest.raises(UserError, match="pip install no-such-package$"):
        tfds.read("cifar10", "", "train", 32)


@needs_tensorflow
def test_without_network_the_downloads_and_their_places_are_listed(tmp_path, monkeypatch):
    for scheme in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")  # where nobody listens
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        tfds.read("cifar10", str(tmp_path), "train", 32)
    assert time.monotonic() - start < 60
    url, path = str(error.value).splitlines()[-1].split(" → ")
    assert url.strip() == "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    assert path.startswith(f"{tmp_path}/downloads/cifar10/cs.toronto.edu_kriz_cifar-10-binary")
    assert not [file for file in tmp_path.rglob("*") if "incomplete" in file.name or ".tmp." in file.name]


@needs_tensorflow
def test_what_must_be_downloaded_by_hand_is_said(tmp_path):
    with pytest.raises(UserError, match=f"by hand into {tmp_path}/downloads/manual: .*ILSVRC2012_img_train.tar"):
        tfds.read("imagenet2012", str(tmp_path), "train", 64)


@pytest.fixture(scope="module")
def fashion():
    """A data folder where the official fashion_mnist was prepared from Debian's files; kept between runs."""
    root = Path.home() / ".cache" / "vqvae_jax" / "test-tfds"
    run(SCRIPT, "--data_dir", root)
    return str(root)


def idx(name: str) -> np.ndarray:
    """Debian's raw file, without TFDS."""
    content = gzip.decompress((DEBIAN / f"{name}-ubyte.gz").read_bytes())
    sizes = np.frombuffer(content, ">u4", content[3], 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes)


@pytest.mark.thorough
@needs_debian
@needs_tensorflow
def test_the_official_fashion_mnist_is_prepared_from_debians_files(fashion, monkeypatch):
    test = tfds.read("fashion_mnist", fashion, "test", 28)
    assert test.image.shape == (10000, 28, 28, 1) and test.label_names[0] == "T-shirt/top"
    raw = zip(map(bytes, idx("t10k-images-idx3")), idx("t10k-labels-idx1").tolist(), strict=True)
    assert sorted(raw) == sorted(zip(map(bytes, test.image), test.label.tolist(), strict=True))
    monkeypatch.setattr(decoded, "FITS", 0)  # train is looked at here and there
    train = tfds.read("fashion_mnist", fashion, "train", 28)
    assert train.image.shape == (60000, 28, 28, 1)
    np.testing.assert_array_equal(np.bincount(train.label), np.bincount(idx("train-labels-idx1")))
    labels = dict(zip(map(bytes, idx("train-images-idx3")), idx("train-labels-idx1").tolist(), strict=True))
    rows = np.arange(0, 60000, 600)
    assert [labels[bytes(image)] for image in train.image[rows]] == train.label[rows].tolist()


@needs_debian
@needs_tensorflow
def test_a_killed_preparation_leaves_nothing_and_files_without_info_are_taken(tmp_path):
    run(SCRIPT, "--data_dir", tmp_path)
    infos = list(tmp_path.rglob("*.INFO"))
    for info in infos:
        info.unlink()  # as if somebody had put the files there
    command = [sys.executable, "-m", "vqvae_jax.data.tfds_prepare", "fashion_mnist", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = tmp_path / "fashion_mnist"
    try:
        give_up = time.monotonic() + 60
        while not (list(folder.glob("incomplete*")) and all(info.exists() for info in infos)):
            assert time.monotonic() < give_up
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.terminate()
        code = process.wait(60)
    assert code == 128 + signal.SIGTERM
    assert len(infos) == 4 and not list(folder.rglob("*"))


def test_the_script_says_what_to_install_in_one_line(tmp_path):
    code = f"import runpy, sys; script = runpy.run_path({str(SCRIPT)!r}); sys.argv = ['script']\n"
    code += f"script['main'].__globals__['FOLDER'] = script['Path']({str(tmp_path)!r}); print(script['main']())"
    said = run("-c", code).stdout
    assert said == f"{tmp_path}/train-images-idx3-ubyte.gz is not there: " + (
        "apt-get update && apt-get install dataset-fashion-mnist\n"
    )
