"""One picture file as pixels: whatever Pillow reads, upright, on white, eight bits a channel.

Colour profiles are not used. Legend: H W C the picture, S the side of a square.
"""

import io
import os
import re
import stat
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from vqvae_jax.data.decoded import Unreadable
from vqvae_jax.types import UserError

if TYPE_CHECKING:  # the core runs without Pillow
    from PIL import Image

SMALLEST = 8  # pixels of the shorter side; below that it is a dot or a ruler
FINER = 2  # times the asked size that the JPEG decoder gives, so that Lanczos, not the decoder, does the last halving
NO_PICTURES = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF")  # written only, or read by other programs
MACHINE = ("EIO", "EMFILE", "ENFILE", "ESTALE", "ETIMEDOUT")  # errors that say nothing about the picture
QUIET = ("ignore", None, Warning, re.compile(r"PIL\b"), 0)  # as `warnings` keeps it
MODES = {1: "L", 3: "RGB"}


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
    from PIL import Image

    Image.init()
    kinds = Image.registered_extensions()
    return frozenset(suffix for suffix, kind in kinds.items() if kind not in NO_PICTURES)


@cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

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
        image.load()
        _turn(image)
        return _rgb(image)


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


def _rgb(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _eight_bits(grey: np.ndarray) -> np.ndarray:
    """[H, W] of 16 or 32 bits → uint8. Integers reach to 65535, floating-point numbers to 1, or else to 255."""
    low, high = grey.min(), grey.max()
    limit = 65535 if grey.dtype.kind in "iu" else 1 if high <= 1 else 255
    if not (low >= 0 and high <= limit):  # said so that NaN is refused
        raise Unreadable(f"values from {low:g} to {high:g}; save it with 8 or 16 bits")
    return np.rint(grey * (255 / limit)).astype(np.uint8)


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
