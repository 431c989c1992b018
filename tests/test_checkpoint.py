"""Checkpoints: protects a training against kills, flipped bits, donated buffers and other machines."""

import gc
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import warnings
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from vqvae_jax.checkpoint import Checkpoints, quiet, saved, set_aside
from vqvae_jax.checkpoint.quiet import one_line, orbax
from vqvae_jax.leaves import checksum
from vqvae_jax.types import Codebook, Model, TrainState, UserError

optax = pytest.importorskip("optax")
ROOT = Path(__file__).parent.parent


def make_model(seed=0):
    noise = np.random.default_rng(seed)
    params = {
        "encoder": {"kernel": noise.normal(size=(3, 4)).astype(np.float32), "bias": jnp.zeros(4, jnp.bfloat16)},
        "head": (np.arange(3), {}),
    }
    top = Codebook(noise.normal(size=(8, 2)).astype(np.float32), stats={"idle": np.zeros(8, np.int32)})
    return jax.tree.map(jnp.asarray, Model(params, {"top": top, "fsq": Codebook(jnp.zeros((0, 5)))}))


def make_state(seed=0, key=None):
    model = make_model(seed)
    opt_state = optax.adamw(1e-3).init(model.params)
    key = jax.random.key(seed) if key is None else key
    return TrainState(jnp.int32(seed), model.params, model.codebooks, opt_state, None, key)


def abstract(tree):
    return jax.eval_shape(lambda: tree)


def same(got, wanted):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def save(checkpoints, step, loss=None):
    checkpoints.save(step, make_model(step), make_state(step), {"seed": step}, loss)


def script(text, *args, **environment):
    """Runs Python text in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", **environment}
    command = [sys.executable, "-c", text, *map(str, args)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("key", [jax.random.key, jax.random.PRNGKey])
def test_a_train_state_comes_back_exactly(tmp_path, key):
    """Dataclasses, optax' tuples, bfloat16, both kinds of keys, and the codes [0, D] that Orbax refuses."""
    state = make_state(3, key(3))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, make_model(3), state, {})
        same(checkpoints.restore_train(abstract(state)), state)
    with Checkpoints(tmp_path) as checkpoints:
        same(checkpoints.restore_train(abstract(state)), state)


def test_a_model_comes_back_with_its_structure_or_as_dicts(tmp_path):
    model = make_model(1)
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
        same(checkpoints.restore_model(abstract=abstract(model)), model)
        plain = checkpoints.restore_model()
    assert isinstance(plain["params"]["encoder"]["kernel"], np.ndarray)
    assert plain["codebooks"]["fsq"]["codes"].shape == (0, 5)
    assert checksum(plain) == checksum(model)


def test_python_and_numpy_numbers_may_be_saved(tmp_path):
    numbers = {"step": 3, "rate": 0.5, "count": np.int32(4)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, numbers, numbers, {})
        assert checkpoints.restore_model(abstract=numbers) == numbers
        assert checkpoints.restore_train(jax.eval_shape(lambda: numbers)) == numbers


def test_the_last_ones_and_the_best_stay(tmp_path):
    """The best is never one without a finite loss."""
    losses = {1: 5.0, 2: 1.0, 3: jnp.float32(1.0), 4: None, 5: float("nan"), 6: 3.0, 7: -np.inf}
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step, loss in losses.items():
            save(checkpoints, step, loss)
        assert (checkpoints.steps(), checkpoints.best(), checkpoints.latest()) == ((3, 6, 7), 3, 7)
    with Checkpoints(tmp_path) as again:
        assert (again.steps(), again.best(), again.latest()) == ((3, 6, 7), 3, 7)
        same(again.restore_model("best", abstract(make_model())), make_model(3))
        assert again.config("best") == {"seed": 3} and again.config() == {"seed": 7}


def test_of_equal_losses_the_later_is_best(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1, loss=1.0)
        save(checkpoints, 2, loss=1.0)
        assert checkpoints.best() == 2


