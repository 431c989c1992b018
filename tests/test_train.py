"""The loop and the update: resumed equals uninterrupted, eight devices equal one, signals lose nothing.

The model is the smallest that has two levels, one with each kind of codebook: patches through one matrix and back.
"""

import contextlib
import functools
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_priors import PIXELCNN, TRANSFORMER, made

import launch
from vqvae_jax import backend, train
from vqvae_jax import data as datasets
from vqvae_jax.checkpoint import Checkpoints
from vqvae_jax.data.token_arrays import TokenArrays
from vqvae_jax.logs import Log, read_metrics
from vqvae_jax.networks import fast
from vqvae_jax.networks.conv import Conv
from vqvae_jax.networks.likelihood import nll
from vqvae_jax.quantizers.ema import EMAQuantizer
from vqvae_jax.quantizers.vq import VectorQuantizer
from vqvae_jax.tasks.autoencode import AutoencodeTask
from vqvae_jax.tasks.optimize import apply_gradients, make_optimizer, make_schedule, new_state, trainable
from vqvae_jax.tasks.prior import PriorTask
from vqvae_jax.types import Codebook, Reconstruction, UserError

ROOT = Path(__file__).resolve().parent.parent
CODES = 12


class Patches(nn.Module):
    """Each 4x4 patch → 8 numbers → a code of each of two codebooks → the patch."""

    quantizers: tuple = (EMAQuantizer(CODES, 8, 0.9, 2), VectorQuantizer(CODES, 8, 2))
    level_names: tuple = ("top", "bottom")
    dtype: jnp.dtype = jnp.float32

    def init_codebooks(self, key):
        return {name: q.init(key) for name, q in zip(self.level_names, self.quantizers, strict=True)}

    @nn.compact
    def __call__(self, images, codebooks, *, key=None, train=False):
        b, height, width, c = images.shape
        x = images.reshape(b, height // 4, 4, width // 4, 4, c).swapaxes(2, 3).reshape(b, height // 4, width // 4, -1)
        x = x.astype(self.dtype)
        z_e = Conv(8, 1, dtype=self.dtype, name="encode")(x)
        top = self.quantizers[0](codebooks["top"], z_e, key=key, train=train)
        bottom = self.quantizers[1](codebooks["bottom"], z_e - top.z_q, key=key, train=train)
        out = Conv(x.shape[-1], 1, dtype=self.dtype, name="decode")(top.z_q + bottom.z_q)
        coded = {"top": top, "bottom": bottom}
        losses = {f"{term}/{name}": value for name, q in coded.items() for term, value in q.losses.items()}
        losses["reconstruction"] = jnp.mean(jnp.square(out.astype(jnp.float32) - x.astype(jnp.float32)))
        return Reconstruction(
            images,
            top.indices + bottom.indices,
            losses,
            {name: q.codebook for name, q in coded.items()},
            {name: q.fresh for name, q in coded.items() if q.fresh is not None},
            (out,),
        )


class Autoencode(AutoencodeTask):
    """Without pictures; evaluation is one number."""

    def eval_step(self, model, batch):
        return {"loss": jnp.sum(model.codebooks["top"].codes)}

    def summary(self, sums):
        return {"loss": float(sums["loss"])}

    def pictures(self, model, batch, key):
        return {}


class Words(nn.Module):
    """A prior that forgets all but the token itself, and half of that."""

    @nn.compact
    def loss(self, maps, condition, keys, *, train=False):
        x = nn.Embed(CODES, 16)(maps[0])
        return {"nll": nll(nn.Dense(CODES)(nn.Dropout(0.5, deterministic=not train)(x)), maps[0])}


def section(**changes):
    """A config's section `optimizer`."""
    plain = {"learning_rate": 0.01, "schedule": "constant", "warmup_steps": 0, "clip": 0.0, "weight_decay": 0.0}
    return plain | {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "ema_rate": 0.0} | changes


def autoencode(**changes):
    """Flips, shifts, clipping, decay, averaged weights, revivals: all that has a state or a key."""
    optimizer = make_optimizer(section(schedule="cosine", warmup_steps=2, clip=1.0, weight_decay=0.01), 6)
    weights = {"reconstruction": 1.0, "commitment": 0.25, "codebook": 1.0}
    given = {"flip": True, "crop": 2, "ema_rate": 0.9} | changes
    return Autoencode(given.pop("autoencoder", Patches()), optimizer, weights, **given)


@functools.cache
def images(count=64):
    noise = np.random.default_rng(0)
    coarse = noise.integers(0, 256, (count, 4, 4, 3), np.uint8)
    return datasets.Arrays(coarse.repeat(4, axis=1).repeat(4, axis=2), noise.integers(0, 3, count).astype(np.int32))


def batches(arrays=None):
    return datasets.ArrayData(images() if arrays is None else arrays, 16, seed=0)


def settings(steps, every=3):
    cadences = ("log_every", "evaluate_every", "checkpoint_every", "pictures_every")
    return {"batch_size": 16, "steps": steps, "keep": 2} | dict.fromkeys(cadences, every)


def fit(task, folder, steps, data=None, every=3):
    data = data or batches()
    train.fit(task, data, data, folder, settings(steps, every), {"any": "config"}, seed=5)


def saved(task, folder, data=None):
    """The last train state of a folder."""
    data = data or batches()
    with Checkpoints(folder / "checkpoints") as checkpoints:
        return train.Run(task, data, data, settings(6)).begin(jax.random.key(5), checkpoints)


def plain(tree):
    """Keys as the numbers in them."""
    is_key = lambda x: jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda x: np.asarray(jax.random.key_data(x) if is_key(x) else x), tree)


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, plain(one), plain(other))


