"""Our models beside recordings of PyTorch ones: outputs, losses, gradients, trainings step by step.

The recordings in tests/reference come from https://github.com/unixpickle/vq-vae-2, and for the EMA codebooks from
https://github.com/rosinality/vq-vae-2-pytorch. Three whole priors are too large to lie there: pytest --reference=DIR.

Float32 sums in another order are all that may differ. Convolutions are tried as they run on CPU and as elsewhere.
"""

import contextlib
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference_names as names
from jax import lax

from vqvae_jax.autoencoders import HierarchicalVAE
from vqvae_jax.networks import conv
from vqvae_jax.priors import BottomPrior, MNISTGenerator, TopPrior
from vqvae_jax.priors.layers import PixelAttention, PixelConvA, PixelConvB
from vqvae_jax.priors.pixelcnn import PixelCNN
from vqvae_jax.quantizers import EMAQuantizer, VectorQuantizer
from vqvae_jax.quantizers import codebook as cb
from vqvae_jax.tasks.autoencode import AutoencodeTask
from vqvae_jax.tasks.optimize import make_optimizer, new_state, trainable
from vqvae_jax.types import Codebook, Condition

RECORDINGS = Path(__file__).parent / "reference"
OUTPUTS, GRADIENTS, LOSSES = 1e-4, 1e-3, 1e-3  # relative to the largest absolute value of each tensor
TRAINED = 0.05  # relative to how far the tensor moved: Adam amplifies rounding where gradients are almost 0
AVERAGES = 1e-3  # of codebooks, at the end of a training; relative to the largest
TIE = 1e-4  # of the two best squared distances: closer than that, either code is right
ADAM = {"learning_rate": 1e-3, "b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "clip": 0.0}
WEIGHTS = {"reconstruction": 1.0, "feature": 1.0, "codebook": 1.0, "commitment": 0.25}

EVERY_CONV = pytest.mark.parametrize("formulation", [contextlib.nullcontext, conv.plain], ids=["fast", "plain"])
VAES = {
    "mnist_vae": HierarchicalVAE((VectorQuantizer(32, 16),), levels=1, width=16, channels=1),
    "hierarchical_vae": HierarchicalVAE((VectorQuantizer(64, 32),) * 2, levels=2, width=32),
}
EVERY_VAE = pytest.mark.parametrize("name", VAES)


# --- comparing


class Recording:
    """One .npz: `of("grad")` is everything below "grad/", by its PyTorch name."""

    def __init__(self, path: Path):
        with np.load(path) as file:
            self.arrays = dict(file)

    def __getitem__(self, key: str) -> np.ndarray:
        return names.images(self.arrays[key])

    def of(self, section: str) -> dict[str, np.ndarray]:
        start = section + "/"
        return {key.removeprefix(start): value for key, value in self.arrays.items() if key.startswith(start)}

    def several(self, section: str) -> list[np.ndarray]:
        """section/0, section/1, …"""
        return [self[f"{section}/{i}"] for i in range(len(self.of(section)))]


def assert_near(got, want, tolerance):
    """Each leaf within `tolerance` times the largest absolute value of the recorded one; same shapes."""
    got, want = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (got, want))
    assert got.keys() == want.keys()
    for path in want:
        where = jax.tree_util.keystr(path)
        assert got[path].shape == want[path].shape, where
        error, largest = np.max(np.abs(got[path] - want[path])), np.max(np.abs(want[path]))
        assert error <= tolerance * largest, f"{where}: off by {error / largest:.1e} of the largest, {largest:.1e}"


def assert_trained(got, want, before):
    """Each leaf as far from the recorded end as 5 % of the way there, at most."""
    got, want, before = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (got, want, before))
    assert got.keys() == want.keys() == before.keys()
    for path in want:
        off, way = np.linalg.norm(got[path] - want[path]), np.linalg.norm(want[path] - before[path])
        assert off <= TRAINED * way, f"{jax.tree_util.keystr(path)}: {off / way:.1%} of the way off"


