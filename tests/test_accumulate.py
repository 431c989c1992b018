"""A batch that the networks see in parts gives the update of the whole batch: codes, averages and revivals included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import CASES, build_case
from small_priors import CASES as PRIORS
from small_priors import CODES, made
from test_train import section

from vqvae_jax.backend import GPU
from vqvae_jax.data.arrays import ArrayData
from vqvae_jax.data.token_arrays import TokenArrays
from vqvae_jax.quantizers import EMAQuantizer, KLBottleneck
from vqvae_jax.tasks.autoencode import AutoencodeTask
from vqvae_jax.tasks.optimize import make_optimizer
from vqvae_jax.tasks.prior import PriorTask
from vqvae_jax.types import UserError

TX = make_optimizer(section(eps=1e-3), 10)  # a large denominator: rounding decides no step's direction
WEIGHTS = {"reconstruction": 1.0, "commitment": 0.25, "feature": 1.0}
COUNT = 8


def stepped(task, batch, steps=3):
    state = jax.jit(task.init)(jax.random.key(0), batch)
    step = jax.jit(task.train_step)
    for _ in range(steps):
        state, metrics = step(state, batch)
    return state, metrics


def assert_near(one, other, tolerance):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            continue
        if jnp.issubdtype(a.dtype, jnp.integer):
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.max(np.abs(a), initial=1.0))


@pytest.mark.parametrize("case", [case for case in CASES if case not in ("hierarchical-3", "hierarchical-4")])
def test_an_autoencoder_s_update_is_that_of_the_whole_batch(case):
    """EMA codes, of which some are revived in these steps by vectors drawn from all of the batch."""
    model, _, _, images = build_case(case, EMAQuantizer(16, 4 if "patch" not in case else 6, 0.8, 2))
    batch = {"image": np.random.default_rng(0).integers(0, 256, (COUNT, *images.shape[1:]), np.uint8)}
    whole, parts = (stepped(AutoencodeTask(model, TX, WEIGHTS, accumulate=n), batch) for n in (1, 4))
    assert_near(whole[0], parts[0], 1e-6)
    assert whole[1].keys() == parts[1].keys()
    assert sum(float(value) for name, value in whole[1].items() if "revived" in name) >= 0


def test_numbers_get_the_noise_of_the_whole_batch():
    model, _, _, images = build_case("vqvae-1", KLBottleneck(3))
    batch = {"image": np.random.default_rng(0).integers(0, 256, (COUNT, *images.shape[1:]), np.uint8)}
    weights = {"reconstruction": 1.0, "kl": 1e-3}
    whole, parts = (stepped(AutoencodeTask(model, TX, weights, accumulate=n), batch) for n in (1, 4))
    assert_near(whole[0], parts[0], 1e-6)


@pytest.fixture
def loops(monkeypatch):
    """As on an accelerator."""
    monkeypatch.setattr("vqvae_jax.tasks.accumulate.choices", lambda: GPU)


def test_in_a_loop_too(loops):
    model, _, _, images = build_case("vqvae-1", EMAQuantizer(16, 4, 0.8, 2))
    batch = {"image": np.random.default_rng(0).integers(0, 256, (COUNT, *images.shape[1:]), np.uint8)}
    whole, parts = (stepped(AutoencodeTask(model, TX, WEIGHTS, accumulate=n), batch) for n in (1, 2))
    assert_near(whole[0], parts[0], 1e-6)


@pytest.mark.parametrize("case", ["pixelcnn", "transformer-depths, coarse"])
def test_a_prior_s_update_is_that_of_the_whole_batch(case):
    prior = made(case.partition("-")[0], CODES, **{**PRIORS[case], "label_condition": False})
    noise = np.random.default_rng(0)
    maps = tuple(noise.integers(0, level.vocab_size, (COUNT, *level.shape)) for level in (*prior.above, *prior.maps))
    batch = ArrayData(TokenArrays(maps), COUNT, 0).batch(0)
    own = slice(len(prior.above), len(maps))
    whole, parts = (stepped(PriorTask(prior, own, TX, accumulate=n), batch) for n in (1, 2))
    assert_near(whole[0], parts[0], 1e-6)


def test_it_takes_less_memory(loops):
    model, _, _, _ = build_case("vqvae-2", EMAQuantizer(16, 4, 0.8, 2))
    model = model.clone(width=32, residual_width=32)
    batch = {"image": np.zeros((64, 32, 32, 3), np.uint8)}

    def needed(parts):
        task = AutoencodeTask(model, TX, WEIGHTS, accumulate=parts)
        state = jax.eval_shape(task.init, jax.random.key(0), batch)
        return jax.jit(task.train_step).lower(state, batch).compile().memory_analysis().temp_size_in_bytes

    assert needed(8) < 0.5 * needed(1)


def test_a_batch_that_does_not_divide_is_refused():
    from vqvae_jax.stages import check_parts

    with pytest.raises(UserError, match=r"config.train.accumulate=5: a batch of 16 .*--config.train.accumulate=4"):
        check_parts("config.train", 16, 5)
