"""Every quantizer beside other people's code: what scripts/record_quantizers.py recorded, eight training steps each.

Measured worst gap, relative to the largest recorded value: EMA 8e-7 (its averages and codes after eight steps 2e-7),
residual 4e-7 (2e-7), codes by gradient 4e-7 (the loss; all gradients are equal), cosine 5e-7, FSQ see there.
"""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_quantizers import RECORDED, below, is_row_of, near, recorded

from vqvae_jax.quantizers import QUANTIZERS, EMAQuantizer, FiniteScalarQuantizer, VectorQuantizer
from vqvae_jax.quantizers.cosine import CosineQuantizer
from vqvae_jax.quantizers.fsq import EPSILON
from vqvae_jax.quantizers.gumbel import GumbelQuantizer
from vqvae_jax.quantizers.kl import KLBottleneck
from vqvae_jax.quantizers.residual import ResidualQuantizer

STEPS, BETA, DEPTH, DEAD_RATE = 8, 0.25, 3, 3
SIZES = {"codebook_size": 32, "code_dim": 8}
EMA = EMAQuantizer(**SIZES, decay=0.8, revive_after=0)
BY_GRADIENT = {"codebook": 1.0, "commitment": BETA}
LEVELS = (8, 6, 5), (8, 5, 5, 5), (7, 5, 5, 5, 5), (4, 3, 3)


def stepped(quantizer, book, z_e, weight, weights):
    """→ what a training step gives, its weighed loss, that loss's gradients to codes and z_e, and z_q's to z_e."""

    def loss(codes, z_e):
        out = quantizer(book.replace(codes=codes), z_e, key=jax.random.key(0), train=True)
        return sum(weights[term] * value for term, value in out.losses.items()), out

    (value, out), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(book.codes, z_e)
    return out, value, *grads, jax.grad(lambda z_e: jnp.mean(quantizer(book, z_e).z_q * weight))(z_e)


def step_beside(quantizer, book, record, s, weights, passed=1.0):
    """A step, held against theirs. `passed`: how many times theirs passes the gradient of z_q on. → out, to codes"""
    at, step = below(record, f"step{s}"), jax.jit(stepped, static_argnums=0)
    out, loss, to_codes, of_loss, of_z_q = step(quantizer, book, at["z_e"], record["weight_on_z_q"], weights)
    assert_same_codes(out, at)
    near(loss, at["loss"].sum())
    near(of_loss, at["grad_z_e_of_loss"])
    near(passed * of_z_q, at["grad_z_e_of_z_q"])
    return out, to_codes


def assert_same_codes(out, at):
    np.testing.assert_array_equal(np.stack(out.indices, -1).reshape(at["indices"].shape), at["indices"])
    near(out.z_q, at["z_q"])


def averages(record, s, like):
    """Their codes, counts and sums before a step, as our codebook; of `like`, which may have several tables."""
    state = below(record, f"state{s}")
    stack = lambda name: np.stack([value for key, value in state.items() if key.endswith(name)])  # noqa: E731
    codes, count, total = (jnp.asarray(stack(name)) for name in ("embed", "cluster_size", "embed_avg"))
    if like.codes.ndim == 2:
        codes, count, total = codes[0], count[0], total[0]
    return like.replace(codes=codes, stats=like.stats | {"count": count, "sum": total})


@pytest.mark.parametrize(
    "name, quantizer, depth", [("ema", EMA, 1), ("residual", ResidualQuantizer(EMA, DEPTH), DEPTH)]
)
def test_moving_averages(name, quantizer, depth):
    """lucidrains' VectorQuantize and ResidualVQ; ours goes on from its own state, step after step.

    Our loss is the mean over depths, theirs one a depth. Theirs passes the gradient of z_q on once a depth: the
    encoder feels it three times too strongly, as the sum of codes is one vector. Ours passes it once.
    """
    record = recorded(name)
    book = averages(record, 0, quantizer.init(jax.random.key(0)))
    for s in range(STEPS):
        out, to_codes = step_beside(quantizer, book, record, s, {"commitment": BETA * depth}, depth)
        assert not np.any(to_codes)
        book, theirs = out.codebook, averages(record, s + 1, book)
        near(book.codes, theirs.codes)
        near(book.stats["count"], theirs.stats["count"])
        near(book.stats["sum"], theirs.stats["sum"])
    assert_same_codes(quantizer(book, record["eval/z_e"]), below(record, "eval"))


