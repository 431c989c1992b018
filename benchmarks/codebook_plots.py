"""Rate and distortion of every quantizer, beside JPEG and WebP: one picture from the numbers of codebooks.py.

    python benchmarks/codebook_plots.py --json=codebooks_fashion.json --data=FILE.npz --output=rate_distortion.png

Across: bits a pixel that the codes take, coded by their prior. Up: PSNR of the reconstructions, mean over the test
split, of JPEG and WebP over its first 500 images. A file of JPEG or WebP of so small an image is mostly header, so the
bytes of a file of a plain grey image at the same quality are taken off each: that flatters them a little.
"""

import argparse
import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import codebooks

from vqvae_jax.endings import ended
from vqvae_jax.files import atomically
from vqvae_jax.flags import Parser, file
from vqvae_jax.types import UserError

KINDS = {"JPEG": (1, 2, 5, 10, 15, 20, 30, 40, 50), "WEBP": (0, 1, 2, 5, 10, 20, 30, 40)}  # qualities
IMAGES = 500  # of the test split
MARKERS = "ovs^Dphx*P<>X"


def coded(image: np.ndarray, kind: str, quality: int) -> tuple[int, np.ndarray]:
    """Bytes of the file, and the image that comes out of it."""
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, kind, quality=quality)
    with PIL.Image.open(file) as back:
        return len(file.getvalue()), np.asarray(back.convert("L" if image.ndim == 2 else "RGB"))


def curve(images: np.ndarray, kind: str) -> Iterator[tuple[float, float]]:
    """(bits a pixel, PSNR in dB), means over the images, for each quality."""
    grey = np.full_like(images[0], 128)
    for quality in KINDS[kind]:
        header = coded(grey, kind, quality)[0]
        sizes, errors = [], []
        for image in images:
            size, back = coded(image, kind, quality)
            sizes.append(size - header)
            errors.append(np.mean(np.square(back.astype(float) - image)))
        psnr = np.minimum(10 * np.log10(255**2 / np.maximum(errors, 1e-12)), 99)
        yield 8 * float(np.mean(sizes)) / (images.shape[1] * images.shape[2]), float(np.mean(psnr))


def draw(found: dict, images: np.ndarray, output: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    for kind in KINDS:
        rates, psnrs = zip(*curve(images, kind), strict=True)
        axes.plot(
            rates, psnrs, "-", color="0.6" if kind == "JPEG" else "0.3", linewidth=1, label=f"{kind}, less header"
        )
        print(kind, *(f"{rate:.3f}:{psnr:.2f}" for rate, psnr in zip(rates, psnrs, strict=True)))
    for i, (name, runs) in enumerate(found["runs"].items()):
        first = next(run for run in runs.values() if "bits_per_pixel" in run)
        axes.plot(
            first["bits_per_pixel"],
            first["psnr"],
            MARKERS[i % len(MARKERS)],
            color=f"C{i % 10}",
            markersize=8,
            label=name,
        )
    shown = [run for runs in found["runs"].values() for run in runs.values() if "bits_per_pixel" in run]
    low, high = (pick(run["psnr"] for run in shown) for pick in (min, max))
    axes.set(xlim=(0, 2.2 * max(run["bits_per_pixel"] for run in shown)), ylim=(low - 0.5, high + 1.5))
    axes.set(xlabel="bits a pixel", ylabel="PSNR, dB")
    figure.legend(fontsize=8, loc="outside right center")
    axes.grid(alpha=0.3)
    with atomically(output) as path:
        figure.savefig(path, dpi=110, format="png")


def read(given: argparse.Namespace) -> tuple[dict, np.ndarray]:
    """What codebooks.py wrote, runs with a rate only, and the images that it was measured on."""
    found = codebooks.read_runs(given.json)
    found["runs"] = {name: runs for name, runs in found["runs"].items() if any("nll" in run for run in runs.values())}
    if not found["runs"]:
        raise UserError(f"{given.json} holds no run with a prior; python benchmarks/codebooks.py train --help")
    given.task = found["of"]["task"]
    return found, codebooks.read_images(given)["test"][:IMAGES]


def main() -> int:
    """0, or 2 where the user has something to put right."""
    flags = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--json", metavar="FILE", type=file, required=True, help="what codebooks.py wrote")
    flags.add_argument("--data", metavar="FILE", type=file, required=True, help="the images, an .npz")
    flags.add_argument("--output", metavar="FILE", type=Path, required=True, help="a .png")
    given = flags.parse_args()
    return ended(lambda: run(given))


def run(given: argparse.Namespace) -> None:
    if given.output.suffix != ".png":
        raise UserError(f"--output={given.output}: it will be a picture, give a name that ends in .png")
    found, images = read(given)
    draw(found, images[..., 0] if images.shape[-1] == 1 else images, given.output)


if __name__ == "__main__":
    sys.exit(main())
