"""Whatever Pillow reads becomes eight-bit pixels, upright and on white; what is no picture says why in a few words."""

import errno
import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin, TiffTags

from vqvae_jax.data import pictures
from vqvae_jax.data.decoded import Unreadable
from vqvae_jax.types import UserError

RNG = np.random.default_rng(0)
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def smooth(height, width):
    """A picture that JPEG hardly changes, uint8 [H, W, 3]."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 / (width - 1), y * 255 / (height - 1), np.full_like(x, 90)], -1).astype(np.uint8)


def save(path, array, mode=None, **options):
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def reason(path, size=16):
    with pytest.raises(Unreadable) as error:
        pictures.read(path, size)
    assert str(path) not in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 90
    return str(error.value)


def halves(left, right, mode, size=(16, 16)):
    """Left one colour, right another."""
    image = Image.new(mode, size, right)
    image.paste(left, (0, 0, size[0] // 2, size[1]))
    return image


def test_a_picture_of_the_right_size_is_its_pixels(tmp_path):
    array = RNG.integers(0, 256, (16, 16, 3), np.uint8)
    path = save(tmp_path / "a.png", array)
    np.testing.assert_array_equal(pictures.read(path, 16), array)
    np.testing.assert_array_equal(pictures.whole(path), array)


def test_the_middle_is_cut_and_the_whole_is_whole(tmp_path):
    array = RNG.integers(0, 256, (16, 41, 3), np.uint8)
    path = save(tmp_path / "wide.png", array)
    np.testing.assert_array_equal(pictures.read(path, 16), array[:, 12:28])
    np.testing.assert_array_equal(pictures.whole(path), array)
    path = save(tmp_path / "tall.png", array.swapaxes(0, 1))
    np.testing.assert_array_equal(pictures.read(path, 16), array.swapaxes(0, 1)[12:28])


def test_smaller_and_larger_keep_the_means_of_boxes(tmp_path):
    array = smooth(160, 160)
    path = save(tmp_path / "a.png", array)
    boxes = array.reshape(16, 10, 16, 10, 3).mean((1, 3))
    assert np.abs(pictures.read(path, 16) - boxes).max() < 4
    large = pictures.read(path, 320)
    assert np.abs(large.reshape(160, 2, 160, 2, 3).mean((1, 3)) - array).max() < 4


def test_grey(tmp_path):
    array = RNG.integers(0, 256, (16, 16, 3), np.uint8)
    grey = pictures.read(save(tmp_path / "a.png", array), 16, channels=1)
    assert grey.shape == (16, 16, 1) and grey.dtype == np.uint8
    assert np.abs(grey[..., 0] - array @ [0.299, 0.587, 0.114]).max() < 1
    np.testing.assert_array_equal(
        pictures.read(save(tmp_path / "g.png", array[..., 0]), 16), array[..., :1].repeat(3, 2)
    )


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_large_jpeg_is_decoded_small(tmp_path, options, monkeypatch):
    array = smooth(900, 1200)
    path = save(tmp_path / "a.jpg", array, quality=95, **options)
    boxes = array[:, 150:1050].reshape(30, 30, 30, 30, 3).mean((1, 3))
    assert np.abs(pictures.read(path, 30) - boxes).max() < 6
    assert pictures.open_rgb(path, 60).size == (150, 113)
    assert pictures.open_rgb(path).size == (1200, 900)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_camera_was_turned(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    array = smooth(24, 32)
    path = save(tmp_path / "a.png", array, exif=exif)
    turns = {1: "", 2: "h", 3: "hv", 4: "v", 5: "t", 6: "th", 7: "thv", 8: "tv"}  # transpose, then flip
    want = array.swapaxes(0, 1) if "t" in turns[orientation] else array
    want = want[:, ::-1] if "h" in turns[orientation] else want
    want = want[::-1] if "v" in turns[orientation] else want
    np.testing.assert_array_equal(pictures.whole(path), want)


def test_a_broken_note_of_the_camera_is_passed_over(tmp_path):
    path = save(tmp_path / "a.jpg", smooth(32, 32), exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" + bytes(9))
    assert np.abs(pictures.whole(path).astype(int) - smooth(32, 32)).max() < 12


def test_what_shines_through_is_white(tmp_path):
    palette = halves(1, 0, "P")
    palette.putpalette([*BLUE, *RED])
    palette.save(tmp_path / "palette.png", transparency=0)
    palette.save(tmp_path / "palette.gif", transparency=0)
    palette.save(tmp_path / "opaque.png")
    halves((*RED, 255), (*BLUE, 0), "RGBA").save(tmp_path / "rgba.png")
    halves(RED, BLUE, "RGB").save(tmp_path / "key.png", transparency=BLUE)
    for name in ("palette.png", "palette.gif", "rgba.png", "key.png"):
        pixels = pictures.read(tmp_path / name, 16)
        assert (pixels[:, :8] == RED).all() and (pixels[:, 8:] == WHITE).all(), name
    assert (pictures.read(tmp_path / "opaque.png", 16)[:, 8:] == BLUE).all()
    halves((0, 255), (0, 51), "LA").save(tmp_path / "la.png")
    pixels = pictures.read(tmp_path / "la.png", 16)
    assert (pixels[:, :8] == 0).all() and (pixels[:, 8:] == 204).all()


def test_sixteen_bits_are_scaled(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    want = np.round(ramp / 65535 * 255)
    for name in ("a.png", "a.tif", "a.pgm"):
        np.testing.assert_array_equal(pictures.whole(save(tmp_path / name, ramp), 1)[..., 0], want, name)
    high = np.full((16, 16), 300, np.uint16)  # clipped it would be white
    assert (pictures.read(save(tmp_path / "high.png", high), 16) == 1).all()


def test_floating_point(tmp_path):
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    want = np.arange(256).reshape(16, 16)
    np.testing.assert_array_equal(pictures.whole(save(tmp_path / "a.tif", ramp), 1)[..., 0], want)
    np.testing.assert_array_equal(pictures.whole(save(tmp_path / "b.tif", ramp * 255), 1)[..., 0], want)
    for array in (ramp * 300, ramp - 0.5, ramp * np.nan):
        assert "values from" in reason(save(tmp_path / "c.tif", array))
    assert "values from 0 to 70000" in reason(save(tmp_path / "d.tif", (ramp * 70000).astype(np.int32)))


@pytest.fixture
def told(capsys):
    """What was said on standard error since the last call."""
    pictures.TOLD.clear()
    return lambda: capsys.readouterr().err.splitlines()


def png(path, array, *chunks):
    """Of 16 bits, [H, W] or [H, W, 3], with chunks as (name, content) before the pixels."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, 2 if array.ndim == 3 else 0, 0, 0, 0)
    every = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in every]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


