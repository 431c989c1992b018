"""What keeps the codebook of CVQ-VAE alive in few steps: one thing of its recipe changed at a time, beside EMA.

    python benchmarks/cvq.py --data=data/cifar10_subset.npz --json=cvq.json
    python benchmarks/cvq.py … --only='decay|ema' --width=64 --seeds=1 --workers=1     # a sketch, on a CPU
    python benchmarks/cvq.py … --tables                                                  # of what the file has

Each variant is a list of the flags that a user would type after --config=configs/cifar10_cvqvae.py:subset; what is not
said is as published (decay 0.99, a reconstruction that weighs 16). All train as many steps on the same images. The file
has of each run, on the whole test split, psnr, ssim, usage and perplexity; and curves along the training: the
length of codes, the distance to them and the usage of the last 100 steps, which are what `doctor` watches, and how many
codes are distinct. `--workers` variants compile and train side by side. docs/measured/cvq.json is such a file.
"""

import argparse
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from vqvae_jax import codec, data, evaluate, parts
from vqvae_jax import config as configs
from vqvae_jax.backend import platform
from vqvae_jax.devices import use_compilation_cache
from vqvae_jax.endings import ended
from vqvae_jax.facts import facts_of
from vqvae_jax.files import read_json, write_json
from vqvae_jax.flags import Parser, file, positive
from vqvae_jax.tasks.autoencode import AutoencodeTask
from vqvae_jax.tasks.optimize import make_optimizer
from vqvae_jax.types import Array, UserError

BASE = "configs/cifar10_cvqvae.py:subset"
Q, W, A, T = "autoencoder.quantizer.", "loss_weights.", "optimizer.", "train."
EMA = {"name": "ema", "codebook_size": 512, "code_dim": 64}
PUBLISHED = {Q + "decay": 0.99, W + "reconstruction": 1 / 0.063}
CHANGES: dict[str, dict[str, Any]] = {  # one thing each
    "decay 0.9": {Q + "decay": 0.9},
    "decay 0.95": {Q + "decay": 0.95},
    "random": {Q + "anchor": "random"},
    "probabilistic": {Q + "anchor": "probabilistic"},
    "contrastive": {Q + "contrastive": True, W + "contrastive": 1.0},
    "rate 3e-4": {A + "learning_rate": 3e-4},
    "no warm-up": {A + "schedule": "constant", A + "warmup_steps": 0},
    "batch 1024": {T + "batch_size": 1024},
    "weight 1": {W + "reconstruction": 1.0},
    "commitment 1": {W + "commitment": 1.0},
}
FORMS = ("l2", "cos", "sphere")
TOGETHER = (  # names of changes, joined
    "weight 1, decay 0.95",
    "weight 1, random, decay 0.95",
    "weight 1, decay 0.9, rate 3e-4",
    "weight 1, decay 0.9, contrastive",
    "weight 1, decay 0.9, batch 1024",
    "weight 1, decay 0.9, no warm-up",
    "weight 1, decay 0.9, commitment 1",
    "random, decay 0.9",
    "weight 1, random",
    "weight 1, decay 0.9",
    "weight 1, random, decay 0.9",
    "weight 1, probabilistic, decay 0.9",
)
VARIANTS: dict[str, dict[str, Any]] = {
    "ema": {Q[:-1]: EMA, W[:-1]: {"reconstruction": 1 / 0.063, "commitment": 0.25}},
    "vq, weight 1": {Q[:-1]: {**EMA, "name": "vq"}, W + "reconstruction": 1.0},
    "ema, weight 1": {Q[:-1]: EMA, W[:-1]: {"reconstruction": 1.0, "commitment": 0.25}},
}
for _changes in (*TOGETHER, "", *CHANGES):
    for _form in FORMS:
        _said = [CHANGES[change] for change in _changes.split(", ") if change]
        _name = ", ".join(filter(None, (_form, _changes)))
        VARIANTS[_name] = {Q + "distance": _form, **PUBLISHED} | {k: v for one in _said for k, v in one.items()}
PIECE = 25  # steps between two looks
EARLY = 5  # the look that the table has: after 150 steps
CURVES = ("away", "code_norm", "code_norm_max", "recent_usage", "commitment", "batch_usage", "distinct")


