"""A task with two optimizers goes through the loop as it is: a state of its own, frozen arrays, phases, ramps."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from test_train import autoencode, batches, settings

from vqvae_jax import train
from vqvae_jax.checkpoint import Checkpoints
from vqvae_jax.data.augment import normalise
from vqvae_jax.loss_weights import weight_at
from vqvae_jax.tasks.optimize import apply_gradients, trainable

STEPS, JOINS = 6, 2  # of a training; after so many the critic joins


class Critic(nn.Module):
    """Patches [B, h, w, 48] → a number a place."""

    @nn.compact
    def __call__(self, patches):
        return nn.Conv(1, (1, 1))(nn.tanh(nn.Conv(8, (1, 1))(patches)))


def patches(image):
    """As the autoencoder of test_train sees images: 4x4 pixels each."""
    b, height, width, c = image.shape
    cut = normalise(image, (0.0, 1.0)).reshape(b, height // 4, 4, width // 4, 4, c).swapaxes(2, 3)
    return cut.reshape(b, height // 4, width // 4, -1)


@struct.dataclass
class Players:
    """The state: the autoencoder's, and the critic's beside it."""

    own: Any
    critic: Any
    moments: Any
    step: Any


class Adversarial(NamedTuple):
    """An autoencoder against a critic that joins after some steps; features of a frozen net beside the pixels."""

    inner: Any
    tx: Any = optax.adam(1e-3)
    weight: Any = {"begin": 0.0, "end": 0.1, "start": JOINS, "steps": 3}

    def init(self, key, batch):
        critic = Critic().init(key, patches(batch["image"][:1]))
        return Players(self.inner.init(key, batch), critic, self.tx.init(critic), jnp.zeros((), jnp.int32))

    def frozen(self):
        return {"features": np.random.default_rng(0).normal(size=(48, 64)).astype(np.float32)}

    def phase(self, step):
        return "with the critic" if step >= JOINS else "alone"

    def train_step(self, state, batch, frozen, phase):
        images, real, own = normalise(batch["image"], (0.0, 1.0)), patches(batch["image"]), state.own
        seen = lambda x: jnp.tanh(x @ frozen["features"])  # noqa: E731

        def loss(moving):
            books = {
                name: own.codebooks[name].replace(codes=codes, params=params)
                for name, (codes, params) in moving["codes"].items()
            }
            variables = {"params": moving["network"]}
            out = self.inner.autoencoder.apply(variables, images, books, key=own.key, train=True)
            total = self.inner.total(out.losses, state.step) + jnp.mean((seen(out.levels[-1]) - seen(real)) ** 2)
            if phase == "with the critic":
                total -= weight_at(self.weight, state.step) * jnp.mean(Critic().apply(state.critic, out.levels[-1]))
            return total, out

        def hinge(critic, fake):
            score = lambda x: Critic().apply(critic, x)  # noqa: E731
            return jnp.mean(nn.relu(1 - score(real)) + nn.relu(1 + score(fake)))

        (total, out), grads = jax.value_and_grad(loss, has_aux=True)(trainable(own.params, own.codebooks))
        books = jax.lax.stop_gradient(out.codebooks)
        own = apply_gradients(own, grads, self.inner.tx, books, out.fresh, self.inner.ema_rate)
        state, metrics = state.replace(own=own, step=state.step + 1), {"loss": total}
        if phase == "with the critic":
            value, grads = jax.value_and_grad(hinge)(state.critic, jax.lax.stop_gradient(out.levels[-1]))
            updates, moments = self.tx.update(grads, state.moments)
            state = state.replace(critic=optax.apply_updates(state.critic, updates), moments=moments)
            metrics["critic"] = value
        return state, metrics

    def model(self, state):
        return self.inner.model(state.own)

    def eval_step(self, model, batch):
        return self.inner.eval_step(model, batch)

    def summary(self, sums):
        return self.inner.summary(sums)

    def pictures(self, model, batch, key):
        return {}


def fit(folder, steps):
    train.fit(Adversarial(autoencode()), batches(), batches(), folder, settings(steps), {}, 0)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        like = jax.eval_shape(Adversarial(autoencode()).init, jax.random.key(0), batches().batch(0))
        return checkpoints.restore_train(like), checkpoints.restore_model(None, None)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("players") / "straight"
    return folder, *fit(folder, STEPS)


def leaves(tree):
    plain = lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x  # noqa: E731
    return [np.asarray(plain(x)) for x in jax.tree.leaves(tree)]


@pytest.mark.parametrize("stop", [1, 4])
def test_stopped_and_resumed_it_is_the_same_run_bit_for_bit(straight, tmp_path, stop):
    fit(tmp_path / "halves", stop)
    state, _ = fit(tmp_path / "halves", STEPS)
    assert int(state.step) == STEPS
    for one, other in zip(leaves(state), leaves(straight[1]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_critic_joins_when_it_should(straight, tmp_path):
    """Its program is another one: until then it has neither moved nor said anything."""
    before, _ = fit(tmp_path / "run", JOINS)
    assert int(before.moments[0].count) == 0 and int(straight[1].moments[0].count) == STEPS - JOINS
    kernels = [
        [layer["kernel"] for layer in critic["params"].values()] for critic in (before.critic, straight[1].critic)
    ]
    assert all((a != b).any() for a, b in zip(*kernels, strict=True))


def test_sampling_sees_no_critic_and_no_checkpoint_holds_what_is_frozen(straight):
    folder, state, model = straight
    assert "critic" not in str(jax.tree.structure(model))
    assert (48, 64) not in {leaf.shape for leaf in leaves(state)}
    assert not any("features" in path.read_text(errors="ignore") for path in folder.rglob("_METADATA"))
