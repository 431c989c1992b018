"""How fast images come in, beside how fast a training step takes them: python benchmarks/pipeline.py

    step     images a second that the autoencoder's training step of a config takes
    arrays   images a second that ArrayData gives, from a memory map of decoded images
    stream   images a second that StreamData gives, decoding PNG files as it goes
    encode   seconds for 10,000 images of 32 px to tokens on disk
    folder   seconds to open a folder of so many files: listed, and decoded the first time, and the second

Medians of seven. Says how busy the machine is; for numbers to keep, let it be idle.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import PIL.Image
from machine import TIMES, described, seconds
from turns import turns_of

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from vqvae_jax import codec, data, parts, train
from vqvae_jax import config as configs
from vqvae_jax.data import folder
from vqvae_jax.data import tokens as token_files
from vqvae_jax.data.stream import Lazy
from vqvae_jax.facts import facts_of
from vqvae_jax.tasks.autoencode import AutoencodeTask
from vqvae_jax.tasks.optimize import make_optimizer

CONFIGS = ("fashion_mnist_pixelcnn", "cifar10_vqvae", "cifar10_hierarchical", "openmoji_hierarchical")
FILES = 10_000


def noise(count, size, channels):
    """Images of nothing, uint8 [count, size, size, channels]."""
    return np.random.default_rng(0).integers(0, 256, (count, size, size, channels), np.uint8)


def prepared(name):
    """(config, autoencoder, noise of the config's shape)."""
    config = configs.read(f"configs/{name}.py")
    size, channels = config["dataset"]["image_size"], 1 if "mnist" in name else 3
    images = noise(4096, size, channels)
    return config, parts.build_autoencoder(config, facts_of(data.Arrays(images))), images


def mapped(images, root):
    """The same, on disk and read from there."""
    np.save(f"{root}/images.npy", images)
    return np.load(f"{root}/images.npy", mmap_mode="r")


def step_rate(config, autoencoder, batches):
    """Images a second of the training step, batches on the device already."""
    tx = make_optimizer(config["optimizer"], 1000)
    task = AutoencodeTask(autoencoder, tx, config["loss_weights"], config["dataset"]["range"])
    run = train.Run(task, batches, batches, config["train"])
    state, batch = run.begin(jax.random.key(0), None), run.place(batches.batch(0))
    one = turns_of(lambda state: run.step(state, batch)[0], state)
    return batches.batch_size / statistics.median(one() for _ in range(TIMES))


def array_rate(batches):
    """Images a second out of a memory map."""
    return 20 * batches.batch_size / seconds(lambda: [batches.batch(i) for i in range(20)])


def rates(name):
    """Images a second: what a config's training step takes, and what comes out of a memory map."""
    config, autoencoder, images = prepared(name)
    with tempfile.TemporaryDirectory() as root:
        batches = data.ArrayData(data.Arrays(mapped(images, root)), config["train"]["batch_size"], 0)
        return step_rate(config, autoencoder, batches), array_rate(batches)


def stream_rate(size, batch_size, root):
    """Images a second decoded from PNG files by StreamData."""
    names = folder.pictures_in(root)
    lazy = Lazy(len(names), (size, size, 3), lambda row: folder.pictures.read(root / names[row], size))
    batches = data.StreamData(data.Arrays(lazy), batch_size, 0)
    batches.batch(0)
    steps = iter(range(1, 10_000))
    rate = 20 * batch_size / seconds(lambda: [batches.batch(next(steps)) for _ in range(20)])
    batches.close()
    return rate


def encode_seconds(root):
    """10,000 images of 32 px to tokens on disk with cifar10_vqvae's autoencoder, compilation included."""
    config, autoencoder, _ = prepared("cifar10_vqvae")
    arrays = data.Arrays(noise(10_000, 32, 3), name=tuple(map(str, range(10_000))))
    facts = facts_of(arrays)
    like = parts.abstract_autoencoder(autoencoder, facts)
    model = jax.tree.map(lambda x: np.random.default_rng(0).normal(size=x.shape).astype(x.dtype), like)
    encode = lambda x: codec.encode(autoencoder, (-1.0, 1.0), model, x)  # noqa: E731
    began = time.perf_counter()
    token_files.write(
        root,
        {"train": token_files.Part(arrays)},
        parts.Parts(config, facts).levels,
        lambda images, _: codec.in_batches(encode, images),
        facts,
        {},
    )
    return time.perf_counter() - began


def write_files(root, count):
    """So many PNG files of 32 px in a hundred folders."""
    image = PIL.Image.fromarray(noise(1, 32, 3)[0])
    for i in range(100):
        (root / f"{i:02d}").mkdir(parents=True)
    for i in range(count):
        image.save(root / f"{i % 100:02d}" / f"{i}.png", compress_level=1)


def main():
    """Prints a table."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--files", type=int, default=FILES, help=f"in the folder (default {FILES})")
    given = flags.parse_args()
    print(described("jax"))
    print(f"{'config':26} {'step':>10} {'arrays':>12} {'ratio':>8}")
    for name in CONFIGS:
        step, arrays = rates(name)
        print(f"{name:26} {step:10.0f} {arrays:12.0f} {arrays / step:8.0f}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["VQVAE_JAX_CACHE"] = f"{scratch}/cache"
        print(f"encode 10,000 images of 32 px: {encode_seconds(Path(scratch) / 'tokens'):.1f} s", flush=True)
        root = Path(scratch) / "files"
        write_files(root, given.files)
        listing = seconds(lambda: folder.pictures_in(root))
        first = seconds(lambda: folder.read(str(root), "train", 32), 1)
        second = seconds(lambda: folder.read(str(root), "train", 32))
        print(f"folder of {given.files}: listed {listing:.2f} s, decoded {first:.1f} s, opened again {second:.2f} s")
        print(f"stream of 32 px PNG files: {stream_rate(32, 128, root):.0f} images/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
