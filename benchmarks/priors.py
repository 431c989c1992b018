"""Priors on the same codes for the same time: which foretells the test split better?

    python benchmarks/priors.py --workdir=runs/fashion_mnist_transformer --seconds=120

WORKDIR is a finished run of one level; its tokens are taken. Rounds in which the priors take turns say how long a step
of each lasts, and so how many steps each has: the schedules end when the time is over. What is said:

    steps, ms    steps that fit into the time, milliseconds of one
    nll          nats a token on the test split, and the share of the per-position cross-entropy
    seconds      that its training took in the end
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from turns import milliseconds, turns_of

from benchmarks.results import keep
from vqvae_jax import codec, data, evaluate, parts
from vqvae_jax import config as configs
from vqvae_jax.data.entropy import mean_position_entropy
from vqvae_jax.data.token_arrays import TokenArrays
from vqvae_jax.devices import use_compilation_cache
from vqvae_jax.endings import ended
from vqvae_jax.flags import Parser, positive
from vqvae_jax.tasks.optimize import make_optimizer
from vqvae_jax.tasks.prior import PriorTask
from vqvae_jax.trained import Trained
from vqvae_jax.types import UserError

PRIORS: dict[str, dict[str, Any]] = {
    "transformer": {"name": "transformer", "width": 128, "layers": 3, "heads": 8},
    "mnist_generator": {"name": "mnist_generator"},
    "pixelcnn": {
        "name": "pixelcnn",
        "depth": 96,
        "layers": 6,
        "horizontal": 1,
        "vertical": 1,
        "attention_after": (3, 6),
    },
}
OPTIMIZER = {"learning_rate": 1e-3, "warmup_steps": 200, "schedule": "cosine"}
BATCH = 32


class Contender:
    """One prior and its training step."""

    def __init__(self, model: Trained, section: dict[str, Any], steps: int) -> None:
        training = {"optimizer": OPTIMIZER, "train": {"batch_size": BATCH, "steps": steps}}
        config = configs.complete({**model.config, "priors": {"codes": {**section, **training}}})
        section = config["priors"]["codes"]
        tx = make_optimizer(section["optimizer"], steps)
        self.prior = parts.Parts(config, model.facts).prior("codes")
        self.task = PriorTask(self.prior, slice(0, 1), tx)
        self.step = jax.jit(self.task.train_step, donate_argnums=0)
        self.start = jax.jit(self.task.init)


def costs(contenders: dict[str, Contender], maps: np.ndarray) -> dict[str, float]:
    """Milliseconds of a step of each."""
    batch = {"tokens": (maps[:BATCH],)}
    steps = {name: lambda state, one=one: one.step(state, batch)[0] for name, one in contenders.items()}
    states = {name: one.start(jax.random.key(0), batch) for name, one in contenders.items()}
    return milliseconds({name: turns_of(step, states[name]) for name, step in steps.items()})


def train(one: Contender, maps: np.ndarray, steps: int, seed: int) -> tuple[Any, float]:
    """The model, and the seconds of its steps."""
    rows = np.random.default_rng(seed).integers(0, len(maps), (steps, BATCH))
    state = one.start(jax.random.key(seed), {"tokens": (maps[rows[0]],)})
    state, _ = one.step(state, {"tokens": (maps[rows[0]],)})  # compiles
    began = time.perf_counter()
    for row in rows[1:]:
        state, _ = one.step(state, {"tokens": (maps[row],)})
    jax.block_until_ready(state)
    return one.task.model(state), time.perf_counter() - began


def run(given: argparse.Namespace) -> dict[str, Any]:
    model = Trained(given.workdir)
    seen = evaluate.training_tokens(model)
    if seen is None or len(seen.maps) > 1:
        raise UserError(f"{given.workdir} has no tokens of one map; give a finished run of one level")
    maps = np.asarray(seen.maps[0])
    unseen = model.encode(evaluate.load_images(model, model.config["dataset"]).image)
    ms = costs({name: Contender(model, section, 1) for name, section in PRIORS.items()}, maps)
    found: dict[str, Any] = {}
    for name, section in PRIORS.items():
        steps = max(1, int(given.seconds * 1000 / ms[name]))
        one = Contender(model, section, steps)
        weights, seconds = train(one, maps, steps, given.seed)
        split = data.ArrayData(TokenArrays(unseen), codec.BATCH, 0)
        nll = one.task.summary(evaluate.sums_over(one.task, weights, split))["nll"]
        yardstick = mean_position_entropy(unseen, seen.maps, one.prior.maps[0].vocab_size)
        found[name] = {"steps": steps, "ms": ms[name], "nll": nll, "share": nll / yardstick, "seconds": seconds}
        print(
            f"{name}: {steps} steps of {ms[name]:.1f} ms, {seconds:.0f} s, nll {nll:.4f} = {nll / yardstick:.3f}",
            flush=True,
        )
    return found


def main() -> int:
    """0, or 2 where the user has something to put right."""
    flags = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--workdir", type=Path, required=True, help="a finished run of one level")
    flags.add_argument("--seconds", type=positive, default=120, help="of training each has (default: 120)")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--json", metavar="FILE", type=Path, help="all numbers")
    given = flags.parse_args()
    use_compilation_cache()
    return ended(lambda: keep(run(given), given.json))


if __name__ == "__main__":
    sys.exit(main())
