"""Every quantizer in one autoencoder, at 9 bits a place and equal steps: what is kept, what it costs, how alive it is.
One more, with 7 bits, shows whether one that takes fewer bits only stands elsewhere on the same curve.

    python benchmarks/codebooks.py train --task=fashion --data=FILE.npz --json=codebooks_fashion.json
    python benchmarks/codebooks.py train --task=cifar --data=data/cifar10_subset.npz --json=codebooks_cifar.json
    python benchmarks/codebooks.py time --task=fashion --data=FILE.npz --json=codebooks_fashion.json
    python benchmarks/codebooks.py tables --json=codebooks_fashion.json
    python benchmarks/codebook_plots.py …        # rate and distortion

FILE.npz holds train_image and test_image, uint8 [N, 28, 28, 1] for fashion, [N, 32, 32, 3] for cifar. `train` writes
after each run and goes on where it was stopped. On the whole test split:

    mse, psnr, ssim   of the reconstructions, as `evaluate` measures them
    usage             share of the codes that are used at least once; of several depths the mean
    perplexity        exp(entropy of the codes); of several depths the product, so that 512 is the most for all
    bits_per_pixel    nll of a transformer prior on the codes, nats of all tokens / ln 2 / pixels
    bits_per_dim      that, and the nll of the image given its codes, / (ln 2 · pixels · channels); see `likelihood`
    ms                milliseconds a training step, medians of rounds in which the quantizers take turns (`time`)

The prior is trained for the first of the seeds only.
"""

import argparse
import functools
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.turns import milliseconds, turns_of
from vqvae_jax import codec, data, evaluate, parts
from vqvae_jax import config as configs
from vqvae_jax.data.augment import normalise
from vqvae_jax.data.token_arrays import TokenArrays
from vqvae_jax.devices import use_compilation_cache
from vqvae_jax.endings import ended
from vqvae_jax.facts import facts_of
from vqvae_jax.files import read_json, write_json
from vqvae_jax.flags import Parser, file, positive
from vqvae_jax.networks.likelihood import discretised_logistic
from vqvae_jax.tasks.autoencode import AutoencodeTask
from vqvae_jax.tasks.optimize import make_optimizer
from vqvae_jax.tasks.prior import PriorTask
from vqvae_jax.types import Model, UserError

TABLE = {"codebook_size": 512, "code_dim": 32}
INNER = {"name": "ema", "codebook_size": 8, "code_dim": 32}
QUANTIZERS: dict[str, dict[str, Any]] = {
    "vq, no revival": {"name": "vq", "revive_after": 0, **TABLE},
    "vq": {"name": "vq", **TABLE},
    "vq, k-means start": {"name": "vq", "kmeans_iterations": 10, **TABLE},
    "ema, no revival": {"name": "ema", "revive_after": 0, **TABLE},
    "ema": {"name": "ema", **TABLE},
    "ema, 128 codes": {"name": "ema", **TABLE, "codebook_size": 128},
    "cvq": {"name": "cvq", **TABLE},
    "cvq, random": {"name": "cvq", "anchor": "random", **TABLE},
    "cvq, sphere": {"name": "cvq", "distance": "sphere", **TABLE},
    "cosine": {"name": "cosine", "codebook_size": 512, "code_dim": 8},
    "fsq": {"name": "fsq", "levels": (8, 8, 8)},
    "residual": {"name": "residual", "depth": 3, "inner": INNER},
}
SCALES = np.geomspace(0.1, 80, 40)  # of the logistic, in steps of a pixel's value
FITTED = 4096  # training images that the scales are fitted on
COLUMNS = {  # of the table: heading, form
    "mse": ("mse", ".5f"),
    "psnr": ("PSNR, dB", ".2f"),
    "ssim": ("SSIM", ".3f"),
    "usage": ("usage", ".1%"),
    "perplexity": ("perplexity", ".0f"),
    "nll": ("nll", ".2f"),
    "bits_per_pixel": ("bits a pixel", ".3f"),
    "bits_per_dim": ("bits a dimension", ".3f"),
}
SIZES = {"fashion": 28, "cifar": 32}  # pixels
WEIGHTS = {"reconstruction": 1.0, "codebook": 1.0, "commitment": 0.25}
BARE = {"autoencoder": {"name": "vqvae", "quantizer": {"name": "vq"}}, "train": {"steps": 1}}