# --- resumed equals uninterrupted


def test_a_resumed_training_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    """Parameters, codes, idle steps, EMA sums, moments, averaged weights, step and key."""
    task = autoencode()
    fit(task, tmp_path / "straight", 6)
    fit(task, tmp_path / "halves", 3)
    fit(task, tmp_path / "halves", 6)
    straight, halves = saved(task, tmp_path / "straight"), saved(task, tmp_path / "halves")
    same(straight, halves)
    assert int(halves.step) == 6 and halves.ema_params is not None and set(halves.codebooks) == {"top", "bottom"}
    lines = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("straight", "halves")]
    numbers = [[{k: v for k, v in line.items() if k != "time"} for line in part] for part in lines]
    assert numbers[0] == numbers[1]
    revived = [line for line in lines[0] if "train/loss" in line]
    assert all(sum(line[f"train/revived/{level}"] for line in revived) > 0 for level in ("top", "bottom"))


def test_a_resumed_prior_drops_the_same_units(tmp_path):
    noise = np.random.default_rng(0)
    data = batches(TokenArrays((noise.integers(0, CODES, (40, 4, 4)),)))
    task = PriorTask(Words(), slice(0, 1), make_optimizer(section(), 6), ema_rate=0.9)
    fit(task, tmp_path / "straight", 4, data)
    fit(task, tmp_path / "halves", 2, data)
    fit(task, tmp_path / "halves", 4, data)
    same(saved(task, tmp_path / "straight", data), saved(task, tmp_path / "halves", data))


class Killed(Exception):
    """As kill -9 would: nothing is tidied up."""


def test_the_log_of_a_killed_training_is_the_uninterrupted_one(tmp_path, monkeypatch):
    """Line for line, killed just before a checkpoint was there or just behind it."""
    save, kills = Checkpoints.save, []

    def killed(self, step, *rest):
        if (step, "before") in kills:
            raise Killed
        save(self, step, *rest)
        self.wait()
        if (step, "behind") in kills:
            raise Killed

    def log(name, *kill):
        kills[:] = kill
        every = {"log_every": 2, "evaluate_every": 3, "checkpoint_every": 1}
        with contextlib.suppress(Killed):
            train.fit(task, batches(), batches(), tmp_path / name, settings(7) | every, {}, seed=5)
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        return [re.sub(r'"time": [0-9.]+, ', "", line) for line in lines]

    def until(step):
        return [line for line in straight if json.loads(line)["step"] <= step]

    task = autoencode()
    monkeypatch.setattr(Checkpoints, "save", killed)
    straight = log("straight")
    assert [json.loads(line)["step"] for line in straight] == [2, 3, 4, 6, 6, 7, 7]
    for step, where in [(2, "behind"), (3, "before"), (3, "behind"), (6, "behind"), (7, "before"), (7, "behind")]:
        assert log("killed", (step, where)) == until(step)
    assert log("killed") == straight


