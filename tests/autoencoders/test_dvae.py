"""DALL-E's dVAE, beyond the contract: its authors' numbers, the likelihood, how it begins, what is refused."""

import dataclasses
import math
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import quick

from vqvae_jax import config as configs
from vqvae_jax.autoencoders import DVAE
from vqvae_jax.interop.dvae import match
from vqvae_jax.interop.places import from_torch
from vqvae_jax.networks.likelihood import LEAST_LOG_SCALE, logit_laplace
from vqvae_jax.quantizers import FiniteScalarQuantizer, GumbelQuantizer
from vqvae_jax.quantizers.gumbel import divergence
from vqvae_jax.types import UserError

# openai/DALL-E 5be4b23 by torch 2.13; scripts/record_dvae.py makes others.
RECORDING = Path(os.environ.get("DVAE_RECORDING", Path(__file__).parents[1] / "reference" / "dalle_dvae.npz"))
TEMPERATURE = "soft/temperature"


def last(x):
    return np.moveaxis(x, 1, -1)


def near(ours, theirs, tolerance=1e-5):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


@pytest.fixture(scope="module")
def recorded():
    """Its arrays, the module, the model."""
    with np.load(RECORDING) as file:
        arrays = dict(file)
    tensors = {name.removeprefix("param/"): one for name, one in arrays.items() if name.startswith("param/")}
    found = match(tensors, 0)
    assert found.wanted == {name: one.shape for name, one in tensors.items()}
    return arrays, found.module, jax.tree.map(jnp.asarray, from_torch(tensors, found.places, found.like))


def test_the_authors_numbers(recorded):
    """Logits, codes, six maps, the picture, the likelihood and the KL; gradients are in tests/compare."""
    arrays, module, model = recorded
    images, books = last(arrays["input/image"]), model.codebooks

    def compute(params):
        variables = {"params": params}
        encode = lambda module, x: module.encoder(module._seen(x))  # noqa: E731
        out = module.apply(variables, images, books)
        again = module.apply(variables, out.tokens, books, method="decode")
        return module.apply(variables, images, method=encode), out, again

    logits, out, again = quick(compute)(model.params)
    near(logits, last(arrays["output/logits"]))
    near(divergence(logits), arrays["output/kl_uniform"])
    np.testing.assert_array_equal(out.tokens[0], arrays["output/tokens"])
    near(out.levels[0], last(arrays["output/stats"]))
    near(out.images, last(arrays["output/picture"]))
    near(again, last(arrays["output/picture"]))
    near(out.losses["reconstruction"], arrays["output/nll_mean"])
    near(out.losses["kl/codes"], arrays["output/kl_uniform"].mean())


def test_in_training_it_decodes_a_mixture_of_codes(recorded, monkeypatch):
    """What softmax(logits / 0.7) decodes to: theirs, and ours where the noise is 0."""
    arrays, module, model = recorded
    temperature = float(arrays[TEMPERATURE])
    even = dataclasses.replace(module.quantizers[0], temperature=(temperature, temperature))
    module = module.clone(quantizers=(even,))
    monkeypatch.setattr(jax.random, "gumbel", lambda key, shape: jnp.zeros(shape))
    images = last(arrays["input/image"])
    step = lambda key: module.apply({"params": model.params}, images, model.codebooks, key=key, train=True)  # noqa: E731
    near(quick(step)(jax.random.key(0)).levels[0], last(arrays["soft/stats"]))


@pytest.mark.parametrize("location, log_scale", [(0.0, 0.0), (-1.5, -1.0), (2.0, 0.5)])
def test_the_likelihood_is_a_density(location, log_scale):
    """It integrates to 1 over (0, 1), and is that of the paper's formula in float64."""
    x = (np.arange(400_000) + 0.5) / 400_000
    ours = np.asarray(logit_laplace(jnp.asarray(x, jnp.float32), jnp.float32(location), jnp.float32(log_scale)), float)
    assert np.exp(-ours).mean() == pytest.approx(1, abs=2e-3)
    b = math.exp(log_scale)
    density = np.exp(-np.abs(np.log(x / (1 - x)) - location) / b) / (2 * b * x * (1 - x))
    inside = (x > 0.1) & (x < 0.9)  # of what an image is mapped to
    np.testing.assert_allclose(ours[inside], -np.log(density)[inside], rtol=1e-4, atol=1e-4)


