"""Files are whole or not there, and names stay inside their folder."""

import json
import math
import sys
import time

import numpy as np
import pytest

from vqvae_jax import logs
from vqvae_jax.data import pictures
from vqvae_jax.files import atomically, check_new_folder, png_names, read_json, write_json
from vqvae_jax.types import UserError


def test_a_killed_write_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomically(tmp_path / "x.npy") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    (tmp_path / "x").write_text("old")
    with atomically(tmp_path / "x") as temporary:
        temporary.write_text("new")
        assert (tmp_path / "x").read_text() == "old"
    assert (tmp_path / "x").read_text() == "new"


def test_numbers_that_are_none_are_valid_json(tmp_path):
    write_json(
        tmp_path / "new" / "metrics.json", {"a": {"ssim": math.nan, "mse": 1.0}, "all": [math.inf], "split": "é"}
    )
    told = json.loads((tmp_path / "new" / "metrics.json").read_text("utf-8"))
    assert told == {"a": {"ssim": None, "mse": 1.0}, "all": [None], "split": "é"}


def test_names_of_pictures_are_different_and_inside():
    names = ["a.jpg", "a.png", "cats/a.gif", "b", "../../etc/x.png", "/etc/y.png", "..\\z.png", ""]
    made = png_names(names)
    assert made[:4] == ["a.png", "a.png.png", "cats/a.png", "b.png"]
    assert png_names(["a.jpg", "a.png", "a.png.png", "x.jpg", "x.png/y.jpg"]) == [
        "a.png",
        "a.png.png",
        "a.png.png.png",
        "x.jpg.png",
        "x.png/y.png",
    ]
    assert made[4:] == [f"{number:06d}.png" for number in range(4, 8)] and len(set(made)) == len(names)


def test_names_of_many_pictures_take_no_time():
    """50,000 names, and as many that are the same: 2 s together."""
    begun = time.perf_counter()
    assert png_names([f"cats/{i}.jpg" for i in range(50_000)])[::49_999] == ["cats/0.png", "cats/49999.png"]
    assert png_names(["a.jpg"] * 50_000)[::49_999] == ["a.png", "a.jpg.49997.png"]
    assert time.perf_counter() - begun < 20


def test_nothing_is_overwritten(tmp_path):
    check_new_folder(tmp_path / "new")
    check_new_folder(tmp_path)
    (tmp_path / "mine.png").write_text("")
    with pytest.raises(UserError, match="holds other files; choose a new folder"):
        check_new_folder(tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        check_new_folder(tmp_path / "mine.png")


@pytest.mark.parametrize("text", ["[]", "1", '"x"', "null", '{"a'])
def test_json_that_is_no_object(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError):
        read_json(tmp_path / "x.json")


def test_a_path_that_is_no_utf8_comes_back(tmp_path):
    """As Python reads the folder b"/data/\xff"; names of other scripts stay legible."""
    write_json(tmp_path / "config.json", {"path": "/data/\udcff", "label": "é"})
    assert read_json(tmp_path / "config.json") == {"path": "/data/\udcff", "label": "é"}


def test_pictures_without_pillow_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UserError, match="pip install pillow"):
        logs.save_png(tmp_path / "a.png", np.zeros((2, 2), np.uint8))
    pictures.suffixes.cache_clear()
    with pytest.raises(UserError, match="pip install pillow"):
        pictures.suffixes()