def test_a_damaged_earlier_step_is_told_before_the_training(tmp_path, monkeypatch):
    """Orbax chooses by its loss what stays; the first save would have been too late."""
    task = autoencode()
    fit(task, tmp_path / "top", 2, every=1)
    (tmp_path / "top/checkpoints/1/_CHECKPOINT_METADATA").write_text("{}")
    monkeypatch.setattr(train, "Run", None)
    with pytest.raises(UserError, match=r"/1 is damaged: .*; without it step 2 is the last one: mv .*/1 .*/1.damaged$"):
        fit(task, tmp_path / "top", 3)


def test_what_is_finished_is_left_alone(tmp_path):
    class Never(AutoencodeTask):
        def init(self, key, batch):
            raise AssertionError("nothing is to be trained")

    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(6, {"a": jnp.ones(1)}, {"a": jnp.ones(1)}, {})
    fit(Never(None, None, {}), tmp_path, 6)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


# --- devices


def run_on(devices, task, steps):
    """A training on the first so many devices."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]), ("data",))
    make_mesh, train.make_mesh = train.make_mesh, lambda batch_size: mesh
    try:
        return train.Run(task, batches(), batches(), settings(steps))
    finally:
        train.make_mesh = make_mesh


def train_some(devices, steps=5):
    """The state after some steps on so many devices, and how many codes were revived in each."""
    run = run_on(devices, autoencode(), steps)
    state, revived = run.begin(jax.random.key(5), None), []
    for step in range(steps):
        state, metrics = run.step(state, run.place(run.data.batch(step)))
        revived.append({name: float(value) for name, value in metrics.items() if name.startswith("revived")})
    assert len(state.params["encode"]["kernel"].sharding.device_set) == devices
    return plain(state), revived


def compare_devices():
    """Eight devices equal one: the same codes die and are revived by the same vectors."""
    assert jax.device_count() == 8
    (one, revived), (eight, also_revived) = train_some(1), train_some(8)
    assert revived == also_revived and sum(sum(step.values()) for step in revived) > CODES
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-6), eight.codebooks, one.codebooks)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-5), eight.params, one.params)
    for level in ("top", "bottom"):
        np.testing.assert_array_equal(eight.codebooks[level].stats["idle"], one.codebooks[level].stats["idle"])
    print("equal")


def check_on_eight_devices(module):
    """Calls the compare_devices of a module of tests in a process that has eight."""
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": "8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": f"{ROOT}:{ROOT}/tests",
    }
    code = f"import {module}; {module}.compare_devices()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert done.stdout == "equal\n", done.stderr


def test_eight_devices_equal_one():
    check_on_eight_devices("test_train")


def test_a_batch_that_does_not_divide_among_the_devices(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    with pytest.raises(UserError, match="config.train.batch_size=12 does not divide among 8 devices: --.*=16"):
        train.make_mesh(12)
    with pytest.raises(UserError, match=r"=8$"):
        train.make_mesh(2)


# --- the loop


@pytest.mark.parametrize(
    ("steps", "epoch", "many"), [(7, 1.0, 7), (20, 1.0, 20), (2000, 2.0, 20), (43, 0.5, 20), (90, 2.25, 20)]
)
def test_pictures_by_epochs_are_some_twenty_at_most(steps, epoch, many):
    """At even distances, each where an epoch has just ended."""
    by_epochs, data = {"steps": steps, "pictures_every": 0}, SimpleNamespace(steps_per_epoch=epoch)
    ends = {done: train.epoch_ending(by_epochs, data, done) for done in range(1, steps + 1)}
    seen = {done: number for done, number in ends.items() if number is not None}
    assert all(number == int(done / epoch) and done - 1 < number * epoch + 1 for done, number in seen.items())
    assert many // 2 <= len(seen) <= many
    assert len({later - one for one, later in itertools.pairwise(seen.values())}) <= 2


@pytest.fixture(scope="module")
def run():
    return train.Run(autoencode(), batches(), batches(), settings(6))


def prior_run(kind):
    """A training of a small prior of the table."""
    fields = {"pixelcnn": PIXELCNN, "transformer": TRANSFORMER}[kind]
    prior = made(kind, CODES, (3, 4), **fields)
    arrays = TokenArrays((np.random.default_rng(0).integers(0, CODES, (40, 3, 4)),))
    task = PriorTask(prior, slice(0, 1), make_optimizer(section(clip=1.0), 6), ema_rate=0.9)
    return train.Run(task, batches(arrays), batches(arrays), settings(6))


@pytest.fixture(scope="module", params=["autoencoder", "pixelcnn", "transformer"])
def compiled(request):
    """(run, state, batch, the step compiled for these) of each kind of stage."""
    run = request.getfixturevalue("run") if request.param == "autoencoder" else prior_run(request.param)
    state, batch = run.begin(jax.random.key(0), None), run.place(run.data.batch(0))
    return run, state, batch, run.step.lower(state, batch).compile()


def test_what_reaches_the_step_lies_as_it_wants_it(compiled):
    """Else each step would copy it first."""
    _, state, batch, step = compiled

    def check(array, wanted):
        unused = wanted is None
        assert array.committed and (unused or wanted.is_equivalent_to(array.sharding, array.ndim))

    jax.tree.map(check, (state, batch), step.input_shardings[0])
    jax.tree.map(check, state, step.output_shardings[0])  # as the next step wants it


def test_the_whole_state_is_donated(compiled):
    """The new state is written over the old one. That XLA could not do so is a warning, and here an error."""
    run, state, batch, step = compiled
    state, leaves = jax.tree.map(jnp.copy, state), len(jax.tree.leaves(state))
    state = jax.device_put(state, run.everywhere)
    pairs = re.findall(r"(?:may|must)-alias", step.as_text().partition("\n")[0])
    assert len(pairs) == leaves
    after, _ = step(state, batch)
    assert all(array.is_deleted() for array in jax.tree.leaves(state))
    assert not any(array.is_deleted() for array in jax.tree.leaves((after, batch)))


class Unread:
    """Stands for what the device still computes: it notes when someone looks."""

    def __init__(self, name, events):
        self.name, self.events = name, events

    def _look(self, *args, **kwargs):
        self.events.append(f"read {self.name}")
        return np.float32(1.0)

    __array__ = __float__ = __int__ = __bool__ = __index__ = item = tolist = block_until_ready = _look


def test_between_logged_steps_nothing_is_waited_for(tmp_path):
    """The numbers of one logged step are fetched when the next one is on its way, the state never."""
    events = []

    def step(state, batch, frozen, phase):
        assert (frozen, phase) == ("frozen", batch)  # as many steps were taken before
        assert state.name == f"state {batch}"
        events.append(f"step {batch + 1}")
        return Unread(f"state {batch + 1}", events), {"loss": Unread(f"loss {batch + 1}", events)}

    rare = settings(8) | dict.fromkeys(("evaluate_every", "checkpoint_every", "pictures_every"), 100)
    run = SimpleNamespace(
        settings=rare,
        data=SimpleNamespace(batch=lambda step: step),
        held_out=None,
        place=lambda batch: batch,
        step=step,
        frozen="frozen",
        task=SimpleNamespace(phase=lambda step: step),
        model=lambda state, last: state,
        evaluate=lambda model, data: {"loss": 0.0},
        pictures=lambda model, done: {},
    )
    checkpoints = SimpleNamespace(save=lambda *given: None, wait=lambda: None)
    with Log(tmp_path, 8, 0, "stage") as log:
        train._loop(run, Unread("state 0", events), 0, checkpoints, log, train.Stop(), {}, None)
    steps = [f"step {i}" for i in range(1, 9)]
    assert events == [*steps[:6], "read loss 3", *steps[6:], "read loss 6", "read loss 8"]


def test_pictures_take_the_weights_from_where_they_lie():
    """No way round over the host, and nothing of all devices: each process draws alone."""

    class Shown(Autoencode):
        def pictures(self, model, batch, key):
            seen.append(model)
            return {}

    seen, run = [], train.Run(Shown(**vars(autoencode())), batches(), batches(), settings(6))
    state = run.begin(jax.random.key(0), None)
    run.pictures(run.task.model(state), 1)
    same(seen[0], run.task.model(state))
    for here, there in zip(jax.tree.leaves(seen[0]), jax.tree.leaves(run.task.model(state)), strict=True):
        assert here.unsafe_buffer_pointer() == there.addressable_data(0).unsafe_buffer_pointer()
        assert isinstance(here.sharding, jax.sharding.SingleDeviceSharding)


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Its choices, on the CPU that is here."""
    monkeypatch.setattr(backend, "choices", lambda: backend.GPU)
    for module in (train, fast):
        monkeypatch.setattr(module, "choices", lambda: backend.GPU)