def test_codes_by_gradient():
    """The reference's VQ, with codes that die and are drawn anew: the same ones at the same steps, from the batch.

    Which vector of the batch is drawn differs, so each step begins with their codes; who is idle for how long is ours.
    """
    record, quantizer, revived = recorded("vq"), VectorQuantizer(**SIZES, revive_after=DEAD_RATE), 0
    book = quantizer.init(jax.random.key(0))
    for s in range(STEPS):
        np.testing.assert_array_equal(DEAD_RATE - book.stats["idle"], record[f"state{s}/usage_count"])
        book = book.replace(codes=jnp.asarray(record[f"state{s}/codes"]))
        out, to_codes = step_beside(quantizer, book, record, s, BY_GRADIENT)
        near(to_codes, record[f"step{s}/grad_codes"])
        np.testing.assert_array_equal(out.fresh, record[f"step{s}/usage_count"] == 0)
        batch = record[f"step{s}/z_e"].reshape(-1, 8)
        for codes in (out.codebook.codes, record[f"state{s + 1}/codes"]):
            assert is_row_of(np.asarray(codes)[out.fresh], batch).all()
        book, revived = out.codebook, revived + int(out.fresh.sum())
    assert revived == 19
    book = book.replace(codes=jnp.asarray(record[f"state{STEPS}/codes"]))
    assert_same_codes(quantizer(book, record["eval/z_e"]), below(record, "eval"))


@pytest.mark.parametrize("whose", ["llamagen", "enhancing_transformers"])
def test_cosine(whose):
    """LlamaGen's, and the ViT-VQGAN of enhancing-transformers, whose authors published no code.

    The second one passes the gradient of z_q to z_e as it is, though z_q is of length 1; ours and LlamaGen's pass it
    through the division by |z_e|. That is the only difference: losses, their gradients and codes are the same.
    """
    record, quantizer = recorded(f"cosine_{whose}"), CosineQuantizer(**SIZES, revive_after=0)
    weight, book = record["weight_on_z_q"], quantizer.init(jax.random.key(0))
    for s in range(STEPS):
        if whose == "enhancing_transformers":
            theirs = record[f"step{s}/grad_z_e_of_z_q"]
            near(theirs, weight / weight.size)
            record[f"step{s}/grad_z_e_of_z_q"] = divided(theirs, record[f"step{s}/z_e"])
        book = book.replace(codes=jnp.asarray(record[f"state{s}/codes"]))
        _, to_codes = step_beside(quantizer, book, record, s, BY_GRADIENT)
        near(to_codes, record[f"step{s}/grad_codes"])
    book = book.replace(codes=jnp.asarray(record[f"state{STEPS}/codes"]))
    assert_same_codes(quantizer(book, record["eval/z_e"]), below(record, "eval"))


def divided(gradient, z_e):
    """A gradient to z_e / |z_e| as one to z_e."""
    length = np.linalg.norm(z_e, axis=-1, keepdims=True)
    unit = z_e / length
    return (gradient - unit * np.sum(unit * gradient, -1, keepdims=True)) / length


# --- finite scalars


def scalars(whose, levels):
    """The recording; our quantizer's output and gradient on its input."""
    record = below(recorded(whose), "levels_" + "_".join(map(str, levels)))
    quantizer = FiniteScalarQuantizer(levels)
    book, weight = quantizer.init(jax.random.key(0)), record["weight_on_z_q"]
    gradient = jax.grad(lambda z_e: jnp.mean(quantizer(book, z_e).z_q * weight))(record["z_e"])
    return record, quantizer(book, record["z_e"]), gradient


@pytest.mark.parametrize("levels, gap", [*zip(LEVELS, (2e-5, 4e-6, 5e-7, 3e-4), strict=True)], ids=str)
def test_fsq_of_its_authors(levels, gap):
    """Codes and values are the same ones. So is the gradient of odd numbers of levels, 1e-7.

    Of an even number the shift is a tangent there and atanh here: the gradient is 2e-6 (8 levels), 1e-5 (6) and 2e-4
    (4) off.
    """
    record, out, gradient = scalars("fsq", levels)
    np.testing.assert_array_equal(out.indices[0], record["indices"])
    near(out.z_q, record["z_q"], 1e-7)
    near(gradient, record["grad_z_e_of_z_q"], gap)


@pytest.mark.parametrize("levels, elsewhere", [*zip(LEVELS, (1, 0, 3, 1), strict=True)], ids=str)
def test_fsq_of_lucidrains(levels, elsewhere):
    """It widens the interval by ε where the paper narrows it: so many of 256 codes differ, each close to a border.

    Everything is 1.001 / 0.999 as wide, and so is the gradient: but for that 2e-7 off where all levels are odd, 5e-4
    with 4 levels, whose shift is another one as well.
    """
    record, out, gradient = scalars("fsq_lucidrains", levels)
    other = np.asarray(out.indices[0]) != record["indices"]
    assert other.sum() == elsewhere
    near(out.z_q[~other], record["z_q"][~other], 1e-7)
    near(gradient * (1 + EPSILON) / (1 - EPSILON), record["grad_z_e_of_z_q"], 1e-3)
    half, odd = (np.array(levels) - 1) / 2, np.array(levels) % 2
    bounded = half * np.tanh(record["z_e"] + np.where(odd, 0, np.arctanh(0.5 / half))) - np.where(odd, 0, 0.5)
    to_border = np.abs(np.abs(bounded - np.round(bounded)) - 0.5)  # of the interval between the two
    assert (to_border[other].min(-1) <= 2 * EPSILON * half.max()).all()