def test_what_is_noted_is_read_once_as_long_as_no_file_changes(tmp_path, monkeypatch):
    """Each save asks for the losses of all steps, and Orbax takes a fifth of a second to say one."""
    v1, read = orbax(), []

    class Counted:
        def __getattr__(self, name):
            return getattr(v1, name)

        def checkpointables_metadata(self, path):
            read.append(path.name)
            return v1.checkpointables_metadata(path)

    monkeypatch.setattr(saved, "orbax", Counted)
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        for step in range(1, 6):
            save(checkpoints, step, loss=float(step))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.best() == 1
    assert len(read) == len(set(read)) <= 5
    note = next((tmp_path / "1").rglob("_CHECKPOINT_METADATA"))
    note.write_bytes(note.read_bytes().replace(b"1.0", b"9.0", 1))
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match="damaged"):
        checkpoints.best()


def test_saving_a_step_twice_keeps_the_first(tmp_path):
    """The end of a training may fall on a step that was just saved."""
    for _ in range(2):  # also by a new process
        with Checkpoints(tmp_path) as checkpoints:
            save(checkpoints, 1, loss=2.0)
            save(checkpoints, 1, loss=1.0)
            assert checkpoints.steps() == (1,)


def test_donated_buffers_are_safe(tmp_path):
    """The loop donates its state right after save() returns, while the background still writes."""
    step = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    build = jax.jit(lambda: {"a": jnp.arange(2_000_000.0), "b": [jnp.full((1000, 1000), i) for i in range(4)]})
    with Checkpoints(tmp_path) as checkpoints:
        for number in range(1, 4):
            state = build()
            checkpoints.save(number, {"b": state["b"]}, state, {})
            state = step(state)
            old, state = state, step(state)
            assert old["a"].is_deleted(), "nothing was donated, so this tests nothing"
            same(checkpoints.restore_train(abstract(build())), build())
            same(checkpoints.restore_model(abstract=abstract({"b": build()["b"]})), {"b": build()["b"]})


