"""OpenMoji is drawn without network and TensorFlow, by two runs at once if need be; twins stay on one side."""

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from vqvae_jax import data
from vqvae_jax.data import openmoji
from vqvae_jax.data.openmoji_composed import WORDS, composed
from vqvae_jax.data.openmoji_names import GROUPS, group, stem
from vqvae_jax.types import UserError

MISSING = [package for module, package in openmoji.PACKAGES.items() if find_spec(module) is None]
needs_packages = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}")
SIZE = 64
READ = """
import json, socket, sys
calls = []
def refuse(*args): calls.append(repr(args)); raise OSError("no network in this test")
socket.socket.connect = socket.getaddrinfo = refuse
from vqvae_jax.data import openmoji
counts = [len(openmoji.read(sys.argv[1], split, int(sys.argv[2]))) for split in openmoji.SPLITS]
heavy = [name for name in ("tensorflow", "tensorflow_datasets", "PIL", "ml_collections") if name in sys.modules]
print(json.dumps({"counts": counts, "calls": calls, "heavy": heavy}))
"""


def start(path: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", READ, str(path), str(SIZE)]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder that two processes prepared at the same time, and what each printed."""
    path = tmp_path_factory.mktemp("tfds")
    runs = [start(path), start(path)]
    return path, [(*run.communicate(timeout=300), run.returncode) for run in runs]


@pytest.mark.thorough
@needs_packages
def test_two_runs_prepare_at_once_quietly_without_network_and_tensorflow(prepared):
    path, runs = prepared
    for out, err, code in runs:
        assert code == 0, err
        facts = json.loads(out)  # fails if anything else was printed
        assert facts["calls"] == [] and "tensorflow" not in facts["heavy"]
        assert sum(facts["counts"]) > 1800
        assert err == ""
    assert not [file for file in path.rglob("*") if ".npy." in file.name or "incomplete" in file.name]


@needs_packages
def test_opening_again_imports_nothing_heavy(prepared):
    out, err = start(prepared[0]).communicate(timeout=100)
    assert json.loads(out)["heavy"] == [], err


@needs_packages
def test_no_stem_and_no_drawing_is_in_two_parts(prepared):
    section = {"name": "openmoji", "path": str(prepared[0]), "split": "train", "test_split": "test", "image_size": SIZE}
    parts = [data.load(section, part) for part in data.PARTS]
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        assert not set(parts[one].group) & set(parts[other].group)
        assert not set(parts[one].text) & set(parts[other].text)
    total = sum(map(len, parts))
    assert 0.07 < len(parts[2]) / total < 0.13 and 0.02 < len(parts[1]) / total < 0.08
    for mirrored in (np.asarray(parts[2].image), np.asarray(parts[2].image)[:, :, ::-1]):  # training flips
        assert distances(mirrored, np.asarray(parts[0].image)).min() > 2e-3


def distances(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The mean squared differences, of [0, 1], between images of two sets: [N, M]."""
    a, b = (images.reshape(len(images), -1).astype(np.float32) / 255 for images in (some, others))
    return ((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T) / a.shape[1]


@needs_packages
def test_drawings_are_coloured_centred_and_on_white(prepared):
    arrays = openmoji.read(str(prepared[0]), "train", SIZE)
    assert isinstance(arrays.image, np.memmap) and arrays.image.shape[1:] == (SIZE, SIZE, 3)
    assert arrays.label_names == GROUPS and set(arrays.label) == set(range(9)) and arrays.label.dtype == np.int32
    assert list(arrays.text) == sorted(arrays.text)
    face = arrays.image[arrays.text.index("grinning face")].astype(int)
    assert (face[:4] == 255).all() and (face[14] > [200, 200, 0]).all(1).any()
    assert (face[20:44, 28:36].mean((0, 1)) > [180, 150, 0]).all() and face[20:44, 28:36, 2].mean() < 128  # yellow
    ink = 255.0 - arrays.image.mean((0, 3))
    centre = [(ink.sum(axis) * (np.arange(SIZE) + 0.5)).sum() / ink.sum() for axis in (0, 1)]
    np.testing.assert_allclose(centre, SIZE / 2, atol=0.5)


@needs_packages
def test_a_damaged_file_is_not_opened(prepared, tmp_path):
    folder = next(prepared[0].rglob("test.npy")).parent
    for name in ("test.npy", "test.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert openmoji._open(tmp_path, "test") is not None
    (tmp_path / "test.npy").write_bytes((folder / "test.npy").read_bytes()[:5000])
    assert openmoji._open(tmp_path, "test") is None
    (tmp_path / "test.json").write_text("{")
    assert openmoji._open(tmp_path, "test") is None


@pytest.mark.parametrize(
    "twins",
    [
        ["astronaut", "man astronaut", "woman astronaut", "woman astronaut medium-light skin tone"],
        ["man", "woman red hair", "person bald", "old man", "older person", "child", "girl", "man frowning"],
        ["family", "family man woman girl boy", "family adult child"],
        ["kiss", "kiss woman man"],
        ["men holding hands", "woman and man holding hands"],
        ["man walking", "person walking facing right"],
        ["merman", "mermaid"],
        ["men’s room", "women’s room"],
        ["left-facing fist", "right-facing fist"],
        ["eight o’clock", "four-thirty"],
        ["full moon", "yellow circle"],
    ],
)
def test_twins_share_a_stem(twins):
    assert len({stem(name) for name in twins}) == 1


def test_others_do_not():
    names = ["kiss", "kiss mark", "old key", "key", "red heart", "white heart", "hair pick", "copyright", "alarm clock"]
    assert len({stem(name) for name in names}) == len(names)


def test_groups_are_unicodes():
    emoji = {"😀": 0, "👨‍🚀": 1, "🐙": 2, "🍕": 3, "🚗": 4, "⚽": 5, "💡": 6, "1️⃣": 7, "🇩🇪": 8, "🏴‍☠️": 8}
    assert {text: group(text) for text in emoji} == {text: GROUPS[number] for text, number in emoji.items()}


def test_what_there_is_not_is_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no split 'valid'; its splits: train, test"):
        openmoji.read(str(tmp_path), "valid", 64)
    with pytest.raises(UserError, match="one of 16, 32, 64, 128, 256"):
        openmoji.read(str(tmp_path), "train", 48)
    monkeypatch.setattr(openmoji, "PACKAGES", {"no_such_module": "no-such-package", "json": "json"})
    with pytest.raises(UserError, match="pip install no-such-package$"):
        openmoji.read(str(tmp_path), "train", 64)


def test_the_default_folder_is_tfds_own(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert openmoji.data_dir() == tmp_path
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert openmoji.data_dir() == Path.home() / "tensorflow_datasets"


@needs_packages
def test_what_a_prior_is_told_leaves_out_names_that_it_can_put_together(prepared):
    """Each word of such a name stays in another one, in the mirror too; both parts together are all."""
    folder = prepared[0]
    every, told, held = (openmoji.read(str(folder), split, SIZE) for split in ("train", "told", "composed"))
    assert sorted((*told.text, *held.text)) == sorted(every.text) and len(held) == 41
    assert set(held.text) == composed(every.text) and set(WORDS) < set(held.text)
    words = [{word for name in part.text for word in re.findall(r"[^\W_]+", name)} for part in (told, held)]
    assert words[1] <= words[0]
    assert "woman pilot" not in held.text and composed(["woman pilot", "man pilot"]) == frozenset()
    here = list(every.text).index(held.text[0])
    np.testing.assert_array_equal(held.image[0], every.image[here])