class Recipe(NamedTuple):
    autoencoder: dict[str, Any]
    optimizer: dict[str, Any]
    range: tuple[float, float]
    batch_size: int
    steps: int
    prior: dict[str, Any]
    prior_batch: int
    prior_steps: int


PRIOR = {"name": "transformer", "width": 128, "layers": 2, "heads": 8}
COSINE = {"learning_rate": 1e-3, "warmup_steps": 100, "schedule": "cosine"}
TASKS = {
    "fashion": Recipe(
        autoencoder={"name": "patch_vqvae", "width": 32},
        optimizer={"learning_rate": 1e-3},
        range=(0.0, 1.0),
        batch_size=64,
        steps=1500,
        prior=PRIOR,
        prior_batch=32,
        prior_steps=600,
    ),
    "cifar": Recipe(
        autoencoder={"name": "vqvae", "width": 64, "residual_width": 16},
        optimizer=COSINE,
        range=(-1.0, 1.0),
        batch_size=32,
        steps=1000,
        prior=PRIOR | {"dropout": 0.2},
        prior_batch=32,
        prior_steps=400,
    ),
}


class Trainer:
    """One quantizer in the task's autoencoder, compiled once for all seeds."""

    def __init__(
        self,
        recipe: Recipe,
        quantizer: dict[str, Any],
        images: Mapping[str, np.ndarray],
        weights: Mapping[str, float] = WEIGHTS,
    ) -> None:
        self.recipe, self.images = recipe, images
        self.facts = facts_of(data.Arrays(images["train"]))
        self.config = config_of(recipe, quantizer, self.facts["image_size"], weights)
        self.autoencoder = parts.build_autoencoder(self.config, self.facts)
        tx = make_optimizer(self.config["optimizer"], recipe.steps)
        self.task = AutoencodeTask(self.autoencoder, tx, self.config["loss_weights"], recipe.range)
        self.step = jax.jit(self.task.train_step, donate_argnums=0)

    @functools.cached_property
    def prior_task(self) -> PriorTask:
        tx = make_optimizer(self.config["priors"]["codes"]["optimizer"], self.recipe.prior_steps)
        depths = len(self.autoencoder.quantizers[0].vocab_sizes)
        return PriorTask(parts.Parts(self.config, self.facts).prior("codes"), slice(0, depths), tx)

    def train(self, seed: int) -> Model:
        """The autoencoder after its steps; batches are the same for every quantizer."""
        rows = np.random.default_rng(seed).integers(
            0, len(self.images["train"]), (self.recipe.steps, self.recipe.batch_size)
        )
        batches = [{"image": self.images["train"][row]} for row in rows]
        state = jax.jit(self.task.init)(jax.random.key(seed), batches[0])
        for batch in batches:
            state, _ = self.step(state, batch)
        return self.task.model(state)

    def measure(self, model: Model) -> dict[str, float]:
        split = data.ArrayData(data.Arrays(self.images["test"]), codec.BATCH, 0)
        found = self.task.summary(evaluate.sums_over(self.task, model, split))
        alive = [value for name, value in found.items() if name.startswith("usage/")]
        even = [value for name, value in found.items() if name.startswith("perplexity/")]
        measured = {name: found[name] for name in ("mse", "psnr", "ssim")}
        return measured | ({"usage": float(np.mean(alive)), "perplexity": float(np.prod(even))} if alive else {})

    def rate(self, model: Model, seed: int) -> dict[str, float]:
        """What a prior makes of the codes, and of images given their codes."""
        found = self.bits(model, seed)
        seen, unseen = self.images["train"][:FITTED], self.images["test"]
        rest = likelihood(self.outputs(model, seen), seen)
        given = float(rest(self.outputs(model, unseen), unseen))
        return {**found, "bits_per_dim": found["bits_per_pixel"] / self.facts["channels"] + given}

    def bits(self, model: Model, seed: int) -> dict[str, float]:
        """What a prior makes of the codes: nats a token, bits a pixel."""
        maps = {part: self.encode(model, images) for part, images in self.images.items()}
        count, size = len(maps["train"][0]), (self.recipe.prior_steps, self.recipe.prior_batch)
        step = jax.jit(self.prior_task.train_step, donate_argnums=0)
        state: Any = None
        for row in np.random.default_rng(seed).integers(0, count, size):
            batch = {"tokens": tuple(one[row] for one in maps["train"])}
            state = jax.jit(self.prior_task.init)(jax.random.key(seed), batch) if state is None else state
            state, _ = step(state, batch)
        split = data.ArrayData(TokenArrays(maps["test"]), codec.BATCH, 0)
        nll = self.prior_task.summary(evaluate.sums_over(self.prior_task, self.prior_task.model(state), split))["nll"]
        bits = nll * sum(one[0].size for one in maps["test"]) / math.log(2) / self.facts["image_size"] ** 2
        return {"nll": nll, "bits_per_pixel": bits}

    def encode(self, model: Model, images: np.ndarray) -> tuple[np.ndarray, ...]:
        return codec.in_batches(lambda x: codec.encode(self.autoencoder, self.recipe.range, model, x), images)

    def outputs(self, model: Model, images: np.ndarray) -> np.ndarray:
        """What the decoder says, not rounded, in units of a pixel's value: float [N, H, W, C]."""
        low, high = self.recipe.range

        @jax.jit
        def run(images):
            seen = normalise(images, self.recipe.range)
            out = self.autoencoder.apply({"params": model.params}, seen, model.codebooks)
            return (out.images - low) / (high - low) * 255.0

        return codec.in_batches(run, images)


