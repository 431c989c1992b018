"""NaN and infinity: a step that is not finite changes nothing, and the run says so."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_train
from test_train import Autoencode, autoencode, batches, images, little, plain, same, saved, settings

import launch
from vqvae_jax import backend, finite, train
from vqvae_jax import config as configs
from vqvae_jax.checkpoint import Checkpoints
from vqvae_jax.checkpoint import checkpoints as saving
from vqvae_jax.logs import read_metrics
from vqvae_jax.types import NotFinite, UserError


class Poisoned(Autoencode):
    """Its fourth step divides by 0; with `crop` above 0 each one from there on does."""

    def learn(self, state, images, revive, frozen=None):
        new, metrics = super().learn(state, images, revive, frozen)
        bad = state.step >= 3 if self.crop else state.step == 3
        params = jax.tree.map(lambda x: x / jnp.where(bad, 0.0, 1.0), new.params)
        return new.replace(params=params), metrics


def fit(folder, on_nan, steps=6, every=3, crop=0):
    task = Poisoned(**vars(autoencode(crop=crop)))
    given = settings(steps, every) | {"on_nan": on_nan}
    train.fit(task, batches(), batches(), folder, given, {"any": "config"}, seed=5)
    return task


@pytest.mark.parametrize("choices", [backend.CPU, backend.GPU], ids=["a branch", "a choice for each number"])
def test_a_step_that_is_not_finite_changes_nothing_but_its_number(choices, monkeypatch):
    monkeypatch.setattr(finite, "choices", lambda: choices)
    _, old = little(ema_rate=0.9)
    new = jax.tree.map(lambda x: x if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x + 1, old)
    step = jax.jit(finite.kept_if_finite)
    kept, metrics = step(old, new, {"loss": jnp.float32(2)})
    same(kept, new)
    assert (float(metrics["finite"]), int(metrics["first_bad"]), float(metrics["loss"])) == (1, -1, 2)
    broken = new.replace(params={"w": new.params["w"].at[1].set(jnp.inf)})
    for given, loss, first in ((new, jnp.nan, -1), (new, jnp.inf, -1), (broken, 2.0, 1)):
        kept, metrics = step(old, given, {"loss": jnp.float32(loss)})
        same(kept, old.replace(step=new.step))
        assert (float(metrics["finite"]), int(metrics["first_bad"])) == (0, first)
    assert list(finite._tensors(old))[1] == "params/w"


def test_the_run_stops_and_its_last_good_checkpoint_stays(tmp_path):
    """Step, what is not finite, what it saw. Later steps were made already; nothing of them is saved."""
    with pytest.raises(NotFinite) as caught:
        fit(tmp_path / "autoencoder", "stop")
    text, index = str(caught.value), ", ".join(map(str, batches().index(3)))
    assert text.startswith("autoencoder: step 4 is not finite: params/decode/")
    assert f"; its batch: index {index}; the checkpoints before it stay" in text and "\n" not in text
    assert "--config.optimizer.learning_rate" in text and text.endswith("--config.train.on_nan=skip")
    with Checkpoints(tmp_path / "autoencoder/checkpoints") as checkpoints:
        assert checkpoints.steps() == (3,)
    assert int(saved(autoencode(), tmp_path / "autoencoder").step) == 3


def test_it_is_noticed_before_a_save_and_not_before_the_next_logged_step(tmp_path):
    given = settings(30, 100) | {"log_every": 10}
    task = Poisoned(**vars(autoencode(crop=0)))
    made = []
    run = train.Run.place
    with pytest.MonkeyPatch.context() as patch, pytest.raises(NotFinite, match="step 4"):
        patch.setattr(train.Run, "place", lambda self, batch: (made.append(1), run(self, batch))[1])
        train.fit(task, batches(), batches(), tmp_path, given, {}, seed=5)
    assert 20 <= len(made) < 30  # the tenth's numbers are fetched at the twentieth
    assert not (tmp_path / "checkpoints").exists()


def test_what_is_skipped_is_counted_and_the_run_goes_on(tmp_path):
    """A stopped run goes on with `skip` from its last good checkpoint; a run that skips is the same when resumed."""
    task = fit(tmp_path / "straight", "skip", every=1)
    fit(tmp_path / "halves", "skip", steps=4, every=1)
    fit(tmp_path / "halves", "skip", steps=6, every=1)
    with pytest.raises(NotFinite):
        fit(tmp_path / "stopped", "stop", every=1)
    fit(tmp_path / "stopped", "skip", every=1)
    last = saved(task, tmp_path / "straight")
    same(last, saved(task, tmp_path / "halves"))
    same(last, saved(task, tmp_path / "stopped"))
    assert int(last.step) == 6 and all(np.isfinite(x).all() for x in jax.tree.leaves(plain(last)))
    lines = [line for line in read_metrics(tmp_path / "straight/metrics.jsonl") if "train/loss" in line]
    assert [line["train/finite"] for line in lines] == [1, 1, 1, 0, 1, 1]
    assert [line["train/skipped"] for line in lines] == [0, 0, 0, 1, 1, 1]
    assert not any("first_bad" in name for line in lines for name in line)


def test_too_many_in_a_row_end_a_run_that_skips(tmp_path, monkeypatch):
    monkeypatch.setattr(finite, "SKIPPED_MOST", 4)
    with pytest.raises(
        NotFinite, match=r"top: step 7, as the 3 before it, is not finite.*--config.priors.top.optimizer"
    ):
        fit(tmp_path / "top", "skip", steps=12, crop=2)
    assert int(saved(autoencode(), tmp_path / "top").step) == 6


def test_a_held_out_loss_that_is_not_finite_stops_too(tmp_path):
    class Large(Autoencode):
        def summary(self, sums):
            return {"loss": float("inf")}

    with pytest.raises(NotFinite, match="the held-out loss is inf at step 3"):
        test_train.fit(Large(**vars(autoencode())), tmp_path, 6)
    assert not (tmp_path / "checkpoints").exists()


def test_launch_ends_with_1(tmp_path, capsys):
    """At a learning rate of 1e30 the weights are finite once and then no more."""
    np.savez(tmp_path / "data.npz", train_image=images().image, test_image=images().image[:8])
    (tmp_path / "mine.py").write_text(test_train.CONFIG.replace("DATA", repr(str(tmp_path / "data.npz"))))
    workdir = tmp_path / "run"
    argv = [f"--config={tmp_path / 'mine.py'}", f"--workdir={workdir}", "--config.optimizer.learning_rate=1e30"]
    assert launch.main(argv) == 1
    said = capsys.readouterr().err
    assert re.search(r"^error: autoencoder: step 2 is not finite: ", said, re.M) and "Traceback" not in said
    assert not (workdir / "autoencoder/checkpoints").exists() and not (workdir / "metrics.json").exists()
    config = configs.load(workdir)
    config["train"]["on_nan"] = "skip"
    assert configs.differs(config, workdir)  # it may


def test_weights_with_nan_are_neither_saved_nor_read(tmp_path, monkeypatch):
    """Those that an earlier version saved: evaluation, sampling, export and init_from read them by restore_model."""
    good, bad = {"w": jnp.ones(3), "n": jnp.arange(3)}, {"w": jnp.array([1, jnp.nan, 0], jnp.bfloat16)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, good, good, {})
        with pytest.raises(UserError, match=r"^the model of .*/2 holds NaN or infinity in w; it is not saved$"):
            checkpoints.save(2, bad, good, {})
        assert checkpoints.steps() == (1,)
        with monkeypatch.context() as patch:
            patch.setattr(saving, "check_finite", lambda *given: None)
            checkpoints.save(2, bad, good, {})
        with pytest.raises(UserError, match=r"/2 holds NaN or infinity in w; say --step=1$"):
            checkpoints.restore_model()
        assert checkpoints.restore_model(1)["w"].tolist() == [1, 1, 1]
