"""Ours beside the PyTorch reference, from the same weights on the same batches: what do both reach?

    git clone https://github.com/unixpickle/vq-vae-2 PATH
    pip install torch --index-url https://download.pytorch.org/whl/cpu
    python benchmarks/quality_vs_torch.py --reference=PATH --data=FILE.npz

FILE.npz holds train_image and test_image, uint8 [N, 28, 28, 1] for fashion, [N, 32, 32, 3] for cifar.

PyTorch draws the weights and ours starts from them; batches, losses and Adam are the same. So both compute the same but
for rounding, which cifar magnifies to percents in 100 steps.
From there on dead codes are drawn anew at random, not the same ones. Hence several seeds. On the whole test split:

    mse      of images in [0, 1]
    usage    share of a level's codes that are used at least once
    nll      nats a token, each prior on the codes of its own autoencoder
    entropy  of those codes, nats a token: codes that say less are easier to foretell

The spread is the standard deviation over seeds; a difference of the means up to the larger of both spreads is inside.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from vqvae_jax import codec, data, evaluate, parts
from vqvae_jax import config as configs
from vqvae_jax.data.entropy import entropy
from vqvae_jax.data.token_arrays import TokenArrays
from vqvae_jax.devices import use_compilation_cache
from vqvae_jax.endings import ended
from vqvae_jax.facts import facts_of
from vqvae_jax.files import write_json
from vqvae_jax.tasks.autoencode import AutoencodeTask
from vqvae_jax.tasks.optimize import make_optimizer, new_state
from vqvae_jax.tasks.prior import PriorTask
from vqvae_jax.types import UserError

SAME = 1e-5  # relative: the losses of the first step
SHOW_EVERY = 100  # steps
CLONE = "git clone https://github.com/unixpickle/vq-vae-2"
INSTALL = "pip install torch --index-url https://download.pytorch.org/whl/cpu"


class Comparison(NamedTuple):
    config: str
    vae_steps: int
    prior_steps: int  # 0: the autoencoder alone


TASKS = {
    "fashion": Comparison("configs/fashion_mnist_pixelcnn.py", 2000, 1000),
    "cifar": Comparison("configs/cifar10_hierarchical.py", 500, 0),
}


class Ours:
    """The product's tasks, compiled once; `start` begins anew. Then its methods are those of torch_reference."""

    def __init__(self, config: dict[str, Any], facts: dict[str, Any], length: Comparison) -> None:
        self.autoencoder = parts.build_autoencoder(config, facts)
        tx = make_optimizer(config["optimizer"], length.vae_steps)
        self.codebook_size = self.autoencoder.quantizers[0].codebook_size
        self.task = AutoencodeTask(self.autoencoder, tx, config["loss_weights"])
        self.step = jax.jit(self.task.train_step, donate_argnums=0)
        if length.prior_steps:
            tx = make_optimizer(config["priors"]["codes"]["optimizer"], length.prior_steps)
            self.prior_task = PriorTask(parts.Parts(config, facts).prior("codes"), slice(0, 1), tx)
            self.prior_step = jax.jit(self.prior_task.train_step, donate_argnums=0)

    def start(self, seed: int, params: dict[str, Any], codes: dict[str, np.ndarray], prior: dict[str, Any]) -> None:
        """From PyTorch's weights and codes; `prior` is empty where none is trained."""
        key = jax.random.key(seed)
        books = self.autoencoder.init_codebooks(key)
        books = {level: book.replace(codes=jnp.asarray(codes[level])) for level, book in books.items()}
        begin = jax.jit(lambda params, books, tx: new_state(key, params, books, tx, 0.0), static_argnums=2)
        self.state = begin(params, books, self.task.tx)
        self.prior_state = begin(prior, {}, self.prior_task.tx) if prior else None

    def train_autoencoder(self, batches: Iterable[np.ndarray]) -> Iterator[float]:
        for images in batches:
            self.state, metrics = self.step(self.state, {"image": images})
            yield float(metrics["loss"])

    def train_prior(self, batches: Iterable[np.ndarray]) -> Iterator[float]:
        for maps in batches:
            self.prior_state, metrics = self.prior_step(self.prior_state, {"tokens": (maps,)})
            yield float(metrics["loss"])

    def measure(self, images: np.ndarray) -> dict[str, float]:
        split = data.ArrayData(data.Arrays(images), codec.BATCH, 0)
        found = self.task.summary(evaluate.sums_over(self.task, self.task.model(self.state), split))
        return {name.replace("/", " "): found[name] for name in found if name == "mse" or name.startswith("usage/")}

    def encode(self, images: np.ndarray) -> list[np.ndarray]:
        model = self.task.model(self.state)
        return list(codec.in_batches(lambda x: codec.encode(self.autoencoder, self.task.range, model, x), images))

    def nll(self, maps: np.ndarray) -> float:
        split, model = data.ArrayData(TokenArrays((maps,)), codec.BATCH, 0), self.prior_task.model(self.prior_state)
        return self.prior_task.summary(evaluate.sums_over(self.prior_task, model, split))["nll"]