def likelihood(means: np.ndarray, images: np.ndarray):
    """A decoder's density: a logistic around its output, over the 256 values of a pixel.

    Its scale is one number a place and channel, the likeliest on training images. → a function of other means
    and images that gives bits a dimension. With the prior's bits it is a bound: p(x) = Σ_z p(z) p(x|z) is at least
    p(z) p(x|z) of the one z that the encoder gives.
    """

    @jax.jit
    def bits(means, images, scale):
        return jnp.mean(discretised_logistic(images, means, scale), axis=0) / math.log(2)  # [H, W, C]

    means, images = jnp.asarray(means), jnp.asarray(images)
    found = jnp.stack([bits(means, images, jnp.float32(scale)) for scale in SCALES])
    best = jnp.asarray(SCALES, jnp.float32)[jnp.argmin(found, axis=0)]
    return lambda means, images: jnp.mean(bits(jnp.asarray(means), jnp.asarray(images), best[None]))


def config_of(
    recipe: Recipe, quantizer: dict[str, Any], image_size: int, weights: Mapping[str, float] = WEIGHTS
) -> dict[str, Any]:
    """A whole config, checked."""
    config = {
        "dataset": {"name": "npz", "path": "FILE", "image_size": image_size, "range": recipe.range},
        "autoencoder": {**recipe.autoencoder, "quantizer": quantizer},
        "loss_weights": dict(weights),
        "optimizer": recipe.optimizer,
        "train": {"batch_size": recipe.batch_size, "steps": recipe.steps},
        "priors": {
            "codes": {
                **recipe.prior,
                "optimizer": COSINE,
                "train": {"batch_size": recipe.prior_batch, "steps": recipe.prior_steps},
            }
        },
    }
    config = configs.complete(config)
    configs.check(config)
    return config


# --- commands


