"""Paths and samplers, beside the authors' recorded steps and beside data whose best denoiser is known."""

import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from vqvae_jax.priors import noise as mixing
from vqvae_jax.priors.noise import Mixed

HERE = Path(__file__).parents[1] / "reference" / "diffusion_schedules.npz"
RECORDED = np.load(os.environ.get("SCHEDULES_RECORDING", HERE))  # scripts/record_schedules.py makes others
MEAN, STD = 0.7, 0.3
PATHS = ("flow", "cosine", "linear", "ddpm")
FORETOLD = ("velocity", "noise", "data")


def test_the_linear_path_is_stable_diffusions():
    ours = np.exp(2 * mixing.log_shares())
    np.testing.assert_allclose(ours[1:], RECORDED["sd/alphas_cumprod"], rtol=1e-12)
    for path in PATHS:
        at = mixing.mixed(path, np.linspace(0, 1, 77))
        wanted = 1 if path != "flow" else at.data**2 + at.noise**2
        np.testing.assert_allclose(at.data**2 + at.noise**2, wanted, rtol=1e-12)
        traced = mixing.mixed(path, jnp.linspace(0, 1, 77))
        np.testing.assert_allclose(np.stack(traced), np.stack(at), atol=2e-6)


def test_the_ddpm_path_is_of_even_betas_and_ends_near_noise():
    at = mixing.mixed("ddpm", np.arange(1, 1001) / 1000)
    np.testing.assert_allclose(at.data**2, np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), rtol=1e-9)
    assert mixing.heard("ddpm", 1.0) == 999 and mixing.first_time("ddpm", "noise") == 1
    x = np.array([-2.0, 0.0, 2.0])
    np.testing.assert_allclose(sampled("ddpm", "noise", 2000, 2, x), MEAN + STD * x, atol=5e-3)


@pytest.mark.parametrize("steps", [10, 20, 50, 30, 7])
def test_ddims_steps_are_the_authors(steps):
    """Indices, shares and fresh noise; 30 steps are 31 there, 7 are 8."""
    there = {name: RECORDED[f"sd/ddim/S{steps}/{name}"][::-1] for name in ("timesteps", "alphas", "alphas_prev")}
    for eta in (0, 1):
        ours = mixing.steps_of("linear", steps, 1, float(eta), "leading")
        np.testing.assert_allclose(mixing.heard("linear", ours.time), there["timesteps"], atol=1e-9)
        np.testing.assert_allclose(ours.data**2, there["alphas"], rtol=1e-9)
        np.testing.assert_allclose(ours.next_data**2, there["alphas_prev"], rtol=1e-9)
        sigmas = RECORDED[f"sd/ddim/S{steps}/sigmas/eta_{eta}"][::-1]
        np.testing.assert_allclose(ours.new_noise, sigmas, atol=1e-9)


