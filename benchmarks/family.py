"""Every quantizer at 8, 10 and 16 bits a place in one autoencoder: what is kept, how alive, what a prior makes of it.

    python benchmarks/family.py train --task=openmoji --json=docs/measured/family_openmoji.json
    python benchmarks/family.py train --task=cifar --data=data/cifar10_subset.npz --json=docs/measured/family_cifar.json
    python benchmarks/family.py time --task=cifar --data=data/cifar10_subset.npz --json=docs/measured/family_cifar.json
    python benchmarks/family.py tables --json=docs/measured/family_openmoji.json
    python benchmarks/family.py plot --json=docs/measured/family_openmoji.json --output=docs/pictures/family.png

On a GPU, all of TFDS's CIFAR-10: `--task=cifar_full`, without --data. `train` writes after each run and goes on where
it was stopped: 8 bits before 10, of each the first seed of all quantizers before the second; --bits, --seeds and
--only take a part. On the whole test split, means over seeds:

    psnr, ssim        of the reconstructions, as `evaluate` measures them
    fd, kd            Fréchet and kernel distance of the reconstructions from training images, docs/distances.md; where
                      features.npz is, the first from 500 test images on
    usage             share of the codes that are used at least once
    perplexity        exp(entropy of the codes); of several maps neither: each has its own codes, used by all places
    bits_per_pixel    of the codes under a small transformer prior, the same for all; none reads maps of several sizes;
                      at 16 bits of the first seed alone, since there it takes most of a run
    ms, MB            a training step, medians of rounds in which the quantizers take turns, and what it holds (`time`)

`lfq` and `bsq` have weights that were found here, beside the published ones: docs/codebooks.md. `kl` has numbers in
place of codes: the ceiling. `multiscale` has as many codes at the last scale, and those of all
scales before as well.
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import codebooks, family_plot
from benchmarks.family_rows import BITS, NAMES, PRIORS, SIZE, TASKS, quantizers
from benchmarks.results import keep
from benchmarks.turns import milliseconds, turns_of
from vqvae_jax import codec, data, nearness
from vqvae_jax import config as configs
from vqvae_jax.devices import use_compilation_cache
from vqvae_jax.distance.protocol import distances, sides
from vqvae_jax.endings import ended
from vqvae_jax.files import read_json
from vqvae_jax.flags import Parser, file, positive
from vqvae_jax.types import Model, UserError

COLUMNS = {  # of the table: heading, form
    "psnr": ("PSNR, dB", ".2f"),
    "ssim": ("SSIM", ".3f"),
    "fd": ("fd", ".2f"),
    "kd": ("kd", ".4f"),
    "usage": ("usage", ".1%"),
    "perplexity": ("perplexity", ".0f"),
    "bits_per_pixel": ("bits a pixel", ".3f"),
}

OF_ONE_MAP = "usage", "perplexity"
SEVERAL_MAPS = "residual", "multiscale"


class Near:
    """How far reconstructions are from training images, by one frozen net, whose maps of these are made once."""

    def __init__(self, images: Mapping[str, np.ndarray]) -> None:
        self.net, self.rows = nearness.frozen_net(), sides(len(images["train"]), len(images["test"]))
        self.reference = self.net and self.net.pooled(images["train"][self.rows.reference])

    def measure(self, made: np.ndarray) -> dict[str, float]:
        if self.net is None:
            return {}
        seen = self.net.pooled(made[self.rows.measured])
        found = distances(self.net.net.name, self.reference, seen, self.net.net.scale)
        return {
            name: found[f"{name}_{self.net.net.name}"]
            for name in ("fd", "kd")
            if f"{name}_{self.net.net.name}" in found
        }


def trainer_of(name: str, bits: int, recipe: codebooks.Recipe, images: Mapping[str, np.ndarray]) -> codebooks.Trainer:
    quantizer, weights = quantizers(bits, recipe.steps)[name]
    return codebooks.Trainer(recipe, quantizer, images, codebooks.WEIGHTS | weights)


def measured(trainer: codebooks.Trainer, name: str, seed: int, near: Near, prior: bool) -> dict[str, float]:
    """One training, and all that is asked of it; its codes' bits where a prior is trained too."""
    model = trainer.train(seed)
    found = trainer.measure(model) | near.measure(reconstructed(trainer, model))
    for metric in OF_ONE_MAP if name in SEVERAL_MAPS else ():
        del found[metric]
    return found | (trainer.bits(model, seed) if prior and name not in ("kl", "multiscale") else {})