def train(given: argparse.Namespace) -> None:
    """All runs that the file does not have yet."""
    images, recipe = read_images(given), recipe_of(given)
    found = started(given, recipe)
    for name in tuple(QUANTIZERS) if given.only is None else (given.only,):
        runs = found["runs"].setdefault(name, {})
        wanted = [seed for seed in range(given.seeds) if str(seed) not in runs]
        if wanted:
            trainer = Trainer(recipe, QUANTIZERS[name], images)
        for seed in wanted:
            began = time.perf_counter()
            model = trainer.train(seed)
            runs[str(seed)] = trainer.measure(model) | (trainer.rate(model, seed) if seed == 0 else {})
            write_json(given.json, found)
            said = ", ".join(f"{metric} {value:.4g}" for metric, value in runs[str(seed)].items())
            print(f"{name}, seed {seed}: {said}; {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    print(*table(found), sep="\n")


def timing(given: argparse.Namespace) -> None:
    """Milliseconds a step: the quantizers take turns, so that a busy moment meets all of them."""
    images, recipe = read_images(given), recipe_of(given)
    found = started(given, recipe)
    trainers = {name: Trainer(recipe, quantizer, images) for name, quantizer in QUANTIZERS.items()}
    batch = {"image": jnp.asarray(images["train"][: recipe.batch_size])}
    states = {name: jax.jit(one.task.init)(jax.random.key(0), batch) for name, one in trainers.items()}
    steps = {name: lambda state, one=one: one.step(state, batch)[0] for name, one in trainers.items()}
    found["ms"] = milliseconds({name: turns_of(step, states[name]) for name, step in steps.items()})
    write_json(given.json, found)
    print(*table(found), sep="\n")


def tables(given: argparse.Namespace) -> None:
    """The table of a file."""
    print(*table(read_runs(given.json)), sep="\n")


def started(given: argparse.Namespace, recipe: Recipe) -> dict[str, Any]:
    """What the file holds so far, if it is of the same task, images and recipe; else a new one.

    Raises:
        UserError: it is of others.
    """
    of = {"task": given.task, "data": given.data.name, **recipe._asdict()}
    of = json.loads(json.dumps(of))  # tuples are lists in the file
    if given.json.is_dir() or not given.json.parent.is_dir():
        raise UserError(f"--json={given.json} cannot be written; give the name of a file")
    found = read_runs(given.json) if given.json.is_file() else {"of": of, "runs": {}}
    if found["of"] != of:
        other = ", ".join(name for name in of if found["of"].get(name) != of[name])
        raise UserError(f"--json={given.json} holds runs with another {other}; give another file")
    return found


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """Markdown, a line a quantizer: means over seeds, of PSNR with their standard deviation."""
    yield f"| quantizer | {' | '.join(title for title, _ in COLUMNS.values())} | ms |"
    yield "|---" * (len(COLUMNS) + 2) + "|"
    for name, runs in found["runs"].items():
        cells = [cell([run[metric] for run in runs.values() if metric in run], metric) for metric in COLUMNS]
        ms = found.get("ms", {}).get(name)
        yield f"| {name} | {' | '.join(cells)} | {format(ms, '.1f') if ms else '–'} |"


def cell(values: list[float], metric: str) -> str:
    if not values:
        return "–"
    spread = f" ± {np.std(values, ddof=1):.1g}" if metric == "psnr" and len(values) > 1 else ""
    return format(np.mean(values), COLUMNS[metric][1]).replace("%", " %") + spread


def read_runs(path: Path) -> dict[str, Any]:
    """UserError where a file is not what `train` writes."""
    try:
        found = read_json(path)
        if not {"of", "runs"} <= set(found):
            raise ValueError("it has no runs")
        return found
    except ValueError as error:
        raise UserError(
            f"--json={path} was not written by `codebooks.py train` ({error}); give another file"
        ) from error


def read_images(given: argparse.Namespace) -> dict[str, np.ndarray]:
    """Both splits, whole: uint8 [N, H, W, C]."""
    dataset = {"name": "npz", "path": str(given.data), "image_size": SIZES[given.task]}
    section = configs.complete({"dataset": dataset, **BARE})["dataset"]
    try:
        return {part: np.asarray(data.read(section, part).image) for part in ("train", "test")}
    except UserError as error:
        raise UserError(f"--data={given.data} does not fit --task={given.task}, see --help: {error}") from error


def recipe_of(given: argparse.Namespace) -> Recipe:
    said = {name: getattr(given, name, None) for name in ("steps", "prior_steps")}
    return TASKS[given.task]._replace(**{name: value for name, value in said.items() if value})


def parser() -> Parser:
    flags = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = flags.add_subparsers(required=True, metavar="COMMAND")
    for name, command in (("train", train), ("time", timing), ("tables", tables)):
        one = commands.add_parser(name, help=(command.__doc__ or "").splitlines()[0])
        one.set_defaults(command=command)
        kind = file if command is tables else Path
        one.add_argument("--json", metavar="FILE", type=kind, required=True, help="where the numbers are kept")
        if command is not tables:
            one.add_argument("--task", choices=TASKS, default="fashion", help="default: %(default)s")
            one.add_argument("--data", metavar="FILE", type=file, required=True, help="images, an .npz")
            one.add_argument("--steps", metavar="N", type=positive, help="of the autoencoder")
            one.add_argument("--prior_steps", metavar="N", type=positive, help="of the prior")
        if command is train:
            one.add_argument("--only", choices=QUANTIZERS, help="one quantizer (default: all)")
            one.add_argument("--seeds", metavar="N", type=positive, default=3, help="how many (default: 3)")
    return flags


def main() -> int:
    """0, or 2 where the user has something to put right."""
    given = parser().parse_args()
    use_compilation_cache()
    return ended(lambda: given.command(given))


if __name__ == "__main__":
    sys.exit(main())