KILLED = """
import os, signal, sys, time
from pathlib import Path
import numpy as np, jax.numpy as jnp
from vqvae_jax.checkpoint import Checkpoints
folder = Path(sys.argv[1])
checkpoints = Checkpoints(folder, keep=1)
checkpoints.save(1, {"w": jnp.ones(3)}, {"w": jnp.ones(3)}, {})
checkpoints.wait()
big = jnp.asarray(np.random.default_rng(0).integers(0, 2**31, 30_000_000, np.int32))
checkpoints.save(2, {"w": big}, {"w": big}, {})
while not list(folder.glob("*tmp*")):
    time.sleep(0.001)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_in_mid_save_leaves_the_step_before(tmp_path):
    """And the next save clears what the killed one left behind."""
    assert script(KILLED, tmp_path).returncode == -signal.SIGKILL
    assert list(tmp_path.glob("*tmp*")), "it was killed too late to test anything"
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert checkpoints.steps() == (1,)
        assert checkpoints.restore_train({"w": jnp.zeros(3)})["w"].tolist() == [1, 1, 1]
        assert checkpoints.restore_model()["w"].tolist() == [1, 1, 1]
        save(checkpoints, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


def test_a_kill_in_mid_removal_leaves_no_half_step(tmp_path, monkeypatch):
    """Orbax removes a step file by file where it lies: a run that was killed over it could not go on."""

    def killed(path):
        (path / "_CHECKPOINT_METADATA").unlink()
        raise SystemExit

    with Checkpoints(tmp_path, keep=1) as checkpoints:
        save(checkpoints, 1)
        save(checkpoints, 2)
        with monkeypatch.context() as patch, pytest.raises(SystemExit):
            patch.setattr(shutil, "rmtree", killed)
            checkpoints.wait()
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert checkpoints.steps() == (2,) and len(list(tmp_path.iterdir())) == 2
        save(checkpoints, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


def test_readers_leave_a_running_save_alone(tmp_path):
    """Sampling from a training that goes on must not delete the folder that it writes at this moment."""
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
    running = tmp_path / "2.orbax-checkpoint-tmp"
    running.mkdir()
    with Checkpoints(tmp_path) as reader:
        reader.restore_model()
        assert reader.steps() == (1,)
    assert running.is_dir()


def flip_a_bit(folder, array):
    pattern = np.asarray(array).tobytes()[1000:1100]
    for path in folder.rglob("*"):
        data = bytearray(path.read_bytes()) if path.is_file() else b""
        if (at := data.find(pattern)) >= 0:
            data[at] ^= 1
            path.write_bytes(data)
            return
    raise AssertionError("the array's bytes stand in no file")


def test_a_flipped_bit_is_noticed(tmp_path):
    """Orbax itself hands the damaged array out."""
    noise = {"w": jnp.asarray(np.random.default_rng(0).integers(0, 2**32, 4096, np.uint32))}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, noise, noise, {})
        checkpoints.save(2, noise, noise, {})
    flip_a_bit(tmp_path / "2" / "model", noise["w"])
    with Checkpoints(tmp_path) as checkpoints:
        for wanted in (None, abstract(noise)):
            with pytest.raises(UserError, match=r"/2 is damaged.*say --step=1$"):
                checkpoints.restore_model(abstract=wanted)
        same(checkpoints.restore_model(1, abstract(noise)), noise)


def test_checksum_is_what_it_says():
    value = np.float32([1, 2])
    assert checksum({"a": value}) == zlib.crc32(b"a float32 (2,)" + value.tobytes())
    trees = [{"a": value}, {"b": value}, {"a": value[::-1]}, {"a": value[None]}, {"a": value.view(np.int32)}]
    trees += [{"a": value, "b": 2 * value}, {"a": 2 * value, "b": value}]
    assert len({checksum(tree) for tree in trees}) == len(trees)


WITHOUT_OPTAX = """
import sys
sys.modules["optax"] = None  # importing it now fails
from vqvae_jax.checkpoint import Checkpoints, set_aside
from vqvae_jax.leaves import checksum
assert "orbax" not in sys.modules, "importing the package must stay cheap"
print(checksum(Checkpoints(sys.argv[1]).restore_model()))
"""


def test_sampling_needs_no_optax(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
    ran = script(WITHOUT_OPTAX, tmp_path)
    assert ran.stdout.strip() == str(checksum(make_model(1))), ran.stderr


ELSEWHERE = """
import json, sys
import jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from vqvae_jax.checkpoint import Checkpoints
mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
model = {"w": jax.device_put(jnp.arange(6.0), whole)}
train = {**model, "sums": jax.device_put(jnp.arange(16.0).reshape(8, 2), split), "key": jax.random.key(7)}
train["key"] = jax.device_put(train["key"], whole)
with Checkpoints(sys.argv[1]) as checkpoints:
    if sys.argv[2] == "save":
        checkpoints.save(1, model, train, {})
    else:
        shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
        got = checkpoints.restore_train(jax.tree.map(shape, train))
        assert all(a.sharding == b.sharding for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(train)))
        assert all(bool((a == b).all()) for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(train)))
        assert bool((checkpoints.restore_model(abstract=jax.tree.map(shape, model))["w"] == model["w"]).all())