def reconstructed(trainer: codebooks.Trainer, model: Model) -> np.ndarray:
    """The test images as they come back: uint8 [N, H, W, C]."""
    back = functools.partial(codec.reconstruct, trainer.autoencoder, trainer.recipe.range, model)
    return codec.in_batches(back, trainer.images["test"])[-1]


# --- commands


def train(given: argparse.Namespace) -> None:
    """All runs that the file does not have yet."""
    images, recipe = read_images(given), recipe_of(given)
    found, near = started(given, recipe), Near(images)
    for bits, seed, name in wanted(given, found):
        began = time.perf_counter()
        run = measured(trainer_of(name, bits, recipe, images), name, seed, near, prior=seed < PRIORS[bits])
        found["runs"].setdefault(str(bits), {}).setdefault(name, {})[str(seed)] = run
        keep(found, given.json)
        said = ", ".join(f"{metric} {value:.4g}" for metric, value in run.items())
        print(
            f"{bits} bits, {name}, seed {seed}: {said}; {time.perf_counter() - began:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    print(*table(found), sep="\n")


def wanted(given: argparse.Namespace, found: Mapping[str, Any]) -> Iterator[tuple[int, int, str]]:
    """Bits, seed and quantizer of what is missing, in order; `kl`, which has no bits, at the first alone."""
    for bits in BITS if given.bits is None else (given.bits,):
        for seed in range(given.seeds):
            for name in given.only or NAMES:
                there = found["runs"].get(str(bits), {}).get(name, {})
                if str(seed) not in there and not (name == "kl" and bits != BITS[0]):
                    yield bits, seed, name


def timing(given: argparse.Namespace) -> None:
    """Milliseconds and megabytes a step: the quantizers take turns, so that a busy moment meets all of them."""
    images, recipe = read_images(given), recipe_of(given)
    found = started(given, recipe)
    for bits in BITS if given.bits is None else (given.bits,):
        trainers = {name: trainer_of(name, bits, recipe, images) for name in NAMES}
        batch = {"image": jnp.asarray(images["train"][: recipe.batch_size])}
        states = {name: jax.jit(one.task.init)(jax.random.key(0), batch) for name, one in trainers.items()}
        held = {name: megabytes(one.step, states[name], batch) for name, one in trainers.items()}
        steps = {name: lambda state, one=one, batch=batch: one.step(state, batch)[0] for name, one in trainers.items()}
        spent = milliseconds({name: turns_of(step, states[name]) for name, step in steps.items()})
        found.setdefault("ms", {})[str(bits)], found.setdefault("MB", {})[str(bits)] = spent, held
        keep(found, given.json)
    print(*table(found), sep="\n")


def megabytes(step: Any, *inputs: Any) -> float:
    """What a compiled step holds at once beside its inputs, and these."""
    memory = step.lower(*inputs).compile().memory_analysis()
    return (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 2**20


def tables(given: argparse.Namespace) -> None:
    """The table of a file."""
    print(*table(read_runs(given.json)), sep="\n")


def plot(given: argparse.Namespace) -> None:
    """PSNR at each number of bits, and over the bits of a prior; a row a file."""
    if given.output.suffix != ".png":
        raise UserError(f"--output={given.output}: it will be a picture, give a name that ends in .png")
    family_plot.draw([read_runs(path) for path in given.json], NAMES, given.output)


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """Markdown, a line a quantizer and number of bits: means over seeds ± standard deviation of PSNR."""
    yield f"| bits | quantizer | seeds | {' | '.join(title for title, _ in COLUMNS.values())} | ms | MB |"
    yield "|---" * (len(COLUMNS) + 5) + "|"
    for bits, runs in found["runs"].items():
        for name in (name for name in NAMES if name in runs):
            values = {metric: [run[metric] for run in runs[name].values() if metric in run] for metric in COLUMNS}
            cells = [cell(values[metric], metric) for metric in COLUMNS]
            cost = [found.get(of, {}).get(bits, {}).get(name) for of in ("ms", "MB")]
            cells += ["–" if one is None else format(one, ".1f") for one in cost]
            yield f"| {'–' if name == 'kl' else bits} | {name} | {len(runs[name])} | {' | '.join(cells)} |"


def cell(values: list[float], metric: str) -> str:
    if not values:
        return "–"
    spread = f" ± {np.std(values, ddof=1):.1g}" if metric == "psnr" and len(values) > 1 else ""
    return format(np.mean(values), COLUMNS[metric][1]).replace("%", " %") + spread


# --- files


def started(given: argparse.Namespace, recipe: codebooks.Recipe) -> dict[str, Any]:
    """What the file holds so far, if it is of the same task, images and recipe; else a new one.

    Raises:
        UserError: it is of others.
    """
    of = {"task": given.task, "data": given.data.name if given.data else None, **recipe._asdict()}
    of = json.loads(json.dumps(of))  # tuples are lists in the file
    if given.json.is_dir() or not given.json.parent.is_dir():
        raise UserError(f"--json={given.json} cannot be written; give the name of a file")
    found = read_runs(given.json) if given.json.is_file() else {"of": of, "runs": {}}
    if found["of"] != of:
        other = ", ".join(name for name in of if found["of"].get(name) != of[name])
        raise UserError(f"--json={given.json} holds runs with another {other}; give another file")
    return found


def read_runs(path: Path) -> dict[str, Any]:
    """UserError where a file is not what `train` writes."""
    try:
        found = read_json(path)
        if not {"of", "runs"} <= set(found) or not set(found["runs"]) <= set(map(str, BITS)):
            raise ValueError("it has no runs by bits")
        return found
    except ValueError as error:
        raise UserError(f"--json={path} was not written by `family.py train` ({error}); give another file") from error


def read_images(given: argparse.Namespace) -> dict[str, np.ndarray]:
    """Both splits, whole: uint8 [N, H, W, C]."""
    fields = TASKS[given.task][0]
    if (fields["name"] == "npz") != bool(given.data):
        needs = "wants --data=FILE.npz" if fields["name"] == "npz" else "has its images by name; leave --data out"
        raise UserError(f"--task={given.task} {needs}")
    dataset = fields | {"image_size": SIZE} | ({"path": str(given.data)} if given.data else {})
    section = configs.complete({"dataset": dataset, **codebooks.BARE})["dataset"]
    return {part: np.asarray(data.read(section, part).image) for part in ("train", "test")}


def recipe_of(given: argparse.Namespace) -> codebooks.Recipe:
    said = {name: getattr(given, name) for name in ("steps", "batch_size", "prior_steps")}
    return TASKS[given.task][1]._replace(**{name: value for name, value in said.items() if value})


def parser() -> Parser:
    flags = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = flags.add_subparsers(required=True, metavar="COMMAND")
    for name, command in (("train", train), ("time", timing), ("tables", tables), ("plot", plot)):
        one = commands.add_parser(name, help=(command.__doc__ or "").splitlines()[0])
        one.set_defaults(command=command)
        kept = {"action": "append", "type": file} if command is plot else {"type": file if command is tables else Path}
        one.add_argument("--json", metavar="FILE", required=True, help="where the numbers are kept", **kept)
        if command is plot:
            one.add_argument("--output", metavar="FILE", type=Path, required=True, help="a .png")
        if command in (train, timing):
            one.add_argument("--task", choices=TASKS, default="openmoji", help="default: %(default)s")
            one.add_argument("--data", metavar="FILE", type=file, help="images, an .npz; of --task=cifar alone")
            one.add_argument("--steps", metavar="N", type=positive, help="of the autoencoder")
            one.add_argument("--batch_size", metavar="N", type=positive, help="of the autoencoder")
            one.add_argument("--prior_steps", metavar="N", type=positive, help="of the prior")
            one.add_argument("--bits", type=int, choices=BITS, help="a place (default: all)")
        if command is train:
            one.add_argument("--only", choices=NAMES, action="append", help="one quantizer, or several (default: all)")
            one.add_argument("--seeds", metavar="N", type=positive, default=3, help="how many (default: 3)")
    return flags


def main() -> int:
    """0, or 2 where the user has something to put right."""
    given = parser().parse_args()
    use_compilation_cache()
    return ended(lambda: given.command(given))


if __name__ == "__main__":
    sys.exit(main())