def test_a_scale_of_nothing_is_held():
    """Flat ground that is always foretold would drive the loss to -infinity, and its gradient beyond float32."""
    loss, grads = jax.value_and_grad(lambda s: logit_laplace(jnp.float32(0.5), jnp.float32(0.0), s))(jnp.float32(-200))
    assert float(loss) == pytest.approx(LEAST_LOG_SCALE + math.log(2) + 2 * math.log(0.5)) and float(grads) == 0


def test_weights_begin_as_in_their_code():
    """Kernels normal of variance 1 / fan-in, biases 0."""
    module = DVAE((GumbelQuantizer(16, 12),), width=24, factors=(1,), blocks=1)
    books = module.init_codebooks(jax.random.key(0))
    leaves = jax.tree.leaves_with_path(quick(module.init)(jax.random.key(1), jnp.zeros((1, 2, 2, 3)), books)["params"])
    assert all(not leaf.any() for path, leaf in leaves if path[-1].key == "bias")
    kernels = [leaf for path, leaf in leaves if path[-1].key == "kernel"]
    scaled = [np.asarray(leaf).ravel() * math.sqrt(leaf.size / leaf.shape[-1]) for leaf in kernels]
    assert max(abs(one.std() - 1) * one.size**0.5 for one in scaled) < 3


def test_other_quantizers_have_as_many_channels_as_they_like():
    module = DVAE((FiniteScalarQuantizer((5, 3)),), width=16, factors=(1, 2), blocks=1)
    images, books = jnp.full((1, 4, 6, 3), 0.5), module.init_codebooks(jax.random.key(0))
    out, variables = jax.eval_shape(module.init_with_output, jax.random.key(1), images, books)
    assert out.images.shape == images.shape and out.tokens[0].shape == (1, 2, 3)
    assert variables["params"]["encoder"]["conv_out"]["kernel"].shape[-1] == 2


def test_logits_of_many_codes_are_float32_whatever_the_layers_compute_in():
    """In bfloat16 a place of 64 codes would have several that are the likeliest."""
    module = DVAE((GumbelQuantizer(64, 8),), width=16, factors=(1, 2), blocks=1, dtype=jnp.bfloat16)
    images, books = jax.random.uniform(jax.random.key(2), (2, 8, 8, 3)), module.init_codebooks(jax.random.key(0))
    variables = quick(module.init)(jax.random.key(1), images, books)
    logits = module.apply(variables, images, method=lambda module, x: module.encoder(module._seen(x)))
    (indices,) = module.apply(variables, images, books, method="encode")
    assert logits.dtype == jnp.float32
    np.testing.assert_array_equal(indices, logits.argmax(-1))
    coarse = logits.astype(jnp.bfloat16)
    assert ((coarse == coarse.max(-1, keepdims=True)).sum(-1) > 1).any()


@pytest.mark.parametrize("factors", [(), (1, 0), (1,) * 21], ids=["none", "zero", "many"])
def test_factors_that_cannot_be_are_refused(factors):
    module = DVAE((GumbelQuantizer(8, 4),), width=16, factors=factors)
    with pytest.raises(UserError, match="factors wants 1 to 20 widths"):
        module.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), module.init_codebooks(jax.random.key(0)))


def test_logits_want_pixels_from_0_to_1():
    def check(likelihood, value_range):
        configs.check(configs.complete({
            "dataset": {"name": "npz", "path": "x.npz", "image_size": 32, "range": value_range},
            "autoencoder": {"name": "dvae", "likelihood": likelihood, "quantizer": {"name": "gumbel"}},
            "train": {"steps": 9},
        }))  # fmt: skip

    check("logit_laplace", (0.0, 1.0))
    check("squared", (-1.0, 1.0))
    with pytest.raises(UserError, match=r"range=\(-1\.0, 1\.0\): .*from 0 to 1: --config.dataset.range=0,1"):
        check("logit_laplace", (-1.0, 1.0))