def test_fresh_weights_that_the_host_draws_are_the_same_and_everywhere(run, as_on_a_gpu, monkeypatch):
    by_host = run.begin(jax.random.key(5), None)
    assert backend.host().platform == "cpu"
    assert {array.sharding for array in jax.tree.leaves(by_host)} == {run.everywhere}
    monkeypatch.setattr(train, "host", lambda: None)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        *map(plain, (by_host, run.begin(jax.random.key(5), None))),
    )


def test_a_host_draws_for_no_other_process(as_on_a_gpu, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert backend.host() is None


def test_evaluation_compiled_aside_gives_the_same(as_on_a_gpu):
    run = train.Run(autoencode(), batches(), batches(), settings(6))
    state = run.begin(jax.random.key(5), None)
    before = run.evaluate(run.task.model(state), run.held_out)
    run.prepare_evaluation(state)
    assert run.evaluate(run.task.model(state), run.held_out) == before


def test_evaluation_moves_no_code(run):
    task = AutoencodeTask(Patches(), None, {})
    state = run.begin(jax.random.key(0), None)
    before = plain(state.codebooks)
    out = task.autoencoder.apply({"params": state.params}, jnp.ones((2, 16, 16, 3)), state.codebooks)
    same(out.codebooks, before)
    assert not out.fresh


def threads():
    return [thread for thread in threading.enumerate() if "work" in thread.name]


def test_batches_come_in_order_and_not_far_ahead():
    made = []

    def make(step):
        made.append(step)
        return step

    with train.prefetched(make, 3, 30) as ready:
        assert [next(ready) for _ in range(4)] == [3, 4, 5, 6]
        time.sleep(0.2)
        assert len(made) <= 4 + 3  # two in the queue, one in hand
    assert not threads()


def test_an_error_of_the_data_is_raised_in_the_loop():
    def make(step):
        if step == 2:
            raise OSError("the disk is gone")
        return step

    with pytest.raises(OSError, match="the disk is gone"), train.prefetched(make, 0, 9) as ready:
        assert [next(ready), next(ready)] == [0, 1]
        next(ready)
    assert not threads()


def test_an_error_of_the_loop_ends_the_thread():
    with pytest.raises(RuntimeError, match="nan"), train.prefetched(lambda step: step, 0, 10**9) as ready:
        next(ready)
        raise RuntimeError("nan")
    assert not threads()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_marks_the_first_time_and_acts_the_second(number, capsys):
    before = signal.getsignal(number)
    hits = []
    signal.signal(number, lambda *_: hits.append(1))
    try:
        with train.stop_on_signal() as stop:
            assert not stop.reached(1)
            os.kill(os.getpid(), number)
            assert stop.reached(2) and stop.exit_code == 128 + number and not hits
            os.kill(os.getpid(), number)
            assert hits
        os.kill(os.getpid(), number)
        assert len(hits) == 2
    finally:
        signal.signal(number, before)
    assert capsys.readouterr().out == "\nstopping after this step\n"  # nothing is saved yet


@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)])
def test_the_first_signal_says_how_it_ends(numbers):
    """A scheduler asks for the end, then someone types Ctrl-C: 143, so that the job is put back in the queue."""
    with train.stop_on_signal() as stop:
        for number in numbers:
            os.kill(os.getpid(), number)
        assert stop.exit_code == 128 + numbers[0]