@pytest.mark.parametrize("levels, places", [((8, 6, 5), 55e-6), ((4, 3, 3), 400e-6), ((7, 5, 5, 5, 5), 0.0)], ids=str)
def test_how_rarely_the_shift_decides(levels, places):
    """Of a million normal vectors so many have another code than with the paper's tangent, as the docstring says."""
    z_e = np.random.RandomState(0).standard_normal((1_000_000, len(levels))).astype(np.float32)
    half = (np.array(levels) - 1) * (1 - EPSILON) / 2
    offset = np.where(np.array(levels) % 2, 0.0, 0.5)
    theirs = np.round(half * np.tanh(z_e + np.tan(offset / half)) - offset) / (np.array(levels) // 2)
    quantizer = FiniteScalarQuantizer(levels)
    ours = jax.jit(lambda z_e: quantizer(quantizer.init(jax.random.key(0)), z_e).z_q)(z_e)
    assert np.mean((np.abs(ours - theirs) > 1e-3).any(-1)) <= places


def test_a_continuous_bottleneck_is_latent_diffusion_s(monkeypatch):
    """Mean, sample with the same noise, KL and both gradients; theirs is a sum over an image, ours a mean."""
    at = below(recorded("kl"), "step0")
    quantizer = KLBottleneck(at["mode"].shape[-1])
    book = quantizer.init(jax.random.key(0))
    mean = quantizer(book, at["z_e"])
    near(mean.z_q, at["mode"])
    near(mean.losses["kl"], at["kl"].mean() / np.prod(at["mode"].shape[1:]))
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: jnp.asarray(at["noise"]))
    step = lambda z_e: quantizer(book, z_e, key=jax.random.key(0), train=True)  # noqa: E731
    near(step(at["z_e"]).z_q, at["z_q"])
    near(jax.grad(lambda z_e: jnp.mean(step(z_e).z_q * at["weight_on_z_q"]))(at["z_e"]), at["grad_z_e_of_z_q"])
    size = np.prod(at["mode"].shape[1:])
    near(jax.grad(lambda z_e: step(z_e).losses["kl"] * size)(at["z_e"]), at["grad_z_e_of_loss"])


@pytest.mark.parametrize("name", ["soft", "hard"])
def test_drawn_codes_are_taming_s(name, monkeypatch):
    """A sample by the same noise, its KL, and all gradients; theirs draws in evaluation too, ours does not."""
    at = below(recorded("gumbel"), name)
    size, code_dim = at["codes"].shape
    quantizer = GumbelQuantizer(
        size, code_dim, (float(at["temperature"]),) * 2, straight_through=name == "hard", vector_dim=at["z_e"].shape[-1]
    )
    params = {"kernel": jnp.asarray(at["proj/weight"][:, :, 0, 0].T), "bias": jnp.asarray(at["proj/bias"])}
    book = quantizer.init(jax.random.key(0)).replace(codes=jnp.asarray(at["codes"]), params=params)
    monkeypatch.setattr(jax.random, "gumbel", lambda key, shape: jnp.asarray(at["noise"]))

    def weighed(z_e, codes, kernel):
        changed = book.replace(codes=codes, params=params | {"kernel": kernel})
        out = quantizer(changed, z_e, key=jax.random.key(0), train=True)
        return jnp.mean(out.z_q * at["weight_on_z_q"]), out

    grads, out = jax.jit(jax.grad(weighed, (0, 1, 2), has_aux=True))(at["z_e"], book.codes, params["kernel"])
    near(out.z_q, at["z_q"])
    near(out.losses["kl"], at["loss"])
    wanted = at["grad_z_e_of_z_q"], at["grad_codes"], at["grad_proj"][:, :, 0, 0].T
    for ours, theirs in zip(grads, wanted, strict=True):
        near(ours, theirs)
    near(jax.grad(lambda z_e: quantizer(book, z_e).losses["kl"])(at["z_e"]), at["grad_z_e_of_loss"])
    liked = np.argmax(np.asarray(quantizer.logits(book, at["z_e"])) + at["noise"], -1)
    np.testing.assert_array_equal(liked, at["indices"])


def test_each_quantizer_is_recorded():
    """One that comes later is to be held against somebody's code too; see test_cvq.py, test_multiscale.py."""
    found = {path.stem.split("_")[0] for path in RECORDED.glob("*.npz")} | {"cvq", "multiscale"}
    assert found == set(QUANTIZERS)


@pytest.mark.parametrize("whose", ["ema", "vq", "fsq"])
def test_the_script_says_what_is_missing(whose, tmp_path):
    script = Path(__file__).parents[2] / "scripts" / "record_quantizers.py"
    command = [sys.executable, str(script), whose, f"--path={tmp_path}", f"--output={tmp_path / 'out.npz'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"error: {whose} from --path={tmp_path}: ") and not (tmp_path / "out.npz").exists()
