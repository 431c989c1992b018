"""How near a run's pictures are to images, as frozen nets see it: distances from the training images, LPIPS.

What is measured how, and what it is blind for: docs/distances.md.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from vqvae_jax import codec, data
from vqvae_jax import config as configs
from vqvae_jax.data.text import first_captions
from vqvae_jax.distance.pictures import between
from vqvae_jax.distance.protocol import FEW, FEWEST
from vqvae_jax.features import file
from vqvae_jax.features.frozen import Frozen, load
from vqvae_jax.features.perceptual import LPIPS, has_lpips, load_perceptual, perceptual
from vqvae_jax.trained import Trained
from vqvae_jax.types import Array, UserError

NETS = ("mobilenet_v2", "efficientnet_lite0")  # for distances; of both in the file the first is taken
SAMPLES = 500  # that are drawn to be measured: so many as a Fréchet distance wants
MOST = 5000  # images whose reconstructions are measured, at random
SEED = 0  # of the samples, and of all that is at random

Pictures = np.ndarray  # uint8 [N, H, W, C]


def measure(models: Sequence[Trained], test: data.Arrays, samples: int = SAMPLES) -> list[dict[str, Any]]:
    """Of each model what is to be joined to its metrics; where something is missing, a line says so.

    {"lpips": mean over reconstructions, "distances": {"reconstructions": …, "samples": …}}, see `distance.pictures`.

    Args:
        models: with autoencoders; all are measured against the training images of the first.
        test: images; of more than MOST so many are taken.
        samples: how many are drawn, where every level has a prior; 0: none.
    """
    try:
        net, lpips = frozen_net(), has_lpips()
    except UserError as error:  # a file that is damaged; what is measured already is not lost
        say(f"no distances: {error}")
        return [{} for _ in models]
    if net is None and not lpips:
        return [{} for _ in models]
    images = some(test.image)
    training = None if net is None else training_images(models[0], images)
    return [one_model(model, net, training, images, lpips, samples) for model in models]


def one_model(
    model: Trained, net: Frozen | None, training: Any, images: Pictures, lpips: bool, samples: int
) -> dict[str, Any]:
    """As `measure`; `training` None: no distances."""
    made = model.reconstruct(images)[-1]
    found: dict[str, Any] = mean_lpips(images, made) if lpips else {}
    if net is not None and training is not None:
        pictures = {"reconstructions": lambda: made, **drawn(model, samples)}
        distances = {name: measured(net, training, make, name) for name, make in pictures.items()}
        found["distances"] = {name: one for name, one in distances.items() if one}
    return found


def frozen_net() -> Frozen | None:
    """The first of NETS that the file of frozen nets holds."""
    if not file.place().exists():
        say(f"no distances: {file.missing(file.place())}")
        return None
    there = file.names()
    if name := next((name for name in NETS if name in there), None):
        return load(name)
    say(f"no distances: {file.place()} holds none of {', '.join(NETS)}; {file.MAKE}")
    return None


def training_images(model: Trained, like: Pictures) -> Any:
    """What the model was trained on; None where it is not to be had, or of other sizes."""
    try:
        images = data.load(model.config["dataset"], "train").image
    except UserError as error:
        say(f"no distances: the training images are not to be had: {error}")
        return None
    if tuple(images.shape[1:]) != like.shape[1:]:
        say(f"no distances: training images are {list(images.shape[1:])}, these {list(like.shape[1:])}")
        return None
    if images.shape[-1] == 1:
        say("distances: grey images are repeated to three channels")
    return images


def drawn(model: Trained, samples: int) -> dict[str, Callable[[], Pictures]]:
    """What draws new images, where every level has a prior that is trained; too few are told and not drawn."""
    if not samples or len(model.priors) < len(configs.levels(model.config)):
        return {}
    if samples < FEW:
        say(f"no distances of samples: --samples={samples} are too few, at least {FEW}; --samples={SAMPLES} has all")
        return {}

    def draw() -> Pictures:
        say(f"drawing {samples} samples to measure them; --samples=0 leaves them out")
        return model.sample(samples, SEED, text=texts_of(model, samples))

    return {"samples": draw}


def texts_of(model: Trained, count: int) -> list[str] | None:
    """For each image that of a training image at random, as labels are; None where no prior is told any."""
    if model.tokenizer is None:
        return None
    said = first_captions(data.load(model.config["dataset"], "train").text or ())
    return [said[row] for row in np.random.default_rng(SEED).integers(0, len(said), count)] if said else None


def measured(net: Frozen, training: Any, make: Callable[[], Pictures], name: str) -> dict[str, Any]:
    """The distances of one kind of pictures; nothing where there are too few."""
    try:
        found = between(net, training, make(), SEED)
        say_without_frechet(found, name)
        return found
    except UserError as error:
        say(f"no distances of {name}: {error}")
        return {}


def say_without_frechet(found: Mapping[str, Any], name: str) -> None:
    """A line where there were too few images for a Fréchet distance."""
    if any(one.startswith("fd_") for one in found):
        return
    sides = f"{found['count']} images and {found['reference']} training images"
    more = f"; --samples={SAMPLES}" if name == "samples" and found["reference"] >= FEWEST else ""
    say(f"no fd of {name}: it wants {FEWEST} a side, there are {sides}{more}")


def mean_lpips(images: Pictures, made: Pictures) -> dict[str, float]:
    """{"lpips": LPIPS v0.1 of VGG16, mean over pairs of pictures}; nothing where they are too small for it."""
    try:
        net, arrays = load_perceptual(LPIPS)
        apart, size = partial(_apart, net, jax.device_put(dict(arrays))), codec.batch_size(*images.shape[1:3])
        each = codec.in_batches(apart, images, made, size=size)
    except UserError as error:
        say(f"no LPIPS: {error}")
        return {}
    return {"lpips": float(np.mean(each, dtype=np.float64))}


@partial(jax.jit, static_argnums=0)
def _apart(net: Any, arrays: Any, images: Array, made: Array) -> Array:
    return perceptual(net, arrays, made / 255.0, images / 255.0)


def some(images: Any) -> Pictures:
    """All of them, or MOST at random."""
    rows = np.random.default_rng(SEED).permutation(len(images))[:MOST]
    return np.asarray(images[np.sort(rows)])


def say(text: str) -> None:
    """A line beside the metrics."""
    print(text, file=sys.stderr, flush=True)