def assert_same_codes(got, want, z_e, codes) -> bool:
    """Indices may differ at ties; whether all are the same. int [B, h, w] twice, [B, h, w, D], [K, D]."""
    got, codes = np.asarray(got), np.asarray(codes, np.float64)
    for where in zip(*np.nonzero(got != want), strict=True):
        distances = np.sum(np.square(z_e[where] - codes), axis=-1)  # [K]
        gap = distances[got[where]] - distances[want[where]]
        assert abs(gap) < TIE * distances.min(), f"at {where}: code {got[where]} for {want[where]}, no tie"
    return np.array_equal(got, want)


def look_up(monkeypatch, recorded):
    """From now on the nearest codes are the recorded ones: one map a call, and again from the first."""
    maps = itertools.cycle([jnp.asarray(one, jnp.int32) for one in recorded])
    monkeypatch.setattr(cb, "nearest", lambda z_e, codes: next(maps))


# --- autoencoders: recorded bottom to top, ours top to bottom


class VAE:
    """A recorded autoencoder as ours: `at("param")` are its parameters and codes, as the optimizer sees them."""

    def __init__(self, name: str):
        self.model, self.recording = VAES[name], Recording(RECORDINGS / f"{name}.npz")
        self.images = self.recording["input/images"]
        self.codebooks = {
            level: Codebook(jnp.asarray(codes), stats={"idle": jnp.zeros(len(codes), jnp.int32)})
            for level, codes in self.codes("param").items()
        }
        self.params = jax.tree.map(jnp.asarray, names.params(self.recording.of("param")))
        init = jax.eval_shape(self.model.init, jax.random.key(0), self.images, self.codebooks)["params"]
        assert jax.tree.map(jnp.shape, self.params) == jax.tree.map(jnp.shape, init)

    def codes(self, section: str, what: str = "dictionary"):
        return names.codes(self.recording.of(section), self.model.level_names, what)

    def at(self, section: str):
        return {
            "network": names.params(self.recording.of(section)),
            "codes": {level: (codes, {}) for level, codes in self.codes(section).items()},
        }

    def top_down(self, section: str) -> list[np.ndarray]:
        return self.recording.several(f"output/{section}")[::-1]

    def jit(self, method=None):
        """The model, or a function of it as a module, compiled anew."""
        return jax.jit(lambda *args: self.model.apply({"params": self.params}, *args, method=method))

    def train(self, tx: optax.GradientTransformation):
        """The state before the first step, and the compiled step."""
        task = AutoencodeTask(self.model, tx, WEIGHTS)
        state = new_state(jax.random.key(0), self.params, self.codebooks, tx, 0.0)
        return state, jax.jit(task.train_step)


def as_uint8(images: np.ndarray) -> np.ndarray:
    """Float images that were uint8 once, as training takes them."""
    back = np.round(images * 255).astype(np.uint8)
    np.testing.assert_array_equal(back.astype(np.float32) / np.float32(255), images)
    return back


@EVERY_CONV
@EVERY_VAE
def test_encodings_and_codes(name, formulation):
    vae = VAE(name)
    with formulation():
        encode = vae.jit(lambda model, images, books: (model.features(images), model.encode(images, books)))
        features, tokens = encode(vae.images, vae.codebooks)
    assert_near(features, vae.top_down("z_e"), OUTPUTS)
    for i, (quantizer, level) in enumerate(zip(vae.model.quantizers, vae.model.level_names, strict=True)):
        codebook = vae.codebooks[level]
        z_e, z_q, indices = (vae.top_down(what)[i] for what in ("z_e", "z_q", "indices"))
        assert_same_codes(tokens[i], indices, z_e, codebook.codes)
        out = quantizer(codebook, z_e)  # from the recorded encoding
        if assert_same_codes(out.indices[0], indices, z_e, codebook.codes):
            assert_near(out.z_q, z_q, OUTPUTS)
        assert_near(quantizer.lookup(codebook, (indices,)), z_q, OUTPUTS)


