"""One picture file as pixels: whatever Pillow reads, upright, on white, eight bits a channel.

Colour profiles are not used. Legend: H W C the picture, S the side of a square.
"""

import contextlib
import io
import os
import re
import stat
import sys
import threading
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from vqvae_jax.data.decoded import Unreadable
from vqvae_jax.files import pillow, printable
from vqvae_jax.types import UserError

if TYPE_CHECKING:  # the core runs without Pillow
    from PIL import Image

SMALLEST = 8  # pixels of the shorter side; below that it is a dot or a ruler
FINER = 2  # times the asked size that the JPEG decoder gives, so that Lanczos, not the decoder, does the last halving
NO_PICTURES = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF")  # written only, or read by other programs
MACHINE = ("EIO", "EMFILE", "ENFILE", "ESTALE", "ETIMEDOUT")  # errors that say nothing about the picture
QUIET = ("ignore", None, Warning, re.compile(r"PIL\b"), 0)  # as `warnings` keeps it
MODES = {1: "L", 3: "RGB"}
DARK = 1 << 14  # of 65536: where no value is as high, they may be of 14 bits or fewer
BITS, LARGEST = 258, (281, 341)  # TIFF's BitsPerSample; MaxSampleValue, SMaxSampleValue
TELLING, TOLD = threading.Lock(), set[str]()  # what was assumed and said already


def read(path: str | os.PathLike[str], image_size: int, channels: int = 3) -> np.ndarray:
    """The middle square of a picture, uint8 [S, S, C].

    Args:
        path: of the file; its suffix does not matter.
        image_size: S, pixels.
        channels: 3 for colour, 1 for grey.

    Raises:
        Unreadable: the file holds no picture; one short line, without the path.
        UserError: the machine cannot read it now.
    """
    square = _square(open_rgb(path, image_size * FINER), image_size)
    return _pixels(square, channels)


def whole(path: str | os.PathLike[str], channels: int = 3, largest: int | None = None) -> np.ndarray:
    """All of a picture, uint8 [H, W, C], made smaller where a side has more than `largest` pixels. Raises as `read`."""
    image = open_rgb(path)
    if largest and max(image.size) > largest:
        image.thumbnail((largest, largest))
    return _pixels(image, channels)


def resized(image: np.ndarray, image_size: int) -> np.ndarray:
    """The middle square of a picture that was read, uint8 [H, W, C] → [S, S, C], as `read` makes it."""
    from PIL import Image

    square = _square(Image.fromarray(image[..., 0] if image.shape[2] == 1 else image), image_size)
    return _pixels(square, image.shape[2])


def decode(content: bytes, image_size: int, channels: int = 3) -> np.ndarray:
    """As `read`, of a file's bytes, of any size: an image of a data set."""
    try:
        image = _loaded(io.BytesIO(content), image_size * FINER, smallest=1)
    except Unreadable:
        raise
    except Exception as error:
        raise _told(error, "") from error
    return _pixels(_square(image, image_size), channels)


def open_rgb(path: str | os.PathLike[str], at_least: int | None = None) -> "Image.Image":
    """A picture as a Pillow image of mode RGB; of an animation the first frame. Raises as `read` does.

    With `at_least` it may come smaller, by a power of two, but no side below so many pixels: JPEG decodes that faster.
    """
    try:
        return _open(path, at_least)
    except (Unreadable, UserError):
        raise
    except Exception as error:  # Pillow's readers raise whatever a broken file leads them into
        raise _told(error, path) from error


@cache
def suffixes() -> frozenset[str]:
    """Those of picture files: ".png", ".jpg", …"""
    Image = pillow()
    Image.init()
    kinds = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in kinds.items() if kind not in NO_PICTURES)


@cache
def _formats() -> tuple[str, ...]:
    Image = pillow()
    Image.init()
    return tuple(name for name in Image.ID if name not in NO_PICTURES)


def _open(path: str | os.PathLike[str], at_least: int | None) -> "Image.Image":
    _check_file(os.stat(path))
    return _loaded(path, at_least)


def _loaded(file: Any, at_least: int | None, smallest: int = SMALLEST) -> "Image.Image":
    """Of a path, or of bytes as a file."""
    from PIL import Image

    _hush()
    with Image.open(file, formats=_formats()) as image:
        if min(image.size) < smallest:
            raise Unreadable(f"{image.width} x {image.height} pixels, below {smallest}")
        if at_least:
            image.draft(None, (at_least, at_least))
        white, deep = _white(image), any(re.search(r";16|\b65535\b", str(tile[3])) for tile in image.tile)
        image.load()
        _turn(image)
        return _rgb(image, white, deep, "a picture" if isinstance(file, io.BytesIO) else os.fspath(file))


def _check_file(facts: os.stat_result) -> None:
    if stat.S_ISDIR(facts.st_mode):
        raise Unreadable("a folder")
    if not stat.S_ISREG(facts.st_mode):  # a pipe would be waited for
        raise Unreadable("not a plain file")
    if not facts.st_size:
        raise Unreadable("empty")


def _turn(image: "Image.Image") -> None:
    """Upright, in place, as the camera noted it."""
    from PIL import ImageOps

    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # a note that cannot be read is no reason to lose the picture
        return