SAMPLERS = {
    "ddim/S10": ("leading", 10, 1, 0.0),
    "ddim_eta1/S10": ("leading", 10, 1, 1.0),
    "ddim_guided/S10": ("leading", 10, 1, 0.0),
    "dpm_solver_2m/S10": ("even", 10, 2, 0.0),
    "dpm_solver_2m/S20": ("even", 20, 2, 0.0),
    "dpm_solver_2m_guided/S10": ("even", 10, 2, 0.0),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_steps_are_the_authors(name):
    """Each step's map and data, with the recording's analytic model: 0.3 x + 0.1 sin(t / 100), guided + 0.05 · 3."""
    spacing, count, order, eta = SAMPLERS[name]
    there = {field: RECORDED[f"sample/{name}/{field}"] for field in ("x_T", "x", "pred_x0", "t")}
    noise = RECORDED[f"sample/{name}/noise"] if eta else [None] * count
    steps = mixing.steps_of("linear", count, order, eta, spacing)
    x, before = there["x_T"].astype(np.float64), 0.0
    for i in range(count):
        now = mixing.Steps(*(row[i] for row in steps))
        heard = mixing.heard("linear", now.time)
        assert heard == pytest.approx(there["t"][i], abs=2e-4)  # float32 there
        said = 0.3 * x + 0.1 * np.sin(heard / 100) + (0.05 * 3 if "guided" in name else 0.0)
        data = mixing.data_of("linear", "noise", Mixed(now.data, now.noise), x, said)
        x, before = mixing.one_step(now, x, data, before, noise[i]), data
        np.testing.assert_allclose(x, there["x"][i], atol=2e-5 * np.abs(there["x"][i]).max())
        if order == 1:
            np.testing.assert_allclose(data, there["pred_x0"][i], atol=2e-5 * np.abs(data).max())


def best_guess(path, foretold, x, at):
    """What an ideal network says of data N(MEAN, STD²): the posterior's mean, as velocity, noise or data."""
    gain = at.data * STD**2 / (at.data**2 * STD**2 + at.noise**2)
    data = MEAN + gain * (x - at.data * MEAN)
    if foretold == "data":
        return data
    noise = (x - at.data * data) / at.noise
    if foretold == "noise":
        return noise
    return noise - data if path == "flow" else at.data * noise - at.noise * data


def sampled(path, foretold, count, order, x, start=1.0):
    """Where a sampler takes noise x with the ideal network."""
    steps, before = mixing.steps_of(path, count, order, start=start), 0.0
    for row in zip(*steps, strict=True):
        now = mixing.Steps(*row)
        at = Mixed(now.data, now.noise)
        data = mixing.data_of(path, foretold, at, x, best_guess(path, foretold, x, at))
        x, before = mixing.one_step(now, x, data, before, None), data
    return x


# Standard deviation of what is sampled, over that of the data, after 10, 20 and 50 steps of a prototype written apart.
EXPECTED = {
    ("flow", 1): (0.82, 0.91, 0.96),
    ("flow", 2): (0.94, 1.006, 1.005),
    ("cosine", 1): (0.80, 0.89, 0.96),
    ("cosine", 2): (0.88, 0.98, 1.005),
    ("linear", 1): (0.63, 0.77, 0.88),
    ("linear", 2): (0.65, 0.80, 0.92),
}


@pytest.mark.parametrize(("path", "order"), EXPECTED)
def test_an_ideal_network_gives_the_data_back(path, order):
    """For any foretold the same; in the limit of many steps the data's own distribution."""
    x = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    for count, wanted in zip((10, 20, 50), EXPECTED[path, order], strict=True):
        ends = [sampled(path, foretold, count, order, x, mixing.FIRST) for foretold in FORETOLD]
        np.testing.assert_allclose(ends[1:], ends[:1] * 2, atol=2e-5)
        whole = sampled(path, "velocity", count, order, x)
        np.testing.assert_allclose(sampled(path, "data", count, order, x), whole, atol=2e-5)
        assert whole.std() / x.std() / STD == pytest.approx(wanted, abs=0.006)
        assert path == "linear" or whole[2] == pytest.approx(MEAN, abs=1e-5)  # that one takes noise for data at first
    if path != "linear":
        many = sampled(path, "velocity", 2000, order, x)
        np.testing.assert_allclose(many, MEAN + STD * x, atol=2e-3)


def test_between_two_noises_lies_noise():
    """At a right angle and of one length the way is a quarter of a circle; a straight one would go by its middle."""
    one, other = np.zeros((2, 3, 1)), np.zeros((2, 3, 1))
    one[0, 0], other[1, 2] = 2.0, 2.0
    shares = np.linspace(0, 1, 5)
    way = mixing.between(one, other, shares)
    assert way.shape == (5, 2, 3, 1) and way.dtype == np.float32
    np.testing.assert_allclose(way[:, 0, 0, 0], 2 * np.cos(shares * np.pi / 2), atol=1e-6)
    np.testing.assert_allclose(way[:, 1, 2, 0], 2 * np.sin(shares * np.pi / 2), atol=1e-6)
    for same in (one, 0 * one):
        np.testing.assert_allclose(mixing.between(same, same, shares), np.stack([same] * 5), atol=1e-6)
    assert np.isfinite(mixing.between(one, -one, shares)).all()


def test_fresh_noise_keeps_the_variance():
    """With eta 1 a step of exact data leaves as much noise as there should be."""
    steps = mixing.steps_of("flow", 8, 1, 1.0)
    at = mixing.mixed("flow", mixing.times(8, "trailing")[1:])
    np.testing.assert_allclose(steps.next_noise**2 + steps.new_noise**2, at.noise**2, atol=1e-12)
    assert (steps.new_noise[1:-1] > 0).all() and steps.new_noise[-1] == 0


@pytest.mark.parametrize("foretold", FORETOLD)
@pytest.mark.parametrize("path", PATHS)
def test_what_is_foretold_says_the_data(path, foretold):
    rng = np.random.default_rng(0)
    data, noise, time = rng.normal(size=6), rng.normal(size=6), np.linspace(0.05, 0.95, 6)
    at = mixing.mixed(path, time)
    said = mixing.target(path, foretold, at, data, noise)
    x = at.data * data + at.noise * noise
    np.testing.assert_allclose(mixing.data_of(path, foretold, at, x, said), data, atol=1e-6)


@pytest.mark.parametrize("foretold", FORETOLD)
@pytest.mark.parametrize("path", PATHS)
def test_weights_are_those_of_the_data_cut_off(path, foretold):
    """By the slope: an error in what is said times the slope is the error of the data."""
    time = np.linspace(0.1, 0.9, 5)
    at = mixing.mixed(path, time)
    x, said = np.ones(5), np.ones(5)
    slope = mixing.data_of(path, foretold, at, x, said + 1) - mixing.data_of(path, foretold, at, x, said)
    wanted = np.minimum((at.data / at.noise) ** 2, 5.0) * slope**2
    np.testing.assert_allclose(mixing.weight(path, foretold, at, 5.0), wanted, rtol=1e-4)
