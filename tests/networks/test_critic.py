"""The critic of patches beside the recording of taming-transformers' discriminator, and what its logits see."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqvae_jax.networks.critic import Critic, field, spectral
from vqvae_jax.tasks.adversarial import hinge, non_saturating

HERE = Path(__file__).resolve().parent.parent / "reference/vqgan_loss.npz"
RECORDING = Path(os.environ.get("CRITIC_RECORDING", HERE))  # scripts/record_critic.py makes others
NAMES = {  # of the recording → ours; the norm's moving averages have no place here
    "main.0.weight": "conv0_kernel",
    "main.0.bias": "conv0_bias",
    "main.2.weight": "conv1_kernel",
    "main.3.weight": "norm1_scale",
    "main.3.bias": "norm1_bias",
    "main.5.weight": "conv2_kernel",
    "main.6.weight": "norm2_scale",
    "main.6.bias": "norm2_bias",
    "main.8.weight": "output_kernel",
    "main.8.bias": "output_bias",
}


@pytest.fixture(scope="module")
def recorded():
    with np.load(RECORDING) as file:
        return dict(file)


def ours(array):
    """OIHW → HWIO, NCHW → NHWC's batch of maps."""
    return jnp.asarray(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array)


def images(array):
    return jnp.asarray(array.transpose(0, 2, 3, 1))


def params(recorded, kind="param"):
    return {mine: ours(recorded[f"{kind}/{name}"]) for name, mine in NAMES.items()}


def judged(weights, x):
    return Critic(16, 2, "batch").apply({"params": weights}, x)


def test_logits_are_the_recorded_ones(recorded):
    weights = params(recorded)
    for what, shown in (("logits_real", "real"), ("logits_fake", "fake")):
        found = judged(weights, images(recorded[f"input/{shown}"]))
        np.testing.assert_allclose(found, recorded[f"output/{what}"][:, 0], atol=1e-5)


@pytest.mark.parametrize(("name", "kind"), [("hinge", hinge), ("vanilla", non_saturating)])
def test_losses_and_their_gradients_are_the_recorded_ones(recorded, name, kind):
    real, fake = images(recorded["input/real"]), images(recorded["input/fake"])
    loss = lambda weights: kind(judged(weights, real), judged(weights, fake))  # noqa: E731
    value, grads = jax.value_and_grad(loss)(params(recorded))
    np.testing.assert_allclose(value, recorded[f"output/d_loss/{name}"], rtol=1e-6)
    for mine, wanted in params(recorded, f"grad_{name}").items():
        np.testing.assert_allclose(grads[mine], wanted, atol=2e-5 * np.abs(wanted).max(), err_msg=mine)


def test_what_it_pushes_the_images_by_is_the_recorded_gradient(recorded):
    weights, fake = params(recorded), images(recorded["input/fake"])
    found = jax.grad(lambda x: -jnp.mean(judged(weights, x)))(fake)
    wanted = images(recorded["output/grad_g_fake"])
    np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("layers", [1, 2])
def test_a_logit_sees_a_patch(layers):
    """No fewer pixels, no more; of 64, so that a patch in the middle is not cut off."""
    critic, x = Critic(2, layers, "none"), jnp.zeros((1, 64, 64, 1))
    weights = jax.tree.map(lambda leaf: leaf + 1, critic.init(jax.random.key(0), x))  # nothing cancels out
    logits = critic.apply(weights, x)
    middle = logits.shape[1] // 2
    seen = jax.grad(lambda x: critic.apply(weights, x)[0, middle, middle])(x)[0, :, :, 0] != 0
    for axis in (0, 1):
        assert int(seen.any(axis).sum()) == field(layers)


@pytest.mark.parametrize("norm", ["none", "group", "spectral"])
def test_an_image_is_judged_by_itself(norm):
    """What real and made images are together in a batch with tells nothing of which is which."""
    critic, x = Critic(8, 2, norm), jax.random.normal(jax.random.key(0), (3, 40, 40, 3))
    weights = critic.init(jax.random.key(1), x)
    alone = critic.apply(weights, x[:1])
    np.testing.assert_allclose(critic.apply(weights, x)[:1], alone, atol=1e-6)


@pytest.mark.parametrize("norm", ["none", "group", "spectral", "batch"])
def test_no_parameter_without_a_gradient(norm):
    """A bias before a norm has none but rounding's, and Adam would make steps of it."""
    critic, x = Critic(8, 2, norm), jax.random.normal(jax.random.key(0), (4, 40, 40, 3))
    weights = jax.tree.map(lambda leaf: 5 * leaf, critic.init(jax.random.key(1), x))
    grads = jax.grad(lambda w: jnp.mean(jax.nn.relu(1 - critic.apply(w, x))))(weights)["params"]
    assert all(float(jnp.abs(one).max()) > 1e-5 for one in jax.tree.leaves(grads)), jax.tree.map(jnp.max, grads)


@pytest.mark.parametrize(("shape", "most"), [((4, 4, 3, 8), 1.2), ((4, 4, 3, 64), 1.2), ((4, 4, 64, 128), 1.08)])
def test_spectral_divides_by_about_the_largest_singular_value(shape, most):
    """Of fresh kernels, by numpy's; a power iteration finds no more than it."""
    kernels = [0.02 * np.random.default_rng(seed).normal(size=shape).astype(np.float32) for seed in range(4)]
    matrices = (np.asarray(spectral(kernel)).reshape(-1, shape[-1]) for kernel in kernels)
    largest = [np.linalg.svd(matrix.astype(np.float64), compute_uv=False)[0] for matrix in matrices]
    assert min(largest) > 1 - 1e-5 and max(largest) < most and np.median(largest) < 1.05, largest


def test_in_16_bits_it_says_nearly_the_same():
    x = jax.random.normal(jax.random.key(0), (2, 40, 40, 3))
    weights = Critic(8, 2).init(jax.random.key(1), x)
    low = Critic(8, 2, dtype=jnp.bfloat16).apply(weights, x)
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, Critic(8, 2).apply(weights, x), atol=0.02)
