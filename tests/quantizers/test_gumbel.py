"""Codes drawn by Gumbel-softmax: the mixture and its gradient, KL, temperature. Beside taming's: test_recordings.py."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_quantizers import assert_same, stepper, vectors

from vqvae_jax.quantizers.gumbel import GumbelQuantizer, divergence
from vqvae_jax.tasks.optimize import new_state, with_model
from vqvae_jax.types import Model, UserError

K, D = 12, 4
SHAPE = (2, 3, 5, K)


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def made(**fields):
    quantizer = GumbelQuantizer(K, D, **fields)
    return quantizer, quantizer.init(jax.random.key(0))


def test_a_place_is_a_mixture_of_codes_and_passes_its_gradient_on():
    """Recomputed in float64 from the same noise, the gradient by hand: p (v - p·v) / temperature."""
    quantizer, book = made(temperature=(0.5, 0.1), ramp_steps=10)
    z_e, weight, key = 2 * vectors(1, *SHAPE), vectors(2, *SHAPE[:-1], D), jax.random.key(3)

    def weighed(z_e, codes):
        out = quantizer(book.replace(codes=codes), z_e, key=key, train=True)
        return jnp.sum(out.z_q * weight), out

    (to_logits, to_codes), out = jax.grad(weighed, (0, 1), has_aux=True)(z_e, book.codes)
    codes, noise = np.asarray(book.codes, float), np.asarray(jax.random.gumbel(key, SHAPE), float)
    share = softmax((z_e + noise) / 0.5)
    np.testing.assert_allclose(out.z_q, share @ codes, rtol=1e-4, atol=1e-6)
    along = weight @ codes.T
    by_hand = share * (along - (share * along).sum(-1, keepdims=True)) / 0.5
    np.testing.assert_allclose(to_logits, by_hand, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(to_codes, np.einsum("bhwk,bhwd->kd", share, weight), rtol=1e-4, atol=1e-5)


def test_straight_through_is_one_code_with_the_gradient_of_the_mixture():
    (soft, book), (hard, _) = made(), made(straight_through=True)
    z_e, weight, key = 2 * vectors(1, *SHAPE), vectors(2, *SHAPE[:-1], D), jax.random.key(3)
    weighed = lambda z_e, one: jnp.sum(one(book, z_e, key=key, train=True).z_q * weight)  # noqa: E731
    liked = np.argmax(z_e + np.asarray(jax.random.gumbel(key, SHAPE)), -1)
    np.testing.assert_array_equal(hard(book, z_e, key=key, train=True).z_q, np.asarray(book.codes)[liked])
    np.testing.assert_allclose(jax.grad(weighed)(z_e, hard), jax.grad(weighed)(z_e, soft), rtol=1e-4, atol=1e-6)


def test_a_sample_is_of_softmax_of_the_logits():
    """At a low temperature mixtures are codes, each as often as it is likely."""
    quantizer, book = made(temperature=(1e-3, 1e-3))
    logits = np.broadcast_to(vectors(1, K), (4000, K))
    z_q = np.asarray(quantizer(book, logits, key=jax.random.key(0), train=True).z_q)
    drawn = ((z_q[:, None] - np.asarray(book.codes)[None]) ** 2).sum(-1).argmin(-1)
    np.testing.assert_allclose(np.bincount(drawn, minlength=K) / 4000, softmax(logits[0].astype(float)), atol=0.03)


@pytest.mark.parametrize("train", [False, True])
def test_kl_is_of_the_plain_softmax_beside_uniform(train):
    quantizer, book = made(temperature=(0.3, 0.1))
    z_e = 3 * vectors(1, *SHAPE)
    share = softmax(z_e.astype(float))
    wanted = (share * np.log(share * K)).sum(-1).mean()
    assert float(quantizer(book, z_e, key=jax.random.key(0), train=train).losses["kl"]) == pytest.approx(
        wanted, rel=1e-5
    )
    extremes = np.array([np.zeros(K), [1e4] + [0] * (K - 1)], np.float32)
    np.testing.assert_allclose(divergence(extremes), [0, np.log(K)], atol=1e-6)
    assert np.isfinite(jax.grad(lambda x: divergence(x).sum())(extremes)).all()


def test_the_temperature_falls_along_a_cosine_and_stays():
    quantizer, _ = made(temperature=(1.0, 1 / 16), ramp_steps=1000)
    middle, quarter = (1 + 1 / 16) / 2, 1 / 16 + (15 / 16) * (0.5 + 0.125**0.5)
    wanted = {0: 1.0, 250: quarter, 500: middle, 1000: 1 / 16, 1001: 1 / 16, 2**31 - 1: 1 / 16}
    for step, temperature in wanted.items():
        assert float(quantizer.temperature_at(jnp.int32(step))) == pytest.approx(temperature, rel=1e-6), step


def test_it_counts_training_steps_alone_and_a_resumed_run_goes_on():
    """Nothing but whole numbers is kept: no temperature is ever multiplied into itself."""
    quantizer, book = made(temperature=(1.0, 0.01), ramp_steps=4)
    step, z_e = stepper(quantizer), 2 * vectors(1, *SHAPE)
    first = step(book, z_e, jax.random.key(7))
    for i in range(4):
        assert int(book.stats["step"]) == i
        book = step(quantizer(book, z_e).codebook, z_e, jax.random.key(i)).codebook
    assert {str(one.dtype) for one in book.stats.values()} == {"int32"}
    kept = jax.tree.map(jnp.asarray, jax.device_get(book))
    last, again = (step(one, z_e, jax.random.key(7)) for one in (book, kept))
    assert_same(again, last)
    apart = lambda out: np.asarray(out.z_q)[..., None, :] - np.asarray(book.codes)  # noqa: E731
    distance = lambda out: (apart(out) ** 2).sum(-1).min(-1).mean()  # noqa: E731
    assert distance(last) < 0.1 * distance(first)  # the same noise: codes now, mixtures then


def test_a_training_that_starts_from_a_trained_model_does_not_melt_it():
    """As `train.init_from` does: steps and moments begin anew, the temperature is the one that it had come to."""
    quantizer, book = made(temperature=(1.0, 0.01), ramp_steps=4)
    trained = Model({}, {"codes": book.replace(stats=book.stats | {"step": jnp.int32(4)})})
    state = with_model(new_state(jax.random.key(0), {}, {"codes": book}, optax.adam(0.1), 0.0), trained)
    assert int(state.step) == 0
    assert float(quantizer.temperature_at(state.codebooks["codes"].stats["step"])) == pytest.approx(0.01)


def test_everywhere_but_in_training_it_is_the_likeliest_code():
    quantizer, book = made()
    z_e = vectors(1, *SHAPE)
    likeliest = z_e.argmax(-1)
    for train in (False, True):
        (indices,) = quantizer(book, z_e, key=jax.random.key(0), train=train).indices
        np.testing.assert_array_equal(indices, likeliest)
    np.testing.assert_array_equal(quantizer(book, z_e).z_q, np.asarray(book.codes)[likeliest])
    moved = quantizer(book, z_e, key=jax.random.key(0), train=True).codebook
    used = np.isin(np.arange(K), likeliest)
    np.testing.assert_array_equal(moved.stats["idle"], np.where(used, 0, 1))


def test_logits_of_vectors_are_a_linear_layer_that_learns():
    quantizer, book = made(vector_dim=6)
    assert quantizer.input_dim == 6 and book.params["kernel"].shape == (6, K)
    z_e = vectors(1, 2, 3, 6)
    wanted = z_e @ np.asarray(book.params["kernel"]) + np.asarray(book.params["bias"])
    np.testing.assert_allclose(quantizer.logits(book, z_e), wanted, rtol=1e-4, atol=1e-6)

    def loss(params):
        out = quantizer(book.replace(params=params), z_e, key=jax.random.key(0), train=True)
        return jnp.sum(out.z_q**2) + out.losses["kl"]

    assert all(np.abs(one).max() > 0 for one in jax.tree.leaves(jax.grad(loss)(book.params)))


@pytest.mark.parametrize("ends", [(1.0, 0.0), (-1.0, 0.5), (1.0, float("nan")), (1.0,)])
def test_temperatures_that_cannot_be_are_refused(ends):
    with pytest.raises(UserError, match="temperature wants two numbers above 0"):
        GumbelQuantizer(temperature=ends)