RAMP = np.linspace(0, 4095, 256).astype(np.uint16).reshape(16, 16)  # 12 bits
WHOLE = np.arange(256).reshape(16, 16)  # what it is in 8


def test_twelve_bits_that_the_file_speaks_of(tmp_path, told):
    said = (b"sBIT", b"\x0c")
    for path in (
        png(tmp_path / "a.png", RAMP, (b"gAMA", bytes(4)), said),
        png(tmp_path / "b.png", RAMP << 4 | RAMP >> 8, said),  # as the PNG specification wants them: full already
        save(tmp_path / "c.tif", RAMP, tiffinfo={281: 4095}),
    ):
        assert np.abs(pictures.whole(path, 1)[..., 0].astype(int) - WHOLE).max() <= 1, path
    (tmp_path / "d.pgm").write_bytes(b"P5 16 16 4095\n" + RAMP.astype(">u2").tobytes())
    assert np.abs(pictures.whole(tmp_path / "d.pgm", 1)[..., 0].astype(int) - WHOLE).max() <= 1
    assert told() == []
    dark = RAMP >> 4 << 4  # the upper 12 bits of 16, as it should be: dark indeed
    assert pictures.whole(png(tmp_path / "e.png", dark, said), 1).max() == 16
    assert len(told()) == 1


