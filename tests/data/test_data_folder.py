"""A folder is read in a fixed order, divided by name, labelled by its folders; what cannot be used is named."""

import hashlib
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vqvae_jax import data
from vqvae_jax.data import folder
from vqvae_jax.data.stream import Lazy
from vqvae_jax.types import UserError

SIZE = 8
TYPE = "^--config.dataset.path=FOLDER: "


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VQVAE_JAX_CACHE", str(tmp_path / "cache"))
    folder._tell.cache_clear()


@pytest.fixture
def root(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def pixels(name):
    """The picture that `draw` puts under a name: noise that only this name has."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def draw(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(name)).save(root / name)


def many(label, count=100):
    return [f"{label}/{i}.png" for i in range(count)]


def read(root, split="train"):
    return folder.read(str(root), split, SIZE)


def section(root):
    return {"name": "folder", "path": str(root), "split": "train", "test_split": "test", "image_size": SIZE}


def is_test(name):
    digest = hashlib.blake2b(b"test " + name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < 0.05 * 2**64


def test_the_whole_folder_is_divided_by_name(root):
    names = many("b") + many("a") + many("C/deep")
    draw(root, *names)
    train, test = read(root), read(root, "test")
    assert test.name == tuple(sorted(name for name in names if is_test(name))) == test.group
    assert train.name == tuple(sorted(name for name in names if not is_test(name)))
    assert 3 <= len(test) <= 30
    for arrays in (train, test):
        np.testing.assert_array_equal(arrays.image, np.stack([pixels(name) for name in arrays.name]))
        assert arrays.label_names == ("C", "a", "b") and arrays.label.dtype == np.int32
        assert [arrays.label_names[label] for label in arrays.label] == [name.split("/")[0] for name in arrays.name]
        assert arrays.text is None


def test_numbers_are_counted_as_numbers(root):
    """As text 10 stands before 2, and --label=1 would mean another folder than the second."""
    draw(root, *(f"{label}/{i}.png" for label in range(1, 13) for i in range(24)))
    for split in ("train", "test", "all"):
        arrays = read(root, split)
        assert arrays.label_names == tuple(map(str, range(1, 13)))
        assert [arrays.label_names[label] for label in arrays.label] == [name.split("/")[0] for name in arrays.name]
    assert folder.in_order(["10", "9.5", "-1", "02", "2"]) == ["-1", "02", "2", "9.5", "10"]
    for words in (["10", "9", "a"], ["10", "9", ""], ["10", "٣"], ["inf", "10", "9"], ["1_0", "9"]):
        assert folder.in_order(words) == sorted(words)
    assert folder.in_order([]) == []


def test_labels_in_the_order_of_a_run(root):
    """A workdir from before keeps its own; other names are left for who compares them."""
    draw(root, *many("9", 30), *many("10", 30))
    now = read(root)
    before = now.with_labels(["10", "9"])
    assert now.label_names == ("9", "10") and before.label_names == ("10", "9")
    np.testing.assert_array_equal(before.label, 1 - now.label)
    for names in ((), ["9", "10"], ["9", "11"], ["9", "10", "11"]):
        assert now.with_labels(names) is now
    draw(root, "0.png")
    assert read(root).with_labels(["10", "9"]).label is None


def test_more_pictures_move_none(root):
    draw(root, *many("a"))
    before = set(read(root, "test").name)
    draw(root, *many("b"))
    assert before == {name for name in read(root, "test").name if name.startswith("a/")}


def test_folders_of_splits(root):
    draw(root, *many("train/cat", 3), *many("train/dog", 3), *many("test/dog", 2), *many("test/yak", 2), "val/0.png")
    train, test, val = (read(root, split) for split in ("train", "test", "val"))
    assert train.name == tuple(many("cat", 3) + many("dog", 3)) and test.name == tuple(many("dog", 2) + many("yak", 2))
    assert train.label_names == test.label_names == ("cat", "dog", "yak")
    assert train.label.tolist() == [0, 0, 0, 1, 1, 1] and test.label.tolist() == [1, 1, 2, 2]
    assert val.label is None and val.label_names == () and val.name == ("0.png",)
    np.testing.assert_array_equal(test.image[2], pixels("test/yak/0.png"))


def test_without_a_folder_test_a_part_of_train_is(root):
    names = [f"{i}.png" for i in range(120)]
    draw(root, *(f"train/{name}" for name in names))
    assert read(root, "test").name == tuple(sorted(name for name in names if is_test(name)))
    assert read(root).name == tuple(sorted(name for name in names if not is_test(name)))
    assert read(root).label is None


def test_the_parts_of_load_are_disjoint_and_cover_all(root):
    names = many("a", 150)
    draw(root, *names)
    parts = [data.load(section(root), part) for part in data.PARTS]
    assert sorted(name for part in parts for name in part.name) == sorted(names)
    assert all(len(part) for part in parts)


def test_an_unknown_split_lists_those_there(root):
    draw(root, "a/0.png")
    with pytest.raises(
        UserError, match=TYPE + ".* has no split 'tran'; did you mean 'train'.* Its splits: train, test"
    ):
        read(root, "tran")
    with pytest.raises(UserError, match="no split '..'"):
        read(root, "..")
    draw(root, "train/0.png", "val/0.png")
    with pytest.raises(UserError, match=r"Its splits: a, test, train, val"):
        read(root, "validation")
    shutil.rmtree(root / "train")
    draw(root, "test/0.png")
    with pytest.raises(UserError, match="no split 'train'"):  # all but test/ would be a guess
        read(root)


def test_too_few_to_share(root):
    draw(root, *(name for name in many("a", 9) if not is_test(name)))
    with pytest.raises(UserError, match=TYPE + r".* pictures are too few to share; put some into .*/test"):
        read(root, "test")


def test_pictures_beside_the_folders_have_no_labels(root, capsys):
    draw(root, "a/0.png", "b/0.png", "c.png")
    assert read(root).label is None and read(root).label_names == ()
    assert capsys.readouterr().err.count("no labels, because 1 pictures lie beside the folders: c.png") == 1


def test_folders_that_may_be_splits_or_labels_are_told(root, capsys):
    draw(root, "car/0.png", "train/0.png")
    assert read(root).name and "to which these do not belong: car" in capsys.readouterr().err
    draw(root / "two", "training/0.png", "val/0.png")
    assert read(root / "two").name
    assert "read as a whole, training, val too" in capsys.readouterr().err


def test_case_matters_and_hidden_things_do_not(root):
    draw(root, "b.PNG", "A.png", "a.png", ".hidden.png", ".folder/a.png", "d/.x/a.png")
    (root / "notes.md").write_text("no picture")
    assert read(root).name == ("A.png", "a.png", "b.PNG")


def test_links_are_followed_but_not_in_circles(root, tmp_path):
    draw(tmp_path / "elsewhere", "0.png")
    draw(root, "a/1.png")
    (root / "b").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "up").symlink_to(root)
    (root / "self").symlink_to("self")
    assert read(root).name == ("a/1.png", "b/0.png")


def test_texts(root):
    draw(root, "a.b.png", "bom.png", "wide.png", "old.png", "none.png", "x/a.b.png")
    (root / "a.b.txt").write_text("  grünes Haus \n", "utf-8")
    (root / "bom.txt").write_text("mit Bom", "utf-8-sig")
    (root / "wide.TXT").write_text("weit ☃", "utf-16")
    (root / "old.txt").write_bytes("älter".encode("latin-1"))
    (root / "x" / "other.txt").write_text("beside nothing")
    arrays = read(root)
    texts = {"a.b.png": "grünes Haus", "bom.png": "mit Bom", "wide.png": "weit ☃", "old.png": "älter"}
    assert dict(zip(arrays.name, arrays.text, strict=True)) == {"none.png": "", "x/a.b.png": "", **texts}


TABLE = """file,id,caption
b.png,1,one
b.png,2,"two, and
a half"
x/c.png,3,  a ""quoted""  word
./a.png,4,
x\\d.png,5,"he said ""no"" then"

"""


def test_captions_of_a_table(root):
    """A picture may have several, from its .txt and from every table above it, in this order."""
    draw(root, "a.png", "b.png", "x/c.png", "x/d.png", "train/b.png")
    (root / "b.txt").write_text("zero\n\nnought\n")
    (root / "captions.csv").write_text(TABLE, "utf-8-sig")
    (root / "x" / "Captions.csv").write_bytes(b"CAPTION , File\r\nfour,c.png\r\n")
    arrays = read(root, "all")
    assert dict(zip(arrays.name, arrays.text, strict=True)) == {
        "a.png": "",
        "b.png": "zero\n\nnought\none\ntwo, and a half",
        "train/b.png": "",
        "x/c.png": 'a ""quoted"" word\nfour',
        "x/d.png": 'he said "no" then',
    }
    assert read(root, "train").text is None  # none of these has one


def test_a_quoted_caption_may_follow_a_space(root):
    draw(root, "a.png", "b.png")
    (root / "captions.csv").write_text('file, caption\na.png, "red, and round"\nb.png, "two"\n')
    assert read(root, "all").text == ("red, and round", "two")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["name,caption"], r"line 1: the header is file,caption, got 'name,caption'; .* give a file .* another name"),
        ([], r"line 1: the header is file,caption, got ''"),
        (["file,caption", "a.png,ok", "a.png"], r"line 3: 1 column, and the header has 2; a caption with a comma"),
        (["file,caption", "", "a.png,red, round"], r"line 3: 3 columns, and the header has 2"),
        (
            ["file,caption", 'a.png,"two', 'lines"', "A.png,x"],
            "line 4: there is no picture 'A.png' .*did you mean 'a.png'",
        ),
        (["file,caption", ",x"], "line 2: there is no picture '' in .*; take the line out"),
        (["file,caption", 'a.png,"open', "a.png,x"], "line 2: unexpected end of data; a quote within"),
        (["file,caption", 'a.png,"a"b'], "line 2: .* a quote within a caption is written twice"),
        (["file,caption", "a.png,gr\udcfcn"], "line 2: is not UTF-8; save the file as UTF-8"),
    ],
)
def test_a_wrong_line_of_a_table_is_named(root, lines, said):
    draw(root, "a.png", "b.png")
    (root / "captions.csv").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=f"{root}/captions.csv, {said}"):
        read(root, "all")


@pytest.mark.parametrize("there, said", [("NFD", "NFC"), ("NFC", "NFD")])
def test_an_accent_is_one_character_or_two(root, there, said):
    """macOS writes file names with two, keyboards with one."""
    draw(root, unicodedata.normalize(there, "café.png"), "b.png")
    (root / "captions.csv").write_text(f"file,caption\n./{unicodedata.normalize(said, 'café.png')},black\n", "utf-8")
    assert sorted(read(root, "all").text) == ["", "black"]


def test_names_that_are_no_utf8(root):
    name = b"\xff.png"
    try:
        shutil.copy(_one(root), os.path.join(os.fsencode(root), name))
    except OSError:
        pytest.skip("this file system wants UTF-8")
    arrays = read(root)
    assert arrays.name == ("0.png", "\\xff.png") and len(data.held_out(arrays)) == 2


def _one(root):
    draw(root, "0.png")
    return root / "0.png"


def bad(root):
    """One of each that cannot be used."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    noise.save(root / "cut.jpg")
    (root / "cut.jpg").write_bytes((root / "cut.jpg").read_bytes()[:2000])
    Image.new("RGB", (1, 1)).save(root / "dot.png")
    Image.new("RGB", (20_000, 1)).save(root / "ruler.png")
    (root / "empty.png").write_bytes(b"")
    (root / "link.png").symlink_to("nowhere")
    (root / "text.png").write_text("no picture")
    return ["cut.jpg", "dot.png", "empty.png", "link.png", "ruler.png", "text.png"]


def test_what_cannot_be_used_is_named_and_left_out(root, capsys):
    draw(root, *many("train/a", 3), *many("train/b", 3), "test/a/0.png")
    names = bad(root / "train" / "a")
    (root / "train" / "b" / "2.txt").write_text("two")
    for _ in range(2):
        arrays = read(root)
        assert arrays.name == arrays.group == tuple(many("a", 3) + many("b", 3))
        assert arrays.label.tolist() == [0, 0, 0, 1, 1, 1] and arrays.text == ("", "", "", "", "", "two")
        np.testing.assert_array_equal(arrays.image, np.stack([pixels(f"train/{name}") for name in arrays.name]))
    told = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert len(told) == 1 and f"{len(names)} of 12 pictures in {root}/train/ cannot be used" in told[0]
    for words in ("cut.jpg (truncated)", "dot.png (1 x 1 pixels", "empty.png (empty)", "link.png (no such file", ", …"):
        assert words in told[0]
    assert "text.png" not in told[0]


def test_none_can_be_used(root):
    bad(root)
    with pytest.raises(UserError, match=TYPE + r"none of the \d pictures in .* can be used: cut.jpg \(truncated\)"):
        read(root)


def test_odd_pictures_are_used(root):
    """16 bits, inks, palettes, alpha, animations, a wrong suffix: their pixels are the business of pictures.py."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    Image.fromarray(np.full((16, 16), 40_000, np.uint16)).save(root / "a.png")
    noise.convert("CMYK").save(root / "b.jpg")
    noise.convert("P").save(root / "c.png")
    noise.convert("RGBA").save(root / "d.png")
    noise.save(root / "e.gif", save_all=True, append_images=[noise.rotate(90)])
    noise.save(root / "f.png", format="JPEG")
    assert read(root).name == ("a.png", "b.jpg", "c.png", "d.png", "e.gif", "f.png")
    assert (read(root).image[0] == round(40_000 / 65535 * 255)).all()


def test_no_folder(root, tmp_path, monkeypatch):
    (root / "a.txt").write_text("")
    (root / "b.npz").write_text("")
    cases = {
        "": "data set 'folder' needs a folder",
        str(tmp_path / "none"): "there is no folder .*none$",
        str(tmp_path / "none" / "none"): "there is no folder .*none$",
        f"{root}s": f"there is no folder .*; did you mean {root.name!r}\\?$",
        str(root / "c.png"): "there is no file .*c.png$",
        str(root / "a.txt"): "a.txt is a file; type the folder it lies in",
        str(root): r"holds no pictures, and 2 other files; pictures end in \.jpg, \.png, \.webp, or",
    }
    for path, message in cases.items():
        with pytest.raises(UserError, match=TYPE + ".*" + message):
            folder.read(path, "train", SIZE)

    def forbidden(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(UserError, match=TYPE + ".* cannot be listed: Permission denied"):
        read(root)


def test_home_is_understood(root, monkeypatch):
    draw(root / "pets", "0.png")
    monkeypatch.setenv("HOME", str(root))
    assert folder.read("~/pets", "train", SIZE).name == ("0.png",)


def test_pictures_are_decoded_once_until_one_changes(root, monkeypatch):
    draw(root, "0.png", "1.png")
    asked = []
    decode = folder.pictures.read
    monkeypatch.setattr(folder.pictures, "read", lambda path, *how: asked.append(Path(path).name) or decode(path, *how))
    read(root), read(root)
    assert sorted(asked) == ["0.png", "1.png"]
    Image.fromarray(pixels("another")).save(root / "1.png")
    os.utime(root / "1.png", ns=(0, 1))
    np.testing.assert_array_equal(read(root).image[1], pixels("another"))
    (root / "1.png").chmod(0o600)  # it may have been unreadable
    asked.clear()
    read(root)
    assert len(asked) == 2


def test_a_large_folder_is_decoded_as_needed(root, monkeypatch, capsys):
    monkeypatch.setattr(folder, "fits", lambda count, shape: False)
    draw(root, *many("a", 3))
    (root / "a" / "1.png").write_bytes(b"")
    arrays = read(root)
    assert isinstance(arrays.image, Lazy) and arrays.image.shape == (3, SIZE, SIZE, 3)
    assert arrays.name == tuple(many("a", 3))
    np.testing.assert_array_equal(arrays.image[np.array([2, 0])], np.stack([pixels("a/2.png"), pixels("a/0.png")]))
    np.testing.assert_array_equal(arrays.image[1], pixels("a/2.png"))
    assert "a/1.png (empty)" in capsys.readouterr().err


def test_grey_pictures(root, capsys):
    """Read as colour that is said, and what to type; in one channel they are what Pillow makes of them."""
    names = many("x", 40)
    (root / "x").mkdir()
    for name in names:
        Image.fromarray(pixels(name)).convert("L").save(root / name)
    colour = folder.read(str(root), "all", SIZE).image
    assert "--config.dataset.channels=1" in capsys.readouterr().err
    grey = data.read(section(root) | {"channels": 1}, "all")
    assert grey.image.shape == (40, SIZE, SIZE, 1) and not capsys.readouterr().err.count("channels")
    np.testing.assert_array_equal(np.repeat(grey.image, 3, axis=-1), colour)
    draw(root, "x/0.png")
    first = data.read(section(root) | {"channels": 1}, "all").image[0, ..., 0]
    np.testing.assert_array_equal(first, np.asarray(Image.fromarray(pixels("x/0.png")).convert("L")))
