"""A data set of TFDS that nobody but the tests knows: python tests/data/tiny_tfds.py DATA_DIR"""

import io
import sys

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

COUNT = 40
BAD = 7  # an image of these bytes is none


def image(row: int, channels: int) -> np.ndarray:
    """Noise, wider than high; in RGBA half of it transparent."""
    noise = np.random.default_rng(row).integers(0, 256, (6, 8, channels), np.uint8)
    if channels == 4:
        noise[..., 3] = 255 * (np.arange(8) < 4)
    return noise


class TinySet(tfds.core.GeneratorBasedBuilder):
    """Example i has the label i % 3, the number i and the name of its row."""

    VERSION = tfds.core.Version("1.2.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in ("grey", "rgba")]

    def _info(self):
        features = {
            "id": tfds.features.Text(),
            "picture": tfds.features.Image(shape=(None, None, self.channels)),
            "kind": tfds.features.ClassLabel(names=["a", "b", "c"]),
            "attributes": {"Odd": tfds.features.Scalar(np.bool_), "number": tfds.features.Scalar(np.int64)},
            "caption": tfds.features.Text(),
            "said": tfds.features.Sequence({"how": tfds.features.Text(), "often": np.int64}),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    @property
    def channels(self):
        return {"grey": 1, "rgba": 4}[self.builder_config.name]

    def _split_generators(self, dl_manager):
        return {"full": self._generate_examples()}

    def _generate_examples(self):
        for row in range(COUNT):
            yield (
                row,
                {
                    "id": str(row),
                    "picture": io.BytesIO(b"no image") if row == BAD else self.png(row),
                    "kind": row % 3,
                    "attributes": {"Odd": bool(row % 2), "number": row},
                    "caption": f"row {row}",
                    "said": [{"how": f"{row} so\nor {i}", "often": i} for i in range(row % 3)],
                },
            )

    def png(self, row):
        file = io.BytesIO()
        pixels = image(row, self.channels)
        Image.fromarray(pixels[..., 0] if self.channels == 1 else pixels).save(file, "PNG")
        file.seek(0)
        return file


if __name__ == "__main__":
    for config in ("grey", "rgba"):
        TinySet(data_dir=sys.argv[1], config=config, file_format="array_record").download_and_prepare()