class Trainer:
    """One variant, compiled once for all seeds."""

    def __init__(self, changes: Mapping[str, Any], given: argparse.Namespace, images: Mapping[str, np.ndarray]) -> None:
        flags = [f"--config.{name}={value}" for name, value in changes.items()]
        if given.width:
            flags += [f"--config.autoencoder.width={given.width}"]
        config = configs.read(BASE, [*flags, f"--config.dataset.path={given.data}"])
        self.batch_size, self.images = config["train"]["batch_size"], images
        self.autoencoder = parts.build_autoencoder(config, facts_of(data.Arrays(images["train"])))
        tx = make_optimizer(config["optimizer"], given.steps)
        section = config["dataset"]
        self.task = AutoencodeTask(
            self.autoencoder, tx, config["loss_weights"], tuple(section["range"]), section["flip"], section["crop"]
        )
        self.step = jax.jit(self.task.train_step, donate_argnums=0)
        self.piece = self._each if platform() == "cpu" else jax.jit(self._piece, donate_argnums=0)

    def _piece(self, state: Any, images: Array, rows: Array) -> tuple[Any, Any]:
        """Some steps; gives the metrics of the last."""
        state, found = jax.lax.scan(lambda s, row: self.task.train_step(s, {"image": images[row]}), state, rows)
        return state, jax.tree.map(lambda x: x[-1], found)

    def _each(self, state: Any, images: Array, rows: Array) -> tuple[Any, Any]:
        """The same on a CPU, whose convolutions are slow in loops."""
        for row in rows:
            state, found = self.step(state, {"image": images[row]})
        return state, found

    def train(self, seed: int, steps: int) -> dict[str, Any]:
        """What is measured of one run; the same images in the same order for all variants of a batch size."""
        images = jnp.asarray(self.images["train"])
        rows = np.random.default_rng(seed).integers(0, len(images), (steps // PIECE, PIECE, self.batch_size))
        state = jax.jit(self.task.init)(jax.random.key(seed), {"image": images[:1]})
        seen = []
        for piece in rows:
            state, found = self.piece(state, images, piece)
            seen.append(found | {"distinct": distinct(np.asarray(state.codebooks["codes"].codes))})
        level = {key.split("/")[0]: key for key in seen[0]}
        curves = {name: [round(float(one[level[name]]), 5) for one in seen] for name in CURVES}
        split = data.ArrayData(data.Arrays(self.images["test"]), codec.BATCH, 0)
        found = self.task.summary(evaluate.sums_over(self.task, self.task.model(state), split))
        short = {name.split("/")[0]: value for name, value in found.items()}
        return {name: short[name] for name in ("psnr", "ssim", "usage", "perplexity")} | {"curves": curves}


def distinct(codes: np.ndarray) -> int:
    """How many codes [K, D] there are, where those that agree to a hundredth of a code's length count as one."""
    length = np.median(np.linalg.norm(codes, axis=-1))
    return len(np.unique(np.round(codes / (0.01 * length)), axis=0))


def study(given: argparse.Namespace) -> None:
    """All runs that the file does not have yet, some variants at once."""
    if given.steps < (EARLY + 1) * PIECE:
        raise UserError(f"--steps={given.steps}: the table wants a look at step {(EARLY + 1) * PIECE}; give as many")
    section = configs.read(BASE, [f"--config.dataset.path={given.data}"])["dataset"]
    images = {part: np.asarray(data.read(section, part).image) for part in ("train", "test")}
    found = read_json(given.json) if given.json.is_file() else {"steps": given.steps, "width": given.width, "runs": {}}
    if [found["steps"], found["width"]] != [given.steps, given.width]:
        raise UserError(f"--json={given.json} holds runs of other --steps or --width; give another file")
    lock = threading.Lock()

    def work(name: str) -> None:
        with lock:
            runs = found["runs"].setdefault(name, {})
        missing = [seed for seed in range(given.seeds) if str(seed) not in runs]
        if missing and time.time() < given.until:
            trainer = Trainer(VARIANTS[name], given, images)
        for seed in missing:
            if time.time() > given.until:
                return
            began = time.perf_counter()
            one = trainer.train(seed, given.steps)
            with lock:
                runs[str(seed)] = one
                write_json(given.json, found)
            said = ", ".join(f"{metric} {one[metric]:.4g}" for metric in ("psnr", "usage", "perplexity"))
            print(
                f"{name}, {seed}: {said}, away {one['curves']['away'][-1]:.2g}; {time.perf_counter() - began:.0f} s",
                flush=True,
            )

    wanted = [name for name in VARIANTS if re.search(given.only, name)]
    with ThreadPoolExecutor(given.workers) as pool:
        for done in [pool.submit(work, name) for name in wanted]:
            done.result()


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """Markdown, a line a variant: means over seeds."""
    yield "| recipe | PSNR, dB | SSIM | usage | perplexity | away, early | at the end |\n|---|---|---|---|---|---|---|"
    for name, runs in found["runs"].items():
        if runs:
            mean = {m: np.mean([run[m] for run in runs.values()]) for m in ("psnr", "ssim", "usage", "perplexity")}
            spread = f" ± {np.std([run['psnr'] for run in runs.values()], ddof=1):.1g}" if len(runs) > 1 else ""
            away = [np.mean([run["curves"]["away"][i] for run in runs.values()]) for i in (EARLY, -1)]
            yield (
                f"| {name} | {mean['psnr']:.2f}{spread} | {mean['ssim']:.3f} | {100 * mean['usage']:.0f} % | "
                f"{mean['perplexity']:.0f} | {away[0]:.2g} | {away[1]:.2g} |"
            )


def main() -> int:
    """0, or 2 where the user has something to put right."""
    flags = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--data", metavar="FILE", type=file, required=True, help="images, an .npz")
    flags.add_argument("--json", metavar="FILE", type=Path, required=True, help="where the numbers are kept")
    flags.add_argument("--steps", metavar="N", type=positive, default=475, help="default: %(default)s")
    flags.add_argument("--seeds", metavar="N", type=positive, default=1, help="default: %(default)s")
    flags.add_argument("--width", metavar="N", type=int, default=0, help="of the autoencoder (default: the recipe's)")
    flags.add_argument("--workers", metavar="N", type=positive, default=1, help="default: %(default)s")
    flags.add_argument("--only", metavar="PATTERN", default="", help="variants whose name this finds (re.search)")
    flags.add_argument("--minutes", metavar="N", type=float, default=1e4, help="nothing is begun after so many")
    flags.add_argument("--tables", action="store_true", help="only the table of what the file has")
    given = flags.parse_args()
    given.until = time.time() + 60 * given.minutes
    use_compilation_cache()
    return ended(lambda: run(given))


def run(given: argparse.Namespace) -> None:
    if not given.tables:
        study(given)
    print(*table(read_json(given.json)), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
