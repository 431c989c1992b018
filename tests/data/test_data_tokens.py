"""Token maps as files: shards, parts, and what is refused."""

import json

import numpy as np
import pytest

from vqvae_jax.data import load as load_images
from vqvae_jax.data import tokens as token_files
from vqvae_jax.data.arrays import Arrays, held_out
from vqvae_jax.data.token_arrays import Shards
from vqvae_jax.data.tokens import Part, about, is_written, load, read, write
from vqvae_jax.types import Level, UserError

LEVELS = (Level("top", (2, 2), 10), Level("bottom", (4, 4), 1000))
SOURCE = {"autoencoder": 5}
FACTS = {"image_size": 8, "channels": 3, "label_names": ["0", "1", "2"], "label_counts": [1, 1, 1]}


def encode(images, number):
    """Token maps that tell which image and which view they come from."""
    first = images[:][:, 0, 0, 0].astype(np.int64)
    top = first[:, None, None] % 10 + np.zeros((1, 2, 2), int)
    return top, (300 * number + first)[:, None, None] + np.zeros((1, 4, 4), int)


def numbered(count, label=True):
    images = np.zeros((count, 8, 8, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(count)
    return Arrays(
        images, np.arange(count, dtype=np.int32) % 3 if label else None, name=tuple(f"{i}.png" for i in range(count))
    )


def write_numbered(folder, label=True, encode=encode, source=SOURCE):
    parts = {"train": Part(numbered(10, label), 2), "validation": Part(numbered(3, label))}
    write(folder, parts, LEVELS, encode, FACTS, source)


@pytest.fixture(params=[token_files.SHARD, 4])
def shard(request, monkeypatch):
    """In one file, or in several."""
    monkeypatch.setattr(token_files, "SHARD", request.param)


def test_tokens_come_back_with_their_views_and_labels(tmp_path, shard):
    write_numbered(tmp_path)
    train, validation = (read(tmp_path, part) for part in ("train", "validation"))
    assert (len(train), len(validation)) == (20, 3)
    np.testing.assert_array_equal(train.maps[0][:][:, 1, 1], np.tile(np.arange(10), 2))
    np.testing.assert_array_equal(train.maps[1][:][:, 3, 3], [*range(10), *range(300, 310)])
    np.testing.assert_array_equal(train.label, np.tile(np.arange(10) % 3, 2))
    np.testing.assert_array_equal(validation.label, [0, 1, 2])
    assert train.name[11] == "1.png" and validation.name == ("0.png", "1.png", "2.png")
    assert train.maps[0][:1].dtype == np.uint8 and train.maps[1][:1].dtype == np.uint16  # the smallest that holds them
    batch = train.rows(np.array([11, 2]))
    assert batch["tokens"][1].dtype == np.int32 and list(batch["tokens"][1][:, 0, 0]) == [301, 2]
    assert list(batch["label"]) == [1, 2]


def test_shards_are_read_as_one_array():
    whole = np.arange(11 * 4).reshape(11, 2, 2)
    shards = Shards([whole[:4], whole[4:8], whole[8:]])
    assert len(shards) == 11 and shards.shape == (11, 2, 2)
    for index in (3, -1, slice(2, 9), slice(None), np.array([10, 0, 5, 5])):
        np.testing.assert_array_equal(shards[index], whole[index])


def test_tokens_without_labels(tmp_path):
    write_numbered(tmp_path, label=False)
    assert read(tmp_path, "train").label is None


def test_tokens_belong_to_an_autoencoder(tmp_path):
    assert not is_written(tmp_path / "tokens", SOURCE)
    write_numbered(tmp_path / "tokens")
    assert is_written(tmp_path / "tokens", SOURCE)
    assert not is_written(tmp_path / "tokens", {"autoencoder": 6})


def stopped_after(count, calls):
    def encode_some(images, number):
        calls.append(len(images))
        if len(calls) > count:
            raise KeyboardInterrupt
        return encode(images, number)

    return encode_some


def test_an_interrupted_write_is_not_whole_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(token_files, "SHARD", 4)
    calls = []
    with pytest.raises(KeyboardInterrupt):
        write_numbered(tmp_path, encode=stopped_after(3, calls))
    assert not is_written(tmp_path, SOURCE)
    with pytest.raises(UserError, match="no whole set of tokens.*python -m vqvae_jax encode"):
        read(tmp_path, "train")
    write_numbered(tmp_path, encode=stopped_after(9, calls))  # 3 + 3 shards of train, 1 of validation
    assert calls[:4] == [4, 4, 2, 4] and len(calls) == 4 + 4
    np.testing.assert_array_equal(read(tmp_path, "train").maps[1][:][:, 0, 0], [*range(10), *range(300, 310)])


def test_what_another_autoencoder_began_is_begun_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(token_files, "SHARD", 4)
    with pytest.raises(KeyboardInterrupt):
        write_numbered(tmp_path, encode=stopped_after(3, []), source={"autoencoder": 6})
    calls = []
    write_numbered(tmp_path, encode=stopped_after(9, calls))
    assert len(calls) == 7 and is_written(tmp_path, SOURCE)


def test_rewriting_makes_the_old_tokens_unfinished_first(tmp_path):
    write_numbered(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        write_numbered(tmp_path, encode=stopped_after(0, []), source={"autoencoder": 6})
    assert not is_written(tmp_path, SOURCE)


def damaged(kind, folder):
    if kind == "half a file":
        path = folder / "train_top_00000.npy"
        path.write_bytes(path.read_bytes()[:100])
    if kind == "a missing file":
        (folder / "train_bottom_00000.npy").unlink()
    if kind == "other maps":
        np.save(folder / "train_top_00000.npy", np.zeros((20, 3, 3), np.uint8))
    if kind == "a token that is none":
        np.save(folder / "train_top_00000.npy", np.full((20, 2, 2), 10, np.uint8))
    if kind == "floats":
        np.save(folder / "train_top_00000.npy", np.zeros((20, 2, 2)))
    if kind == "fewer maps":
        np.save(folder / "train_top_00000.npy", np.zeros((3, 2, 2), np.uint8))
    if kind == "half a tokens.json":
        (folder / "tokens.json").write_text('{"source": {"autoenc')
    if kind == "an empty tokens.json":
        (folder / "tokens.json").write_text("{}")
    facts = json.loads((folder / "train_facts_00000.json").read_text())
    changed = {
        "fewer names": {"name": facts["name"][:3]},
        "no shares": {"share": None},
        "labels of text": {"label": "a"},
    }
    if kind in changed:
        (folder / "train_facts_00000.json").write_text(json.dumps(facts | changed[kind]))
    if kind == "facts that are a list":
        (folder / "train_facts_00000.json").write_text("[]")
    told = json.loads((folder / "tokens.json").read_text()) if (folder / "tokens.json").stat().st_size > 30 else {}
    if kind in ("shards of text", "no shards"):
        (folder / "tokens.json").write_text(json.dumps(told | {"shards": {"train": "1" if "text" in kind else 0}}))
    if kind == "a list":
        (folder / "tokens.json").write_text("[]")


KINDS = ["fewer names", "no shares", "labels of text", "facts that are a list", "shards of text", "no shards"]
KINDS += ["half a file", "a missing file", "other maps", "a token that is none", "floats", "fewer maps"]


@pytest.mark.parametrize("kind", [*KINDS, "half a tokens.json", "an empty tokens.json", "a list"])
def test_damaged_tokens_are_told(tmp_path, kind):
    write(tmp_path, {"train": Part(numbered(20))}, LEVELS, encode, FACTS, SOURCE)
    damaged(kind, tmp_path)
    with pytest.raises(UserError, match=r"damaged.*encode the images again") as caught:
        read(tmp_path, "train")
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["train_top_00000.npy", "train_bottom_00000.npy", "train_facts_00000.json"])
def test_a_flipped_bit_is_noticed(tmp_path, shard, file):
    """A token that is still a token, a name that is still a name; and not in a folder of an earlier version."""
    write_numbered(tmp_path)
    data = bytearray((tmp_path / file).read_bytes())
    at = data.index(b".png") - 1 if file.endswith("json") else len(data) - 2
    data[at] ^= 1
    (tmp_path / file).write_bytes(data)
    with pytest.raises(UserError, match=rf"the checksum of .*{file} differs; encode the images again"):
        read(tmp_path, "train")
    told = json.loads((tmp_path / "tokens.json").read_text())
    del told["facts_crc32"], told["crc32"]
    (tmp_path / "tokens.json").write_text(json.dumps(told))
    for path in tmp_path.glob("*_facts_*.json"):
        facts = json.loads(path.read_text())
        del facts["crc32"]
        path.write_text(json.dumps(facts))
    assert len(read(tmp_path, "train")) == 20


def test_an_unknown_part(tmp_path):
    write_numbered(tmp_path)
    with pytest.raises(UserError, match="no part 'tran'; did you mean 'train'. It has: train, validation"):
        read(tmp_path, "tran")


# --- as a data set


def section(path, **changes):
    return {"name": "tokens", "path": str(path), "split": "train", "test_split": "test", "image_size": 8} | changes


@pytest.fixture
def pictures(tmp_path):
    """The same images as an .npz and as tokens, which tell the number of their image."""
    images = numbered(250)
    np.savez(tmp_path / "images.npz", train_image=images.image, train_label=images.label, test_image=images.image[:9])
    arrays = Arrays(images.image, images.label)
    write(tmp_path / "tokens", {"train": Part(arrays), "test": Part(arrays.take(np.arange(9)))}, LEVELS, encode, {}, {})
    write(tmp_path / "no test", {"train": Part(arrays)}, LEVELS, encode, {}, {})
    return tmp_path


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_tokens_are_divided_as_their_images_are(pictures, part):
    images = load_images(section(pictures / "images.npz", name="npz"), part)
    tokens = load(section(pictures / "tokens"), part)
    np.testing.assert_array_equal(tokens.maps[1][:][:, 0, 0], images.image[:][:, 0, 0, 0])


def test_without_a_test_split_another_twentieth_is_it(pictures):
    parts = {part: load(section(pictures / "no test"), part) for part in ("train", "validation", "test")}
    numbers = {part: set(tokens.maps[1][:][:, 0, 0].tolist()) for part, tokens in parts.items()}
    assert sum(map(len, numbers.values())) == 250 == len(set.union(*numbers.values()))
    assert 4 < len(numbers["test"]) < 25
    assert sorted(numbers["validation"]) == held_out(numbered(250)).nonzero()[0].tolist()


def test_the_tokens_of_a_training_have_their_validation_already(tmp_path):
    write_numbered(tmp_path)
    parts = {part: load(section(tmp_path), part) for part in ("train", "validation", "test")}
    assert len(parts["validation"]) == 3 and len(parts["train"]) + len(parts["test"]) == 20
    with pytest.raises(UserError, match="no part 'tets'"):
        load(section(tmp_path, test_split="tets"), "test")


def test_tokens_need_a_folder():
    with pytest.raises(UserError, match="--config.dataset.path=FOLDER.*vqvae_jax encode"):
        load(section(""), "train")


def test_what_the_folder_says(tmp_path):
    write_numbered(tmp_path)
    told = about(tmp_path)
    assert told["levels"] == list(LEVELS) and told["facts"] == FACTS and told["shards"] == {"train": 2, "validation": 1}
    assert json.loads((tmp_path / "tokens.json").read_text())["source"] == SOURCE
