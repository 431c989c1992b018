"""What the demo's reconstructions are like, beyond PSNR: from trained workdirs of two levels, on their test images.

    python benchmarks/demo.py runs/demo runs/demo-residual

| | |
|---|---|
| psnr, ssim | as `evaluate` has them |
| grid | grey levels, rms: what of the error in flat coloured blocks repeats every 4 pixels, as the bottom codes lie |
| top alone | PSNR, dB, of what the top codes give by themselves |
| swap top, swap bottom | dB lost where the codes of that level are those of another image |
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import vqvae_jax
from vqvae_jax import evaluate
from vqvae_jax.devices import use_compilation_cache
from vqvae_jax.networks.measure import psnr, ssim

PERIOD = 4  # pixels between bottom codes
BLOCK = 8  # pixels, height and width of a flat block


def main() -> None:
    """A row for each workdir."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("workdirs", nargs="+", type=Path, metavar="DIR")
    use_compilation_cache()
    for workdir in asked.parse_args().workdirs:
        row = figures(vqvae_jax.load(workdir))
        print(f"{workdir}:", ", ".join(f"{name} {value:.3f}" for name, value in row.items()), flush=True)


def figures(model: Any) -> dict[str, float]:
    """The row of one trained run."""
    images = evaluate.load_images(model, model.config["dataset"]).image
    maps, ends = model.encode(images), model.parts.maps_of("top").stop
    top, bottom = maps[:ends], maps[ends:]
    both = model.decode(maps)
    decibels = lambda seen: float(np.mean(psnr(images, seen)))  # noqa: E731
    whole, another = decibels(both), lambda codes: tuple(np.roll(codes, 1, axis=1))
    return {
        "psnr": whole,
        "ssim": float(np.mean(ssim(images, both))),
        "grid": grid(images, both),
        "top alone": decibels(model.decode(top)),
        "swap top": whole - decibels(model.decode((*another(top), *bottom))),
        "swap bottom": whole - decibels(model.decode((*top, *another(bottom)))),
    }


def grid(images: np.ndarray, seen: np.ndarray) -> float:
    """Grey levels: the rms of what repeats every PERIOD pixels in the error, over blocks of one colour but white.

    Args:
        images: uint8 [N, H, W, C].
        seen: their reconstructions, the same.
    """
    true, error = blocks(images.astype(np.float32)), blocks(seen.astype(np.float32) - images)
    colour = true[:, :1, :1]
    flat = np.all(true == colour, axis=(1, 2, 3)) & np.any(colour < 255, axis=(1, 2, 3))
    times = BLOCK // PERIOD
    repeated = error[flat].reshape(-1, times, PERIOD, times, PERIOD, images.shape[-1]).mean(axis=(1, 3))
    return float(np.sqrt(np.mean(np.square(repeated - repeated.mean(axis=(1, 2), keepdims=True)))))


def blocks(images: np.ndarray) -> np.ndarray:
    """[N, H, W, C] → [N·H/BLOCK·W/BLOCK, BLOCK, BLOCK, C]."""
    n, height, width, channels = images.shape
    cut = images.reshape(n, height // BLOCK, BLOCK, width // BLOCK, BLOCK, channels)
    return np.moveaxis(cut, 3, 2).reshape(-1, BLOCK, BLOCK, channels)


if __name__ == "__main__":
    main()
