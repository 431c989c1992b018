"""What a step and an evaluation say: masked sums, usage over a whole split, loss weights, the prior's yardsticks."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxprs import EXACT, precisions
from small_quantizers import small

from vqvae_jax.autoencoders import HierarchicalVAE
from vqvae_jax.checkpoint import Checkpoints
from vqvae_jax.data.arrays import ArrayData, Arrays
from vqvae_jax.data.entropy import entropies, entropy, position_entropy
from vqvae_jax.data.token_arrays import TokenArrays
from vqvae_jax.networks import measure
from vqvae_jax.networks.likelihood import nll
from vqvae_jax.quantizers.ema import EMAQuantizer
from vqvae_jax.quantizers.vq import VectorQuantizer
from vqvae_jax.tasks.autoencode import AutoencodeTask
from vqvae_jax.tasks.prior import PriorTask, example_keys
from vqvae_jax.types import Caption, Codebook, Model, Reconstruction, UserError

CODES = 8


class Shades(nn.Module):
    """Each 4x4 patch becomes the one of eight greys that its mean is nearest to; nothing to learn."""

    quantizers: tuple = (VectorQuantizer(CODES, 1),)
    level_names: tuple = ("codes",)

    def init_codebooks(self, key):
        return {"codes": Codebook(jnp.linspace(0, 1, CODES)[:, None], stats={"idle": jnp.zeros(CODES, jnp.int32)})}

    def __call__(self, images, codebooks, *, key=None, train=False):
        b, h, w, c = images.shape
        z_e = images.reshape(b, h // 4, 4, w // 4, 4, c).mean((2, 4, 5))[..., None]
        out = self.quantizers[0](codebooks["codes"], z_e, key=key, train=train)
        grey = jnp.repeat(jnp.repeat(jnp.repeat(out.z_q, 4, 1), 4, 2), c, 3)
        losses = {"commitment/codes": out.losses["commitment"], "reconstruction": jnp.mean((grey - images) ** 2)}
        return Reconstruction(grey, out.indices, losses, {"codes": out.codebook}, {}, (grey,))


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), np.uint8)


def shades_by_hand(images):
    """Indices [N, 4, 4] and reconstructions uint8, in float64."""
    means = (images / 255).reshape(-1, 4, 4, 4, 4, 3).mean((2, 4, 5))
    greys = np.linspace(0, 1, CODES)
    indices = np.abs(means[..., None] - greys).argmin(-1)
    return indices, greys[indices].repeat(4, 1).repeat(4, 2)[..., None].repeat(3, 3)


def summed(task, model, data):
    step, sums = jax.jit(task.eval_step), None
    for batch in data.evaluation():
        new = step(model, batch)
        sums = new if sums is None else jax.tree.map(jnp.add, sums, new)
    return task.summary(jax.device_get(sums))


# --- evaluation of an autoencoder


@pytest.fixture(scope="module")
def evaluated():
    """13 images in batches of 4: the last batch is padded with three more of the first."""
    task = AutoencodeTask(Shades(), None, {})
    images = (pictures(13) * np.linspace(0, 1.5, 13)[:, None, None, None]).clip(0, 255).astype(np.uint8)
    images[0] = 255  # if the padding counted, this one would count four times
    model = Model({}, Shades().init_codebooks(None))
    return images, summed(task, model, ArrayData(Arrays(images), 4, 0))


def test_every_image_counts_once(evaluated):
    images, metrics = evaluated
    _, made = shades_by_hand(images)
    rounded = np.round(made * 255)
    assert metrics["mse"] == pytest.approx(np.mean((made - images / 255) ** 2), rel=1e-4)
    assert metrics["loss"] == metrics["mse"]
    error = np.mean((rounded - images) ** 2.0, axis=(1, 2, 3))
    error[0] = 255**2 / 10**9.9  # equal pictures count as 99 dB
    assert metrics["psnr"] == pytest.approx(np.mean(10 * np.log10(255**2 / error)), rel=1e-4)


def test_usage_and_perplexity_are_of_the_whole_split(evaluated):
    """Not the mean over batches, of which none uses every code that the split does."""
    images, metrics = evaluated
    indices = shades_by_hand(images)[0]
    counts = np.bincount(indices.reshape(-1), minlength=CODES)
    assert all(len(set(indices[i : i + 4].reshape(-1))) < np.sum(counts > 0) for i in (0, 4, 8))
    share = counts[counts > 0] / counts.sum()
    assert metrics["usage/codes"] == pytest.approx(np.mean(counts > 0))
    assert metrics["perplexity/codes"] == pytest.approx(np.exp(-np.sum(share * np.log(share))), rel=1e-4)


def test_the_range_is_undone_before_pictures_are_compared():
    """mse is in the units of the range; PSNR and SSIM are of the uint8 pictures whatever it is."""
    images = pictures(4)
    model = Model({}, {"codes": Codebook(jnp.linspace(-1, 1, CODES)[:, None])})
    wide = summed(AutoencodeTask(Shades(), None, {}, (-1.0, 1.0)), model, ArrayData(Arrays(images), 4, 0))
    _, made = shades_by_hand(images)
    assert wide["mse"] == pytest.approx(4 * np.mean((made - images / 255) ** 2), rel=1e-4)
    error = np.mean((np.round(made * 255) - images) ** 2.0, axis=(1, 2, 3))
    assert wide["psnr"] == pytest.approx(np.mean(10 * np.log10(255**2 / error)), rel=1e-4)


def ssim_by_hand(one, other):
    """Wang et al. 2004, window by window."""
    window = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2
    one, other, found = one.astype(float), other.astype(float), []
    for channel in range(one.shape[-1]):
        for i in range(one.shape[0] - 10):
            for j in range(one.shape[1] - 10):
                x, y = (picture[i : i + 11, j : j + 11, channel] for picture in (one, other))
                mx, my = np.sum(window * x), np.sum(window * y)
                vx, vy = np.sum(window * (x - mx) ** 2), np.sum(window * (y - my) ** 2)
                both = np.sum(window * (x - mx) * (y - my))
                top = (2 * mx * my + 2.55**2) * (2 * both + 7.65**2)
                found.append(top / ((mx**2 + my**2 + 2.55**2) * (vx + vy + 7.65**2)))
    return np.mean(found)


def test_ssim_window_by_window():
    noise = np.random.default_rng(0)
    images = pictures(2)
    others = np.clip(images + noise.normal(0, 30, images.shape), 0, 255).astype(np.uint8)
    found = measure.ssim(jnp.asarray(images), jnp.asarray(others))
    np.testing.assert_allclose(found, [ssim_by_hand(*pair) for pair in zip(images, others, strict=True)], atol=2e-4)
    np.testing.assert_allclose(measure.ssim(jnp.asarray(images), jnp.asarray(images)), 1, atol=1e-5)


def test_sharpness_pixel_by_pixel():
    """Blur takes it away, a flat picture has none."""
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 2), np.uint8)
    x = image.astype(float)
    inner = [(i, j) for i in range(1, 6) for j in range(1, 8)]
    laplacian = [x[i - 1, j] + x[i + 1, j] + x[i, j - 1] + x[i, j + 1] - 4 * x[i, j] for i, j in inner]
    found = measure.sharpness(jnp.asarray(np.stack([image, np.full_like(image, 7)])))
    np.testing.assert_allclose(found, [np.var(laplacian), 0], rtol=1e-5)


def test_flat_images_have_no_sharpness_to_compare_with():
    """Neither 3e12 nor 0; the file says null, the page a dash, as of all NaN."""
    flat = np.broadcast_to(np.array([0, 90, 255], np.uint8)[:, None, None, None], (3, 16, 16, 3))
    task = AutoencodeTask(Shades(), None, {})
    metrics = summed(task, Model({}, Shades().init_codebooks(None)), ArrayData(Arrays(flat), 4, 0))
    assert np.isnan(metrics["sharpness"]) and np.isfinite(metrics["psnr"])


def test_pictures_below_the_window_have_no_ssim():
    small = jnp.zeros((3, 8, 8, 3), jnp.uint8)
    assert np.isnan(measure.ssim(small, small)).all()


def test_psnr_of_equal_and_of_opposite_pictures():
    black = jnp.zeros((1, 16, 16, 3), jnp.uint8)
    assert float(measure.psnr(black, black)[0]) == 99
    assert float(measure.psnr(black, black + 255)[0]) == pytest.approx(0, abs=1e-4)


def test_what_measures_has_all_bits_of_float32():
    """On accelerators a convolution is TF32 or bfloat16 unless told otherwise: SSIM's variances would be rounded."""
    images = jnp.asarray(pictures(2))
    assert set(precisions(measure.ssim, images, images)) == {(EXACT, EXACT)}
    assert precisions(measure.psnr, images, images) == []


