"""Images are decoded once for each key, whatever happens half-way."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from vqvae_jax.data import decoded
from vqvae_jax.data.decoded import Unreadable, decode_once, fits
from vqvae_jax.types import UserError

SHAPE = (4, 4, 3)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VQVAE_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


class Reader:
    """Image `row` is all `row`; counts how often it was asked."""

    def __init__(self, bad=()):
        self.bad, self.asked, self.lock = bad, [], threading.Lock()

    def __call__(self, row):
        with self.lock:
            self.asked.append(row)
        if row in self.bad:
            raise Unreadable(f"bad {row}")
        return np.full(SHAPE, row % 256, np.uint8)


def decode(read, key=1, count=600):
    return decode_once({"key": key}, count, SHAPE, read, "test")


def never(row):
    raise AssertionError("decoded again")


def test_the_second_call_decodes_nothing():
    read = Reader()
    first = decode(read)
    assert sorted(read.asked) == list(range(600))
    second = decode(never)
    for found in (first, second):
        assert isinstance(found.image, np.memmap) and found.image.dtype == np.uint8
        np.testing.assert_array_equal(
            found.image, np.arange(600).astype(np.uint8)[:, None, None, None] + np.zeros(SHAPE)
        )
        np.testing.assert_array_equal(found.kept, np.arange(600))
        assert found.skipped == ()


def test_another_key_is_decoded_anew():
    decode(Reader())
    read = Reader()
    decode(read, key=2)
    assert len(read.asked) == 600


def test_what_cannot_be_read_is_left_out():
    bad = (0, 7, 256, 599)
    decode(Reader(bad))
    found = decode(never)
    assert found.skipped == tuple((row, f"bad {row}") for row in bad)
    assert found.kept.tolist() == [row for row in range(600) if row not in bad]
    assert found.image[:, 0, 0, 0].tolist() == [row % 256 for row in found.kept]


def test_nothing_left_and_nothing_asked():
    found = decode(Reader(range(5)), count=5)
    assert len(found.image) == len(found.kept) == 0 and len(found.skipped) == 5
    assert decode(never, key=0, count=0).image.shape == (0, *SHAPE)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_was_stopped_half_way_does_not_count(cache, error):
    def stops(row):
        if row == 400:
            raise error
        return np.zeros(SHAPE, np.uint8)

    with pytest.raises(error):
        decode(stops)
    assert not list(cache.iterdir())
    assert len(decode(Reader()).image) == 600


def test_what_was_killed_half_way_does_not_count(cache):
    code = """
import os, numpy as np
from vqvae_jax.data.decoded import decode_once
def read(row):
    return os._exit(9) if row == 400 else np.zeros((4, 4, 3), np.uint8)
decode_once({"key": 1}, 600, (4, 4, 3), read, "test")
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(root)}, timeout=60)
    assert done.returncode == 9 and list(cache.iterdir())
    read = Reader()
    assert len(decode(read).image) == len(read.asked) == 600


def test_killed_between_the_two_files(cache):
    decode(Reader())
    next(cache.glob("*.json")).unlink()
    read = Reader()
    assert len(decode(read).image) == len(read.asked) == 600


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"{}", b'{"count": 600}', b'{"count": 7, "skipped": []}'])
def test_damaged_facts_are_made_again(cache, content):
    decode(Reader())
    next(cache.glob("*.json")).write_bytes(content)
    read = Reader((3,))
    assert len(decode(read).kept) == 599 and len(read.asked) == 600
    assert json.loads(next(cache.glob("*.json")).read_text())["skipped"] == [[3, "bad 3"]]


@pytest.mark.parametrize("length", [0, 100, 1000])
def test_damaged_images_are_made_again(cache, length):
    decode(Reader())
    path = next(cache.glob("*.npy"))
    path.write_bytes(path.read_bytes()[:length])
    assert decode(Reader()).image[599, 0, 0, 0] == 599 % 256


def test_what_stays_damaged_is_told(cache, monkeypatch):
    monkeypatch.setattr(decoded, "_write", lambda *args: None)
    with pytest.raises(UserError, match=r"npy is damaged; delete it"):
        decode(Reader())


def test_a_cache_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VQVAE_JAX_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="cannot be written: .*; set VQVAE_JAX_CACHE to a folder with room"):
        decode(Reader())


def test_a_full_disk_is_told(monkeypatch, cache):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot be written"):
            decode(Reader())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(cache.iterdir())


def test_a_reader_that_fails_is_not_taken_for_the_cache():
    def fails(row):
        raise OSError("the network is gone")

    with pytest.raises(UserError, match="image 0 of test cannot be read: the network is gone; run again"):
        decode(fails)


def test_a_wrong_shape_is_a_bug():
    with pytest.raises(ValueError):
        decode(lambda row: np.zeros((5, 4, 3), np.uint8))


def test_fits():
    assert fits(60_000, (64, 64, 3)) and not fits(1_300_000, (64, 64, 3))
