"""Own pictures through a trained autoencoder: what its codes keep of them, and how much each level adds."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vqvae_jax import logs
from vqvae_jax.checkpoint import Step
from vqvae_jax.data import folder, pictures
from vqvae_jax.data.decoded import Unreadable
from vqvae_jax.files import check_new_folder, png_names, printable
from vqvae_jax.progress import progress_bar
from vqvae_jax.trained import Flags, Trained
from vqvae_jax.types import UserError

LARGEST = 1024  # pixels of the longer side; larger pictures are made smaller
RECONSTRUCTIONS, STRIPS = "reconstructions", "strips"


def reconstruct(
    workdir: Path, images: Path, output: Path, image_size: int | None = None, step: Step = None
) -> dict[str, float]:
    """Writes reconstructions/NAME.png, and strips/NAME.png, a row: original | top only | … | all.

    A picture keeps its size. It goes through the model with its right and lower edge repeated up to one of few sizes,
    so that a folder of many sizes compiles a few programs; of these sizes themselves nothing is repeated.

    Args:
        workdir: of the training.
        images: a folder, or one file.
        output: a new folder, outside of `images`.
        image_size: if given, pictures are cropped to squares of so many pixels, as in training.
        step: of the autoencoder's checkpoints: a number, "best" or None for the latest.

    Returns:
        PSNR in dB (all codes, uint8) by name.

    Raises:
        UserError: no picture there that can be used; the others are named on standard error.
    """
    model = Trained(workdir, autoencoder_step=step, flags=Flags("", "--step={step}"))
    if image_size is not None and image_size % model.stride:
        raise UserError(f"--image_size={image_size}: it must be a multiple of {model.stride}, which the levels divide")
    root, names = found(images)
    check_new_folder(output)
    if output.resolve().is_relative_to(images.resolve()):
        raise UserError(f"--output={output} lies among the pictures that are read; choose a folder outside of {images}")
    bar = progress_bar(len(names), 0, "reconstructing", "picture")
    quality = {}
    for name, called, original in read(model, root, names, image_size):
        height, width = original.shape[:2]
        larger = padded(original, model.stride)[None]
        versions = [version[0, :height, :width] for version in model.reconstruct(larger)]
        logs.save_png(output / RECONSTRUCTIONS / called, versions[-1])
        logs.save_png(output / STRIPS / called, logs.grid([original, *versions], len(versions) + 1))
        quality[printable(name)] = psnr(original, versions[-1])
        bar.add(1)
    bar.close()
    if not quality:
        raise UserError(f"no picture in {images} can be used; what is wrong with them stands above")
    return quality


def found(images: Path) -> tuple[Path, list[str]]:
    """The folder, and the names in it."""
    if images.is_file():
        return images.parent, [images.name]
    return images, folder.pictures_in(images)


def read(model: Trained, root: Path, names: list[str], size: int | None) -> Iterator[tuple[str, str, np.ndarray]]:
    """(name, name of its .png, uint8 [H, W, C]) of every usable picture."""
    channels = model.facts["channels"]
    for name, called in zip(names, png_names(names), strict=True):
        try:
            if size:
                yield name, called, pictures.read(root / name, size, channels)
            else:
                yield name, called, pictures.whole(root / name, channels, LARGEST)
        except Unreadable as why:
            print(f"{printable(name)} is left out: {why}", file=sys.stderr)


def padded(image: np.ndarray, stride: int) -> np.ndarray:
    """[H, W, C] with its last row and column repeated, up to sides of 1, 2, 3, 4, 6, 8, 12, 16, … strides."""
    more = [_few(side, stride) - side for side in image.shape[:2]]
    return np.pad(image, ((0, more[0]), (0, more[1]), (0, 0)), mode="edge")


def _few(side: int, stride: int) -> int:
    strides = -(-side // stride)
    power = 1 << (strides - 1).bit_length()
    return stride * (power * 3 // 4 if power > 2 and strides <= power * 3 // 4 else power)


def psnr(image: np.ndarray, other: np.ndarray) -> float:
    """In dB, peak 255, of two uint8 pictures; equal ones count as 99."""
    error = np.mean(np.square(image.astype(np.float64) - other))
    return float(min(99.0, 10 * np.log10(255.0**2 / max(error, 1e-12))))
