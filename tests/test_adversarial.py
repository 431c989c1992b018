"""An autoencoder against a critic: adaptive weight, phases, both players' updates; resumed, on eight devices."""

import dataclasses
import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_features import narrow
from test_train import (
    CODES,
    Autoencode,
    Patches,
    batches,
    check_on_eight_devices,
    plain,
    run_on,
    saved,
    section,
    settings,
)

from vqvae_jax import train
from vqvae_jax.autoencoders import VQVAE, HierarchicalVAE
from vqvae_jax.data.augment import normalise
from vqvae_jax.doctor import Doctor
from vqvae_jax.features import NETS
from vqvae_jax.networks.fast import conv
from vqvae_jax.quantizers.ema import EMAQuantizer
from vqvae_jax.quantizers.vq import VectorQuantizer
from vqvae_jax.tasks.adversarial import AdversarialTask, Phase, adaptive_weight, lecam
from vqvae_jax.tasks.autoencode import AutoencodeTask
from vqvae_jax.tasks.optimize import make_optimizer, trainable
from vqvae_jax.types import UserError

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / "tests/reference/vqgan_loss.npz"
RECORDING = Path(os.environ.get("CRITIC_RECORDING", HERE))  # scripts/record_critic.py makes others
WEIGHTS = {"reconstruction": 1.0, "commitment": 0.25, "codebook": 1.0, "adversarial": 0.5}
CRITIC = {"critic_width": 4, "critic_layers": 1, "critic_rate": 1e-2}
LEAD, START, STEPS = 1, 2, 6  # the critic begins after one step, pushes after two


class WithKernel(Patches):
    """And it says which kernel makes the image."""

    last_kernel = ("decode", "kernel")

    def __call__(self, images, codebooks, **how):
        out = super().__call__(images, codebooks, **how)
        b, h, w, _ = out.levels[-1].shape
        made = out.levels[-1].reshape(b, h, w, 4, 4, -1).swapaxes(2, 3).reshape(images.shape)
        return out._replace(images=made.astype(jnp.float32))


class Task(AdversarialTask):
    """Without pictures; evaluation is one number."""

    eval_step, summary, pictures = Autoencode.eval_step, Autoencode.summary, Autoencode.pictures


def adversarial(**changes):
    """Revivals, averaged weights, R1, LeCam: all that has a state."""
    optimizer = make_optimizer(section(schedule="cosine", warmup_steps=2, clip=1.0, weight_decay=0.01), STEPS)
    given = {"flip": True, "crop": 2, "ema_rate": 0.9, "start": START, "lead": LEAD, "ramp": 2, **CRITIC}
    given |= {"lecam": 0.1, "r1": 1.0, "r1_every": 2} | changes
    return Task(given.pop("autoencoder", WithKernel()), optimizer, WEIGHTS, **given)


def fit(folder, steps, task=None):
    task = task or adversarial()
    train.fit(task, batches(), batches(), folder, settings(steps), {}, seed=5)
    return saved(task, folder)


def one_step(task, state=None, phase=None):
    """(state before, after, metrics) of a step."""
    batch = jax.tree.map(jnp.asarray, batches().batch(0))
    before = state or jax.jit(task.init)(jax.random.key(0), batch)
    phase = phase or task.phase(START)
    return before, *jax.jit(task.train_step, static_argnums=3)(before, batch, None, phase)


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, plain(one), plain(other))


# --- phases


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adversarial") / "straight"
    return folder, fit(folder, STEPS)


def test_until_it_pushes_the_training_is_the_plain_one_bit_for_bit(tmp_path):
    """Before the critic begins, and while it learns alone."""
    state = fit(tmp_path / "critic", START)
    own = Autoencode(**vars(adversarial().plain))
    train.fit(own, batches(), batches(), tmp_path / "plain", settings(START), {}, seed=5)
    for name, wanted in vars(saved(own, tmp_path / "plain")).items():
        same(getattr(state, name), wanted)