def test_what_is_saved_is_told_then(tmp_path, monkeypatch, capsys):
    said = []

    class Killed(Autoencode):
        def summary(self, sums):
            os.kill(os.getpid(), signal.SIGTERM)
            return super().summary(sums)

    def wait(self):
        said.append(capsys.readouterr().out)
        own(self)

    own = Checkpoints.wait
    monkeypatch.setattr(Checkpoints, "wait", wait)
    with pytest.raises(SystemExit):
        fit(Killed(**vars(autoencode())), tmp_path, 6)
    assert "saved" not in "".join(said[:-1]) and "stopping" in "".join(said[:-1])
    assert "everything is saved, the same command goes on from here" in said[-1]


def test_a_signal_in_the_last_step_ends_the_run_too(tmp_path):
    """The next stage must not begin; but all is saved, and the same command goes on with that stage."""

    class Killed(Autoencode):
        def summary(self, sums):
            os.kill(os.getpid(), signal.SIGTERM)
            return super().summary(sums)

    task = Killed(**vars(autoencode()))
    with pytest.raises(SystemExit) as caught:
        fit(task, tmp_path, 2)
    assert caught.value.code == 143 and int(saved(task, tmp_path).step) == 2
    fit(task, tmp_path, 2)


CONFIG = '''"""Long enough to be stopped."""


def get_config(variant=None):
    return {
        "dataset": {"name": "npz", "path": DATA, "image_size": 16},
        "autoencoder": {
            "name": "hierarchical", "levels": 1, "width": 8,
            "quantizer": {"name": "ema", "codebook_size": 16, "code_dim": 8},
        },
        "loss_weights": {"reconstruction": 1.0, "commitment": 0.25},
        "train": {
            "batch_size": 16, "steps": 300, "log_every": 1, "evaluate_every": 300, "checkpoint_every": 25,
            "pictures_every": 300,
        },
    }
'''