@EVERY_CONV
@EVERY_VAE
def test_reconstructions_losses_and_gradients(name, formulation, monkeypatch):
    vae = VAE(name)
    keeping_gradients = optax.trace(decay=0.0)
    with formulation():
        out = vae.jit()(vae.images, vae.codebooks)
        if not all(map(np.array_equal, out.tokens, vae.top_down("indices"))):  # ties, or the test above fails
            look_up(monkeypatch, vae.top_down("indices"))
            out = vae.jit()(vae.images, vae.codebooks)
        state, step = vae.train(keeping_gradients)
        state, metrics = step(state, {"image": as_uint8(vae.images)})
    output = vae.recording.of("output")
    assert_near(list(out.levels), vae.recording.several("output/reconstructions"), OUTPUTS)
    assert_near(out.images, vae.recording.several("output/reconstructions")[-1], OUTPUTS)
    assert_near(decoder_losses(out.losses), [output[f"losses/{i}"] for i in range(vae.model.levels)], OUTPUTS)
    assert_near(metrics["loss"], output["loss"], OUTPUTS)
    assert_near(state.opt_state.trace, vae.at("grad"), GRADIENTS)


def decoder_losses(losses) -> list[jax.Array]:
    """One a decoder, top to bottom: those of features, then that of the image."""
    return [value for term, value in losses.items() if term.startswith("feature/")] + [losses["reconstruction"]]


@EVERY_CONV
@EVERY_VAE
def test_reconstructions_from_the_top_down(name, formulation):
    """From the top codes alone, the top two, …, all; lower ones are filled in."""
    vae = VAE(name)
    tokens = [jnp.asarray(one, jnp.int32) for one in vae.top_down("indices")]
    with formulation():
        decode = vae.jit(lambda model, books: [model.decode(tokens[: i + 1], books) for i in range(len(tokens))])
        got = decode(vae.codebooks)
    assert_near(got, vae.recording.several("output/full_reconstructions"), OUTPUTS)


@EVERY_VAE
def test_training_step_by_step(name):
    """The recorded Adam training: each step's losses, then weights, codes and their use."""
    vae = VAE(name)
    batches, losses = vae.recording["train/batches"], vae.recording["train/losses"]
    state, step = vae.train(make_optimizer(ADAM | {"schedule": "constant", "warmup_steps": 0}, len(losses)))
    for i, want in enumerate(losses):
        state, metrics = step(state, {"image": as_uint8(batches[i % len(batches)])})
        got = np.array([metrics["loss"], *decoder_losses(metrics)])
        np.testing.assert_allclose(got, want, rtol=LOSSES, err_msg=f"step {i}")
    assert_trained(trainable(state.params, state.codebooks), vae.at("trained"), vae.at("param"))
    for level, usage_count in vae.codes("trained", "usage_count").items():
        differs = state.codebooks[level].stats["idle"] != 100 - usage_count
        assert np.sum(differs) <= 1, level  # a tie on the way may be seen at one code


# --- the layers of the PixelCNN, and its priors


def assert_parity(module, recording: Recording, *inputs):
    """Outputs, and gradients of Σ output · cotangent with respect to every parameter."""
    params = names.params(recording.of("param"))
    init = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, init)

    @jax.jit
    def both(params, cotangents):
        outputs, pull = jax.vjp(lambda p: jax.tree.leaves(module.apply({"params": p}, *inputs)), params)
        return outputs, pull(cotangents)[0]

    outputs, grads = both(params, recording.several("cotangent"))
    assert_near(outputs, recording.several("output"), OUTPUTS)
    assert_near(grads, names.params(recording.of("grad")), GRADIENTS)


STACKS = {
    "pixel_conv_a": PixelConvA(3, 5),
    "pixel_cnn_vector_condition": PixelCNN(
        (
            PixelConvA(3, 8, 6),
            PixelConvB(8, 6, norm=True, horizontal=2, vertical=3),
            PixelAttention(8, heads=2),
            PixelConvB(8, 6, horizontal=3, vertical=1),
        )
    ),
    "pixel_cnn_spatial_condition": PixelCNN(
        (PixelConvA(3, 8, 6), PixelConvB(8, 6, norm=True), PixelAttention(8, heads=4))
    ),
}
PRIORS = {
    "mnist_generator": MNISTGenerator(32, (7, 7)),
    "top_prior": TopPrior(512, (8, 8), depth=32),
    "bottom_prior": BottomPrior(512, (16, 16), coarse_sizes=(512,), depth=32),
}