def test_the_critic_moves_from_its_lead_on(tmp_path, straight):
    task = adversarial()
    fresh = jax.jit(task.init)(jax.random.key(5), jax.tree.map(jnp.asarray, batches().batch(0))).rival
    same(fit(tmp_path / "run", START - LEAD, task).rival, fresh)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), plain(straight[1].rival.params), plain(fresh.params))
    assert all(jax.tree.leaves(moved))
    assert int(straight[1].rival.opt_state[0].count) == STEPS - START + LEAD


def test_phases_are_known_before_the_step():
    task = adversarial(start=10, lead=4, r1=1.0, r1_every=5)
    found = [task.phase(step) for step in (0, 5, 6, 9, 10, 15, 16)]
    learns, pushes, flattens = zip(*found, strict=True)
    assert learns == (False, False, True, True, True, True, True)
    assert pushes == (False, False, False, False, True, True, True)
    assert flattens == (False, False, False, False, True, True, False)
    assert not any(adversarial(r1=0.0).phase(step).flattens for step in range(20))
    assert len({hash(one) for one in found}) == 4  # programs


def test_the_weight_rises():
    task = adversarial(start=10, ramp=4)
    np.testing.assert_allclose([task._share(jnp.int32(n)) for n in (10, 11, 13, 14, 99)], [0.25, 0.5, 1, 1, 1])
    assert adversarial(start=10, ramp=0)._share(jnp.int32(10)) == 1


# --- resuming, devices


def test_stopped_and_resumed_it_is_the_same_run_bit_for_bit(straight, tmp_path):
    """The critic, its moments and averages too."""
    fit(tmp_path / "run", 3)
    same(fit(tmp_path / "run", STEPS), straight[1])


def train_some(devices):
    task = adversarial()
    run = run_on(devices, task, STEPS)
    state = run.begin(jax.random.key(5), None)
    for step in range(4):
        state, metrics = run.step(state, run.place(run.data.batch(step)), run.frozen, task.phase(step))
    return plain(state), metrics


def compare_devices():
    """Eight devices equal one."""
    assert jax.device_count() == 8
    (one, seen), (eight, also_seen) = train_some(1), train_some(8)
    near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-5)
    jax.tree.map(near, (eight.params, eight.codebooks, eight.rival), (one.params, one.codebooks, one.rival))
    near(also_seen["adaptive_weight"], seen["adaptive_weight"])
    print("equal")


def test_eight_devices_equal_one():
    check_on_eight_devices("test_adversarial")


# --- the step


SMALL = VQVAE((VectorQuantizer(CODES, 8),), width=8, residual_width=4, halvings=1, residual_blocks=1)


def losses_of(task, state, images, revive, frozen, moving):
    """The parts of the loss of which the adaptive weight is a ratio, each by a forward pass of its own."""
    out = task.plain.made(moving, state.codebooks, images, revive)
    out = out._replace(losses=out.losses | task.plain.perceptual(out.images, images, frozen))
    logits = task.critic.apply({"params": state.rival.params}, out.images)
    weighted = (task.loss_weights[name] * out.losses[name] for name in PIXELS if name in out.losses)
    return out, sum(weighted), -jnp.mean(logits)


PIXELS = ("reconstruction", "perceptual")