# --- loss weights


def weighed(**weights):
    return AutoencodeTask(Shades(), None, weights)


LOSSES = {"commitment/top": 2.0, "commitment/bottom": 3.0, "codebook/top": 5.0, "reconstruction": 7.0}


def test_beta_multiplies_the_commitment_and_nothing_else():
    task = weighed(commitment=0.25, codebook=1.0, reconstruction=1.0)
    assert float(task.total(LOSSES)) == 0.25 * (2 + 3) + 5 + 7


def test_a_full_name_overrides():
    task = weighed(commitment=0.25, codebook=1.0, reconstruction=10.0, **{"commitment/top": 4.0})
    assert float(task.total(LOSSES)) == 4 * 2 + 0.25 * 3 + 5 + 70


def test_a_term_needs_a_weight():
    with pytest.raises(UserError, match=r"'codebook/top' has no weight; add --config.loss_weights.codebook=1"):
        weighed(commitment=1.0, reconstruction=1.0).total(LOSSES)
    with pytest.raises(UserError, match=r"'codebook/top' has no weight"):
        weighed(commitment=1.0, reconstruction=1.0).check(LOSSES)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("comitment", ["'comitment'", "did you mean 'commitment'?", "commitment, codebook, reconstruction"]),
        ("feature", ["'feature'", "There are:"]),
        ("codebook/bottom", ["'codebook/bottom'", "'codebook", "codebook/top"]),
    ],
)
def test_a_weight_needs_a_term(name, words):
    task = weighed(commitment=1.0, codebook=1.0, reconstruction=1.0, **{name: 1.0})
    with pytest.raises(UserError) as caught:
        task.check(LOSSES)
    assert all(word in str(caught.value) for word in words), caught.value