def started(config, workdir):
    argv = [sys.executable, "launch.py", f"--config={config}", f"--workdir={workdir}"]
    return subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def latest(workdir):
    with Checkpoints(workdir / "autoencoder/checkpoints") as checkpoints:
        return checkpoints.latest() or 0


def stopped(config, workdir, number):
    """Exit code, output, the last checkpoint that was there before the signal, and the one after the end."""
    begin, process = latest(workdir), started(config, workdir)
    folder = workdir / "autoencoder/checkpoints"
    try:
        while not any(int(path.name) > begin for path in folder.glob("[0-9]*") if path.name.isdigit()):
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)
        before = max(int(path.name) for path in folder.glob("[0-9]*") if path.name.isdigit())
        process.send_signal(number)
        output = process.communicate(timeout=120)[0]
    finally:
        process.kill()
    return process.returncode, output, before, latest(workdir)


@pytest.mark.thorough
def test_signals_and_kills_of_launch(tmp_path):
    """SIGTERM, then Ctrl-C, then kill -9, and each time the same command, which at last comes to the end."""
    np.savez(tmp_path / "data.npz", train_image=images().image, test_image=images().image[:8])
    config, workdir = tmp_path / "mine.py", tmp_path / "run"
    config.write_text(CONFIG.replace("DATA", repr(str(tmp_path / "data.npz"))))
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        returned, output, _, after = stopped(config, workdir, number)
        assert returned == code and "Traceback" not in output, output
        assert "goes on from here" in output
        assert after == read_metrics(workdir / "autoencoder/metrics.jsonl")[-1]["step"] < 300  # the last step is saved
    returned, output, before, after = stopped(config, workdir, signal.SIGKILL)
    assert returned == -signal.SIGKILL and before <= after < 300, output
    assert launch.main([f"--config={config}", f"--workdir={workdir}"]) == 0
    steps = [line["step"] for line in read_metrics(workdir / "autoencoder/metrics.jsonl") if "train/loss" in line]
    assert steps == list(range(1, 301))  # none missing, none twice
    assert json.loads((workdir / "metrics.json").read_text())["split"] == "test"


# --- profiles


def profile(folder, text, steps=6):
    """A run with such a profile; its last state."""
    task = autoencode()
    given = settings(steps) | {"profile": text}
    train.fit(task, batches(), batches(), folder, given, {"any": "config"}, seed=5)
    return saved(task, folder)


def test_some_steps_are_traced_and_nothing_else_changes(tmp_path, capsys):
    traced, plainly = profile(tmp_path / "traced", "2:2"), profile(tmp_path / "plainly", "")
    same(traced, plainly)
    text = (tmp_path / "traced/profile.txt").read_text()
    assert text.startswith("a step, mean of 2: busy ") and "launches  kernel" in text
    assert text in capsys.readouterr().err
    assert len([*(tmp_path / "traced/profile").rglob("*.xplane.pb")]) == 1
    assert not (tmp_path / "plainly/profile.txt").exists() and not (tmp_path / "plainly/profile").exists()


def test_a_window_beyond_the_end_is_cut_and_one_before_the_beginning_is_none(tmp_path):
    profile(tmp_path, "5:9")
    assert (tmp_path / "profile.txt").read_text().startswith("a step, mean of 2: ")
    (tmp_path / "profile.txt").unlink()
    profile(tmp_path, "2:2", 9)  # resumed at 6
    assert not (tmp_path / "profile.txt").exists()


