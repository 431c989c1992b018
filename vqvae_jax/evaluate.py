"""What a trained workdir is worth, on the test split: metrics.json, reconstructions.png, code_counts.npz."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vqvae_jax import code_maps, codec, data, logs, nearness
from vqvae_jax import config as configs
from vqvae_jax.checkpoint import Step, Steps
from vqvae_jax.data import tokens as token_files
from vqvae_jax.data.arrays import wants
from vqvae_jax.data.entropy import mean_entropy, mean_position_entropy
from vqvae_jax.data.token_arrays import TokenArrays
from vqvae_jax.facts import as_grey, facts_of
from vqvae_jax.files import atomically, check_file, write_json
from vqvae_jax.parts import facts_of_tokens
from vqvae_jax.progress import watched
from vqvae_jax.stages import task_of
from vqvae_jax.trained import Flags, Trained
from vqvae_jax.types import Codebook, Model, UserError

FILE = "metrics.json"
# How often each code was used over the split, float [K] by token map; and by level, "length/LEVEL" and "idle/LEVEL".
COUNTS = "code_counts.npz"
CODE_MAPS = "code_maps"  # .png, in colours
BATCH = 64  # images at once, at least
SAID = ("name", "path", "test_split")  # what of other images stands in the names of files
SHOWN = 16  # images in the strip
MANY = 100  # images; means over fewer go by which images these are
UNITS = {"autoencoder/mse": "  of images in dataset.range"}  # `compare` has it of images in [0, 1]
FLAGS = Flags("--prior_step={stage}:{step}", "--step={step}")


def evaluate(
    workdir: Path,
    images: Mapping[str, str] | None = None,
    step: Step = None,
    prior_step: Steps = "best",
    samples: int = nearness.SAMPLES,
) -> dict[str, Any]:
    """Metrics of every trained stage over a split, the config's test split unless others are said.

    Writes metrics.json, reconstructions.png and code_counts.npz, with _NAME_SPLIT in their names for other images
    and _autoencoder_N, _priors_N for other steps.

    mse in the units of `dataset.range`; PSNR and SSIM on clipped images rounded to uint8, mean over images (see
    `networks.measure`); usage and perplexity over the whole split; nll in nats a token, `position_entropy` beside it,
    and bits a pixel: nats of all tokens / ln 2 / pixels. With a file of frozen nets also LPIPS and distances from the
    training images, see `nearness`.

    Args:
        workdir: of a training, or of an import.
        images: changes to the config's section `dataset`: name, path, test_split.
        step: of the autoencoder's checkpoints: a number, "best" or None for the latest.
        prior_step: the same of the priors', or by level, {"top": 280}: of the others the best.
        samples: that are drawn to measure their distance; 0: none.

    Raises:
        UserError: nothing is trained here, or the data are not to be had.
    """
    return measure(Trained(workdir, prior_step, step, FLAGS), images, samples)


def measure(model: Trained, images: Mapping[str, str] | None = None, samples: int = nearness.SAMPLES) -> dict[str, Any]:
    """As `evaluate`, of what is loaded already."""
    asked = data.changed(model.config["dataset"], images)
    suffix = "".join(f"_{Path(asked[name]).stem}" for name in SAID if asked[name] != model.config["dataset"][name])
    suffix += _steps_said(model)
    check_file("", model.workdir / f"metrics{suffix}.json")
    metrics: dict[str, Any] = {"split": asked["test_split"]}
    if model.has_autoencoder:
        arrays = load_images(model, asked)
        tokens = _autoencoder(model, arrays, metrics, suffix)
    else:
        facts = facts_of_tokens({**model.config, "dataset": asked})
        # Imported priors do not say of which autoencoder their tokens are.
        unknown = [] if model.facts["autoencoder"] is None else ["autoencoder"]
        _check_same(model, facts, ("label_names", "levels", *unknown))
        tokens = token_files.load(asked, "test").told(model.tokenizer)
        metrics["images"] = len(tokens)
    if model.priors:
        seen = training_tokens(model)
        metrics["priors"] = {level: prior_metrics(model, level, tokens, seen) for level in model.priors}
        bits = [prior.get("bits_per_pixel") for prior in metrics["priors"].values()]
        if len(bits) == len(configs.levels(model.config)) and None not in bits:
            metrics["bits_per_pixel"] = sum(bits)
    write_json(model.workdir / f"metrics{suffix}.json", metrics)  # what is known is not lost, whatever comes
    if model.has_autoencoder and (found := nearness.measure([model], arrays, samples)[0]):
        metrics |= found
        write_json(model.workdir / f"metrics{suffix}.json", metrics)
    return metrics


def _steps_said(model: Trained) -> str:
    """What of other steps than those of the run stands in the names of files."""
    autoencoder = "" if model.autoencoder_step is None else f"_autoencoder_{model.autoencoder_step}"
    steps = model.step.items() if isinstance(model.step, Mapping) else [("priors", model.step)]
    return autoencoder + "".join(f"_{name}_{step or 'latest'}" for name, step in steps if step != "best")


def load_images(model: Trained, asked: Mapping[str, Any]) -> data.Arrays:
    """The test images of a section `dataset`, of the kind that the model was trained on."""
    arrays = data.load(as_grey(asked, model.facts), "test").with_labels(model.facts["label_names"])
    if not len(arrays):
        split = asked["test_split"]
        raise UserError(f"the split {split!r} holds no images; choose another: --config.dataset.test_split=SPLIT")
    _check_same(model, facts_of(arrays), ("image_size", "channels", "label_names"))
    return arrays


def training_tokens(model: Trained) -> TokenArrays | None:
    """What the priors were trained on; None where they were imported."""
    if not model.has_autoencoder:
        known = model.config["dataset"]["path"]
        return token_files.load(model.config["dataset"], "train") if known else None
    folder = model.workdir / "tokens"
    return token_files.read(folder, "train") if folder.is_dir() else None


def _check_same(model: Trained, facts: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """UserError where the data are not of the kind that the run was trained on."""
    for name in names:
        before, now = model.facts.get(name), facts[name]
        unlabelled = name == "label_names" and not (before and now)  # secret ones, or a model that knows none
        if before != now and name == "channels":
            raise UserError(f"{wants(model.facts[name])}; these have {now}: give images of its kind")
        if before != now and not unlabelled:
            raise UserError(f"the data have changed since {model.workdir} was trained: {name} was {before}, is {now}")


def _autoencoder(model: Trained, arrays: data.Arrays, metrics: dict[str, Any], suffix: str) -> TokenArrays:
    """Measures the autoencoder, draws its strip, counts its codes; gives the images as tokens."""
    _, weights = model.autoencoder
    task = task_of(model.parts, configs.AUTOENCODER)
    size = codec.no_more(max(BATCH, codec.batch_size(*arrays.image.shape[1:3])), len(arrays))  # on CPU BATCH
    sums = codec.halving(
        lambda size: sums_over(task, weights, data.batches(arrays, size, 0), configs.AUTOENCODER), size
    )
    summary = {name: value for name, value in task.summary(sums).items() if name != "loss"}
    metrics |= {"images": len(arrays), "autoencoder": summary}
    counts: Any = {name.removeprefix("codes/"): value for name, value in sums.items() if name.startswith("codes/")}
    for level, codebook in weights.codebooks.items():
        counts |= {f"{name}/{level}": value for name, value in lengths_and_ages(codebook).items()}
    with atomically(model.workdir / COUNTS.replace(".npz", f"{suffix}.npz")) as path, path.open("wb") as file:
        np.savez(file, **counts)
    tokens = maps_of(model, arrays)
    _draw(model, arrays, tokens, suffix)
    return tokens


def _draw(model: Trained, arrays: data.Arrays, tokens: TokenArrays, suffix: str) -> None:
    """Some images, beside what is decoded of them, and beside their codes."""
    shown, scale = spaced(arrays.image, SHOWN), max(1, 64 // arrays.image.shape[1])
    strip = logs.strip([shown, *model.reconstruct(shown)], scale=scale)
    logs.save_png(model.workdir / f"reconstructions{suffix}.png", strip)
    maps = [spaced(one, SHOWN) for one in tokens.maps]
    if rows := code_maps.rows_of(maps, model.levels, shown.shape[1]):
        coloured = shown if shown.shape[-1] == 3 else np.repeat(shown, 3, axis=-1)
        logs.save_png(model.workdir / f"{CODE_MAPS}{suffix}.png", logs.strip([coloured, *rows], scale=scale))


def spaced(images: Any, count: int) -> np.ndarray:
    """So many of the images at even distances, all where there are fewer."""
    return np.asarray(images[np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)])


def maps_of(model: Trained, arrays: data.Arrays) -> TokenArrays:
    """Images as its priors take them."""
    return TokenArrays(model.encode(arrays.image), arrays.label, text=arrays.text).told(model.tokenizer)


def lengths_and_ages(codebook: Codebook) -> dict[str, np.ndarray]:
    """Of each code, its length and the training steps since it was last used; nothing without a table."""
    if not codebook.codes.size:
        return {}
    found = {"length": np.linalg.norm(np.asarray(codebook.codes), axis=-1).reshape(-1)}
    idle = codebook.stats.get("idle")
    return found if idle is None else found | {"idle": np.asarray(idle).reshape(-1)}


def sums_over(task: Any, model: Model, split: Any, name: str = "a split") -> dict[str, np.ndarray]:
    """A task's additive sums over a whole split."""
    return summed(task.eval_step, model, split, name)