def _rgb(image: "Image.Image", white: float, deep: bool, name: str) -> "Image.Image":
    """`white` as `_white` says; `deep`: of 16 bits a colour in the file, of which Pillow keeps the upper eight."""
    from PIL import Image

    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(_eight_bits(np.asarray(image), white, image.format == "PNG", name))
    elif deep and image.mode in ("LA", "RGB", "RGBA"):
        _tell_dark(name, 256 * int(np.asarray(image)[..., : 1 if image.mode == "LA" else 3].max()) + 255)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _white(image: "Image.Image") -> float:
    """The value that is white, as the file says; 0 where it says no more than its type. To be called before loading.

    TIFF's MaxSampleValue may be the largest value that happens to be there: of integers it counts as 2^n - 1 alone.
    """
    if image.mode != "F" and not image.mode.startswith("I"):
        return 0
    with contextlib.suppress(Exception):  # a note that cannot be read is no reason to lose the picture
        if image.format == "PNG":
            file: Any = image
            return (1 << _significant_bits(file.fp)) - 1
        tags = getattr(image, "tag_v2", {})
        said = [float(np.max(tags[tag])) for tag in LARGEST if tag in tags]
        if said and (image.mode == "F" or (said[0] > 1 and (said[0] + 1).hex().startswith("0x1.0000000000000p"))):
            return said[0]
        bits = int(np.max(tags.get(BITS, 16)))
        return (1 << bits) - 1 if bits < 16 else 0
    return 0


def _significant_bits(file: Any) -> int:
    """Below 16, of the chunk sBIT of a PNG, which Pillow passes over; else 0. The file stays where it is."""
    here = file.tell()
    try:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
            length = int.from_bytes(head[:4], "big")
            if head[4:] == b"sBIT" and length:
                return bits if (bits := file.read(1)[0]) < 16 else 0
            file.seek(length + 4, os.SEEK_CUR)
        return 0
    finally:
        file.seek(here)


def _eight_bits(grey: np.ndarray, white: float, png: bool, name: str) -> np.ndarray:
    """[H, W] of 16 or 32 bits → uint8, black at 0. What the file does not say is assumed, and told once.

    A PNG of 12 significant bits may hold them as they are, or as the upper ones of 16, as it should: the lower are 0.
    """
    low, high = grey.min(), grey.max()
    if (
        not 0 < white < np.inf
        or high > white
        or (png and not (grey.astype(np.int64) % (65536 // (int(white) + 1))).any())
    ):
        white = _assumed(grey, high, name)
    if not (low >= 0 and high <= white):  # said so that NaN is refused
        raise Unreadable(f"values from {low:g} to {high:g}; save it with 8 or 16 bits")
    return np.rint(grey * (255 / white)).astype(np.uint8)


def _assumed(grey: np.ndarray, high: float, name: str) -> float:
    """White, where the file does not say: integers reach to 65535, floating-point numbers to 1, or else to 255."""
    if grey.dtype.kind in "iu":
        _tell_dark(name, int(high))
        return 65535
    white = 1 if high <= 1 else 255
    if 0 <= high <= white:
        _tell(f"floating-point values are taken as 0 to {white}", f"its largest is {high:.4g}", name)
    return white


def _tell_dark(name: str, high: int) -> None:
    """16 bits that are hardly used: those of a camera, a microscope, X-rays are often 10, 12 or 14."""
    if 255 < high < DARK:
        bits = high.bit_length()
        advice = f"if they are of {bits} bits, save them times {1 << (16 - bits)}, or with 8 bits"
        _tell("16-bit values are taken as 0 to 65535", f"its largest is {high}, nearly black; {advice}", name)


def _tell(assumption: str, why: str, name: str) -> None:
    """Once, of the first picture; pictures are read by several threads."""
    with TELLING:
        if assumption in TOLD:
            return
        TOLD.add(assumption)
    print(f"{printable(name)}: {assumption}, here and elsewhere; {why}", file=sys.stderr)


def _square(image: "Image.Image", size: int) -> "Image.Image":
    """The middle, [S, S]."""
    from PIL import Image

    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    middle = image.crop((left, top, left + side, top + side))
    return middle.resize((size, size), Image.Resampling.LANCZOS, reducing_gap=3.0)  # big ones by boxes first: faster


def _pixels(image: "Image.Image", channels: int) -> np.ndarray:
    """uint8 [H, W, C]"""
    return np.array(image.convert(MODES[channels])).reshape(image.height, image.width, channels)


def _hush() -> None:
    """No warnings of Pillow: a big picture or an odd note in it is not news, and what is broken raises.

    For good, because `catch_warnings` in one thread undoes what it did in another.
    """
    if QUIET not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\b")


def _told(error: Exception, path: str | os.PathLike[str]) -> Exception:
    """The error to raise for what Pillow or the machine raised."""
    import errno

    from PIL import Image, UnidentifiedImageError

    if isinstance(error, OSError) and errno.errorcode.get(error.errno or 0) in MACHINE:
        return UserError(f"{os.fspath(path)} cannot be read: {error.strerror}; run again, or take the file away")
    if isinstance(error, UnidentifiedImageError):
        return Unreadable("not a picture")
    if isinstance(error, Image.DecompressionBombError | MemoryError):
        return Unreadable("too many pixels")
    if isinstance(error, OSError) and error.strerror:
        return Unreadable(error.strerror.lower())
    if "truncated" in str(error).lower() or isinstance(error, EOFError):
        return Unreadable("truncated")
    return Unreadable(f"damaged: {' '.join(str(error).split())[:60]}".rstrip(": "))
