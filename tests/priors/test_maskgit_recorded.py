"""MaskGIT beside numbers of its authors' code (google-research/maskgit 1db2359): the transformer, its loss and its
gradients, how many tokens are left hidden after each step, and whole runs of their sampler."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import quick

from vqvae_jax.interop import maskgit
from vqvae_jax.interop.files import read
from vqvae_jax.interop.places import from_torch, to_torch
from vqvae_jax.networks.likelihood import pick_token
from vqvae_jax.priors.reveal import Drawn, Reveal, share_hidden, stay_hidden
from vqvae_jax.types import Condition, Model, Pick

HERE = Path(__file__).parents[1] / "reference" / "maskgit_transformer.npz"
FILE = Path(os.environ.get("MASKGIT_RECORDING", HERE))  # scripts/record_maskgit.py makes others
STEPS = 4  # of the recorded runs


@pytest.fixture(scope="module")
def recorded():
    with np.load(FILE) as file:
        return dict(file)


def near(got, want, share):
    np.testing.assert_allclose(got, want, rtol=0, atol=share * np.abs(want).max())


def test_logits_losses_and_gradients(recorded):
    tensors, codes = read(FILE), int(recorded["meta/codes"])
    match = maskgit.of_codes(maskgit.match_transformer(tensors, 0), tensors, codes)
    assert match.wanted == {name: array.shape for name, array in tensors.items()}
    prior, model = match.module.clone(dropout=0.0), from_torch(tensors, match.places, match.like)
    assert (prior.mask, prior.heads) == (recorded["meta/mask_token"], recorded["meta/num_heads"])
    seen, told = recorded["input/tokens"][:, 1:], Condition(recorded["input/tokens"][:, 0] - codes)
    words, hidden = recorded["input/words"], recorded["input/hidden"]
    np.testing.assert_array_equal(seen, np.where(hidden, prior.mask, words))

    def loss(params, smoothing):
        each = prior.clone(smoothing=smoothing).apply(
            {"params": params}, words, hidden, told, train=True, method="masked", rngs={"dropout": jax.random.key(0)}
        )
        return jnp.mean(each)

    def compute(params):
        logits = prior.apply({"params": params}, seen, told, method="logits")
        return logits, loss(params, 0.0), jax.value_and_grad(loss)(params, 0.1)

    logits, plain, (smoothed, gradient) = quick(compute)(model.params)
    near(logits, recorded["output/logits"][:, 1:, :codes], 2e-6)
    near(plain, recorded["output/loss_smoothing_0"], 1e-6)
    near(smoothed, recorded["output/loss_smoothing_0.1"], 1e-6)
    gradients = to_torch(Model(gradient, {}), match.places)
    assert {f"grad/{name}" for name in gradients} == {name for name in recorded if name.startswith("grad/")}
    for name, got in gradients.items():
        want = recorded[f"grad/{name}"]
        # A key's bias adds the same to all scores of a place: its gradient is rounding alone.
        largest = 1e-2 if name.endswith("key/bias") else np.abs(want).max()
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * largest, err_msg=name)


@pytest.mark.parametrize("ours, theirs", [("cosine", "cosine"), ("linear", "uniform")])
def test_schedules(recorded, ours, theirs):
    # Theirs are kept above 1e-6.
    np.testing.assert_allclose(
        share_hidden(ours, recorded["schedule/ratio"]), recorded[f"schedule/{theirs}"], rtol=0, atol=2e-6
    )


@pytest.mark.parametrize("steps, length", [(8, 64), (12, 64), (8, 256), (12, 256)])
def test_as_many_stay_hidden(recorded, steps, length):
    how = Reveal((1, length, 1), "confidence", "cosine", 4.5)
    blank = jnp.ones((1, length), bool)
    noise = jnp.asarray(np.random.default_rng(0).normal(size=(1, length)), jnp.float32)
    drawn = Drawn(jnp.zeros((1, length), jnp.int32), jnp.zeros((1, length, 2)), blank, blank)
    stay = quick(lambda left, step: stay_hidden(how, drawn._replace(left=left), noise, step, steps))
    found, left = [], blank
    for step in range(steps):
        left = stay(left, step)
        found.append(int(left.sum()))
    # At cos(π/3) the product is a whole number or just below, as the last bit falls.
    np.testing.assert_allclose(found, recorded[f"counts/cosine/T{steps}_N{length}"], rtol=0, atol=1)


@pytest.mark.parametrize("case", ["blank", "label_and_known", "no_choice_noise"])
def test_the_sampler_s_runs(recorded, case):
    """Their noise, step by step, with logits that depend on both neighbours: the same tokens are drawn and kept."""
    run = {name.removeprefix(f"decode/{case}/"): one for name, one in recorded.items() if f"decode/{case}/" in name}
    seen, mask = run["start"], int(run["mask_token"])
    how = Reveal((1, seen.shape[1], 1), "confidence", "cosine", float(run["choice_temperature"]))
    at_first = left = seen == mask

    @quick
    def one_step(seen, left, token_noise, choice_noise, step):
        beside = (jnp.asarray(run["word_logits"])[jnp.roll(seen, by, 1)] for by in (1, -1))
        logits = run["place_logits"][None] + sum(beside)
        tokens = jnp.where(left, pick_token(token_noise, logits, Pick()), seen)
        return tokens, stay_hidden(how, Drawn(tokens, logits, at_first, left), choice_noise, step, STEPS)

    for step in range(STEPS):
        told = lambda name: run[f"step{step}/{name}"]  # noqa: B023, E731
        tokens, left = one_step(seen, left, told("gumbel_sample"), told("gumbel_choice"), step)
        np.testing.assert_array_equal(tokens, told("sampled"))
        np.testing.assert_array_equal(left.sum(axis=1), told("mask_len"))
        seen = jnp.where(left, mask, tokens)
        np.testing.assert_array_equal(seen, told("carried"))