def test_a_broken_profiler_breaks_no_training(tmp_path, capsys):
    with jax.profiler.trace(tmp_path / "other"):
        state = profile(tmp_path / "run", "2:2")
    assert int(state.step) == 6 and not (tmp_path / "run/profile.txt").exists()
    said = [line for line in capsys.readouterr().err.splitlines() if "profile" in line]
    assert len(said) == 1 and said[0].startswith("no profile of steps 2 to 3: ")


def test_a_run_that_is_stopped_in_its_profile_ends_the_trace(tmp_path):
    class Killed(Autoencode):
        def summary(self, sums):
            os.kill(os.getpid(), signal.SIGTERM)
            return super().summary(sums)

    task = Killed(**vars(autoencode()))
    with pytest.raises(SystemExit):
        train.fit(task, batches(), batches(), tmp_path, settings(6, 2) | {"profile": "1:5"}, {}, seed=5)
    assert not (tmp_path / "profile.txt").exists()
    with jax.profiler.trace(tmp_path / "next"):  # another one may begin
        pass


# --- precision


def test_bfloat16_leaves_parameters_and_codebooks_float32():
    final = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        task = autoencode(autoencoder=Patches(dtype=dtype), flip=False, crop=0)
        run = train.Run(task, batches(), batches(), settings(6))
        state = run.begin(jax.random.key(5), None)
        for step in range(2):
            state, metrics = run.step(state, run.place(run.data.batch(step)))
        assert {x.dtype for x in jax.tree.leaves((state.params, state.ema_params))} == {jnp.dtype("float32")}
        assert {x.dtype for c in state.codebooks.values() for x in (c.codes, c.stats.get("sum", c.codes))} == {
            jnp.dtype("float32")
        }
        final[dtype] = float(metrics["loss"])
    assert final[jnp.float32] != final[jnp.bfloat16]
    assert final[jnp.bfloat16] == pytest.approx(final[jnp.float32], rel=0.05)


# --- the update, by hand


@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        ({}, [1, 1, 1, 1, 1, 1]),
        ({"warmup_steps": 4}, [0.25, 0.5, 0.75, 1, 1, 1]),
        ({"warmup_steps": 1}, [1, 1, 1, 1, 1, 1]),
        ({"schedule": "cosine"}, [(1 + np.cos(np.pi * i / 6)) / 2 for i in range(6)]),
        ({"schedule": "cosine", "warmup_steps": 2}, [0.5, 1, *((1 + np.cos(np.pi * i / 4)) / 2 for i in range(4))]),
        ({"warmup_steps": 100}, [(i + 1) / 6 for i in range(6)]),
    ],
)
def test_the_learning_rate_of_each_step(changes, rates):
    schedule = make_schedule(section(learning_rate=0.2, **changes), 6)
    np.testing.assert_allclose([float(schedule(step)) for step in range(6)], 0.2 * np.array(rates), rtol=1e-6)


def test_a_cosine_ends_at_nothing():
    for warmup in (0, 2):
        assert float(make_schedule(section(schedule="cosine", warmup_steps=warmup), 6)(6)) == pytest.approx(0, abs=1e-9)


def little(weight_decay=0.0, clip=0.0, ema_rate=0.0):
    """One weight vector and one codebook of three codes, without gradients so far."""
    tx = make_optimizer(section(learning_rate=0.1, weight_decay=weight_decay, clip=clip), 10)
    codebook = Codebook(jnp.array([[1.0], [2.0], [3.0]]))
    return tx, new_state(jax.random.key(0), {"w": jnp.array([3.0, 4.0])}, {"codes": codebook}, tx, ema_rate)


def gradients(w, codes):
    return {"network": {"w": jnp.array(w)}, "codes": {"codes": (jnp.array(codes)[:, None], {})}}


def moments(state):
    """Adam's means and squares of the codes."""
    adam = next(s for s in jax.tree.leaves(state.opt_state, is_leaf=lambda s: hasattr(s, "mu")) if hasattr(s, "mu"))
    return [np.asarray(part["codes"]["codes"][0])[:, 0] for part in (adam.mu, adam.nu)]