def test_weights_that_fit_are_let_through():
    weighed(commitment=1.0, codebook=1.0, reconstruction=1.0, **{"commitment/bottom": 2.0}).check(LOSSES)


def test_levels_with_different_quantizers_have_different_terms():
    """Gradient codes have a codebook loss, EMA codes none; the top has no features to foretell."""
    autoencoder = HierarchicalVAE((VectorQuantizer(4, 8), EMAQuantizer(4, 8)), width=8)

    def losses(key, image):
        return autoencoder.init_with_output(key, image, autoencoder.init_codebooks(key))[0].losses

    terms = jax.eval_shape(losses, jax.random.key(0), jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32))
    commitments = {"commitment/top", "commitment/bottom"}
    assert set(terms) == commitments | {"codebook/top", "feature/bottom", "reconstruction"}


# --- priors


class Table(nn.Module):
    """The same logits everywhere, whatever is asked."""

    @nn.compact
    def loss(self, maps, condition, keys, *, train=False):
        (tokens,) = maps
        logits = self.param("logits", nn.initializers.normal(1.0), (*tokens.shape[1:], CODES))
        return {"nll": nll(jnp.broadcast_to(logits, (*tokens.shape, CODES)), tokens)}


def token_maps(count, seed=0):
    noise = np.random.default_rng(seed)
    return tuple(noise.integers(0, CODES, (count, side, side)).astype(np.uint8) for side in (2, 4))


def test_nll_is_the_cross_entropy_of_the_level_asked_for():
    """7 maps in batches of 3, so that the padding would be seen."""
    maps = token_maps(7)
    logits = np.random.default_rng(1).normal(size=(4, 4, CODES)).astype(np.float32)
    entropies = {"entropy": 1.5}
    task = PriorTask(Table(), slice(1, 2), None, entropies=entropies)
    metrics = summed(task, Model({"logits": jnp.asarray(logits)}, {}), ArrayData(TokenArrays(maps), 3, 0))
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    wanted = -np.mean([logs[i, j, m[i, j]] for m in maps[1] for i in range(4) for j in range(4)])
    assert metrics["nll"] == pytest.approx(wanted, rel=1e-5)
    assert metrics == {"loss": metrics["nll"], "nll": metrics["nll"], "entropy": 1.5}


