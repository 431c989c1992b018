"""Stage one: images to codes and back."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vqvae_jax import codec, doctor, logs
from vqvae_jax.data.augment import augment, normalise, to_uint8
from vqvae_jax.features import NETS
from vqvae_jax.features.perceptual import load_perceptual, perceptual
from vqvae_jax.finite import kept_if_finite
from vqvae_jax.loss_weights import Weight, weight_at, weight_of
from vqvae_jax.networks.measure import psnr, sharpness, ssim
from vqvae_jax.quantizers import codebook as cb
from vqvae_jax.quantizers.kl import mean_and_deviation
from vqvae_jax.tasks import numbers
from vqvae_jax.tasks.accumulate import in_parts, one_by_one
from vqvae_jax.tasks.optimize import apply_gradients, new_state, trainable, with_model
from vqvae_jax.types import Array, Codebook, Model, Quantizer, Reconstruction, TrainState, UserError, map_names, unknown

PERCEPTUAL = "perceptual"  # the loss term that is there where it has a weight
ADVERSARIAL = "adversarial"  # the loss term of a critic, and the task that has one
NO_GRADIENT = "with autoencoder.classes the picture is a choice and has no gradient"
SHOWN = 32  # pictures in a grid
ENOUGH = 16  # places of a map in a batch: of fewer, as of a few images' scale 1x1, one code may well do all
TINY = 1e-12  # for codes of length 0
SORTED = 4096  # lengths of codes whose median is looked for in every step: sorting more would take its time


@dataclasses.dataclass(frozen=True)
class AutoencodeTask:
    """Training of an autoencoder by the weighted sum of its loss terms.

    Attributes:
        autoencoder: a Linen module, see `types.Autoencoder`.
        tx: the optimizer.
        loss_weights: by term; "commitment" serves "commitment/top" and "commitment/bottom", a full name overrides it.
            A number, or a ramp, see `loss_weights`. With "perceptual" in it there is that term as well.
        range: what uint8 0 and 255 become.
        flip, crop: augmentation, see `data.augment`.
        ema_rate: of the weights, 0 for none.
        accumulate: parts in which the networks see a batch, see `tasks.accumulate`.
        perceptual_net: in whose maps the term "perceptual" compares, see `features`; "vgg16" is LPIPS.
    """

    autoencoder: Any
    tx: optax.GradientTransformation
    loss_weights: Mapping[str, Weight]
    range: tuple[float, float] = (0.0, 1.0)
    flip: bool = False
    crop: int = 0
    ema_rate: float = 0.0
    accumulate: int = 1
    perceptual_net: Literal["mobilenet_v2", "efficientnet_lite0", "vgg16"] = "mobilenet_v2"

    def check(self, terms: Iterable[str], steps: int | None = None, image_size: int | None = None) -> None:
        """UserError unless each of the loss terms has a weight, each weight a term, and the frozen net is there."""
        if ADVERSARIAL in self.loss_weights:
            raise UserError(f"config.loss_weights.{ADVERSARIAL} is for a critic: add --config.task.name={ADVERSARIAL}")
        terms = tuple(terms)
        check_names(self.loss_weights, (*terms, PERCEPTUAL))
        for term in terms:
            self._weight(term)
        if PERCEPTUAL in self.loss_weights and getattr(self.autoencoder, "classes", False):
            raise UserError(f"config.loss_weights.perceptual: {NO_GRADIENT}; leave one of both out")
        self.frozen()

    def init(self, key: Array, batch: Mapping[str, Array]) -> TrainState:
        """The state before the first step; to be jitted."""
        network, codes, steps = jax.random.split(key, 3)
        codebooks = self.autoencoder.init_codebooks(codes)
        images = normalise(batch["image"][:1], self.range)
        params = self.autoencoder.init(network, images, codebooks)["params"]
        return new_state(steps, params, codebooks, self.tx, self.ema_rate)

    def frozen(self) -> Mapping[str, np.ndarray] | None:
        """The arrays of the perceptual net, which every step reads and none moves; None without that term."""
        return load_perceptual(self.perceptual_net).arrays if PERCEPTUAL in self.loss_weights else None

    def phase(self, step: int) -> None:
        """All steps compute the same."""

    def train_step(
        self, state: TrainState, batch: Mapping[str, Array], frozen: Any = None, phase: None = None
    ) -> tuple[TrainState, dict[str, Array]]:
        """One step on uint8 images: to be jitted, with `state` donated. Where it is not finite the state stays."""
        shift, revive = jax.random.split(jax.random.fold_in(state.key, state.step))
        images = normalise(augment(batch["image"], shift, self.flip, self.crop), self.range)
        return kept_if_finite(state, *self.learn(state, images, revive, frozen))

    def learn(
        self, state: TrainState, images: Array, revive: Array, frozen: Any = None
    ) -> tuple[TrainState, dict[str, Array]]:
        """One step on images as the model sees them; `revive` is the key of dead codes' new values."""
        new, metrics, _ = self.updated(state, images, revive, frozen)
        return new, metrics

    def updated(
        self, state: TrainState, images: Array, revive: Array, frozen: Any = None
    ) -> tuple[TrainState, dict[str, Array], Array]:
        """As `learn`, and the images that were made, as they were before the step."""

        def loss(moving):
            out = self.made(moving, state.codebooks, images, revive)
            out = out._replace(losses={**out.losses, **self.perceptual(out.images, images, frozen)})
            return self.total(out.losses, state.step), out

        moving = trainable(state.params, state.codebooks)
        (total, out), grads = jax.value_and_grad(loss, has_aux=True)(moving)
        return *self.moved(state, grads, out, total), out.images

    def made(
        self, moving: Mapping[str, Any], codebooks: Mapping[str, Codebook], images: Array, revive: Array
    ) -> Reconstruction:
        """What the autoencoder makes of images in training; `moving` as `trainable` gives it."""
        books = {
            name: codebooks[name].replace(codes=codes, params=others)
            for name, (codes, others) in moving["codes"].items()
        }
        with in_parts(self.accumulate):
            return self.autoencoder.apply({"params": moving["network"]}, images, books, key=revive, train=True)

    def moved(
        self, state: TrainState, grads: Any, out: Reconstruction, total: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        """The state after these gradients of a total loss, and the step's metrics."""
        new = apply_gradients(state, grads, self.tx, jax.lax.stop_gradient(out.codebooks), out.fresh, self.ema_rate)
        return new, {"loss": total, **out.losses, **self._health(out), "grad_norm": optax.tree.norm(grads)}

    def perceptual(self, made: Array, images: Array, frozen: Any) -> dict[str, Array]:
        """The term of that name, mean over the images, which lie in `range`; nothing where it has no weight."""
        if PERCEPTUAL not in self.loss_weights:
            return {}
        low, high = self.range
        pair = ((made - low) / (high - low), (images - low) / (high - low))
        apart = lambda _, *rows: perceptual(NETS[self.perceptual_net], frozen, *rows)  # noqa: E731
        each = apart(0, *pair) if self.accumulate == 1 else one_by_one(apart, pair, self.accumulate)
        return {PERCEPTUAL: jnp.mean(each)}

    def model(self, state: TrainState) -> Model:
        """Averaged weights where they are kept."""
        return Model(state.params if state.ema_params is None else state.ema_params, state.codebooks)

    def start_from(self, state: TrainState, model: Model) -> TrainState:
        """A new state with another run's weights and codebooks."""
        return with_model(state, model)

    def eval_step(self, model: Model, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Sums over the batch's images that `mask` counts, and the use of each code, see also `tasks.numbers`; to be
        jitted.
        """
        mask = batch["mask"].astype(jnp.float32)
        images = normalise(batch["image"], self.range)
        heard: dict[str, Array] = {}
        out = numbers.listening(self.autoencoder, heard).apply({"params": model.params}, images, model.codebooks)
        seen = to_uint8(out.images, self.range)
        sums = {
            "count": jnp.sum(mask),
            "mse": jnp.sum(mask * jnp.mean(jnp.square(out.images - images), axis=(1, 2, 3))),
            "psnr": jnp.sum(mask * psnr(batch["image"], seen)),
            "ssim": jnp.sum(mask * ssim(batch["image"], seen)),
            "sharpness/made": jnp.sum(mask * sharpness(seen)),
            "sharpness/real": jnp.sum(mask * sharpness(batch["image"])),
        }
        for name, size, tokens in self._coded(out):
            weight = jnp.broadcast_to(mask[:, None, None], tokens.shape).reshape(-1)
            sums[f"codes/{name}"] = jnp.zeros(size).at[tokens.reshape(-1)].add(weight)
        quantizers = dict(zip(self.autoencoder.level_names, self.autoencoder.quantizers, strict=True)) if heard else {}
        return sums | numbers.sums(heard, model.codebooks, quantizers, mask)

    def summary(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """What the sums over a split say. mse is in the units of `range`; the held-out loss is this mse.

        `sharpness` is that of the reconstructions over that of the images, both averaged, see `networks.measure`; where
        the images have none, NaN.
        """
        count = float(sums["count"])
        metrics = {name: float(sums[name]) / count for name in ("mse", "psnr", "ssim")}
        made, real = float(sums["sharpness/made"]), float(sums["sharpness/real"])
        metrics["sharpness"] = made / real if real else math.nan
        metrics["loss"] = metrics["mse"]
        for name in sums:
            if name.startswith("codes/"):
                level = name.removeprefix("codes/")
                metrics[f"usage/{level}"] = float(cb.usage(sums[name]))
                metrics[f"perplexity/{level}"] = float(cb.perplexity(sums[name]))
        return metrics | numbers.summary(sums)

    def pictures(self, model: Model, batch: Mapping[str, Array], key: Array) -> dict[str, np.ndarray]:
        """Originals, their reconstructions, and with several levels a strip: original, top alone, …, all."""
        originals = np.asarray(batch["image"][:SHOWN])
        rows = [np.asarray(x) for x in codec.reconstruct(self.autoencoder, self.range, model, originals)]
        large = max(1, 64 // originals.shape[1])
        grids = {name: logs.grid(x, 8, large) for name, x in (("original", originals), ("reconstruction", rows[-1]))}
        return grids if len(rows) == 1 else {**grids, "levels": logs.strip([originals, *rows], scale=large)}

    def total(self, losses: Mapping[str, Array], step: Array | None = None) -> Array:
        """The weighted sum of the loss terms, after so many steps; without a step as it is at the end."""
        weights = self.weights(losses, step)
        return jnp.sum(jnp.stack([weights[term] * value for term, value in losses.items()]))

    def weights(self, losses: Mapping[str, Array], step: Array | None = None) -> dict[str, Any]:
        """That of each loss term after so many steps."""
        return {term: weight_at(self._weight(term), step) for term in losses}

    def _weight(self, term: str) -> Weight:
        if (weight := weight_of(self.loss_weights, term)) is not None:
            return weight
        raise UserError(f"the loss term {term!r} has no weight; add --config.loss_weights.{term.split('/')[0]}=1")

    def _health(self, out: Any) -> dict[str, Array]:
        """Of this batch alone: what a whole split says is in the evaluation."""
        metrics = {}
        for name, size, tokens in self._coded(out):
            counts = cb.counts(tokens, size)
            metrics[f"batch_usage/{name}"] = cb.usage(counts)
            if tokens.size >= ENOUGH:
                metrics[f"batch_perplexity/{name}"] = cb.perplexity(counts)
        metrics |= {f"revived/{name}": jnp.sum(dead) for name, dead in out.fresh.items()}
        for level, quantizer in zip(self.autoencoder.level_names, self.autoencoder.quantizers, strict=True):
            found = age_and_size(out.codebooks[level])
            commitment = out.losses.get(f"commitment/{level}")
            if "code_norm" in found and commitment is not None and len(quantizer.vocab_sizes) == 1:
                found |= distance(quantizer, found["code_norm"], commitment)
            metrics |= {f"{name}/{level}": value for name, value in found.items()}
        return metrics

    def _coded(self, out: Reconstruction) -> Iterator[tuple[str, int, Array]]:
        """(name, codes, int32 [B, h, w]) of each map that holds codes."""
        quantizers = self.autoencoder.quantizers
        sizes = sum((quantizer.vocab_sizes for quantizer in quantizers), ())
        names = map_names(self.autoencoder.level_names, quantizers)
        for name, size, tokens in zip(names, sizes, out.tokens, strict=True):
            if size is not None:
                yield name, size, tokens


def check_names(weights: Mapping[str, Weight], terms: Iterable[str]) -> None:
    """UserError for a weight of no term: "commitment" is one where "commitment/top" is."""
    terms = tuple(terms)
    names = tuple(dict.fromkeys([*(term.split("/")[0] for term in terms), *terms]))
    for name in weights:
        if name not in names:
            raise UserError(unknown("config.loss_weights: there is no loss term", name, names, "There are"))


def distance(quantizer: Quantizer, code_norm: Array, commitment: Array) -> dict[str, Array]:
    """What `doctor` watches as well: how far vectors lie from their codes, in lengths of a code as it is looked up.

    On the sphere that is 1, however long codes are kept. To look codes up here would have XLA compute those of the
    state otherwise, to the last bit.
    """
    usual = 1.0 if getattr(quantizer, "on_sphere", False) else jnp.maximum(code_norm, TINY)
    return {"away": jnp.sqrt(commitment * quantizer.output_dim) / usual}


def age_and_size(codebook: Codebook) -> dict[str, Array]:
    """What `doctor` watches: codes used lately, steps unused, lengths in a table; of numbers, how many vary."""
    if {"mean", "square"} <= codebook.stats.keys():
        _, deviation = mean_and_deviation(codebook)
        return {"active": jnp.mean(deviation > doctor.STILL)}
    found: dict[str, Array] = {}
    if codebook.codes.size:
        lengths = jnp.linalg.norm(codebook.codes, axis=-1).reshape(-1)
        some = lengths[:: max(1, lengths.size // SORTED)]
        found = {"code_norm": jnp.median(some), "code_norm_max": jnp.max(lengths)}
    if "idle" in codebook.stats:
        idle = codebook.stats["idle"]
        found |= {"recent_usage": jnp.mean(idle < doctor.RECENT), "code_age": jnp.mean(idle)}
    return found