def compare(seed: int, systems: dict[str, Any], images: dict[str, np.ndarray], batch: int, length: Comparison) -> dict:
    """Trains both on the same rows: metric → system → value, and the losses of every step."""
    rng = np.random.default_rng(seed)
    rows, prior_rows = (rng.integers(0, len(images["train"]), (steps, batch)) for steps in length[1:])
    found: dict[str, dict] = {"losses": {}, "prior losses": {}}
    for name, system in systems.items():
        batches = (images["train"][row] for row in rows)
        found["losses"][name] = watch(system.train_autoencoder(batches), f"seed {seed}, {name}, autoencoder")
        note(found, name, system.measure(images["test"]))
    same_start(f"seed {seed}, autoencoder", *(losses[0] for losses in found["losses"].values()))
    if length.prior_steps:
        compare_priors(seed, systems, images, prior_rows, found)
    return found


def compare_priors(seed: int, systems: dict[str, Any], images: dict[str, np.ndarray], rows: np.ndarray, found: dict):
    """Each on the codes of its own autoencoder; that they start equal is seen on the codes of one."""
    maps = systems["PyTorch"].encode(images["train"][rows[0]])[0]
    same_start(f"seed {seed}, prior", *(system.nll(maps) for system in systems.values()))
    for name, system in systems.items():
        maps = system.encode(images["train"][rows.reshape(-1)])[0]
        losses = system.train_prior(maps.reshape(*rows.shape, *maps.shape[1:]))
        found["prior losses"][name] = watch(losses, f"seed {seed}, {name}, prior")
        maps = system.encode(images["test"])[0]
        note(found, name, {"nll": system.nll(maps), "entropy": entropy(maps, system.codebook_size)})


def note(found: dict[str, dict], system: str, values: Mapping[str, float]) -> None:
    for metric, value in values.items():
        found.setdefault(metric, {})[system] = value


def watch(losses: Iterator[float], what: str) -> list[float]:
    """All losses, with a line on stderr now and then."""
    seen: list[float] = []
    for loss in losses:
        seen.append(loss)
        if len(seen) % SHOW_EVERY == 0:
            print(f"{what}: step {len(seen)}, loss {loss:.4f}", file=sys.stderr, flush=True)
    return seen


def same_start(what: str, theirs: float, ours: float) -> None:
    print(f"{what}: first loss {theirs:.7f} in PyTorch, {ours:.7f} here", file=sys.stderr, flush=True)
    if not abs(theirs - ours) <= SAME * abs(theirs):
        raise UserError(f"{what}: the first losses differ, {theirs} and {ours}; is the checkout changed? {CLONE}")


def table(runs: Mapping[int, dict[str, dict]]) -> Iterator[str]:
    """Markdown: three lines a metric, a column a seed."""
    yield " | ".join(["|", *(f"seed {seed}" for seed in runs), "mean ± spread |"])
    yield "|---" * (len(runs) + 2) + "|"
    for metric in (name for name in next(iter(runs.values())) if not name.endswith("losses")):
        values = {name: np.array([run[metric][name] for run in runs.values()]) for name in ("PyTorch", "here")}
        for name, value in values.items():
            spread = f" ± {np.std(value, ddof=1):.2g}" if len(runs) > 1 else ""
            yield f"| {metric}, {name} | {' | '.join(f'{v:.4g}' for v in value)} | {np.mean(value):.4g}{spread} |"
        gaps = " | ".join(f"{gap:+.2g}" for gap in values["here"] - values["PyTorch"])
        yield f"| difference | {gaps} | {verdict(values['PyTorch'], values['here'])} |"