def test_a_prior_is_given_the_maps_above_and_the_label():
    maps = token_maps(5)
    batch = next(ArrayData(TokenArrays(maps, np.arange(5, dtype=np.int32)), 5, 0).evaluation())
    tokens, condition = PriorTask(None, slice(1, 2), None)._read(batch)
    np.testing.assert_array_equal(*tokens, maps[1])
    np.testing.assert_array_equal(condition.coarse[0], maps[0])
    np.testing.assert_array_equal(condition.label, np.arange(5))
    tokens, condition = PriorTask(None, slice(0, 1), None)._read({"tokens": batch["tokens"]})
    assert [one.shape for one in tokens] == [(5, 2, 2)] and condition.coarse == () and condition.label is None
    assert tokens[0].dtype == np.int32


def test_of_several_captions_one_is_told_by_the_examples_key():
    """Each that says something as often as the others, and none that says nothing; without keys the first."""
    texts = np.zeros((4, 3, 2), np.int32)
    texts[0, :, 0], texts[1, 0, 0], texts[2, [0, 2], 1] = (1, 2, 3), 4, (5, 6)
    batch = {"tokens": token_maps(4), "text": jnp.asarray(texts)}
    task = PriorTask(None, slice(0, 1), None)
    told = lambda number: task._read(batch, example_keys(jax.random.key(number), jnp.arange(4)))[1].text  # noqa: E731
    drawn = np.asarray(jax.vmap(told)(jnp.arange(600))).max(-1)
    counts = [dict(zip(*np.unique(one, return_counts=True), strict=True)) for one in drawn.T]
    assert [set(one) for one in counts] == [{1, 2, 3}, {4}, {5, 6}, {0}]
    assert all(abs(n - 200) < 50 for n in counts[0].values()) and abs(counts[2][5] - 300) < 60
    np.testing.assert_array_equal(told(7), told(7))
    np.testing.assert_array_equal(task._read(batch)[1].text, texts[:, 0])


class Named(nn.Module):
    """Wrong where a map's first code is not what its text says; another term is always 8."""

    first: str  # "nll", or what it is called instead
    text: Caption | None = Caption(CODES, 1)

    def loss(self, maps, condition, keys, *, train=False):
        wrong = (maps[0][:, 0, 0] != condition.text[:, 0]).astype(jnp.float32)
        return {self.first: wrong, "text": jnp.full_like(wrong, 8)}


@pytest.mark.parametrize("first, wanted", [("nll", 1.0), ("mse", 3.0)])
def test_every_evaluation_says_what_another_text_costs(first, wanted):
    """Of 7 maps in batches of 3 each is told another's text.

    It is the nll, or the weighted sum where there is none, and no part of the loss.
    """
    numbers = np.arange(7)[:, None]
    maps = (np.broadcast_to(numbers[:, :, None], (7, 2, 2)).astype(np.uint8),)
    data = ArrayData(TokenArrays(maps, numbers=numbers.astype(np.int32)), 3, 0)
    weights = {"text": 0.25, "mse": 1.0}
    task = PriorTask(Named(first), slice(0, 1), None, loss_weights=weights)
    found = summed(task, Model({}, {}), data)
    assert found == {"loss": 2.0, first: 0.0, "text": 8.0, "with_another_text": wanted}
    untold = PriorTask(Named(first, None), slice(0, 1), None, loss_weights=weights)
    assert set(summed(untold, Model({}, {}), data)) == {"loss", first, "text"}


def test_another_text_is_that_of_any_other_image_of_the_part():
    """Of a part in the order of its classes most have a text of another class, whatever the batches."""
    classes = np.repeat(np.arange(3, dtype=np.int32), 100)[:, None]
    arrays = TokenArrays((np.zeros((300, 1, 1), np.uint8),), numbers=classes)
    every = arrays.beside(np.arange(300))
    assert sorted(every["another_text"][:, 0]) == classes[:, 0].tolist()
    assert 0.55 < np.mean(every["another_text"] != classes) < 0.8
    one_each = TokenArrays((np.zeros((300, 1, 1), np.uint8),), numbers=np.arange(300, dtype=np.int32)[:, None])
    assert (one_each.beside(np.arange(300))["another_text"][:, 0] != np.arange(300)).all()
    np.testing.assert_array_equal(arrays.beside(np.array([7]))["another_text"], every["another_text"][[7]])


