"""PSNR and SSIM of a run's reconstructions as the evaluation published with CVQ-VAE computes them.

    python benchmarks/paper_metrics.py --workdir=runs/mnist_cvqvae

https://arxiv.org/abs/2307.15139, table 1, MNIST: CVQ-VAE 27.87 dB and 0.9833, VQ-VAE 26.48 dB and 0.9777. Images are
saved as uint8 there and compared in [0, 1]: mean over images of each one's PSNR, and of its SSIM with a uniform window
of 11 pixels and unbiased covariances (scikit-image's `structural_similarity` with win_size=11). `evaluate` has the
Gaussian window of the SSIM paper, which gives other numbers.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy.ndimage import uniform_filter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from vqvae_jax import evaluate
from vqvae_jax.endings import ended
from vqvae_jax.flags import Parser, add_images, images_of
from vqvae_jax.trained import Trained

WINDOW = 11  # pixels
C1, C2 = 0.01**2, 0.03**2  # for images in [0, 1]


def psnr(image: np.ndarray, other: np.ndarray) -> float:
    """In dB, images in [0, 1]."""
    return float(-10 * np.log10(np.mean(np.square(image - other))))


def ssim(image: np.ndarray, other: np.ndarray) -> float:
    """Of images [H, W, C] in [0, 1]: mean over channels and the places where the whole window fits."""
    return float(np.mean([_ssim(image[..., c], other[..., c]) for c in range(image.shape[-1])]))


def _ssim(x: np.ndarray, y: np.ndarray) -> float:
    def mean(z: np.ndarray) -> np.ndarray:
        inside = slice(WINDOW // 2, -(WINDOW // 2))
        return uniform_filter(z, WINDOW)[inside, inside]

    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    mx, my = mean(x), mean(y)
    vx, vy, vxy = (unbiased * (mean(a * b) - mean(a) * mean(b)) for a, b in ((x, x), (y, y), (x, y)))
    return float(np.mean((2 * mx * my + C1) * (2 * vxy + C2) / ((mx**2 + my**2 + C1) * (vx + vy + C2))))


def main() -> int:
    """0, or 2 where the user has something to put right."""
    flags = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--workdir", type=Path, required=True, help="a trained autoencoder")
    add_images(flags)
    given = flags.parse_args()
    return ended(lambda: run(given))


def run(given: argparse.Namespace) -> None:
    model = Trained(given.workdir)
    images = np.asarray(evaluate.load_images(model, {**model.config["dataset"], **images_of(given)}).image)
    made = model.reconstruct(images)[-1]
    pairs = [(a / 255.0, b / 255.0) for a, b in zip(images, made, strict=True)]
    print(f"{len(pairs)} images: PSNR {np.mean([psnr(*pair) for pair in pairs]):.2f} dB", end=", ")
    print(f"SSIM {np.mean([ssim(*pair) for pair in pairs]):.4f} (uniform window of {WINDOW})")


if __name__ == "__main__":
    sys.exit(main())
