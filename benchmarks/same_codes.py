"""A recipe's priors on the codes of a finished run: how well they foretell, how near their samples are, in which time.

    python benchmarks/same_codes.py --workdir=runs/demo --config=configs/openmoji_hierarchical.py --seconds=80
    python benchmarks/same_codes.py --workdir=runs/demo --config=configs/openmoji_maskgit.py --seconds=80

WORKDIR is a finished run; its autoencoder and tokens are taken, CONFIG gives the priors and how they are sampled; any
--config.priors.LEVEL.FIELD=VALUE may follow. Each level has so many seconds of steps, as many as fit are known from a
few; without --seconds the config's steps. As in a training the weights are those of the best of ten evaluations on the
validation split. Priors that are told texts hear the run's, and samples are drawn under these. What is said, also in
--json:

    steps, ms      of a level's training; `of` the per-position cross-entropy its nll on the test split is; of a prior
                   without likelihood its loss alone
    fd, kd         Fréchet and kernel distance of the samples from the training images, see docs/distances.md
    ms an image    to draw the samples, on this machine, compiled
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import keep
from benchmarks.turns import repeated
from vqvae_jax import config as configs
from vqvae_jax import data, evaluate, nearness
from vqvae_jax.data import tokens as token_files
from vqvae_jax.devices import use_compilation_cache
from vqvae_jax.distance.pictures import between
from vqvae_jax.endings import ended
from vqvae_jax.flags import Parser, natural, positive
from vqvae_jax.logs import grid, save_png
from vqvae_jax.parts import Parts
from vqvae_jax.priors.draw import CHUNK
from vqvae_jax.stages import task_of
from vqvae_jax.trained import Trained
from vqvae_jax.types import Model, UserError

LOOKS = 10  # evaluations in a training
TRIED = 20  # steps that say how long one takes


def with_priors(workdir: Path, config: str, overrides: list[str]) -> Trained:
    """The run, with the priors of another config in place of its own, none of them trained."""
    model, other = Trained(workdir), configs.read(config, overrides)
    model.config = {**model.config, "priors": other["priors"], "sample": other["sample"]}
    model.parts = Parts(model.config, model.facts)
    model.priors = {}
    if configs.told_texts(model.config) and model.tokenizer is None:
        raise UserError(
            f"the priors of {config} are told texts, and {workdir} has none; give a --workdir that was told"
        )
    return model


def trained(model: Trained, level: str, seconds: int, seed: int) -> tuple[Model, dict[str, float]]:
    """The best weights of a level's prior, and what its training was like."""
    section = model.config["priors"][level]
    read = lambda part: token_files.read(model.workdir / "tokens", part).told(model.tokenizer)  # noqa: E731
    splits = {part: read(part) for part in ("train", "validation")}
    batches = data.ArrayData(splits["train"], section["train"]["batch_size"], seed)
    held_out = data.ArrayData(splits["validation"], evaluate.BATCH, 0)
    steps = section["train"]["steps"]
    if seconds:
        _, step, state = begun(model, level, steps, batches, seed)
        timed = repeated(step, state, batches.batch(0))
        timed(3)
        steps = max(LOOKS, round(seconds / timed(TRIED)))
    task, step, state = begun(model, level, steps, batches, seed)
    jax.block_until_ready(step(state, batches.batch(0)))  # compiled before the clock
    state = task.init(jax.random.key(seed), batches.batch(0))
    measured, spent, best = jax.jit(task.eval_step), 0.0, (np.inf, 0, None)
    for look in range(1, LOOKS + 1):
        began = time.perf_counter()
        for number in range(steps * (look - 1) // LOOKS, steps * look // LOOKS):
            state = step(state, batches.batch(number))
        jax.block_until_ready(state)
        spent += time.perf_counter() - began
        here = jax.device_get(task.model(state))
        sums = [jax.device_get(measured(here, batch)) for batch in held_out.evaluation()]
        _, loss = judged(task.summary(jax.tree.map(lambda *each: sum(each), *sums)))
        best = min(best, (loss, look, here), key=lambda one: one[0])
    print(f"{level}: {steps} steps of {1e3 * spent / steps:.1f} ms, {spent:.0f} s", flush=True)
    return best[2], {"steps": steps, "ms": 1e3 * spent / steps, "best_at": best[1] / LOOKS}


def judged(measured: dict[str, float]) -> tuple[str, float]:
    """What a prior is judged by: its nll, or its loss where it has no likelihood."""
    name = "nll" if "nll" in measured else "loss"
    return name, measured[name]


def begun(model: Trained, level: str, steps: int, batches: data.ArrayData, seed: int) -> tuple[Any, Any, Any]:
    """The task of a level, its compiled step, and the state before the first."""
    task = task_of(model.parts, level, steps)
    step = jax.jit(lambda state, batch: task.train_step(state, batch)[0], donate_argnums=0)
    return task, step, jax.jit(task.init)(jax.random.key(seed), batches.batch(0))


def run(given: argparse.Namespace) -> dict[str, Any]:
    model = with_priors(given.workdir, given.config, given.overrides)
    found: dict[str, Any] = {"config": given.config, "overrides": given.overrides, "seed": given.seed, "levels": {}}
    test = evaluate.load_images(model, model.config["dataset"])
    unseen = evaluate.maps_of(model, test)
    seen = evaluate.training_tokens(model)
    for level in configs.levels(model.config):
        weights, said = trained(model, level, given.seconds, given.seed)
        model.priors[level] = (model.parts.prior(level), weights)
        measured = evaluate.prior_metrics(model, level, unseen, seen)
        name, value = judged(measured)
        said[name], line = value, f"{level}: {name} {value:.4f}"
        if "nll_over_position_entropy" in measured:
            said["of"] = measured["nll_over_position_entropy"]
            line += f", {said['of']:.4f} of the per-position cross-entropy"
        found["levels"][level] = said
        print(line, flush=True)
    if given.samples:
        first, texts = min(given.samples, CHUNK), nearness.texts_of(model, given.samples)
        model.sample(first, given.seed, text=texts and texts[:first])  # compiles
        began = time.perf_counter()
        images = model.sample(given.samples, given.seed, text=texts)
        found["ms_an_image"] = 1e3 * (time.perf_counter() - began) / len(images)
        net, training = nearness.frozen_net(), nearness.training_images(model, test.image)
        if net is not None:
            found["distances"] = between(net, training, images, nearness.SEED)
        print({name: value for name, value in found.get("distances", {}).items() if name != "floor"}, flush=True)
        if given.pictures:
            save_png(given.pictures, grid(images[:64], columns=8))
    return found


def main() -> int:
    """0, or 2 where the user has something to put right."""
    flags = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--workdir", type=Path, required=True, help="a finished run")
    flags.add_argument("--config", required=True, help="whose priors")
    flags.add_argument("--seconds", type=positive, default=0, help="of training each level has (default: its steps)")
    flags.add_argument("--samples", type=natural, default=512, help="that are drawn and measured (default 512)")
    flags.add_argument("--seed", type=int, default=0, help="of training and samples")
    flags.add_argument("--pictures", metavar="FILE", type=Path, help="a grid of samples, x.png")
    flags.add_argument("--json", metavar="FILE", type=Path, help="all numbers")
    given, given.overrides = flags.parse_known_args()
    use_compilation_cache()
    return ended(lambda: keep(run(given), given.json))


if __name__ == "__main__":
    sys.exit(main())