def test_entropy_of_codes():
    assert entropy(np.array([[[0, 0], [0, 0]]]), 4) == 0
    assert entropy(np.array([[[0, 1], [2, 3]]]), 4) == pytest.approx(np.log(4))
    assert entropy(np.array([[[0, 1], [1, 1]]]), 4) == pytest.approx(-0.25 * np.log(0.25) - 0.75 * np.log(0.75))


def test_position_entropy_in_loops():
    seen, tokens = token_maps(30)[1] // 3, token_maps(6, seed=2)[1] // 2
    found = []
    for extra in (1, 0.3, 0.1, 0.03, 0.01):
        nll = []
        for one in tokens:
            for i in range(4):
                for j in range(4):
                    hits = sum(int(other[i, j] == one[i, j]) for other in seen)
                    nll.append(-np.log((hits + extra) / (len(seen) + CODES * extra)))
        found.append(np.mean(nll))
    assert position_entropy(tokens, seen, CODES) == pytest.approx(min(found))


def test_entropies_of_maps_of_several_sizes_are_means_over_tokens():
    """A nll is one: a map of 4x4 counts 16 times as much as one of 1x1."""
    rng = np.random.default_rng(0)
    maps = [rng.integers(0, high, (20, side, side)) for high, side in ((1, 1), (4, 2), (16, 4))]
    found = entropies(maps, maps, 16)
    for name, of in (
        ("entropy", lambda one: entropy(one, 16)),
        ("position_entropy", lambda one: position_entropy(one, one, 16)),
    ):
        each = [of(one) for one in maps for _ in range(one[0].size)]
        assert len(each) == 21 and found[name] == pytest.approx(np.mean(each))
    assert found["entropy"] > 2.2 > 1.5 > np.mean([entropy(one, 16) for one in maps])


# --- every quantizer in a training step


class Patches(nn.Module):
    """Each 4x4 patch → what the quantizer wants → the patch."""

    quantizers: tuple
    level_names: tuple = ("codes",)

    def init_codebooks(self, key):
        return {"codes": self.quantizers[0].init(key)}

    @nn.compact
    def __call__(self, images, codebooks, *, key=None, train=False):
        b, h, w, c = images.shape
        x = images.reshape(b, h // 4, 4, w // 4, 4, c).swapaxes(2, 3).reshape(b, h // 4, w // 4, -1)
        z_e = nn.Dense(self.quantizers[0].input_dim)(x)
        out = self.quantizers[0](codebooks["codes"], z_e, key=key, train=train)
        y = nn.Dense(x.shape[-1])(out.z_q)
        losses = {f"{term}/codes": value for term, value in out.losses.items()}
        losses["reconstruction"] = jnp.mean((x - y) ** 2)
        fresh = {} if out.fresh is None else {"codes": out.fresh}
        return Reconstruction(images, out.indices, losses, {"codes": out.codebook}, fresh, (y,))


@pytest.mark.parametrize(
    "case",
    ["vq-kmeans", "cvq", "cosine", "fsq", "gumbel-vectors", "residual", "residual-dropout", "lfq", "bsq", "simvq"],
)
def test_every_quantizer_learns_and_comes_back_from_a_checkpoint(case, tmp_path):
    """Tables of several depths, tables of no codes, statistics that are switches."""
    model = Patches((small(case, codebook_size=32, revive_after=3),))
    task = AutoencodeTask(
        model,
        optax.adam(1e-2),
        {"reconstruction": 1.0, "codebook": 1.0, "commitment": 0.25, "kl": 1e-3, "entropy": 0.1},
    )
    batch = {"image": pictures(8)}
    state = jax.jit(task.init)(jax.random.key(0), batch)
    step, losses = jax.jit(task.train_step), []
    for _ in range(30):
        state, metrics = step(state, batch)
        losses.append(float(metrics["reconstruction"]))
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    maps = [f"codes.{d}" for d in range(3)] if "residual" in case else ["codes"]
    assert {f"batch_usage/{name}" for name in maps} <= set(metrics)
    assert ("revived/codes" in metrics) == (case not in ("fsq", "gumbel-vectors", "lfq", "bsq", "simvq"))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(30, task.model(state), state, {})
        checkpoints.wait()
        restored = checkpoints.restore_train(jax.eval_shape(lambda: state))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored.codebooks), jax.device_get(state.codebooks))
    again, _ = step(restored, batch)
    after, _ = step(state, batch)
    jax.tree.map(np.testing.assert_array_equal, again.codebooks, after.codebooks)
