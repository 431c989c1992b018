"""Any autoencoder against a critic of patches: VQ-GAN, https://arxiv.org/abs/2012.09841, section 3.1.

                   ┌─► reconstruction, perceptual, codes ──┐
    images ─► images' ─► critic ─► adversarial · weight · adaptive · share ─► the autoencoder's step
    images ───────────► critic ─► its own loss ─► the critic's step

Both learn in the same step from the other as it was before it; the paper's code makes the images a second time for the
critic, a third more work. What a step computes is its phase: at first the autoencoder alone, `lead` steps before
`start` the critic begins to learn, from `start` on it pushes.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from vqvae_jax.data.augment import augment, normalise
from vqvae_jax.finite import kept_if_finite
from vqvae_jax.limits import Count, Few, Natural, NotNegative, Positive, Rate
from vqvae_jax.loss_weights import Weight, weight_at
from vqvae_jax.networks.critic import Critic, Norm, field
from vqvae_jax.tasks.accumulate import one_by_one
from vqvae_jax.tasks.autoencode import ADVERSARIAL, NO_GRADIENT, PERCEPTUAL, AutoencodeTask, check_names
from vqvae_jax.tasks.optimize import trainable
from vqvae_jax.types import Array, Model, TrainState, UserError

RECONSTRUCTION = "reconstruction"  # the term whose gradient, with that of `perceptual`, the adaptive weight goes by
EPSILON = 1e-4  # beside the norm of the adversary's gradient, as in the paper's code


@struct.dataclass
class Rival:
    """The critic's part of a train state."""

    params: Any
    opt_state: Any
    means: Array  # [2] float32: moving averages of the mean logit of real and of made images, for LeCam


@struct.dataclass
class Contest(TrainState):
    """The train state of both players."""

    rival: Rival


class Phase(NamedTuple):
    """What a step computes: one program each."""

    learns: bool  # the critic
    pushes: bool  # the critic has a part in the autoencoder's loss
    flattens: bool  # the critic's step has the term r1


