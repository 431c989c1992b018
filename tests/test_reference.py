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

from vqvae_jax.autoencoders import VQVAE2, HierarchicalVAE
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


def as_uint8(images: np.ndarray, low: int = 0) -> np.ndarray:
    """Float images from `low` to 1 that were uint8 once, as training takes them."""
    span = np.float32(255 / (1 - low))
    back = np.round((images - low) * span).astype(np.uint8)
    np.testing.assert_array_equal(back.astype(np.float32) / span + low, images)
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


class VQVAE2Recording:
    """The recorded VQ-VAE-2 as ours: images [B, H, W, C] in [-1, 1], levels top, bottom."""

    def __init__(self):
        self.model = VQVAE2((EMAQuantizer(64, 16, decay=0.99, revive_after=0),) * 2, width=32, residual_width=16)
        self.recording = Recording(RECORDINGS / "rosinality_vqvae2.npz")
        self.images = self.recording["input/images"]
        self.output = {name: names.images(array) for name, array in self.recording.of("output").items()}
        self.tokens = (self.output["id_t"], self.output["id_b"])
        self.params = jax.tree.map(jnp.asarray, names.params(self.recording.of("param")))
        self.codebooks = {}
        for level, one in names.averages(self.recording.of("param")).items():
            one = jax.tree.map(jnp.asarray, one)
            stats = {"idle": jnp.zeros(64, jnp.int32), "count": one["count"], "sum": one["sum"]}
            self.codebooks[level] = Codebook(one["codes"], stats=stats)
        init = jax.eval_shape(self.model.init, jax.random.key(0), self.images, self.codebooks)["params"]
        assert jax.tree.map(jnp.shape, self.params) == jax.tree.map(jnp.shape, init)

    def forward(self):
        """Reconstruction, decoded tokens, gradients of mse + 0.25 diff, and both z_e, compiled anew."""

        def loss(params):
            out, seen = self.model.apply(
                {"params": params},
                self.images,
                self.codebooks,
                mutable="intermediates",
                capture_intermediates=lambda module, _: str(module.name).startswith("to_code_"),
            )
            z_e = [seen["intermediates"][f"to_code_{level}"]["__call__"][0] for level in self.model.level_names]
            return out.losses["reconstruction"] + 0.25 * diff(out.losses), (out, z_e)

        def compute(params):
            decoded = self.model.apply({"params": params}, self.tokens, self.codebooks, method="decode")
            return jax.value_and_grad(loss, has_aux=True)(params), decoded

        ((_, (out, z_e)), grads), decoded = jax.jit(compute)(self.params)
        return out, z_e, grads, decoded

    def same_codes(self, tokens, z_e) -> bool:
        """Whether all codes are the recorded ones; where one is not, it is a tie, or the test fails."""
        return all(
            assert_same_codes(got, want, np.asarray(z, np.float64), self.codebooks[level].codes)
            for got, want, z, level in zip(tokens, self.tokens, z_e, self.model.level_names, strict=True)
        )


def diff(losses):
    """The reference's name for the commitment of both levels."""
    return losses["commitment/top"] + losses["commitment/bottom"]


@EVERY_CONV
def test_vqvae2_codes_reconstructions_losses_and_gradients(formulation, monkeypatch):
    vae = VQVAE2Recording()
    with formulation():
        out, z_e, grads, decoded = vae.forward()
        if not vae.same_codes(out.tokens, z_e):  # what lies behind a tie is compared from the recorded codes
            look_up(monkeypatch, vae.tokens)
            out, z_e, grads, decoded = vae.forward()
    for i, (quantizer, level) in enumerate(zip(vae.model.quantizers, vae.model.level_names, strict=True)):
        np.testing.assert_array_equal(out.tokens[i], vae.tokens[i])
        looked_up = quantizer.lookup(vae.codebooks[level], (out.tokens[i],))
        assert_near(looked_up, vae.output[f"quant_{level[0]}"], OUTPUTS)
        assert_near(out.codebooks[level].codes, vae.codebooks[level].codes, 0)
    assert_near((out.images, diff(out.losses)), (vae.output["dec"], vae.output["diff"][0]), OUTPUTS)
    assert_near(decoded, vae.output["decode_code"], OUTPUTS)
    assert_near(grads, names.params(vae.recording.of("grad")), GRADIENTS)


def test_vqvae2_training_step_by_step():
    """The recorded Adam training: each step's losses, then weights and moving averages.

    In plain `lax`: the two best distances of one top vector differ by 8e-5, a tie, and in the compiled step the other
    formulations' rounding takes the other code; the weights then go another way.
    """
    vae = VQVAE2Recording()
    batches, losses = vae.recording["train/batches"], vae.recording["train/losses"]
    adam = ADAM | {"learning_rate": 3e-4, "schedule": "constant", "warmup_steps": 0}
    tx = make_optimizer(adam, len(losses))
    task = AutoencodeTask(vae.model, tx, {"reconstruction": 1.0, "commitment": 0.25}, range=(-1.0, 1.0))
    state, step = new_state(jax.random.key(0), vae.params, vae.codebooks, tx, 0.0), jax.jit(task.train_step)
    with conv.plain():
        for i, want in enumerate(losses):
            state, metrics = step(state, {"image": as_uint8(batches[i % len(batches)], low=-1)})
            got = np.array([metrics["reconstruction"], diff(metrics)])
            np.testing.assert_allclose(got, want, rtol=LOSSES, err_msg=f"step {i}")
        out, z_e, *_ = vae.forward()
    if not vae.same_codes(out.tokens, z_e):
        pytest.skip("losses agree; a tie between two codes fell the other way, so the weights went another way too")
    trained = vae.recording.of("trained")
    assert_trained(state.params, names.params(trained), names.params(vae.recording.of("param")))
    for level, want in names.averages(trained).items():
        got = state.codebooks[level]
        assert_near({"codes": got.codes, "count": got.stats["count"], "sum": got.stats["sum"]}, want, AVERAGES)