@pytest.mark.parametrize("looks", [False, True])
def test_the_adaptive_weight_and_the_step_are_those_of_two_backward_passes(looks, monkeypatch):
    """Naively: each gradient of the last kernel by itself, then all gradients of the sum, the weight held."""
    net, frozen = narrow()
    monkeypatch.setitem(NETS, net.name, net)
    task = adversarial(autoencoder=SMALL, flip=False, crop=0, start=0, lead=0, ramp=0, lecam=0.0, r1=0.0)
    task = dataclasses.replace(task, loss_weights=WEIGHTS | ({"perceptual": 0.3} if looks else {}))
    batch = jax.tree.map(jnp.asarray, batches().batch(0))
    state = jax.jit(task.init)(jax.random.key(0), batch)
    images, revive = normalise(batch["image"], task.range), jax.random.key(1)
    seen = functools.partial(losses_of, task, state, images, revive, frozen)

    @jax.jit
    def naive(moving):
        kernel = lambda part: jax.grad(lambda m: seen(m)[part])(moving)["network"]["decoder"]["output"]["kernel"]  # noqa: E731
        weight = jnp.linalg.norm(kernel(1).ravel()) / (jnp.linalg.norm(kernel(2).ravel()) + 1e-4)

        def total(moving):
            out, _, pushing = seen(moving)
            return task.plain.total(out.losses) + 0.5 * weight * pushing

        return weight, *jax.value_and_grad(total)(moving)

    weight, total, grads = naive(trainable(state.params, state.codebooks))
    monkeypatch.setattr(AutoencodeTask, "moved", lambda self, state, grads, out, total: (grads, {"total": total}))
    found, metrics = jax.jit(lambda state: task._pushed(state, images, revive, frozen)[:2])(state)
    np.testing.assert_allclose(metrics["adaptive_weight"], weight, rtol=1e-6)
    np.testing.assert_allclose(metrics["total"], total, rtol=1e-6)
    near = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6 * float(jnp.abs(b).max()) + 1e-12)  # noqa: E731
    jax.tree.map(near, found, grads)


def test_the_adaptive_weight_is_the_recorded_one():
    """Of taming-transformers, from the features before its last convolution; and the norms that it is the ratio of."""
    with np.load(RECORDING) as file:
        recorded = dict(file)
    lay = lambda name: jnp.asarray(recorded[name].transpose(0, 2, 3, 1))  # noqa: E731
    kernel = jnp.asarray(recorded["param_autoencoder/decoder.conv_out.weight"].transpose(2, 3, 1, 0))
    bias = jnp.asarray(recorded["param_autoencoder/decoder.conv_out.bias"])[None, None, None]
    before = lay("input/before_conv_out")
    made, pull = jax.vjp(lambda k: conv(before, k, 1, ((1, 1), (1, 1))) + bias, kernel)
    np.testing.assert_allclose(made, lay("input/fake"), atol=1e-5)
    by_pixels, by_critic = (pull(lay(f"output/grad_{which}_fake"))[0] for which in ("nll", "g"))
    wanted = recorded["output/last_layer_grad_g"].transpose(2, 3, 1, 0)
    np.testing.assert_allclose(by_critic, wanted, atol=1e-5 * np.abs(wanted).max())
    found = adaptive_weight(by_pixels, by_critic, 1e4)
    np.testing.assert_allclose(found, recorded["output/adaptive_weight"], rtol=1e-5)
    total = recorded["output/nll_loss"] + recorded["output/codebook_loss"] + found * 0.8 * recorded["output/g_loss"]
    np.testing.assert_allclose(total, recorded["output/total_loss"], rtol=1e-5)


def test_it_is_clipped_and_can_be_left_out():
    one = jnp.ones((3, 3, 4, 3))
    assert adaptive_weight(one, jnp.zeros_like(one), 1e4) == 1e4
    assert adaptive_weight(one, one / 1e3, 7.0) == 7
    _, _, metrics = one_step(adversarial(adaptive=False))
    assert metrics["adaptive_weight"] == 1


def players(state):
    return trainable(state.params, state.codebooks), state.codebooks