def summed(step: Callable[..., Any], model: Model, split: Any, name: str) -> dict[str, np.ndarray]:
    """What a step (model, batch) → additive sums comes to over a whole split; `name` is of what is measured."""
    step = jax.jit(step)
    sums: Any = None
    with closing(watched(len(split), f"measuring {name}")) as bar:
        for batch in split.evaluation():
            new = step(model, batch)
            sums = new if sums is None else jax.tree.map(jnp.add, sums, new)
            bar.add(int(batch["mask"].sum()))
    return jax.device_get(sums)


def prior_metrics(model: Trained, level: str, tokens: TokenArrays, seen: TokenArrays | None) -> dict[str, float]:
    """The losses of one level's test maps; of an nll also what it is to be compared with.

    That wants the maps of the training, `seen`; without them only the entropy of these is there.
    """
    prior, weights = model.priors[level]
    own, task = model.parts.maps_of(level), task_of(model.parts, level)
    found = task.summary(sums_over(task, weights, data.ArrayData(tokens, BATCH, 0), level))
    if hasattr(prior, "by_time"):
        found |= loss_by_time(task, weights, data.ArrayData(tokens, BATCH, 0), f"{level} by time")
    maps, codes, nll = tokens.maps[own], prior.maps[0].vocab_size, found.get("nll")
    if codes is None or nll is None:
        return found
    del found["loss"]  # the same, or weighted
    found["entropy"] = mean_entropy(maps, codes)
    if seen is not None:
        yardstick = mean_position_entropy(maps, seen.maps[own], codes)
        found |= {"position_entropy": yardstick, "nll_over_position_entropy": ratio(nll, yardstick)}
    if model.facts.get("own"):  # tokens of no images
        return found
    count, pixels = sum(math.prod(one.shape[1:]) for one in maps), model.facts["image_size"] ** 2
    return found | {"bits_per_pixel": nll * count / math.log(2) / pixels}


