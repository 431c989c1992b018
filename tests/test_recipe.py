"""A whole recipe on little pictures: from images to new images, stopped, gone on with, refused.

What costs time is compiling, so one run is trained once for all tests that only look at it or work on a copy.
Other files of tests take the data, the config and that run from here.
"""

import fcntl
import json
import math
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import PIL.Image
import pytest

from vqvae_jax import codec, data, evaluate, recipe
from vqvae_jax import config as configs
from vqvae_jax import facts as facts_file
from vqvae_jax.checkpoint import Checkpoints
from vqvae_jax.data import tokens
from vqvae_jax.data.entropy import entropies
from vqvae_jax.logs import read_metrics
from vqvae_jax.parts import Parts
from vqvae_jax.trained import Trained
from vqvae_jax.types import UserError

STAGES = ("autoencoder", "top", "bottom")
DONE = 4  # steps of each stage


def write_data(path, labels=True, seed=0, count=96):
    """Pictures of 16 big pixels; those of one label share a tint."""
    noise = np.random.default_rng(seed)
    arrays = {}
    for split, size in (("train", count), ("test", 20)):
        label = noise.integers(0, 3, size)
        pixels = noise.integers(0, 128, (size, 4, 4, 3)) + 60 * label[:, None, None, None]
        arrays[f"{split}_image"] = pixels.astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)
        if labels:
            arrays[f"{split}_label"] = label
    np.savez(path, **arrays)
    return path


def tiny(path, **changes):
    """The config of a run that takes seconds; `changes` are dotted fields, with __ for the dot."""
    every = {"batch_size": 16, "steps": DONE, "log_every": 1, "pictures_every": DONE}
    every |= {"evaluate_every": 2, "checkpoint_every": 2}
    prior = {"name": "pixelcnn", "depth": 8, "layers": 1, "dropout": 0.1, "condition_blocks": 1}
    config = {
        "dataset": {"name": "npz", "path": str(path), "image_size": 16, "flip": True},
        "autoencoder": {
            "name": "hierarchical",
            "width": 8,
            "quantizer": {"name": "ema", "codebook_size": 16, "code_dim": 8, "revive_after": 2},
        },
        "loss_weights": {"reconstruction": 1.0, "feature": 1.0, "commitment": 0.25},
        "train": dict(every),
        "priors": {level: prior | {"label_condition": True, "train": dict(every)} for level in ("top", "bottom")},
    }
    for name, value in changes.items():
        *sections, field = name.split("__")
        here = config
        for section in sections:
            here = here.setdefault(section, {})
        here[field] = value
    config = configs.complete(config)
    configs.check(config)
    return config