def test_adam_by_hand():
    tx, state = little()
    w, mean, square = np.array([3.0, 4.0]), 0.0, 0.0
    for step, gradient in enumerate(([1.0, -2.0], [0.5, 4.0]), 1):
        state = apply_gradients(state, gradients(gradient, [0.0, 0.0, 0.0]), tx, state.codebooks)
        mean = 0.9 * mean + 0.1 * np.array(gradient)
        square = 0.999 * square + 0.001 * np.square(gradient)
        w = w - 0.1 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        np.testing.assert_allclose(state.params["w"], w, rtol=1e-6)
    assert int(state.step) == 2


def test_adam_corrects_its_biases_as_exactly_as_pytorch():
    """In float32, as optax alone does it, steps are off by up to 1e-5."""
    tx, state = little()
    opt_state, update = state.opt_state, jax.jit(tx.update)
    mean, square, noise = 0.0, 0.0, np.random.default_rng(0)
    for step in range(1, 41):
        gradient = noise.normal(size=2)
        updates, opt_state = update(gradients(gradient, [0.0, 0.0, 0.0]), opt_state)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * np.square(gradient)
        want = -0.1 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        np.testing.assert_allclose(updates["network"]["w"], want, atol=0.1 * 1e-6)


def test_clipping_is_of_the_whole_gradient():
    """Norm 13 over weights and codes, clipped to 2: Adam's means are a tenth of what is left."""
    tx, state = little(clip=2.0)
    state = apply_gradients(state, gradients([3.0, 4.0], [12.0, 0.0, 0.0]), tx, state.codebooks)
    np.testing.assert_allclose(moments(state)[0], [0.1 * 12 * 2 / 13, 0, 0], rtol=1e-5)
    tx, state = little(clip=20.0)
    state = apply_gradients(state, gradients([3.0, 4.0], [12.0, 0.0, 0.0]), tx, state.codebooks)
    np.testing.assert_allclose(moments(state)[0], [1.2, 0, 0], rtol=1e-5)


def test_weight_decay_is_of_weights_not_of_codes():
    tx, state = little(weight_decay=0.5)
    after = apply_gradients(state, gradients([0.0, 0.0], [0.0, 0.0, 0.0]), tx, state.codebooks)
    np.testing.assert_allclose(after.params["w"], np.array([3.0, 4.0]) * (1 - 0.1 * 0.5), rtol=1e-6)
    np.testing.assert_array_equal(after.codebooks["codes"].codes, state.codebooks["codes"].codes)


def test_a_revived_code_has_no_past():
    """Its moments are those of this step's gradient alone; the other codes keep theirs; its new value gets the step."""
    tx, state = little()
    state = apply_gradients(state, gradients([1.0, 1.0], [1.0, 1.0, 1.0]), tx, state.codebooks)
    before = moments(state)
    drawn = state.codebooks["codes"].replace(codes=state.codebooks["codes"].codes.at[1].set(7.0))
    fresh = {"codes": jnp.array([False, True, False])}
    after = apply_gradients(state, gradients([1.0, 1.0], [0.0, 0.0, 0.0]), tx, {"codes": drawn}, fresh)
    np.testing.assert_allclose(moments(after)[0], 0.9 * before[0] * [1, 0, 1], rtol=1e-6)
    np.testing.assert_allclose(moments(after)[1], 0.999 * before[1] * [1, 0, 1], rtol=1e-6)
    assert float(after.codebooks["codes"].codes[1, 0]) == 7.0
    assert float(after.codebooks["codes"].codes[0, 0]) < float(state.codebooks["codes"].codes[0, 0])


def test_averaged_weights_by_hand():
    """The rate is (1 + step) / (10 + step) until it reaches `ema_rate`: the first steps count for more."""
    tx, state = little(ema_rate=0.15)
    average = np.array([3.0, 4.0])
    for rate in (0.1, 0.15, 0.15):  # 1/10, 2/11 is above 0.15
        state = apply_gradients(state, gradients([1.0, -1.0], [0.0] * 3), tx, state.codebooks, ema_rate=0.15)
        average = rate * average + (1 - rate) * np.asarray(state.params["w"])
        np.testing.assert_allclose(state.ema_params["w"], average, rtol=1e-5)
    assert AutoencodeTask(None, tx, {}).model(state).params is state.ema_params


def test_statistics_have_no_moments():
    codebook = Codebook(jnp.ones((3, 2)), stats={"idle": jnp.zeros(3, jnp.int32), "sum": jnp.ones((3, 2))})
    assert [leaf.shape for leaf in jax.tree.leaves(trainable({}, {"a": codebook}))] == [(3, 2)]