@dataclasses.dataclass(frozen=True)
class AdversarialTask:
    """Training of an autoencoder by its loss terms and by what a critic thinks of its images.

    `loss_weights.adversarial` is the weight of the critic's part, the paper's λ is it times the adaptive weight. With
    an adversary the lowest mse is no longer the best picture: of the checkpoints the latest is taken, not the best.

    Attributes:
        autoencoder, tx, loss_weights, range, flip, crop, ema_rate, accumulate: as of AutoencodeTask.
        perceptual_net: in whose maps the term "perceptual" compares, see `features`; "vgg16" is LPIPS.
        start: step from which on the critic pushes; before it the training is the plain one, bit for bit.
        lead: steps before `start` in which the critic learns alone: until it knows something its gradient is noise.
        ramp: steps in which the weight rises from 0.
        adaptive: times |∂reconstruction/∂K| / |∂adversarial/∂K|, K the kernel that makes the image (equation 7).
        adaptive_most: what that is clipped at.
        critic_loss: "hinge" as the paper's code, or "non_saturating" (https://arxiv.org/abs/1406.2661, section 3).
        critic_width, critic_layers, critic_norm: see `networks.critic`.
        critic_rate, critic_b1, critic_b2: the critic's Adam, at a constant rate.
        r1: weight of half the squared gradient of an image's mean logit, summed over its pixels
            (https://arxiv.org/abs/1801.04406). 0: none.
        r1_every: steps from one with r1 to the next, where it is so many times as large.
        lecam: weight of https://arxiv.org/abs/2104.03310, which holds the logits at their own averages of the other
            kind. 0: none.
        lecam_rate: share of these averages that a step keeps.
    """

    autoencoder: Any
    tx: Any
    loss_weights: Mapping[str, Weight]
    range: tuple[float, float] = (0.0, 1.0)
    flip: bool = False
    crop: int = 0
    ema_rate: float = 0.0
    accumulate: int = 1
    perceptual_net: Literal["mobilenet_v2", "efficientnet_lite0", "vgg16"] = "mobilenet_v2"
    start: Natural = 0
    lead: Natural = 0
    ramp: Natural = 0
    adaptive: bool = True
    adaptive_most: Positive = 1e4
    critic_loss: Literal["hinge", "non_saturating"] = "hinge"
    critic_width: Count = 64
    critic_layers: Few = 3
    critic_norm: Norm = "group"
    critic_rate: Positive = 1e-3
    critic_b1: Rate = 0.5
    critic_b2: Rate = 0.9
    r1: NotNegative = 0.0
    r1_every: Count = 16
    lecam: NotNegative = 0.0
    lecam_rate: Rate = 0.99

    @staticmethod
    def terms(fields: Mapping[str, Any]) -> dict[str, float]:
        """Its loss terms beside the autoencoder's, each with its usual weight."""
        return {ADVERSARIAL: 0.2}

    @property
    def plain(self) -> AutoencodeTask:
        """The same training without a critic."""
        names = {one.name for one in dataclasses.fields(AutoencodeTask)} - {"loss_weights"}
        weights = {term: weight for term, weight in self.loss_weights.items() if term != ADVERSARIAL}
        return AutoencodeTask(loss_weights=weights, **{name: getattr(self, name) for name in names})

    @property
    def critic(self) -> Critic:
        """The module; it computes in the autoencoder's numbers."""
        return Critic(self.critic_width, self.critic_layers, self.critic_norm, self.autoencoder.dtype)

    @property
    def critic_tx(self) -> optax.GradientTransformation:
        """The critic's Adam, at a constant rate."""
        return optax.adam(self.critic_rate, self.critic_b1, self.critic_b2)

    def check(self, terms: Iterable[str], steps: int | None = None, image_size: int | None = None) -> None:
        """As of AutoencodeTask; and whether a critic can have a say in this training."""
        terms = tuple(terms)
        check_names(self.loss_weights, (*terms, PERCEPTUAL, ADVERSARIAL))
        self.plain.check(terms, steps, image_size)
        if ADVERSARIAL not in self.loss_weights:
            raise UserError("config.loss_weights.adversarial is missing; add --config.loss_weights.adversarial=0.2")
        weight = self.loss_weights[ADVERSARIAL]
        if min((weight["begin"], weight["end"]) if isinstance(weight, Mapping) else (weight,)) < 0:
            raise UserError(f"config.loss_weights.adversarial must be 0 or more, got {weight}")
        if self.lead > self.start:
            fit = f"--config.task.start={self.lead}"
            raise UserError(
                f"config.task.lead={self.lead} is more than start={self.start}, which it goes before; {fit}"
            )
        if getattr(self.autoencoder, "classes", 0):
            raise UserError(f"config.task.name=adversarial: {NO_GRADIENT}; set --config.autoencoder.classes=0")
        if steps and self.start >= steps:
            fit = f"--config.task.start={steps // 2}"
            raise UserError(f"config.task.start={self.start}: the training ends after {steps} steps, before it; {fit}")
        seen = field(self.critic_layers)
        if image_size and image_size < seen:
            fits = max((n for n in range(1, self.critic_layers) if field(n) <= image_size), default=0)
            fit = f"--config.task.critic_layers={fits}" if fits else f"it takes {field(1)} pixels or more"
            said = f"the critic's patch is {seen} pixels wide, the images {image_size}"
            raise UserError(f"config.task.critic_layers={self.critic_layers}: {said}; {fit}")
        if self.critic_norm == "batch" and self.accumulate > 1:
            raise UserError(
                "config.task.critic_norm=batch sees all of a batch at once, and config.train.accumulate divides it; "
                "--config.task.critic_norm=group"
            )

    def init(self, key: Array, batch: Mapping[str, Array]) -> Contest:
        """The state before the first step; the autoencoder's part is that of the plain training."""
        images = normalise(batch["image"][:1], self.range)
        params = self.critic.init(jax.random.fold_in(key, 1), images)["params"]
        rival = Rival(params, self.critic_tx.init(params), jnp.zeros(2))
        return Contest(**vars(self.plain.init(key, batch)), rival=rival)

    def frozen(self) -> Mapping[str, np.ndarray] | None:
        """The arrays of the perceptual net."""
        return self.plain.frozen()

    def phase(self, step: int) -> Phase:
        """Of the step after so many."""
        learns = step >= self.start - self.lead
        return Phase(learns, step >= self.start, learns and self.r1 > 0 and step % self.r1_every == 0)

    def train_step(
        self, state: Contest, batch: Mapping[str, Array], frozen: Any, phase: Phase
    ) -> tuple[TrainState, dict[str, Array]]:
        """One step on uint8 images: to be jitted, with `state` donated. Where it is not finite the state stays."""
        shift, revive = jax.random.split(jax.random.fold_in(state.key, state.step))
        images = normalise(augment(batch["image"], shift, self.flip, self.crop), self.range)
        if not phase.pushes:
            new, metrics, made = self.plain.updated(state, images, revive, frozen)
            seen = Seen(*jax.vjp(self._judged, state.rival.params, made)) if phase.learns else None
        else:
            new, metrics, seen = self._pushed(state, images, revive, frozen)
        if seen is not None:
            rival, more = self._learned(state.rival, images, seen, phase)
            new, metrics = new.replace(rival=rival), {**metrics, **more}
        return kept_if_finite(state, new, metrics)

    def _pushed(
        self, state: Contest, images: Array, revive: Array, frozen: Any
    ) -> tuple[TrainState, dict[str, Array], "Seen"]:
        """The autoencoder's step, by one vjp that is pulled back three times.

        Of the first two only the gradient of one kernel is read: the compiler leaves the rest out.
        """
        plain = self.plain

        def make(moving):
            out = plain.made(moving, state.codebooks, images, revive)
            return (out.losses, out.images), out

        (losses, made), pull, out = jax.vjp(make, trainable(state.params, state.codebooks), has_aux=True)
        looks, by_looks = self._looks(made, images, frozen, state.step)
        seen = Seen(*jax.vjp(self._judged, state.rival.params, made))
        adversarial, of_logits = jax.value_and_grad(self._pushing)(seen.logits)
        _, by_critic = seen.pull(of_logits)
        weights = {term: jnp.asarray(weight, jnp.float32) for term, weight in plain.weights(losses, state.step).items()}
        none = jax.tree.map(jnp.zeros_like, weights)
        kernel = lambda terms, image: self._last_kernel(pull((none | terms, image)))  # noqa: E731
        reconstruction = {RECONSTRUCTION: weights[RECONSTRUCTION]}
        adaptive = (
            adaptive_weight(kernel(reconstruction, by_looks), kernel({}, by_critic), self.adaptive_most)
            if self.adaptive
            else jnp.ones(())
        )
        weight = adaptive * weight_at(self.loss_weights[ADVERSARIAL], state.step) * self._share(state.step)
        (grads,) = pull((weights, by_looks + weight * by_critic))
        out = out._replace(losses={**losses, **looks})
        new, metrics = plain.moved(state, grads, out, plain.total(out.losses, state.step) + weight * adversarial)
        return new, {**metrics, ADVERSARIAL: adversarial, "adaptive_weight": adaptive}, seen

    def _looks(self, made: Array, images: Array, frozen: Any, step: Array) -> tuple[dict[str, Array], Array]:
        """The term `perceptual`, where it has a weight, and the weighted gradient of the images that were made."""
        plain = self.plain
        if PERCEPTUAL not in plain.loss_weights:
            return {}, jnp.zeros_like(made)
        value, gradient = jax.value_and_grad(lambda made: plain.perceptual(made, images, frozen)[PERCEPTUAL])(made)
        found = {PERCEPTUAL: value}
        return found, plain.weights(found, step)[PERCEPTUAL] * gradient

    def _last_kernel(self, grads: tuple[dict[str, Any]]) -> Array:
        return reduce(lambda tree, name: tree[name], self.autoencoder.last_kernel, grads[0]["network"])

    def _share(self, step: Array) -> Array:
        """How much of its weight the adversary has."""
        return jnp.clip((step - self.start + 1) / max(self.ramp, 1), 0.0, 1.0)

    def _judged(self, params: Any, images: Array) -> Array:
        """The critic's logits, the batch in parts where the networks see it so."""
        see: Any = lambda _, rows: self.critic.apply({"params": params}, rows)  # noqa: E731
        return see(0, images) if self.accumulate == 1 else one_by_one(see, (images,), self.accumulate)

    def _pushing(self, logits: Array) -> Array:
        return jnp.mean(-logits if self.critic_loss == "hinge" else jax.nn.softplus(-logits))

    def _learned(self, rival: Rival, images: Array, seen: "Seen", phase: Phase) -> tuple[Rival, dict[str, Array]]:
        """The critic's step on the real images and on those that were made, which it has seen already."""
        real, pull = jax.vjp(lambda params: self._judged(params, images), rival.params)
        loss, (of_real, of_made) = jax.value_and_grad(self._critics_loss, (0, 1))(real, seen.logits, rival.means)
        grads = jax.tree.map(jnp.add, pull(of_real)[0], seen.pull(of_made)[0])
        metrics = {"critic": loss, "critic_right": (jnp.mean(real > 0) + jnp.mean(seen.logits < 0)) / 2}
        if phase.flattens:
            metrics["r1"], more = jax.value_and_grad(self._steepness)(rival.params, images)
            grads = jax.tree.map(lambda a, b: a + self.r1 * self.r1_every * b, grads, more)
        updates, opt_state = self.critic_tx.update(grads, rival.opt_state)
        means = jnp.stack([jnp.mean(real), jnp.mean(seen.logits)])
        kept = self.lecam_rate * rival.means + (1 - self.lecam_rate) * means
        new = Rival(optax.apply_updates(rival.params, updates), opt_state, kept)
        metrics |= {"logits/real": means[0], "logits/made": means[1], "critic_grad_norm": optax.tree.norm(grads)}
        return new, metrics

    def _critics_loss(self, real: Array, made: Array, means: Array) -> Array:
        """Half of both parts, as the paper's code, and LeCam."""
        kind = hinge if self.critic_loss == "hinge" else non_saturating
        return kind(real, made) + (self.lecam * lecam(real, made, means) if self.lecam else 0.0)

    def _steepness(self, params: Any, images: Array) -> Array:
        """R1's half of the squared gradient, mean over the images."""
        slope = jax.grad(lambda x: jnp.sum(jnp.mean(self._judged(params, x), (1, 2))))(images)
        return 0.5 * jnp.mean(jnp.sum(jnp.square(slope), (1, 2, 3)))

    def model(self, state: TrainState) -> Model:
        """The autoencoder's weights and codebooks, never the critic."""
        return self.plain.model(state)

    def start_from(self, state: TrainState, model: Model) -> TrainState:
        """A new state with another run's weights and codebooks, and a new critic."""
        return self.plain.start_from(state, model)

    def eval_step(self, model: Model, batch: Mapping[str, Array]) -> dict[str, Array]:
        """The sums over a batch, as `AutoencodeTask.eval_step`."""
        return self.plain.eval_step(model, batch)

    def summary(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """The metrics, as `AutoencodeTask.summary`."""
        return self.plain.summary(sums)

    def pictures(self, model: Model, batch: Mapping[str, Array], key: Array) -> dict[str, np.ndarray]:
        """Reconstructions, as `AutoencodeTask.pictures`."""
        return self.plain.pictures(model, batch, key)


class Seen(NamedTuple):
    """What the critic says of the images that were made."""

    logits: Array  # [B, h, w]
    pull: Any  # their gradient → those of the critic's parameters and of the images


def adaptive_weight(by_reconstruction: Array, by_critic: Array, most: float) -> Array:
    """Equation 7 of https://arxiv.org/abs/2012.09841, from two gradients of the last kernel. It has no gradient."""
    ratio = jnp.linalg.norm(by_reconstruction.ravel()) / (jnp.linalg.norm(by_critic.ravel()) + EPSILON)
    return jax.lax.stop_gradient(jnp.clip(ratio, 0.0, most))


def hinge(real: Array, made: Array) -> Array:
    """Half of the mean of what real logits lack to 1 and made ones have above -1."""
    return 0.5 * (jnp.mean(jax.nn.relu(1 - real)) + jnp.mean(jax.nn.relu(1 + made)))


def non_saturating(real: Array, made: Array) -> Array:
    """Half of the two cross-entropies."""
    return 0.5 * (jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(made)))


def lecam(real: Array, made: Array, means: Array) -> Array:
    """What real logits lie above the average of made ones, and made ones below that of real ones, squared.

    The equation 3 of https://arxiv.org/abs/2104.03310 with the authors' relu: only logits that are apart are drawn in.
    """
    above, below = jax.nn.relu(real - means[1]), jax.nn.relu(means[0] - made)
    return jnp.mean(jnp.square(above)) + jnp.mean(jnp.square(below))
