"""Every autoencoder of the table with numbers in place of codes; a critic and a perceptual loss beside them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_features import narrow
from small_models import CASES, build_case, quick

from vqvae_jax.autoencoders import AUTOENCODERS
from vqvae_jax.features import NETS
from vqvae_jax.quantizers import KLBottleneck
from vqvae_jax.quantizers.kl import mean_and_deviation, statistics
from vqvae_jax.tasks.adversarial import AdversarialTask
from vqvae_jax.tasks.autoencode import AutoencodeTask
from vqvae_jax.types import Model

D = 3
OF_EACH = {case.partition("-")[0]: case for case in reversed(CASES)}  # the first of each kind


@pytest.mark.parametrize("kind", AUTOENCODERS)
def test_every_autoencoder_takes_numbers(kind):
    """Its maps, its terms, gradients everywhere, statistics that move in training alone; bfloat16 inside."""
    model, params, books, images = build_case(OF_EACH[kind], KLBottleneck(D))
    images = jnp.tile(images, (1, 4, 2, 1)) * jnp.linspace(0, 1, 4 * images.shape[1])[None, :, None, None]

    def total(params, key):
        out = model.apply(params, images, books, key=key, train=True)
        return sum(out.losses.values()), out

    def compute(params, key):
        (_, out), grads = jax.value_and_grad(total, has_aux=True)(params, key)
        tokens = model.apply(params, images, books, method="encode")
        return out, grads, model.apply(params, images, books), model.apply(params, tokens, books, method="decode")

    out, grads, plain, decoded = quick(compute)(params, jax.random.key(0))
    assert {f"kl/{level}" for level in model.level_names} | {"reconstruction"} <= set(out.losses)
    assert {(one.dtype, one.shape[-1], one.ndim) for one in plain.tokens} == {(jnp.dtype("float32"), D, 4)}
    np.testing.assert_allclose(decoded, plain.images, atol=1e-5)
    for path, gradient in jax.tree.leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(gradient).all() and (name.endswith("['k']['bias']") or np.abs(gradient).max() > 0), name
    jax.tree.map(np.testing.assert_array_equal, plain.codebooks, books)
    for book in out.codebooks.values():
        np.testing.assert_allclose(book.stats["count"], 0.05, rtol=1e-5)
        assert (mean_and_deviation(book)[1] > 0).all() and book.stats["mean"].any()
    low = jax.eval_shape(
        lambda p: model.clone(dtype=jnp.bfloat16).apply(p, images, books, key=jax.random.key(0), train=True), params
    )
    assert {leaf.dtype for leaf in jax.tree.leaves((low.codebooks, low.tokens, low.losses))} == {jnp.dtype("float32")}


def test_a_critic_and_a_perceptual_loss_go_with_numbers(monkeypatch):
    """A step of all terms."""
    net, frozen = narrow()
    monkeypatch.setitem(NETS, net.name, net)
    model, *_ = build_case("vqvae-1", KLBottleneck(D))
    weights = {"reconstruction": 1.0, "kl": 1e-3, "perceptual": 0.3, "adversarial": 0.5}
    task = AdversarialTask(model, optax.sgd(0.1), weights, critic_width=4, critic_layers=1)
    batch = {"image": np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)}
    state = quick(task.init)(jax.random.key(0), batch)
    new, metrics = quick(lambda state: task.train_step(state, batch, frozen, task.phase(0)))(state)
    assert all(np.isfinite(value) for value in metrics.values())
    assert {"kl/codes", "perceptual", "adversarial", "adaptive_weight", "active/codes"} <= set(metrics)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.params, new.params)
    assert all(jax.tree.leaves(moved)) and float(new.codebooks["codes"].stats["count"]) > 0


def test_an_evaluation_of_numbers_by_hand():
    """A padded batch: what `mask` leaves out does not count. Of three numbers the second says nothing."""
    model, variables, books, _ = build_case("vqvae-1", KLBottleneck(D))
    to_code = variables["params"]["encoder"]["to_code"]
    to_code["kernel"] = to_code["kernel"].at[..., 1].set(0.0)
    books["codes"] = books["codes"].replace(stats=statistics(jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 1.0, 0.5])))
    images, mask = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8), np.array([1, 1, 0, 1], bool)
    task = AutoencodeTask(model, None, {"reconstruction": 1.0, "kl": 1.0})
    found = task.summary(jax.jit(task.eval_step)(Model(variables["params"], books), {"image": images, "mask": mask}))
    z_e = model.apply(variables, images / np.float32(255), method=lambda module, x: module.encoder(x))
    mean, log_variance = np.split(np.asarray(z_e, np.float64)[mask], 2, axis=-1)
    kl = np.mean(0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance))
    maps = ((mean - [1, 2, 3]) / [1, 1, 0.5]).reshape(-1, D)
    far = lambda values, target: values[np.argmax(np.abs(values - target))]  # noqa: E731
    assert found["kl/codes"] == pytest.approx(kl, rel=1e-5) and found["active/codes"] == pytest.approx(2 / 3)
    assert found["latent_mean/codes"] == pytest.approx(far(maps.mean(0), 0), rel=1e-4)
    assert found["latent_std/codes"] == pytest.approx(far(maps.std(0), 1), abs=1e-3)
    assert not {name for name in found if name.startswith(("usage", "perplexity"))}
