"""The pictures in README, from a finished demo: python scripts/pictures.py --workdir=runs/demo"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from vqvae_jax import logs
from vqvae_jax.sample import Sampler, pick_of

COLUMNS = 16
ROWS = 3  # of new drawings


def demo(sampler: Sampler, workdir: Path) -> np.ndarray:
    """reconstructions.png, and below it new drawings, as they come: seed 0, none left out."""
    above = np.asarray(Image.open(workdir / "reconstructions.png"))
    images = sampler.images(0, COLUMNS * ROWS, pick_of(sampler.config["sample"]))
    below = logs.grid(images, columns=COLUMNS)
    space = np.full((8, above.shape[1], 3), 255, np.uint8)
    return np.concatenate([above, space, below])


def labels(sampler: Sampler) -> np.ndarray:
    """A row for each label, in the data's order: seed 0, none left out."""
    pick = pick_of(sampler.config["sample"])
    return logs.grid(
        [image for name in sampler.facts["label_names"] for image in sampler.images(0, COLUMNS, pick, name)], COLUMNS
    )


def main() -> int:
    """Writes docs/pictures/demo.png and labels.png."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--workdir", type=Path, required=True)
    flags.add_argument("--output", type=Path, default=Path("docs/pictures"))
    given = flags.parse_args()
    sampler = Sampler(given.workdir)
    logs.save_png(given.output / "demo.png", demo(sampler, given.workdir))
    logs.save_png(given.output / "labels.png", labels(sampler))
    return 0


if __name__ == "__main__":
    sys.exit(main())
