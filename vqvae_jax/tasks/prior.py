"""Stage two: a distribution over one level's tokens, given those above it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vqvae_jax import logs
from vqvae_jax.finite import kept_if_finite
from vqvae_jax.networks.likelihood import cross_entropy
from vqvae_jax.priors.condition import stacked, unstacked
from vqvae_jax.priors.draw import draw
from vqvae_jax.tasks.optimize import apply_gradients, new_state, trainable, with_model
from vqvae_jax.types import Array, Condition, Model, Pick, Tokens, TrainState

SHOWN = 64  # samples in a grid


@dataclasses.dataclass(frozen=True)
class PriorTask:
    """Training of a prior by cross-entropy, in nats a token.

    Attributes:
        prior: a Linen module, see `types.Prior`.
        maps: which of the token maps it models, counted from the coarsest: one, or all depths of a level.
        tx: the optimizer.
        decode: token maps, this level's last → uint8 images, for pictures.
        entropies: of the training codes, nats a token, shown beside the nll: {"entropy": …}.
        pick: how tokens are picked in pictures.
        ema_rate: of the weights, 0 for none.
    """

    prior: Any
    maps: slice
    tx: optax.GradientTransformation
    decode: Callable[[Tokens], np.ndarray] | None = None
    entropies: Mapping[str, float] = dataclasses.field(default_factory=dict)
    pick: Pick = dataclasses.field(default_factory=Pick)
    ema_rate: float = 0.0

    def init(self, key: Array, batch: Mapping[str, Any]) -> TrainState:
        """The state before the first step; to be jitted."""
        network, steps = jax.random.split(key)
        tokens, condition = self._read(batch)
        params = self.prior.init(network, tokens[:1], jax.tree.map(lambda x: x[:1], condition))["params"]
        return new_state(steps, params, {}, self.tx, self.ema_rate)

    def train_step(self, state: TrainState, batch: Mapping[str, Any]) -> tuple[TrainState, dict[str, Array]]:
        """One step on token maps: to be jitted, with `state` donated. Where it is not finite the state stays."""
        tokens, condition = self._read(batch)
        dropout = {"dropout": jax.random.fold_in(state.key, state.step)}

        def loss(moving):
            variables = {"params": moving["network"]}
            logits = self.prior.apply(variables, tokens, condition, train=True, rngs=dropout)
            return jnp.mean(cross_entropy(logits, tokens))

        nll, grads = jax.value_and_grad(loss)(trainable(state.params, {}))
        new = apply_gradients(state, grads, self.tx, ema_rate=self.ema_rate)
        return kept_if_finite(state, new, {"loss": nll, "nll": nll, "grad_norm": optax.tree.norm(grads)})

    def model(self, state: TrainState) -> Model:
        """Averaged weights where they are kept."""
        return Model(state.params if state.ema_params is None else state.ema_params, {})

    def start_from(self, state: TrainState, model: Model) -> TrainState:
        """A new state with another run's weights."""
        return with_model(state, model)

    def eval_step(self, model: Model, batch: Mapping[str, Any]) -> dict[str, Array]:
        """Sums over the maps that `mask` counts; to be jitted."""
        tokens, condition = self._read(batch)
        mask = batch["mask"].astype(jnp.float32)
        nll = cross_entropy(self.prior.apply({"params": model.params}, tokens, condition), tokens)
        return {"count": jnp.sum(mask), "nll": jnp.sum(mask * jnp.mean(nll, axis=tuple(range(1, nll.ndim))))}

    def summary(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """nll in nats a token, beside the entropy of the codes: where both are near 0 the codes have collapsed."""
        nll = float(sums["nll"]) / float(sums["count"])
        return {"loss": nll, "nll": nll, **self.entropies}

    def pictures(self, model: Model, batch: Mapping[str, Any], key: Array) -> dict[str, np.ndarray]:
        """Samples of this level under held-out labels and coarser maps, decoded."""
        if self.decode is None:
            return {}
        _, condition = self._read(batch)
        count = len(batch["tokens"][0])
        fill = lambda x: jnp.take(x, jnp.arange(SHOWN) % count, axis=0)  # noqa: E731
        condition = jax.tree.map(fill, condition)
        tokens = draw(self.prior, self.pick, model, jax.random.split(key, SHOWN), condition)
        images = self.decode((*condition.coarse, *unstacked(tokens)))
        return {"samples": logs.grid(images, columns=8, scale=max(1, 64 // images.shape[1]))}

    def _read(self, batch: Mapping[str, Any]) -> tuple[Array, Condition]:
        maps = batch["tokens"]
        return stacked(maps[self.maps]), Condition(batch.get("label"), tuple(maps[: self.maps.start]))