@EVERY_CONV
@pytest.mark.parametrize("name", STACKS)
def test_pixelcnn(name, formulation):
    recording = Recording(RECORDINGS / f"{name}.npz")
    with formulation():
        assert_parity(STACKS[name], recording, *recording.several("input"))


@pytest.mark.parametrize("name", PRIORS)
def test_whole_prior(name, pytestconfig):
    folder = pytestconfig.getoption("--reference")
    if folder is None:
        pytest.skip(f"{name}.npz is too large for this repository; pytest --reference=DIR says where it lies")
    recording = Recording(folder / f"{name}.npz")
    tokens, *coarse = (jnp.asarray(one, jnp.int32) for one in recording.of("input").values())
    assert_parity(PRIORS[name], recording, tokens, Condition(coarse=tuple(coarse)))


# --- codebooks as moving averages: the paper's VQ-VAE-2, https://github.com/rosinality/vq-vae-2-pytorch


EMA = EMAQuantizer(64, 16, decay=0.99, revive_after=0)


def rosinality(params, codebooks, images, train=False, seen=None):
    """Its forward in plain functions, NCHW, around our quantizer: image [B, 3, H, W], {"t", "b"} quantized, diff.

    `seen`, a dict, gets the encodings: outside of jit.
    """
    relu = jax.nn.relu

    def bias(name):
        return params[f"{name}.bias"][None, :, None, None]

    def conv2d(name, x, stride=1):
        kernel = params[f"{name}.weight"]
        side = (kernel.shape[-1] - 1) // 2
        return lax.conv_general_dilated(x, kernel, (stride, stride), [(side, side)] * 2) + bias(name)

    def doubled(name, x):  # transposed convolution 4x4, stride 2, padding 1
        kernel = params[f"{name}.weight"][:, :, ::-1, ::-1].swapaxes(0, 1)
        return lax.conv_general_dilated(x, kernel, (1, 1), [(2, 2)] * 2, lhs_dilation=(2, 2)) + bias(name)

    def residuals(name, x, first):
        for i in (first, first + 1):
            x = x + conv2d(f"{name}.{i}.conv.3", relu(conv2d(f"{name}.{i}.conv.1", relu(x))))
        return relu(x)

    def quantize(level, x):
        z_e = jnp.moveaxis(conv2d(f"quantize_conv_{level}", x), 1, -1)
        if seen is not None:
            seen[level] = z_e
        coded[level] = EMA(codebooks[level], z_e, key=jax.random.key(0), train=train)
        return jnp.moveaxis(coded[level].z_q, -1, 1)

    coded = {}
    x = relu(conv2d("enc_b.blocks.0", images, 2))
    x = conv2d("enc_b.blocks.4", relu(conv2d("enc_b.blocks.2", x, 2)))
    bottom = residuals("enc_b.blocks", x, 5)
    x = conv2d("enc_t.blocks.2", relu(conv2d("enc_t.blocks.0", bottom, 2)))
    top = quantize("t", residuals("enc_t.blocks", x, 3))
    x = doubled("dec_t.blocks.4", residuals("dec_t.blocks", conv2d("dec_t.blocks.0", top), 1))
    bottom = quantize("b", jnp.concatenate([x, bottom], axis=1))
    x = jnp.concatenate([doubled("upsample_t", top), bottom], axis=1)
    x = doubled("dec.blocks.4", residuals("dec.blocks", conv2d("dec.blocks.0", x), 1))
    return doubled("dec.blocks.6", relu(x)), coded, sum(one.losses["commitment"] for one in coded.values())