def loss_by_time(task: Any, model: Model, split: Any, name: str) -> dict[str, float]:
    """The loss of a diffusion prior in even bins of times, by the middles of these: "mse_at/0.0625"; 0 is data."""
    sums = summed(task.eval_by_time, model, split, name)
    means = sums["by_time"].astype(np.float64) / sums["count"]
    return {f"mse_at/{(i + 0.5) / len(means):g}": float(one) for i, one in enumerate(means)}


def ratio(nll: float, entropy: float) -> float:
    """nll / entropy. Of one code both are 0: the prior knows what the counts know, 1."""
    if entropy:
        return nll / entropy
    return math.inf if nll else 1.0


def lines(metrics: Mapping[str, Any]) -> list[str]:
    """The metrics as text, a line each, and what to think of them where the images are few."""
    rows = [(name, f"{value:.4f}" if isinstance(value, float) else value) for name, value in flat(metrics)]
    width = max([45, *(len(name) for name, _ in rows)])
    shown = [f"{name:{width}} {value}{UNITS.get(name, '')}" for name, value in rows]
    return [*shown, *few(metrics["images"])]


def few(images: int) -> list[str]:
    """A line where there are too few test images to tell models apart by their metrics."""
    if images >= MANY:
        return []
    said = "1 image" if images == 1 else f"{images} images"
    return [f"these are means over {said} alone: other test images would give others; {MANY} or more say more"]


def flat(metrics: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """(name, value) of each, "autoencoder/usage/top" for one that lies within others."""
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{path}{name}/")
        else:
            yield f"{path}{name}", value