def test_both_players_see_each_other_as_they_were_before_the_step():
    """The critic's step by itself: Adam on its loss, R1 and LeCam, written out."""
    task = adversarial(flip=False, crop=0)
    rng = np.random.default_rng(0)
    before = jax.jit(task.init)(jax.random.key(0), jax.tree.map(jnp.asarray, batches().batch(0)))
    before = before.replace(rival=before.rival.replace(means=jnp.asarray(rng.normal(size=2), jnp.float32)))
    _, after, metrics = one_step(task, before, Phase(True, True, True))
    images = normalise(jnp.asarray(batches().batch(0)["image"]), task.range)
    revive = jax.random.split(jax.random.fold_in(before.key, before.step))[1]
    make = jax.jit(lambda state: task.plain.made(*players(state), images, revive).images)
    made = make(before)
    mean_real, mean_made = before.rival.means

    def loss(params):
        judge = lambda x: task.critic.apply({"params": params}, x)  # noqa: E731
        real, fake = judge(images), judge(made)
        relu = lambda x: jnp.maximum(x, 0)  # noqa: E731
        hinge = 0.5 * jnp.mean(relu(1 - real)) + 0.5 * jnp.mean(relu(1 + fake))
        apart = jnp.mean(relu(real - mean_made) ** 2) + jnp.mean(relu(mean_real - fake) ** 2)
        slopes = jax.vmap(jax.grad(lambda x: jnp.mean(judge(x[None]))))(images)
        steep = jnp.mean(jnp.sum(slopes**2, (1, 2, 3))) / 2
        return hinge + 0.1 * apart + 1.0 * 2 * steep, (real, fake)

    grads, (real, fake) = jax.jit(jax.grad(loss, has_aux=True))(before.rival.params)
    tx = optax.adam(1e-2, 0.5, 0.9)
    updates, _ = tx.update(grads, tx.init(before.rival.params))
    wanted = optax.apply_updates(before.rival.params, updates)
    near = functools.partial(np.testing.assert_allclose, atol=2e-4)  # of steps of 1e-2
    jax.tree.map(near, after.rival.params, wanted)
    np.testing.assert_allclose(metrics["critic_grad_norm"], optax.tree.norm(grads), rtol=1e-4)
    means = 0.99 * before.rival.means + 0.01 * jnp.stack([jnp.mean(real), jnp.mean(fake)])
    np.testing.assert_allclose(after.rival.means, means, rtol=1e-5)
    right = (np.mean(np.asarray(real) > 0) + np.mean(np.asarray(fake) < 0)) / 2
    assert metrics["critic_right"] == pytest.approx(right)


def test_lecam_holds_only_what_is_apart():
    means = jnp.array([1.0, -1.0])  # of real, of made
    assert lecam(jnp.array([-1.0, -2.0]), jnp.array([1.0, 3.0]), means) == 0
    assert lecam(jnp.array([1.0]), jnp.array([-1.0]), means) == 8


def test_the_other_loss():
    """Against a critic that is sure, hinge's push stays as it is and this one's grows."""
    task = adversarial(critic_loss="non_saturating")
    push = jax.grad(task._pushing)(jnp.array([[[-10.0, 10.0]]]))[0, 0]
    assert push[0] == pytest.approx(-0.5, abs=1e-4) and abs(push[1]) < 1e-4
    _, _, metrics = one_step(task)
    assert np.isfinite(metrics["critic"]) and np.isfinite(metrics["adversarial"])


def test_in_parts_it_is_the_same_step():
    """`accumulate`: the critic sees the batch part by part, too."""
    whole, parts = (one_step(adversarial(autoencoder=SMALL, accumulate=n, r1=0.0)) for n in (1, 4))
    near = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    near(parts[2]["adaptive_weight"], whole[2]["adaptive_weight"])
    jax.tree.map(near, (parts[1].params, parts[1].rival.params), (whole[1].params, whole[1].rival.params))


def test_a_step_that_is_not_finite_moves_neither():
    task = adversarial()
    before, _, _ = one_step(task)
    broken = before.replace(rival=before.rival.replace(means=jnp.array([jnp.nan, 0.0])))
    _, after, metrics = one_step(task, broken)
    assert metrics["finite"] == 0
    same((after.params, after.rival.params), (before.params, before.rival.params))