print(jax.device_count())
"""


def test_a_run_goes_on_on_another_number_of_devices(tmp_path):
    saved = script(ELSEWHERE, tmp_path, "save", JAX_NUM_CPU_DEVICES="8")
    assert saved.stdout.strip() == "8", saved.stderr
    restored = script(ELSEWHERE, tmp_path, "restore", JAX_NUM_CPU_DEVICES="2")
    assert restored.stdout.strip() == "2", restored.stderr
    with Checkpoints(tmp_path) as checkpoints:  # and without shardings, on one
        wanted = {"w": jnp.arange(6.0), "sums": jnp.arange(16.0).reshape(8, 2), "key": jax.random.key(7)}
        got = checkpoints.restore_train(abstract(wanted))
        same(got, wanted)
        assert got["sums"].sharding == SingleDeviceSharding(jax.local_devices()[0])
        assert checkpoints.restore_model()["w"].tolist() == list(range(6))


def test_nothing_trained_yet(tmp_path):
    """Asking makes no folder."""
    with Checkpoints(tmp_path / "none") as checkpoints:
        assert (checkpoints.steps(), checkpoints.latest(), checkpoints.best()) == ((), None, None)
        with pytest.raises(UserError, match=r"none has no checkpoint; train it first: python launch.py"):
            checkpoints.restore_model()
    assert not (tmp_path / "none").exists()


def test_a_backslash_is_refused(tmp_path):
    """Orbax wrote the arrays into another folder, a/b, and nobody noticed."""
    with pytest.raises(UserError, match="has a backslash in its name"):
        Checkpoints(tmp_path / "a\\b")
    assert not list(tmp_path.iterdir())


def test_a_step_that_is_not_there(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
        save(checkpoints, 2)
        with pytest.raises(UserError, match=r"has no step 7; say --step=1 or --step=2$"):
            checkpoints.restore_model(7)
        with pytest.raises(UserError, match=r"none has a loss; say --step=2$"):
            checkpoints.restore_model("best")


KERNEL, BIAS = np.zeros((3, 4), np.float32), jnp.bfloat16([0] * 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"encoder": {"kernel": KERNEL.T, "bias": BIAS}},
            "encoder/kernel is float32 [3, 4] there, float32 [4, 3] here",
        ),
        ({"encoder": {"kernel": KERNEL, "bias": jnp.zeros(4)}}, "encoder/bias is bfloat16 [4] there, float32 [4] here"),
        ({"encoder": {"kernel": KERNEL}}, "encoder/bias is bfloat16 [4] there, missing here"),
        ({"decoder": jnp.zeros(2)}, "decoder is missing there, float32 [2] here"),
    ],
)
def test_another_model_is_named_leaf_by_leaf(tmp_path, change, message):
    """Orbax casts another type silently, and hides the leaf of another shape."""
    model = make_model()
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
        with pytest.raises(UserError, match=f"does not fit this model: params/{re.escape(message)}; use the config"):
            checkpoints.restore_model(abstract=model.replace(params={**model.params, **change}))


def test_a_failed_save_says_why_inone_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^saving .*file/1 failed: \w+Error: [^\n]*$"):
        save(Checkpoints(tmp_path / "file"), 1)


def test_a_failure_in_the_background_reaches_the_loop(tmp_path, monkeypatch):
    """A full disk: the next call tells, with the innermost cause."""
    import orbax.checkpoint.experimental.v1 as ocp

    def full(self):
        raise RuntimeError("thread failed") from OSError(28, "No space left on device")

    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
        with monkeypatch.context() as patch:
            patch.setattr(ocp.training.Checkpointer, "wait", full)
            with pytest.raises(UserError, match=r"OSError: .*No space left on device"):
                checkpoints.latest()


def test_orbax_is_quiet(tmp_path, caplog):
    """Half a thousand lines otherwise for a handful of saves; its warnings still come through."""
    caplog.set_level(logging.INFO)
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
        checkpoints.restore_model()
    assert [record.getMessage() for record in caplog.records if "orbax" in record.pathname] == []


def test_the_config_is_plain_data(tmp_path):
    config = {"quantizer": {"name": "ema", "decay": 0.99}, "steps": [1, 2], "path": None}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_model(), make_state(), config)
        assert json.dumps(checkpoints.config(1), sort_keys=True) == json.dumps(config, sort_keys=True)


def test_a_flipped_bit_of_the_train_state_is_noticed(tmp_path):
    """With the flags that go on from the step that is whole."""
    model = {"w": jnp.zeros(3)}
    noise = jnp.asarray(np.random.default_rng(0).integers(0, 2**32, 4096, np.uint32))
    state = {"mu": noise, "key": jax.random.key(1)}
    folder = tmp_path / "top" / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, model, state, {})
    flip_a_bit(folder / "2" / "train", state["mu"])
    with Checkpoints(folder) as checkpoints:
        with pytest.raises(UserError, match=r"train state differs; say --stage=top --from_step=1$"):
            checkpoints.restore_train(abstract(state))
        same(checkpoints.restore_train(abstract(state), 1), state)
        assert checkpoints.restore_model()["w"].tolist() == [0, 0, 0]


def test_a_folder_under_another_name_is_noticed(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)
    (tmp_path / "1").rename(tmp_path / "5")
    with Checkpoints(tmp_path) as checkpoints:
        for read in (checkpoints.restore_model, checkpoints.config, lambda: checkpoints.restore_train({})):
            with pytest.raises(UserError, match=r"/5 is the checkpoint of step 1 under another name; name it 1 again"):
                read()


def edit_notes(folder, change):
    """Changes what is noted beside the arrays of a step."""
    [path] = [path for path in folder.rglob("*") if path.is_file() and b"model_crc32" in path.read_bytes()]
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("was", "now"), [(rb'"width": ?64', b'"width":65'), (b'"custom_metadata"', b'"custom_metadatb"')]
)
def test_changed_notes_are_noticed(tmp_path, was, now):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, make_model(), make_state(), {"width": 64})
    edit_notes(tmp_path / "1", lambda text: re.sub(was, now, text))
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match="its config and notes differs"):
        checkpoints.config()


def test_checkpoints_of_earlier_versions_are_believed(tmp_path, monkeypatch, capsys):
    """They have neither a checksum of the train state and the notes, nor the step."""
    added = {"step", "train_crc32", "notes_crc32"}
    with Checkpoints(tmp_path) as checkpoints:
        save(checkpoints, 1)

    def without(text):
        told = json.loads(text)
        custom = next(part for part in (told, *told.values()) if isinstance(part, dict) and "model_crc32" in part)
        for name in added:
            del custom[name]
        return json.dumps(told).encode()

    edit_notes(tmp_path / "1", without)
    with Checkpoints(tmp_path) as checkpoints:
        same(checkpoints.restore_train(abstract(make_state(1))), make_state(1))
        same(checkpoints.restore_model(None, abstract(make_model(1))), make_model(1))
    assert capsys.readouterr() == ("", "")


def train_state(checkpoints):
    state = make_state(2)
    same(checkpoints.restore_train(abstract(state)), state)


def model_of(checkpoints):
    model = make_model(2)
    same(checkpoints.restore_model(abstract=abstract(model)), model)
    assert checksum(checkpoints.restore_model()) == checksum(model)


def what_is_noted(checkpoints):
    assert (checkpoints.best(), checkpoints.latest(), checkpoints.config()) == (1, 2, {"seed": 2})
    assert checkpoints.model_checksum() == checksum(make_model(2))


READS = {"train": train_state, "model": model_of, "": what_is_noted}


def flipped(data, noise):
    at = noise.integers(len(data))
    return data[:at] + bytes([data[at] ^ 1 << noise.integers(8)]) + data[at + 1 :]


DAMAGES = {
    "half of it": lambda data, noise: data[: len(data) // 2],
    "nothing": lambda data, noise: b"",
    "no file": lambda data, noise: None,
    "another bit": flipped,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_file_of_a_checkpoint_may_be_damaged(tmp_path, damage, caplog):
    """The values are right, or one line says that it is damaged and which step is whole; nothing else is printed."""
    source, noise, told = tmp_path / "source", np.random.default_rng(0), 0
    with Checkpoints(source / "top", keep=3) as checkpoints:
        for step in (1, 2):
            save(checkpoints, step, float(step))
    for file in sorted(path.relative_to(source) for path in (source / "top/2").rglob("*") if path.is_file()):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(source / "top", copy / "top" / "checkpoints")
        path = copy / "top" / "checkpoints" / file.relative_to("top")
        data = DAMAGES[damage](path.read_bytes(), noise)
        path.unlink() if data is None else path.write_bytes(data)
        for item, read in READS.items():
            if len(file.parts) > 3 and file.parts[2] in READS and item not in (file.parts[2], ""):
                continue  # the other item's files
            try:
                with Checkpoints(copy / "top" / "checkpoints") as checkpoints:
                    read(checkpoints)
            except UserError as error:
                flag = "--stage=top --from_step" if item == "train" else "--step"
                assert re.search(rf"^\S+/2 is damaged: .*; say {flag}=1$", str(error)), (file, item, str(error))
                told += 1
    gc.collect()
    assert told and not caplog.records


@pytest.mark.parametrize("item", ["model", "train"])
def test_an_item_that_is_missing_is_no_other_model(tmp_path, item):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            save(checkpoints, step)
    shutil.rmtree(tmp_path / "2" / item)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match=r"/2 is damaged: its .* is missing; say"):
        READS[item](checkpoints)


def test_only_whole_steps_are_offered(tmp_path):
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        for step in (1, 2, 3):
            save(checkpoints, step)
    for step in (2, 3):
        (tmp_path / str(step) / "model" / "_METADATA").write_text("{}")
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match=r"/3 is damaged: .*; say --step=1$"):
        checkpoints.restore_model()
    with Checkpoints(tmp_path, flag="") as checkpoints, pytest.raises(UserError, match=r"mv \S+/3 \S+/3.damaged$"):
        checkpoints.restore_model()
    (tmp_path / "3").rename(tmp_path / "3.damaged")
    (tmp_path / "2").rename(tmp_path / "2.damaged")
    with Checkpoints(tmp_path) as checkpoints:
        same(checkpoints.restore_model(None, abstract(make_model(1))), make_model(1))
        save(checkpoints, 2)
        assert checkpoints.steps() == (1, 2)


def test_a_training_goes_back_not_forward(tmp_path):
    """From a step after the damaged one nothing would change."""
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            save(checkpoints, step)
    (tmp_path / "1" / "train" / "_METADATA").write_text("{}")
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match=r"without it step 2 is the last one: mv"):
        checkpoints.restore_train(abstract(make_state(1)), 1)


def opened():
    return len(os.listdir("/proc/self/fd")), threading.active_count()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts in /proc")
def test_saves_leave_no_descriptors_and_threads(tmp_path):
    """A long training had none left: Orbax' answer to each save has a thread of its own."""
    with Checkpoints(tmp_path) as checkpoints:
        for step in range(1, 61):
            checkpoints.save(step, {"w": jnp.ones(3)}, {"w": jnp.ones(3)}, {}, 1 / step)
            if step == 5:
                checkpoints.wait()
                before = opened()
        checkpoints.wait()
        assert opened()[0] <= before[0] + 2 and opened()[1] <= before[1] + 1


