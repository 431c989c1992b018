"""Are images of a label of that label? A small classifier, trained on real images, looks at a run's samples.

    python benchmarks/class_accuracy.py --workdir=runs/fashion_mnist_maskgit --count=1000

It learns from the run's training images and is asked about its test images, what the run's codes keep of these, and
as many samples, labels in turn. The share for samples over that for reconstructions is what a prior adds or loses.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import keep
from vqvae_jax import data, evaluate
from vqvae_jax.devices import use_compilation_cache
from vqvae_jax.endings import ended
from vqvae_jax.flags import Parser, positive
from vqvae_jax.trained import Trained
from vqvae_jax.types import UserError

BATCH = 128
WIDTH = 32


class Classifier(nn.Module):
    """Three strided convolutions and a dense layer: images in 0 to 1 → logits."""

    labels: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        for width in (WIDTH, 2 * WIDTH, 4 * WIDTH):
            x = nn.relu(nn.Conv(width, (3, 3), (2, 2))(x))
        x = nn.relu(nn.Dense(4 * WIDTH)(x.reshape(len(x), -1)))
        return nn.Dense(self.labels)(nn.Dropout(0.3)(x, deterministic=not train))


def learned(images: Any, labels: np.ndarray, count: int, steps: int) -> Any:
    """(images uint8) → the likeliest label, after so many steps of Adam with flips left and right."""
    module, tx = Classifier(count), optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    params = module.init(jax.random.key(0), jnp.zeros((1, *images.shape[1:])))
    state, rng = (params, tx.init(params)), np.random.default_rng(0)

    def loss(params, x, y, key):
        said = module.apply(params, x / 255.0, train=True, rngs={"dropout": key})
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(said, y))

    @jax.jit
    def step(state, x, y, key):
        params, moments = state
        updates, moments = tx.update(jax.grad(loss)(params, x, y, key), moments)
        return optax.apply_updates(params, updates), moments

    for number in range(steps):
        rows = np.sort(rng.integers(0, len(images), BATCH))
        x = np.asarray(images[rows])
        x = np.where(rng.random((BATCH, 1, 1, 1)) < 0.5, x, x[:, :, ::-1])
        state = step(state, x, labels[rows], jax.random.key(number))
    return jax.jit(lambda x: jnp.argmax(module.apply(state[0], x / 255.0), axis=-1))


def accuracy(classify: Any, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of images that are taken for what they are."""
    said = [np.asarray(classify(images[start : start + 500])) for start in range(0, len(images), 500)]
    return float(np.mean(np.concatenate(said) == labels))


def run(given: argparse.Namespace) -> dict[str, float]:
    model = Trained(given.workdir)
    names = model.facts["label_names"]
    if not names or not any(prior.label_condition for prior, _ in model.priors.values()):
        raise UserError(f"{given.workdir} has no prior that knows labels: --config.priors.LEVEL.label_condition=true")
    if given.count < len(names):
        raise UserError(f"--count={given.count}: there are {len(names)} labels; give as many, or more")
    train, test = data.load(model.config["dataset"], "train"), evaluate.load_images(model, model.config["dataset"])
    classify = learned(train.image, np.asarray(train.label), len(names), given.steps)
    rows = np.random.default_rng(0).permutation(len(test))[: given.count]
    images, labels = np.asarray(test.image[np.sort(rows)]), np.asarray(test.label)[np.sort(rows)]
    found = {"test images": accuracy(classify, images, labels)}
    found["reconstructions"] = accuracy(classify, model.reconstruct(images)[-1], labels)
    each = given.count // len(names)
    drawn = np.concatenate([model.sample(each, seed, label=seed) for seed in range(len(names))])
    found["samples"] = accuracy(classify, drawn, np.repeat(np.arange(len(names)), each))
    found["samples over reconstructions"] = found["samples"] / found["reconstructions"]
    print("\n".join(f"{name:30} {value:.4f}" for name, value in found.items()))
    return found


def main() -> int:
    """0, or 2 where the user has something to put right."""
    flags = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--workdir", type=Path, required=True, help="a finished run whose priors know labels")
    flags.add_argument("--count", type=positive, default=1000, help="images of each kind (default 1000)")
    flags.add_argument("--steps", type=positive, default=2000, help="of the classifier's training (default 2000)")
    flags.add_argument("--json", metavar="FILE", type=Path, help="all numbers")
    given = flags.parse_args()
    use_compilation_cache()
    return ended(lambda: keep(run(given), given.json))


if __name__ == "__main__":
    sys.exit(main())