def trained_run(tmp_path_factory):
    """(workdir, path of its data) of a finished run; not to be changed.

    Trained once for all processes of tests; each has a copy, which a command may lock for a moment.
    """
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    path = shared / "trained.npz"
    with (shared / "trained.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "trained").is_dir():
            write_data(path)
            recipe.run(tiny(path), shared / "half")
            (shared / "half").rename(shared / "trained")
    if not (own / "trained").is_dir():
        shutil.copytree(shared / "trained", own / "trained")
    return own / "trained", path


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    return trained_run(tmp_path_factory)


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of the finished run, to be changed."""
    return Path(shutil.copytree(trained[0], tmp_path / "run"))


def files(workdir):
    """Every file with its bytes and its time: what must not change when a command is refused."""
    found = sorted(path for path in Path(workdir).rglob("*") if path.is_file())
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def of_stages(workdir, read):
    """What `read` says of each stage's checkpoints."""
    found = {}
    for stage in STAGES:
        with Checkpoints(workdir / stage / "checkpoints") as checkpoints:
            found[stage] = read(checkpoints)
    return found


def latest(workdir):
    return of_stages(workdir, Checkpoints.latest)


def models(workdir):
    """Every array of every stage's last model."""
    return of_stages(workdir, Checkpoints.restore_model)


def picture(path):
    with PIL.Image.open(path) as image:
        return np.asarray(image)


def refused(workdir, config, stage=None):
    """The one line that a run is refused with; it has written nothing."""
    before = files(workdir)
    with pytest.raises(UserError) as caught:
        recipe.run(config, workdir, stage)
    assert files(workdir) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("path", ["config.train", "config.priors.top.train", "config.priors.bottom.train"])
def test_a_batch_that_does_not_divide_among_the_devices_is_named_by_its_stage(path, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    monkeypatch.setattr(jax, "make_mesh", lambda *sizes, **more: SimpleNamespace(size=2))
    field = f"{path}.batch_size".removeprefix("config.").replace(".", "__")
    said = refused(tmp_path / "run", tiny(write_data(tmp_path / "x.npz"), **{field: 33}))
    assert said == f"{path}.batch_size=33 does not divide among 2 devices: --{path}.batch_size=32"


# --- one command


def test_one_command_leaves_everything_that_it_promises(trained):
    workdir, path = trained
    assert latest(workdir) == dict.fromkeys(STAGES, DONE)
    assert configs.load(workdir) == tiny(path)
    for stage in STAGES:
        lines = read_metrics(workdir / stage / "metrics.jsonl")
        assert [line["step"] for line in lines if "train/loss" in line] == [1, 2, 3, 4]
        assert [line["step"] for line in lines if "held_out/loss" in line] == [2, 4]
        assert (workdir / stage / "tensorboard").is_dir()
    assert (workdir / "autoencoder/pictures/levels_0000004.png").is_file()
    assert (workdir / "top/pictures/samples_0000004.png").is_file()
    assert (workdir / "bottom/pictures/samples_0000004.png").is_file()
    for name in ("samples.png", "reconstructions.png"):
        assert min(picture(workdir / name).shape[:2]) > 64
    page = (workdir / "report.html").read_text()
    assert str(round(json.loads((workdir / "metrics.json").read_text())["autoencoder"]["psnr"], 2)) in page


def test_stages_begin_in_order(trained):
    """Order never comes from a config: "bottom" stands before "top" in the alphabet."""
    began = [read_metrics(trained[0] / stage / "metrics.jsonl")[0]["time"] for stage in STAGES]
    assert began == sorted(began)


def test_training_tells_usage_and_entropies(trained):
    workdir, _ = trained
    last = read_metrics(workdir / "autoencoder/metrics.jsonl")[-2:]
    told = {name for line in last for name in line}
    for level in ("top", "bottom"):
        assert {f"held_out/usage/{level}", f"held_out/perplexity/{level}", f"train/revived/{level}"} <= told
    told = {name for line in read_metrics(workdir / "top/metrics.jsonl") for name in line}
    assert {"held_out/nll", "held_out/entropy", "held_out/position_entropy"} <= told


def test_metrics_json_is_about_the_test_split(trained):
    metrics = json.loads((trained[0] / "metrics.json").read_text())
    assert (metrics["split"], metrics["images"]) == ("test", 20)
    assert set(metrics["priors"]) == {"top", "bottom"}
    bits = 0.0
    for level, cells in (("top", 2 * 2), ("bottom", 4 * 4)):
        nll = metrics["priors"][level]["nll"]
        assert metrics["priors"][level]["bits_per_pixel"] == pytest.approx(nll * cells / math.log(2) / 16**2)
        bits += metrics["priors"][level]["bits_per_pixel"]
    assert metrics["bits_per_pixel"] == pytest.approx(bits)


def test_one_code_has_nothing_to_tell_and_divides_nothing():
    one = np.zeros((4, 2, 2), np.int32)
    entropy = entropies([one], [one], vocab_size=1)["position_entropy"]
    assert entropy == 0 and evaluate.ratio(0.0, entropy) == 1.0
    assert evaluate.ratio(0.5, 0.0) == math.inf and evaluate.ratio(1.0, 2.0) == 0.5


def test_priors_learn_the_codes_that_the_decoder_expects(trained):
    workdir, _ = trained
    config, known = configs.load(workdir), facts_file.read(workdir)
    made = Parts(config, known)
    autoencoder, model = made.autoencoder, made.load(workdir, "autoencoder")
    images = data.load(config["dataset"], "train")
    maps = [codec.encode(autoencoder, (0.0, 1.0), model, images.image[i : i + 1]) for i in range(len(images))]
    maps = [np.concatenate(level) for level in zip(*maps, strict=True)]  # one by one, not in batches
    written = tokens.read(workdir / "tokens", "train")
    for one, other in zip(maps, written.maps, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(images.label, written.label)


def test_training_what_is_finished_is_said_and_writes_nothing(trained, capsys):
    workdir, path = trained
    before = files(workdir)
    for stage in (None, "top"):
        recipe.run(tiny(path), workdir, stage)
    assert files(workdir) == before
    said = capsys.readouterr().err
    assert all(f"{stage}: finished, {DONE} steps" in said for stage in STAGES)
    assert "look at" not in said


def test_stage_by_stage_and_interrupted_is_the_same_run(trained, tmp_path, capsys):
    """Each stage alone, half of its steps first: codes, dropout, flips and revivals go on where they were."""
    workdir, path = trained
    other = tmp_path / "run"
    recipe.run(tiny(path, train__steps=2), other, "autoencoder")
    recipe.run(tiny(path), other, "autoencoder")
    short = tiny(path, priors__bottom__train__steps=2)
    recipe.run(short, other, "bottom")  # it is given the true codes above, so it may go before the top
    assert not (other / "metrics.json").exists()
    recipe.run(short, other)
    first = json.loads((other / "metrics.json").read_text())
    recipe.run(tiny(path), other)  # more steps of a prior that was finished: evaluated and sampled again
    assert "bottom: goes on at step 2, 4 steps" in capsys.readouterr().err
    jax.tree.map(np.testing.assert_array_equal, models(other), models(workdir))
    second = json.loads((other / "metrics.json").read_text())
    assert second == json.loads((workdir / "metrics.json").read_text())
    assert second["priors"]["top"] == first["priors"]["top"]
    assert second["priors"]["bottom"]["nll"] != first["priors"]["bottom"]["nll"]
    assert (other / "samples.png").read_bytes() == (workdir / "samples.png").read_bytes()
    steps = [line["step"] for line in read_metrics(other / "bottom/metrics.jsonl") if "train/loss" in line]
    assert steps == [1, 2, 3, 4]


# --- refused


def test_a_prior_before_its_autoencoder(trained, tmp_path):
    answer = refused(tmp_path, tiny(trained[1]), "top")
    assert "autoencoder" in answer and f"--stage=autoencoder --workdir={tmp_path}" in answer
    assert not list(tmp_path.iterdir())


def test_the_autoencoder_is_not_trained_on_under_its_priors(trained):
    workdir, path = trained
    answer = refused(workdir, tiny(path, train__steps=6))
    assert "from step 4 to 6" in answer and "top, bottom" in answer and f"rm -r {workdir / 'top'}" in answer


def test_what_the_refusal_says_helps(copy, trained):
    for name in ("top", "bottom", "tokens"):
        shutil.rmtree(copy / name)
    recipe.Recipe(tiny(trained[1], train__steps=6), copy).check()


def test_a_workdir_of_another_config(trained):
    workdir, path = trained
    answer = refused(workdir, tiny(path, optimizer__learning_rate=1.0))
    assert "config.optimizer.learning_rate: 0.001 → 1.0" in answer and "another --workdir" in answer


def test_another_config_is_named_before_other_data(trained, tmp_path):
    workdir, _ = trained
    answer = refused(workdir, tiny(write_data(tmp_path / "other.npz", count=80)))
    assert "config.dataset.path" in answer and "another --workdir" in answer


def test_changed_data(copy, trained, tmp_path):
    """The same path, other pictures; the durations asked for would have been stored."""
    path = write_data(tmp_path / "data.npz", count=80)
    config = tiny(path)
    configs.save(config, copy)
    answer = refused(copy, tiny(path, priors__bottom__train__steps=9))
    assert "the data have changed" in answer and "train_images" in answer and "another --workdir" in answer


def test_label_condition_without_labels(tmp_path):
    path = write_data(tmp_path / "data.npz", labels=False)
    answer = refused(tmp_path / "run", tiny(path))
    assert "config.priors.top.label_condition" in answer and "--config.priors.top.label_condition=false" in answer
    assert not (tmp_path / "run").exists()


def test_a_weight_without_its_loss(trained, tmp_path):
    answer = refused(tmp_path / "run", tiny(trained[1], loss_weights__codebook=1.0))
    assert "'codebook'" in answer and "commitment, feature, reconstruction" in answer
    assert not (tmp_path / "run").exists()


def test_too_few_images_to_hold_some_out(tmp_path):
    answer = refused(tmp_path / "run", tiny(write_data(tmp_path / "data.npz", count=2)))
    assert "holds no images" in answer and "validation" in answer


# --- from another run, and again


def write_folders(path, names, count=60):
    """Pictures in folders, which are their labels."""
    for name in names:
        (path / name).mkdir(parents=True)
        for i in range(count):
            noise = np.random.default_rng([int(name), i]).integers(0, 256, (4, 4, 3), np.uint8)
            PIL.Image.fromarray(noise.repeat(4, axis=0).repeat(4, axis=1)).save(path / name / f"{i}.png")
    return path


def begun_when_labels_were_text(workdir, path):
    """A run as an earlier version began it: 10 before 9."""
    config = tiny(path, dataset__name="folder")
    facts = recipe.Recipe(config, workdir).facts
    assert facts["label_names"] == ["9", "10"]
    workdir.mkdir()
    configs.save(config, workdir)
    facts_file.write(facts | {"label_names": ["10", "9"], "label_counts": facts["label_counts"][::-1]}, workdir)
    return config


def test_a_run_goes_on_with_the_labels_that_it_began_with(tmp_path, monkeypatch):
    monkeypatch.setenv("VQVAE_JAX_CACHE", str(tmp_path / "cache"))
    path = write_folders(tmp_path / "data", ["9", "10"])
    config = begun_when_labels_were_text(tmp_path / "run", path)
    went_on = recipe.Recipe(config, tmp_path / "run")
    went_on.check()
    from_it = recipe.Recipe(
        tiny(path, dataset__name="folder", priors__top__train__init_from=str(tmp_path / "run")), tmp_path / "new"
    )
    for begun in (went_on, from_it):
        assert begun.facts["label_names"] == ["10", "9"]
        for images in begun.splits.values():
            assert [("10", "9")[label] for label in images.label] == [name.split("/")[0] for name in images.name]
    write_folders(path, ["11"])
    assert "label_names" in refused(tmp_path / "run", config)


def test_a_run_starts_from_the_weights_of_another(trained, tmp_path):
    """The stage of the same name; moments, steps and the seed are its own."""
    workdir, path = trained
    config = tiny(path, train__init_from=str(workdir), optimizer__learning_rate=1e-12, train__steps=1)
    recipe.run(config, tmp_path / "run", "autoencoder")
    with (
        Checkpoints(tmp_path / "run/autoencoder/checkpoints") as one,
        Checkpoints(workdir / "autoencoder/checkpoints") as other,
    ):
        assert one.latest() == 1
        one, other = one.restore_model(), other.restore_model()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one["params"], other["params"])
    moved = np.abs(one["codebooks"]["top"]["codes"] - other["codebooks"]["top"]["codes"])
    assert 0 < moved.max() < 1  # one step of averaging


def test_weights_of_another_shape_or_none_are_refused(trained, tmp_path):
    workdir, path = trained
    answer = refused(tmp_path / "run", tiny(path, train__init_from=str(workdir), autoencoder__width=4))
    assert "does not fit" in answer and str(workdir) in answer
    answer = refused(tmp_path / "run", tiny(path, train__init_from=str(tmp_path / "nowhere")))
    assert "has no checkpoint" in answer and not (tmp_path / "run").exists()


def test_a_config_json_is_a_config(trained, tmp_path):
    workdir, path = trained
    assert configs.read(str(workdir / "config.json")) == tiny(path)
    assert configs.read(str(workdir / "config.json"), ["--config.train.steps=9"])["train"]["steps"] == 9
    (tmp_path / "half.json").write_text('{"dataset')
    with pytest.raises(UserError, match=r"half.json is damaged.*--config=configs/X.py"):
        configs.read(str(tmp_path / "half.json"))


def test_other_samples_are_drawn_anew(copy, trained):
    before = (copy / "samples.png").read_bytes(), (copy / "metrics.json").stat().st_mtime_ns
    recipe.run(tiny(trained[1], sample__count=9), copy)
    assert (copy / "samples.png").read_bytes() != before[0] and (copy / "report.html").is_file()
    assert (copy / "metrics.json").stat().st_mtime_ns == before[1]


@pytest.mark.parametrize(
    ("field", "value", "again"),
    [
        ("config.priors.top.sample_steps", 3, "samples.png report.html metrics.json"),
        ("config.sample.temperature", 0.5, "samples.png report.html metrics.json"),
        ("config.sample.count", 9, "samples.png report.html"),  # distances are of another number
        ("config.priors.top.train.log_every", 9, ""),
    ],
)
def test_what_another_way_of_drawing_makes_anew(field, value, again, tmp_path):
    """Of a prior's own fields too. What was measured of samples is measured again; without samples it stays."""
    names, before = ("samples.png", "report.html", "metrics.json"), configs.read("configs/openmoji_maskgit.py")
    configs.save(before, tmp_path)
    asked = configs.read("configs/openmoji_maskgit.py", [f"--{field}={value}"])
    assert configs.changed(before, asked).keys() == {field}
    for distances in ({"samples": {}}, {"reconstructions": {}}):
        for name in names:
            (tmp_path / name).write_text(json.dumps({"distances": distances}))
        recipe.Recipe._forget_other_samples(SimpleNamespace(workdir=tmp_path, config=asked))
        gone = {name for name in names if not (tmp_path / name).exists()}
        assert gone == set(again.split()) - ({"metrics.json"} if "samples" not in distances else set())


# --- evaluation


def test_evaluation_of_another_split(copy):
    metrics = evaluate.evaluate(copy, {"test_split": "train"})
    assert (metrics["split"], metrics["images"]) == ("train", 96)


def test_a_config_that_was_changed_by_hand_is_not_believed(copy, trained):
    """Each checkpoint holds the config it was saved with. Where the data lie and how often is logged may change."""
    written = json.loads((copy / configs.FILE).read_text())
    written["autoencoder"]["quantizer"]["decay"] = 0.5
    written["priors"]["bottom"]["dropout"] = 0.2
    (copy / configs.FILE).write_text(json.dumps(written))
    config = configs.load(copy)
    before = files(copy)
    model = Trained(copy)
    said = r"config.json was changed since .*put it back; saved → now: config.autoencoder.quantizer.decay: 0.99 → 0.5$"
    for read in (lambda: model.autoencoder, lambda: recipe.run(config, copy)):
        with pytest.raises(UserError, match=said):
            read()
    assert files(copy) == before
    written["autoencoder"]["quantizer"]["decay"] = 0.99
    (copy / configs.FILE).write_text(json.dumps(written))
    with pytest.raises(UserError, match=r"config.priors.bottom.dropout: 0.1 → 0.2$"):
        _ = Trained(copy).priors
    written["priors"]["bottom"]["dropout"] = 0.1
    written["dataset"]["path"], written["train"]["log_every"] = "elsewhere.npz", 7
    (copy / configs.FILE).write_text(json.dumps(written))
    model = Trained(copy)
    assert set(model.priors) == {"top", "bottom"} and model.autoencoder


def test_a_stage_goes_on_from_an_earlier_step(copy, trained, tmp_path, capsys):
    """Bit for bit to where it was; the later step lies beside."""
    import launch

    argv = [f"--config={copy / configs.FILE}", f"--workdir={copy}", "--stage=bottom"]
    bottom = copy / "bottom"
    with Checkpoints(bottom / "checkpoints") as checkpoints:
        assert checkpoints.steps() == (2, 4)
        was = checkpoints.model_checksum(4)
    shutil.rmtree(bottom / "checkpoints" / "4" / "train")  # whatever its damage
    assert launch.main([*argv, "--from_step=3"]) == 2 and "no step 3; there are: 2, 4" in capsys.readouterr().err
    assert launch.main([argv[0], argv[1], "--from_step=2"]) == 2 and "say which" in capsys.readouterr().err
    assert launch.main([argv[0], argv[1], "--stage=autoencoder", "--from_step=2"]) == 2
    assert "learned the codes" in capsys.readouterr().err
    assert launch.main([*argv, "--from_step=2"]) == 0
    assert "bottom: goes back to step 2; steps 4 are in" in capsys.readouterr().err
    with Checkpoints(bottom / "checkpoints") as checkpoints:
        assert checkpoints.steps() == (2, 4) and checkpoints.model_checksum(4) == was
    assert [path.name for path in (bottom / "checkpoints.after_2").iterdir()] == ["4"]


def test_a_checkpoint_under_another_steps_name_is_not_resumed(copy, trained):
    """Also one of an earlier version, which does not say its step: the train state does."""
    folder = copy / "bottom" / "checkpoints"
    shutil.rmtree(folder / "4")
    shutil.copytree(folder / "2", folder / "3")
    with pytest.raises(UserError, match=r"/3 is the checkpoint of step 2 under another name; name it 2 again"):
        recipe.run(configs.load(copy), copy)


def test_a_relative_path_of_the_data_is_found_from_anywhere(tmp_path, monkeypatch):
    """From where one stands, else from where the run was begun; also where both were moved together."""
    (tmp_path / "project" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    write_data(Path("data/images.npz"))
    config = tiny("data/images.npz", priors={})
    recipe.run(config, Path("runs/a"))
    monkeypatch.chdir(tmp_path)
    shutil.move("project", "moved")
    workdir = Path("moved/runs/a")
    assert evaluate.evaluate(workdir)["images"] == 20
    more = tiny("data/images.npz", priors={}, train__steps=DONE + 2)
    recipe.run(more, workdir)
    assert latest(workdir)["autoencoder"] == DONE + 2 and configs.load(workdir)["dataset"]["path"] == "data/images.npz"
    shutil.rmtree("moved/data")
    with pytest.raises(UserError, match="data/images.npz: there is no such file"):
        recipe.run(more, workdir)


def test_a_relative_path_of_the_data_is_found_behind_a_link(tmp_path, monkeypatch):
    """As where `runs` is a link to a larger disk; what lies beside that is not taken."""
    (tmp_path / "project" / "data").mkdir(parents=True)
    (tmp_path / "disk" / "me" / "runs").mkdir(parents=True)
    (tmp_path / "disk" / "me" / "data").mkdir()
    (tmp_path / "project" / "runs").symlink_to(tmp_path / "disk" / "me" / "runs")
    for where in ("project", "disk/me"):
        (tmp_path / where / "data" / "images.npz").write_bytes(where.encode())
    monkeypatch.chdir(tmp_path / "project")
    workdir = tmp_path / "project" / "runs" / "a"
    workdir.mkdir()
    facts_file.write({"image_size": 16, "channels": 3, "label_names": [], "label_counts": []}, Path("runs/a"))
    monkeypatch.chdir(tmp_path)
    for seen in (workdir, workdir.resolve(), Path("project/runs/a")):
        found = recipe.located(tiny("data/images.npz"), seen)["dataset"]["path"]
        assert Path(found).read_text() == "project"


def test_sigterm_between_two_stages_says_what_ctrl_c_says(copy, monkeypatch, capsys):
    """As the top begins to encode; nothing of the autoencoder is touched, and SIGTERM is as it was."""
    import launch

    for name in ("top", "bottom", "tokens"):
        shutil.rmtree(copy / name)
    before = files(copy / "autoencoder")
    monkeypatch.setattr(recipe.Recipe, "_encode_into", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert launch.main([f"--config={copy / configs.FILE}", f"--workdir={copy}"]) == 143
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "stopped; what was saved stays, the same command goes on from there"
    assert files(copy / "autoencoder") == before and not (copy / "top/checkpoints").exists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_the_unit_of_an_error_stands_beside_it():
    said = evaluate.lines({"images": evaluate.MANY, "autoencoder": {"mse": 0.02, "psnr": 23.0}})
    assert said[1].split(maxsplit=2) == ["autoencoder/mse", "0.0200", "of images in dataset.range"]
    assert said[2].split() == ["autoencoder/psnr", "23.0000"]


def test_metrics_of_few_images_say_so():
    assert "means over 20 images alone" in evaluate.lines({"split": "test", "images": 20})[-1]
    assert len(evaluate.lines({"split": "test", "images": evaluate.MANY})) == 2
