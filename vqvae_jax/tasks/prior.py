"""Stage two: a distribution over one level's tokens, given those above it."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vqvae_jax import logs
from vqvae_jax.finite import kept_if_finite
from vqvae_jax.loss_weights import Weight, weight_at
from vqvae_jax.priors.condition import check_pick
from vqvae_jax.priors.draw import draw
from vqvae_jax.tasks.accumulate import one_by_one
from vqvae_jax.tasks.optimize import apply_gradients, new_state, trainable, with_model
from vqvae_jax.types import Array, Condition, Model, Pick, Tokens, TrainState, UserError, unknown

SHOWN = 64  # samples in a grid
CAPTION = 2**32 - 1  # what is folded into an example's key for the choice among its captions: no number of a prior's
WATCHED = 8  # samples in a strip, and moments of each
ANOTHER = "with_another_text"  # no loss term: what the nll, or the loss, is then


@dataclasses.dataclass(frozen=True)
class PriorTask:
    """Training of a prior by the weighted sum of its loss terms, whatever these are.

    Attributes:
        prior: a Linen module, see `types.Prior`.
        maps: which of the maps it models, counted from the coarsest: one, or all of a level.
        tx: the optimizer.
        decode: maps, this level's last → uint8 images, for pictures.
        entropies: of the training codes, nats a token, shown beside the nll: {"entropy": …}.
        pick: how tokens are picked in pictures.
        ema_rate: of the weights, 0 for none.
        accumulate: parts in which the prior sees a batch, see `tasks.accumulate`.
        loss_weights: by term, a number or a ramp, see `loss_weights`; a term that is not there weighs 1.
    """

    prior: Any
    maps: slice
    tx: optax.GradientTransformation | None
    decode: Callable[[Tokens], np.ndarray] | None = None
    entropies: Mapping[str, float] = dataclasses.field(default_factory=dict)
    pick: Pick = dataclasses.field(default_factory=Pick)
    ema_rate: float = 0.0
    loss_weights: Mapping[str, Weight] = dataclasses.field(default_factory=dict)
    accumulate: int = 1

    def check(self, terms: Iterable[str], steps: int | None = None, image_size: int | None = None) -> None:
        """UserError for a weight of a term that the prior has not, or a pick that it cannot do."""
        check_pick(self.prior, self.pick, self.prior.maps[0].name)
        terms = tuple(terms)
        for name in self.loss_weights:
            if name not in terms:
                raise UserError(unknown("loss_weights of this prior: there is no loss term", name, terms, "There are"))

    def init(self, key: Array, batch: Mapping[str, Any]) -> TrainState:
        """The state before the first step; to be jitted."""
        network, steps = jax.random.split(key)
        maps, condition = jax.tree.map(lambda x: x[:1], self._read(batch))
        params = self.prior.init(network, maps, condition, jax.random.split(steps, 1), method="loss")["params"]
        return new_state(steps, params, {}, self.tx, self.ema_rate, self.held)

    @property
    def held(self) -> tuple[str, ...]:
        """Names of parameters that no step moves."""
        found: tuple[str, ...] = getattr(self.prior, "held", ())
        return found

    def frozen(self) -> None:
        """Nothing that every step reads and none moves."""

    def phase(self, step: int) -> None:
        """All steps compute the same."""

    def train_step(
        self, state: TrainState, batch: Mapping[str, Any], frozen: None = None, phase: None = None
    ) -> tuple[TrainState, dict[str, Array]]:
        """One step on maps: to be jitted, with `state` donated. Where it is not finite the state stays."""
        key = jax.random.fold_in(state.key, state.step)
        keys = example_keys(key, jnp.arange(len(batch["tokens"][0])))
        maps, condition = self._read(batch, keys)

        def loss(moving):
            params = {**state.params, **moving["network"]}
            terms = self._terms({"params": params}, (maps, condition, keys), key)
            means = jax.tree.map(jnp.mean, terms)
            return self.total(means, state.step), means

        (total, terms), grads = jax.value_and_grad(loss, has_aux=True)(trainable(state.params, {}, self.held))
        new = apply_gradients(state, grads, self.tx, ema_rate=self.ema_rate)
        return kept_if_finite(state, new, {"loss": total, **terms, "grad_norm": optax.tree.norm(grads)})

    def _terms(self, variables: Any, given: Any, key: Array) -> dict[str, Array]:
        """The losses of a batch in training, by term, [B] each; of several parts each has a dropout of its own."""

        def part(variables, given, key):
            return self.prior.apply(variables, *given, train=True, rngs={"dropout": key}, method="loss")

        if self.accumulate == 1:
            return part(variables, given, key)
        apart = lambda number, *rows: part(variables, rows, jax.random.fold_in(key, number))  # noqa: E731
        return one_by_one(apart, given, self.accumulate)

    def model(self, state: TrainState) -> Model:
        """Averaged weights where they are kept."""
        return Model(state.params if state.ema_params is None else state.ema_params, {})

    def start_from(self, state: TrainState, model: Model) -> TrainState:
        """A new state with another run's weights."""
        return with_model(state, model)

    def eval_step(self, model: Model, batch: Mapping[str, Any]) -> dict[str, Array]:
        """Sums over the maps that `mask` counts; to be jitted. An example's noise is the same at every evaluation.

        Of a prior that is told texts also `with_another_text`, the nll under the text of another image, or the loss
        where there is no nll: no higher than with its own, and the text is not heard.
        """
        terms = self._looked_at(model, batch, "loss")
        if getattr(self.prior, "text", None) and "another_text" in batch:
            under = self._looked_at(model, {**batch, "text": batch["another_text"]}, "loss")
            terms = {**terms, ANOTHER: under["nll"] if "nll" in under else self.total(under)}
        return self._summed(batch, terms)

    def eval_by_time(self, model: Model, batch: Mapping[str, Any]) -> dict[str, Array]:
        """The same of a prior that has `by_time`: its losses in bins of times, [bins]."""
        return self._summed(batch, {"by_time": self._looked_at(model, batch, "by_time")})

    def _looked_at(self, model: Model, batch: Mapping[str, Any], method: str) -> Any:
        """What a method of the prior says of held-out examples."""
        keys = example_keys(jax.random.key(0), batch["index"])
        return self.prior.apply({"params": model.params}, *self._read(batch, keys), keys, method=method)

    def _summed(self, batch: Mapping[str, Any], each: Mapping[str, Array]) -> dict[str, Array]:
        """Over the examples that `mask` counts, [B, …] each, and their number."""
        mask = batch["mask"].astype(jnp.float32)
        of = lambda value: jnp.sum(mask.reshape(-1, *(1 for _ in value.shape[1:])) * value, axis=0)  # noqa: E731
        return {"count": jnp.sum(mask), **{name: of(value) for name, value in each.items()}}

    def summary(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """The mean of each term: nll in nats a token, beside the entropy of the codes.

        Where both of these are near 0 the codes have collapsed. The held-out loss is the weighted sum.
        """
        terms = {name: float(sums[name]) / float(sums["count"]) for name in sums if name != "count"}
        losses = {name: value for name, value in terms.items() if name != ANOTHER}
        return {"loss": float(self.total(losses)), **terms, **self.entropies}

    def total(self, terms: Mapping[str, Any], step: Array | None = None) -> Any:
        """The weighted sum of the loss terms, after so many steps; without a step as it is at the end."""
        return sum(weight_at(self.loss_weights.get(name, 1.0), step) * value for name, value in terms.items())

    def pictures(self, model: Model, batch: Mapping[str, Any], key: Array) -> dict[str, np.ndarray]:
        """Samples of this level under held-out labels and coarser maps, decoded."""
        if self.decode is None:
            return {}
        _, condition = self._read(batch)
        count = len(batch["tokens"][0])
        fill = lambda x: jnp.take(x, jnp.arange(SHOWN) % count, axis=0)  # noqa: E731
        condition = jax.tree.map(fill, condition)
        maps = draw(self.prior, self.pick, model, jax.random.split(key, SHOWN), condition)
        images = self.decode((*condition.coarse, *maps))
        scale = max(1, 64 // images.shape[1])
        return {"samples": logs.grid(images, columns=8, scale=scale), **self._strip(model, key, condition, scale)}

    def _strip(self, model: Model, key: Array, condition: Condition, scale: int) -> dict[str, np.ndarray]:
        """How samples come about, a row each, of a prior that says what each of its steps speaks of."""
        if self.decode is None or not hasattr(self.prior, "watched"):
            return {}
        some = slice(None, None, SHOWN // WATCHED)  # of all kinds, where they lie in the order of their labels
        few, keys = jax.tree.map(lambda x: x[some], condition), jax.random.split(key, SHOWN)[some]
        watch = lambda *given: self.prior.apply({"params": model.params}, *given, self.pick, method="watched")  # noqa: E731
        steps = jax.jit(watch)(keys, few)
        moments = np.linspace(0, len(steps) - 1, min(WATCHED, len(steps))).round().astype(int)
        rows = np.stack([self.decode((*few.coarse, steps[i])) for i in moments], axis=1)
        return {"denoising": logs.grid(rows.reshape(-1, *rows.shape[2:]), columns=len(moments), scale=scale)}

    def _read(self, batch: Mapping[str, Any], keys: Array | None = None) -> tuple[Tokens, Condition]:
        """The own maps, and what is told of them: of several captions one by the example's key, or the first."""
        maps, text = tuple(batch["tokens"]), batch.get("text")
        if text is not None and text.ndim == 3:
            text = text[:, 0] if keys is None else one_caption(text, keys)
        return maps[self.maps], Condition(batch.get("label"), maps[: self.maps.start], text)


def one_caption(text: Array, keys: Array) -> Array:
    """One of the captions that say something, all alike likely: int32 [B, n, T] → [B, T]."""
    own = jax.vmap(jax.random.fold_in, (0, None))(keys, CAPTION)
    chance = jax.vmap(lambda key: jax.random.uniform(key, text.shape[1:2]))(own)
    chosen = jnp.argmax(jnp.where(jnp.any(text > 0, axis=-1), chance, -1.0), axis=1)
    return jnp.take_along_axis(text, chosen[:, None, None], axis=1)[:, 0]


def example_keys(key: Array, numbers: Array) -> Array:
    """A key for each example, from its number [B]."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, numbers)
