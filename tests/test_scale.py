"""Maps of numbers have mean 0 and deviation 1 over the training images when a training has ended."""

import jax
import numpy as np
from small_models import build_case
from test_train import autoencode, batches, saved, settings

from vqvae_jax import scale, train
from vqvae_jax.checkpoint import Checkpoints
from vqvae_jax.codec import decode, encode
from vqvae_jax.quantizers import CosineQuantizer, KLBottleneck, VectorQuantizer
from vqvae_jax.quantizers.kl import statistics
from vqvae_jax.types import Model

RANGE = (-1.0, 1.0)


def trained(case, quantizers):
    """A model whose statistics are off, and images."""
    module, _, _, images = build_case(case)
    module = module.clone(quantizers=quantizers)
    books = module.init_codebooks(jax.random.key(1))
    for level, quantizer in zip(module.level_names, quantizers, strict=True):
        if isinstance(quantizer, KLBottleneck):
            dim = quantizer.code_dim
            books[level] = books[level].replace(stats=statistics(np.arange(1.0, dim + 1), np.full(dim, 3.0)))
    shapes = jax.eval_shape(module.init, jax.random.key(0), images, books)["params"]
    draw = np.random.default_rng(1)
    params = jax.tree.map(lambda one: draw.normal(0, 0.3, one.shape).astype(np.float32), shapes)
    return module, Model(params, books), draw.integers(0, 256, (70, *images.shape[1:]), np.uint8)


def test_maps_of_the_training_images_have_mean_0_and_deviation_1():
    module, model, images = trained("vqvae-1", (KLBottleneck(3),))
    found = scale.measured(module, RANGE, model, images)
    before, after = (np.asarray(encode(module, RANGE, one, images)[0]) for one in (model, found))
    flat = after.reshape(-1, 3)
    assert np.abs(before.reshape(-1, 3).std(0) - 1).min() > 0.1
    np.testing.assert_allclose(flat.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(flat.std(0), 1, atol=1e-5)
    for maps, one in ((before, model), (after, found)):  # the decoder sees the same numbers
        np.testing.assert_allclose(
            decode(module, RANGE, one, (maps,)).astype(int), decode(module, RANGE, model, (before,)), atol=1
        )
    jax.tree.map(np.testing.assert_array_equal, found.params, model.params)


def test_codes_beside_numbers_stay_and_many_images_are_taken_at_even_distances(monkeypatch):
    module, model, images = trained("hierarchical-2", (KLBottleneck(2), VectorQuantizer(16, 4)))
    monkeypatch.setattr(scale, "LOOKED", 12)
    monkeypatch.setattr(scale, "CHUNK", 5)
    found = scale.measured(module, RANGE, model, images)
    assert found.codebooks["bottom"] is model.codebooks["bottom"]
    flat = np.asarray(encode(module, RANGE, found, images[np.linspace(0, 69, 12).astype(int)])[0]).reshape(-1, 2)
    np.testing.assert_allclose(flat.std(0), 1, atol=1e-5)
    assert np.abs(np.asarray(encode(module, RANGE, found, images)[0]).reshape(-1, 2).std(0) - 1).max() > 1e-4
    assert not scale.has_scale(module.clone(quantizers=(CosineQuantizer(8, 2),) * 2)) and scale.has_scale(module)


def test_numbers_that_hardly_vary_beside_their_mean_are_told_and_their_maps_stay_modest(monkeypatch, capsys):
    """Means and mean squares of float32 do not hold 50 ± 0.01, which comes back as 50 ± 1e-6."""
    quantizer = KLBottleneck(2)
    means = np.random.default_rng(0).normal((50, 10), (0.01, 1), (64, 4, 4, 2))
    z_e = np.concatenate([means, np.full_like(means, -20)], -1).astype(np.float32)
    book = quantizer.init(jax.random.key(0)).replace(stats=statistics(np.float32([50, 10]), np.float32([0.01, 1])))
    maps = lambda book: np.asarray(jax.jit(quantizer)(book, z_e).indices[0])  # noqa: E731
    monkeypatch.setattr(scale, "encoded", lambda *_: [("codes", maps(book))])
    found = scale.measured(None, RANGE, Model({}, {"codes": book}), z_e).codebooks["codes"]
    before, after = (maps(one).reshape(-1, 2).std(0) for one in (book, found))
    assert before[0] > 1000 and 0.1 < after[0] < 1.05 and abs(after[1] - 1) < 0.01
    said = capsys.readouterr().err
    assert said.startswith("codes: 1 of 2 numbers a place are as good as constant") and said.count("\n") == 1
    assert "number 1 is 50 ± 0.01" in said and "--config.loss_weights.kl" in said and "quantizer.code_dim" in said


def test_the_last_step_alone_is_concluded_and_the_training_does_not_see_it(tmp_path):
    """What is evaluated and saved is the same; a training that gets more steps goes on as if it had not ended."""

    def conclude(model):
        seen.append(model)
        return model if len(seen) > 1 else Model(jax.tree.map(lambda x: x + 1, model.params), model.codebooks)

    def fit(folder, steps, conclude=None):
        train.fit(autoencode(), batches(), batches(), folder, settings(steps), {}, seed=5, conclude=conclude)
        with Checkpoints(folder / "checkpoints") as checkpoints:
            state = saved(autoencode(), folder)
            return state, checkpoints.restore_model(None, jax.eval_shape(autoencode().model, state))

    seen = []
    state, model = fit(tmp_path / "a", 3, conclude)
    jax.tree.map(lambda one, other: np.testing.assert_array_equal(one, other + 1), model.params, state.ema_params)
    state, model = fit(tmp_path / "a", 6, conclude)
    straight, _ = fit(tmp_path / "b", 6)
    jax.tree.map(np.testing.assert_array_equal, state.params, straight.params)
    assert len(seen) == 2