def test_later_steps_are_set_aside(tmp_path):
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder, keep=3) as checkpoints:
        for step in (1, 2, 3):
            save(checkpoints, step)
    with pytest.raises(UserError, match=r"no step 7; there are: 1, 2, 3$"):
        set_aside(folder, 7)
    assert set_aside(folder, 3) == [] and set_aside(folder, 1) == [2, 3]
    assert sorted(path.name for path in (tmp_path / "checkpoints.after_1").iterdir()) == ["2", "3"]
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.steps() == (1,)
        save(checkpoints, 2)
    with pytest.raises(UserError, match="after_1 holds steps that were set aside before"):
        set_aside(folder, 1)


def test_a_full_disk_is_one_line_also_where_causes_go_in_a_ring():
    """Threads of Orbax raise one error anew; a training would look for its first cause for ever."""
    disk, other = OSError(28, "No space left on device"), RuntimeError("save failed")
    disk.__context__, other.__context__ = other, disk
    with pytest.raises(UserError, match="saving failed: .*No space left on device.*; make room"), one_line("saving"):
        raise ValueError from disk
    with pytest.raises(UserError, match="^said$"), one_line("saving"):
        raise ValueError from UserError("said")


def test_a_step_that_is_removed_while_it_is_read_was_removed(tmp_path, monkeypatch):
    """Between the listing of its files and the look at each."""
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(1, make_model(1), {}, {})

    def gone(file):
        if (step := tmp_path / "checkpoints" / "1").is_dir():
            step.rename(tmp_path / "checkpoints" / "1.removed")
        return file.stat()

    monkeypatch.setattr(saved, "_times", gone)
    with pytest.raises(UserError, match="was removed by the training that goes on"):
        Checkpoints(tmp_path / "checkpoints").restore_model(1)


@pytest.mark.parametrize("name", ["_get_array_metadatas", "_read_array_index_and_device_put"])
def test_arrays_that_fail_beside_the_first_are_not_printed(name):
    """Of a damaged model each array fails by itself, some while the first error is already on its way."""
    orbax()
    said = 'Task exception was never retrieved: ValueError("Error reading shard entry {0} in OCDBT database at ...")'
    asyncio = logging.getLogger("asyncio")
    for text, printed in ((said, False), ("Task exception was never retrieved: of another program", True)):
        assert bool(asyncio.filter(asyncio.makeRecord("asyncio", logging.ERROR, "", 0, text, (), None))) is printed
    with warnings.catch_warnings(record=True) as seen:
        quiet._quieten.__wrapped__()
        warnings.warn(f"coroutine '{name}' was never awaited", RuntimeWarning, stacklevel=1)
    assert not seen