def test_sampling_sees_no_critic(straight):
    model = adversarial().model(straight[1])
    assert set(vars(model)) == {"params", "codebooks"} and "conv0_kernel" not in str(jax.tree.structure(model))


# --- what is refused, what is said


def test_what_cannot_be(monkeypatch):
    terms = ("reconstruction", "commitment/top", "codebook/bottom")
    adversarial().check(terms, 100, 64)
    refused = {
        "start=2: the training ends after 2 steps, before it; --config.task.start=1": (adversarial(), 2, 64),
        "the critic's patch is 34 pixels wide, the images 28; --config.task.critic_layers=1": (
            adversarial(critic_layers=2),
            9,
            28,
        ),
        "16 pixels wide, the images 12; it takes 16 pixels": (adversarial(), 9, 12),
        "critic_norm=batch sees all": (adversarial(critic_norm="batch", accumulate=2), 9, 64),
    }
    for words, (task, steps, size) in refused.items():
        with pytest.raises(UserError, match=words.replace("(", r"\(")):
            task.check(terms, steps, size)
    for field, words in {
        "lead": "config.task.lead=9 is more than start=2",
        "adversaral": "did you mean 'adversarial'",
    }.items():
        task = adversarial(lead=9) if field == "lead" else AdversarialTask(WithKernel(), None, WEIGHTS | {field: 1.0})
        with pytest.raises(UserError, match=words):
            task.check(terms, 100, 64)
    for weight in (-1.0, {"begin": 0.0, "end": -0.1, "start": 0, "steps": 5}):
        with pytest.raises(UserError, match="config.loss_weights.adversarial.*0 or more"):
            AdversarialTask(WithKernel(), None, WEIGHTS | {"adversarial": weight}).check(terms)
    ema = EMAQuantizer(CODES, 8)
    choice = adversarial(autoencoder=HierarchicalVAE((ema, ema), classes=256))
    with pytest.raises(UserError, match="has no gradient; set --config.autoencoder.classes=0"):
        choice.check(terms)
    without = AdversarialTask(WithKernel(), None, dict.fromkeys(("reconstruction", "commitment", "codebook"), 1.0))
    with pytest.raises(UserError, match="add --config.loss_weights.adversarial"):
        without.check(terms)
    with pytest.raises(UserError, match="--config.task.name=adversarial"):
        AutoencodeTask(WithKernel(), None, WEIGHTS).check(terms)


def remarks(*right, **more):
    """What the doctor says of a critic that is right so often, at each of these logged steps."""
    doctor = Doctor()
    told = [doctor.remarks(50 * i, {"critic_right": x, "adversarial": 1.0} | more) for i, x in enumerate(right, 1)]
    return [(i, line) for i, lines in enumerate(told, 1) for line in lines], doctor.present()


def test_the_doctor_knows_critics():
    told, lasting = remarks(*[0.5] * 20)
    assert [i for i, _ in told] == [6] and told[0][1].startswith("the critic is at chance")
    assert "since step 50; " in told[0][1] and "--config.task.lead" in told[0][1] and len(lasting) == 1
    told, _ = remarks(*[0.99] * 20)
    assert [i for i, _ in told] == [6] and told[0][1].startswith("the critic has won, 99%")
    assert remarks(*[0.7] * 20) == ([], [])


def test_a_critic_that_learns_has_not_won_at_once():
    """From chance to strength is a usual course: what it was before does not count."""
    assert remarks(*[0.5] * 5, *[0.99] * 5) == ([], [])
    told, lasting = remarks(*[0.5] * 3, *[0.99] * 9)
    assert [i for i, _ in told] == [9] and lasting[0].since == 200


def test_while_it_learns_alone_a_critic_may_win():
    doctor = Doctor()
    assert not any(doctor.remarks(step, {"critic_right": 0.99}) for step in range(50, 1000, 50))