def rosinality_loss(params, codebooks, images, train=False):
    image, coded, diff = rosinality(params, codebooks, images, train)
    mse = jnp.mean(jnp.square(image - images))
    return mse + 0.25 * diff, (image, coded, mse, diff)


def ema_state(arrays) -> tuple[dict, dict[str, Codebook]]:
    """Its parameters, and its buffers as our codebooks: [D, K] there, [K, D] here."""
    params = {name: array for name, array in arrays.items() if not name.startswith(("quantize_t.", "quantize_b."))}
    codebooks = {}
    for level in ("t", "b"):
        embed, count, total = (arrays[f"quantize_{level}.{one}"] for one in ("embed", "cluster_size", "embed_avg"))
        stats = {"idle": np.zeros(len(count), np.int32), "count": count, "sum": total.T}
        codebooks[level] = Codebook(embed.T, stats=stats)
    return params, codebooks


def same_ema_codes() -> bool:
    """Whether all codes are the recorded ones; where one is not, it is a tie, or the test fails."""
    recording = Recording(RECORDINGS / "rosinality_vqvae2.npz")
    params, codebooks = ema_state(recording.of("param"))
    seen: dict = {}
    coded = rosinality(params, codebooks, recording.arrays["input/images"], seen=seen)[1]
    want = {level: recording.of("output")[f"id_{level}"] for level in coded}
    return all(
        assert_same_codes(
            coded[level].indices[0], want[level], np.asarray(seen[level], np.float64), codebooks[level].codes
        )
        for level in ("t", "b")
    )


def test_ema_codes_losses_and_gradients(monkeypatch):
    recording = Recording(RECORDINGS / "rosinality_vqvae2.npz")
    want, images = recording.of("output"), recording.arrays["input/images"]
    params, codebooks = ema_state(recording.of("param"))
    if not same_ema_codes():  # what lies behind a tie is compared from the recorded codes
        look_up(monkeypatch, [want["id_t"], want["id_b"]])
    value_and_grad = jax.jit(jax.value_and_grad(rosinality_loss, has_aux=True))
    (_, (image, coded, _, diff)), grads = value_and_grad(params, codebooks, images)
    for level in ("t", "b"):
        np.testing.assert_array_equal(coded[level].indices[0], want[f"id_{level}"])
        assert_near(np.moveaxis(coded[level].z_q, -1, 1), want[f"quant_{level}"], OUTPUTS)
        assert_near(coded[level].codebook.codes, codebooks[level].codes, 0)
    assert_near((image, diff), (want["dec"], want["diff"][0]), OUTPUTS)
    assert_near(grads, recording.of("grad"), GRADIENTS)


def test_ema_training_step_by_step():
    """The recorded Adam training: each step's losses, then weights and moving averages."""
    recording = Recording(RECORDINGS / "rosinality_vqvae2.npz")
    before, codebooks = ema_state(recording.of("param"))
    tx = optax.adam(3e-4)

    @jax.jit
    def step(params, codebooks, moments, images):
        (_, (_, coded, mse, diff)), grads = jax.value_and_grad(rosinality_loss, has_aux=True)(
            params, codebooks, images, train=True
        )
        updates, moments = tx.update(grads, moments)
        return optax.apply_updates(params, updates), {k: q.codebook for k, q in coded.items()}, moments, (mse, diff)

    params, moments = before, tx.init(before)
    batches = recording.arrays["train/batches"]
    for i, want in enumerate(recording["train/losses"]):
        params, codebooks, moments, losses = step(params, codebooks, moments, batches[i % len(batches)])
        np.testing.assert_allclose(losses, want, rtol=LOSSES, err_msg=f"step {i}")
    if not same_ema_codes():
        pytest.skip("losses agree; a tie between two codes fell the other way, so the weights went another way too")
    trained, averages = ema_state(recording.of("trained"))
    assert_trained(params, trained, before)
    for level in ("t", "b"):
        got, want = codebooks[level], averages[level]
        for name in ("count", "sum"):
            assert_near(got.stats[name], want.stats[name], AVERAGES)
        assert_near(got.codes, want.codes, AVERAGES)