def verdict(theirs: np.ndarray, ours: np.ndarray) -> str:
    gap = ours.mean() - theirs.mean()
    if len(ours) == 1:
        return f"{gap:+.2g}; one seed has no spread"
    inside = abs(gap) <= max(np.std(theirs, ddof=1), np.std(ours, ddof=1))
    return f"{gap:+.2g}, {'inside' if inside else 'outside'} the spread"


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; --help shows all flags\n")


def parser() -> Parser:
    flags = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    flags.add_argument("--reference", metavar="PATH", type=Path, required=True, help="checkout of the reference")
    flags.add_argument("--data", metavar="FILE", type=Path, required=True, help="images, an .npz")
    flags.add_argument("--task", choices=TASKS, default="fashion", help="default: %(default)s")
    flags.add_argument("--seeds", metavar="N,…", type=seeds, default=(0, 1, 2), help="default: 0,1,2")
    flags.add_argument("--vae_steps", metavar="N", type=number, help="default: fashion 2000, cifar 500")
    flags.add_argument("--prior_steps", metavar="N", type=number, help="default: fashion 1000; cifar has no prior")
    flags.add_argument("--json", metavar="FILE", type=Path, help="all numbers, and the losses of every step")
    return flags


def number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of steps; type one above 0")
    return int(text)


def seeds(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise argparse.ArgumentTypeError(f"{text!r} are no seeds; like this: --seeds=0,1,2")
    return tuple(dict.fromkeys(map(int, text.split(","))))


def length_of(given: argparse.Namespace) -> Comparison:
    """The task with the steps that the flags say."""
    length = TASKS[given.task]
    said = {name: getattr(given, name) for name in ("vae_steps", "prior_steps") if getattr(given, name) is not None}
    if said.get("prior_steps") and not length.prior_steps:
        raise UserError(f"no prior is compared on {given.task}; leave --prior_steps out")
    return length._replace(**said)


def reference(path: Path) -> Any:
    """torch_reference, on the user's checkout and the user's torch."""
    if not (path / "vq_vae_2" / "vq_vae.py").is_file():
        raise UserError(f"--reference: {path} has no vq_vae_2/vq_vae.py; {CLONE} {path}")
    sys.path.insert(0, str(path))
    try:
        import torch_reference
    except ModuleNotFoundError as error:
        raise UserError(f"{error}; {INSTALL}") from error
    return torch_reference


def read_images(config: dict[str, Any], task: str) -> dict[str, np.ndarray]:
    """Both splits, whole: uint8 [N, H, W, C]."""
    try:
        return {part: data.read(config["dataset"], part).image for part in ("train", "test")}
    except UserError as error:
        raise UserError(f"--data does not fit --task={task}, see --help: {error}") from error


def run(given: argparse.Namespace) -> None:
    length, torch_side = length_of(given), reference(given.reference)
    if not given.data.is_file():
        raise UserError(f"--data: there is no file {given.data}; see --help for what it holds")
    config = configs.read(length.config, ["--config.dataset.name=npz", f"--config.dataset.path={given.data}"])
    images = read_images(config, given.task)
    facts, levels = facts_of(data.Arrays(images["train"])), configs.levels(config)
    ours, runs = Ours(config, facts, length), {}
    for seed in given.seeds:
        theirs = torch_side.Reference(config["autoencoder"], levels, facts["channels"], seed)
        prior = torch_side.params(theirs.prior) if length.prior_steps else {}
        ours.start(seed, torch_side.params(theirs.autoencoder), theirs.codes(), prior)
        systems = {"PyTorch": theirs, "here": ours}
        runs[seed] = compare(seed, systems, images, config["train"]["batch_size"], length)
        if given.json:
            write_json(given.json, {"task": given.task, **length._asdict(), "seeds": runs})
    print(*table(runs), sep="\n")


def main() -> int:
    """0, or 2 where the user has something to put right."""
    given = parser().parse_args()
    use_compilation_cache()
    return ended(lambda: run(given))


if __name__ == "__main__":
    sys.exit(main())
