"""The pictures in README and docs, from finished runs:

python scripts/pictures.py --workdir=runs/demo --output=docs/pictures/demo.png
python scripts/pictures.py --workdir=runs/demo --output=docs/pictures/labels.png --labels
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import vqvae_jax
from vqvae_jax import logs

COLUMNS = 16
ROWS = 3  # of new images


def page(model) -> np.ndarray:
    """reconstructions.png, and below it new images, as they come: seed 0, none left out."""
    above = np.asarray(Image.open(model.workdir / "reconstructions.png"))
    images = model.sample(COLUMNS * ROWS)
    below = logs.grid(images, columns=COLUMNS, scale=max(1, 64 // images.shape[1]))
    space = np.full((8, above.shape[1], 3), 255, np.uint8)
    return np.concatenate([above, space, below])


def labels(model) -> np.ndarray:
    """A row for each label, in the data's order: seed 0, none left out."""
    rows = [model.sample(COLUMNS, label=name) for name in model.facts["label_names"]]
    return logs.grid(np.concatenate(rows), COLUMNS, scale=max(1, 64 // rows[0].shape[1]))


def main() -> int:
    """Writes one picture."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--workdir", type=Path, required=True, help="of a finished run")
    flags.add_argument("--output", type=Path, required=True, help="FILE.png")
    flags.add_argument("--labels", action="store_true", help="a row of new images for each label")
    given = flags.parse_args()
    model = vqvae_jax.load(given.workdir)
    logs.save_png(given.output, labels(model) if given.labels else page(model))
    return 0


if __name__ == "__main__":
    sys.exit(main())