def test_twelve_bits_that_nobody_speaks_of_are_told_once(tmp_path, told):
    """Nothing is guessed: a dark picture of 16 bits looks the same."""
    for name in ("first.png", "second.png"):
        assert pictures.whole(save(tmp_path / name, RAMP), 1).max() == 16
    (line,) = told()
    assert line.startswith(f"{tmp_path}/first.png: 16-bit values are taken as 0 to 65535") and "largest is 4095" in line
    assert "of 12 bits, save them times 16, or with 8 bits" in line
    for path in (
        save(tmp_path / "c.tif", RAMP, tiffinfo={281: 3000}),  # less than there is
        save(tmp_path / "d.tif", RAMP, tiffinfo={281: 4094}),
        save(tmp_path / "e.tif", RAMP.astype(np.int32)),
        png(tmp_path / "f.png", RAMP, (b"sBIT", b"\x10")),
        png(tmp_path / "g.png", RAMP, (b"sBIT", b"")),
        png(tmp_path / "colour.png", np.stack([RAMP] * 3, -1)),
        png(tmp_path / "h.png", np.stack([RAMP] * 3, -1), (b"sBIT", b"\x0c\x0c\x0c")),
    ):
        pictures.TOLD.clear()
        assert pictures.whole(path, 1).max() in (15, 16), path
        (line,) = told()
        assert line.startswith(f"{path}: 16-bit values") and "of 12 bits" in line
    (tmp_path / "k.ppm").write_bytes(b"P6 16 16 65535\n" + np.stack([RAMP] * 3, -1).astype(">u2").tobytes())
    pictures.TOLD.clear()
    assert pictures.whole(tmp_path / "k.ppm", 1).max() == 16 and "bits, save them times" in "".join(told())
    bright = np.full((16, 16), 60000, np.uint16)
    pictures.TOLD.clear()
    for path in (save(tmp_path / "i.png", bright), png(tmp_path / "j.png", np.stack([bright] * 3, -1))):
        assert abs(int(pictures.whole(path, 1).max()) - 233) <= 1
    pictures.whole(save(tmp_path / "k.png", smooth(16, 16) // 100))  # eight bits are never asked about
    assert told() == []


def test_floating_point_says_what_was_assumed(tmp_path, told):
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    for name, factor in (("a", 0.5), ("b", 1), ("c", 200), ("d", 255)):
        pictures.whole(save(tmp_path / f"{name}.tif", ramp * np.float32(factor)), 1)
    one, other = told()
    assert one.startswith(f"{tmp_path}/a.tif: floating-point values are taken as 0 to 1, here and elsewhere")
    assert other.startswith(f"{tmp_path}/c.tif: floating-point values are taken as 0 to 255") and "is 200" in other
    pictures.TOLD.clear()
    path = save(tmp_path / "e.tif", ramp * 700, tiffinfo=said_floats(1000.0))
    assert pictures.whole(path, 1).max() in (178, 179) and told() == []


def said_floats(largest):
    """TIFF's SMaxSampleValue."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[341], info.tagtype[341] = largest, TiffTags.FLOAT
    return info


def test_one_bit_and_cmyk(tmp_path):
    halves(1, 0, "1").save(tmp_path / "bit.png")
    halves((0, 255, 255, 0), (255, 255, 0, 0), "CMYK").save(tmp_path / "ink.jpg", quality=95)  # Adobe's, inverted
    halves((0, 255, 255, 0), (255, 255, 0, 0), "CMYK").save(tmp_path / "ink.tif")
    pixels = pictures.read(tmp_path / "bit.png", 16)
    assert (pixels[:, :8] == 255).all() and (pixels[:, 8:] == 0).all()
    for name in ("ink.jpg", "ink.tif"):
        pixels = pictures.read(tmp_path / name, 16).astype(int)
        assert np.abs(pixels[:, :8] - RED).max() < 9 and np.abs(pixels[:, 8:] - BLUE).max() < 9


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_of_an_animation_the_first_frame(tmp_path, name):
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, BLUE)]
    options = {"lossless": True} if name == "a.webp" else {}
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
    assert (pictures.read(tmp_path / name, 16) == RED).all()


def test_a_wrong_suffix_does_not_matter(tmp_path):
    path = save(tmp_path / "a.png", smooth(32, 32), format="JPEG")
    assert np.abs(pictures.whole(path).astype(int) - smooth(32, 32)).max() < 12


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_cut_short(tmp_path, format):
    path = save(tmp_path / "a", RNG.integers(0, 256, (64, 64, 3), np.uint8), format=format)
    content = path.read_bytes()
    for share in (0.5, 0.9):
        path.write_bytes(content[: int(share * len(content))])
        assert reason(path) == "truncated" or format == "WEBP"
    for length in (*range(1, 100, 7), len(content) // 20):
        path.write_bytes(content[:length])
        assert reason(path)


def test_damaged_anywhere(tmp_path):
    """Either there are pixels or a reason; nothing else leaves."""
    path = tmp_path / "a"
    for format in ("JPEG", "PNG", "GIF", "TIFF", "ICO", "TGA"):
        content = save(path, smooth(24, 24), format=format).read_bytes()
        for _ in range(40):
            broken = np.frombuffer(content, np.uint8).copy()
            broken[RNG.integers(0, min(len(broken), 200), 6)] = RNG.integers(0, 256, 6)
            path.write_bytes(broken.tobytes())
            try:
                assert pictures.read(path, 8).shape == (8, 8, 3)
            except Unreadable as error:
                assert str(error) and "\n" not in str(error)


def test_no_pictures(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"")
    assert reason(path) == "empty"
    path.write_text("This is no picture, whatever its name says. " * 9)
    assert reason(path) == "not a picture"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n")  # would be run, not read
    assert reason(path) == "not a picture"
    (tmp_path / "b.png").mkdir()
    assert reason(tmp_path / "b.png") == "a folder"
    (tmp_path / "c.png").symlink_to("nowhere")
    assert reason(tmp_path / "c.png") == "no such file or directory"
    os.mkfifo(tmp_path / "d.png")
    assert reason(tmp_path / "d.png") == "not a plain file"


@pytest.mark.parametrize(("width", "height"), [(1, 1), (20_000, 1), (7, 100)])
def test_dots_and_rulers_are_no_pictures(tmp_path, width, height):
    path = save(tmp_path / "a.png", np.zeros((height, width, 3), np.uint8))
    assert reason(path) == f"{width} x {height} pixels, below 8"
    assert pictures.read(save(path, np.zeros((8, 500), np.uint8)), 16).shape == (16, 16, 3)


def test_bombs(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", smooth(32, 32))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings(record=True, action="always") as told:
        assert pictures.read(path, 16).shape == (16, 16, 3)  # large, but Pillow only warns
    assert not told
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    assert reason(path) == "too many pixels"


def test_a_machine_that_fails_is_not_the_picture_s_fault(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", smooth(32, 32))

    def fails(number):
        def open(*args, **kwargs):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(Image, "open", open)

    fails(errno.EACCES)
    assert reason(path) == "permission denied"
    fails(errno.EMFILE)
    with pytest.raises(UserError, match=r"a.png cannot be read: Too many open files; run again"):
        pictures.read(path, 16)


def test_suffixes():
    assert {".png", ".jpg", ".jpeg", ".webp", ".gif", ".tif", ".bmp", ".mpo"} <= pictures.suffixes()
    assert not {".pdf", ".h5", ".mpg", ".eps", ".txt", ".json", ".npz"} & pictures.suffixes()


def test_bytes_of_a_data_set_give_the_square_in_their_middle():
    image = np.zeros((4, 8, 3), np.uint8)
    image[:, 2:6] = 200
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    for size in (4, 16):
        np.testing.assert_array_equal(pictures.decode(file.getvalue(), size), np.full((size, size, 3), 200))
    np.testing.assert_array_equal(pictures.decode(file.getvalue(), 2, 1), np.full((2, 2, 1), 200))
    for broken in (b"text", b"", file.getvalue()[:40]):
        with pytest.raises(Unreadable):
            pictures.decode(broken, 4)
