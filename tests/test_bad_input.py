"""What is typed wrongly: exit 2, one line that names the thing and what to type, nothing written over.

Here as the user meets it, through both commands; test_config.py and test_launch.py hold the fields and the flags.
"""

from pathlib import Path

import jax
import numpy as np
import pytest
from test_recipe import DONE, files, tiny, trained_run, write_data

import launch
from vqvae_jax import __main__ as package

CIFAR = "configs/cifar10_hierarchical.py"
DEMO = "configs/openmoji_hierarchical.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run that must come out of every test as it went in, and the config file that made it."""
    workdir, path = trained_run(tmp_path_factory)
    config = workdir.parent / "mine.py"
    config.write_text(f'"""Mine."""\n\n\ndef get_config(variant=None):\n    return {tiny(path)!r}\n')
    return workdir, config


@pytest.fixture
def refuse(capsys):
    """Runs a command line that is refused; gives the one line."""

    def refuse(main, *argv):
        try:
            code = main([str(word) for word in argv])
        except SystemExit as error:  # argparse
            code = error.code
        out, err = capsys.readouterr()
        assert code == 2, err
        assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), err
        assert "Traceback" not in err and not out
        return err

    return refuse


def holds(answer, *words):
    assert all(word in answer for word in words), answer


# --- launch.py, nothing trained yet


LAUNCH = {
    "an unknown config": (
        ["--config=configs/cifar10_hirarchical.py"],
        ["'configs/cifar10_hirarchical.py'", f"did you mean '{CIFAR}'?"],
    ),
    "an unknown variant": ([f"--config={DEMO}:tinny"], ["'tinny'", "did you mean 'tiny'?"]),
    "an unknown field": ([f"--config={DEMO}", "--config.train.batchsize=4"], ["'batchsize'", "'batch_size'"]),
    "an unknown stage": ([f"--config={DEMO}", "--stage=middle"], ["'middle'", "autoencoder, top, bottom"]),
    "an unknown dataset": ([f"--config={DEMO}", "--config.dataset.name=openmojis"], ["'openmojis'", "'openmoji'"]),
    "a field of the wrong type": ([f"--config={DEMO}", "--config.train.steps=ten"], ["a whole number", "'ten'"]),
    "a field foreign to the part": (
        [f"--config={CIFAR}", "--config.autoencoder.quantizer.decay=0.9"],
        ["'decay'", "It has: name, codebook_size, code_dim, revive_after", "belongs to 'ema'"],
    ),
    "an image size that the levels do not divide": (
        [f"--config={DEMO}", "--config.dataset.image_size=100"],
        ["image_size=100", "multiple of 8", "--config.dataset.image_size=96"],
    ),
    "a seed too large": ([f"--config={DEMO}", "--config.seed=99999999999"], ["config.seed", "99999999999"]),
    "steps and epochs": ([f"--config={DEMO}", "--config.train.epochs=2"], ["--config.train.steps=0"]),
    "data that are not there": (
        [f"--config={CIFAR}", "--config.dataset.path=nowhere.npz"],
        ["dataset.path", "nowhere.npz"],
    ),
}


@pytest.mark.parametrize("case", LAUNCH)
def test_launch_refuses(case, refuse, tmp_path):
    argv, words = LAUNCH[case]
    holds(refuse(launch.main, *argv, f"--workdir={tmp_path / 'run'}"), *words)
    assert not list(tmp_path.iterdir())


def data_file(tmp_path, kind):
    """An .npz that is wrong in one way."""
    path = tmp_path / "data.npz"
    images = np.zeros((8, 16, 16, 3), np.uint8)
    many = np.random.default_rng(0).integers(0, 256, (96, 16, 16, 3), np.uint8)
    arrays = {
        "another size": {"train_image": images[:, :8, :8]},
        "no squares": {"train_image": images[:, :8]},
        "floats": {"train_image": images.astype(np.float32)},
        "no such split": {"test_image": images},
        "too few labels": {"train_image": images, "train_label": np.zeros(3, int)},
        "labels that are no integers": {"train_image": images, "train_label": np.zeros(8)},
        "no images": {"train_image": images[:0]},
        "names of nothing": {"here": many, "there": many[:20]},
        "two of one name": {"x_train": many, "train_images": many, "x_test": many},
        "grey to colour": {"train_image": many, "test_image": many[..., :1]},
        "no test images": {"train_image": many, "test_image": many[:0]},
    }
    np.savez(path, **arrays.get(kind, {"train_image": images}))
    if kind == "half a file":
        path.write_bytes(path.read_bytes()[:1000])
    return path


DATA = {
    "another size": "not 16: --config.dataset.image_size=8",
    "no squares": "8 x 16",
    "floats": "uint8",
    "no such split": "train_image",
    "too few labels": "3 labels for 8 images",
    "labels that are no integers": "train_label",
    "no images": "holds no images",
    "names of nothing": "here uint8 [96, 16, 16, 3], there uint8 [20, 16, 16, 3]; "
    "--config.dataset.keys=train_image=here,test_image=there",
    "two of one name": "may both be train_image; say which: --config.dataset.keys=train_image=train_images",
    "grey to colour": "--config.dataset.channels=1 takes all as grey, 3 all in colour",
    "no test images": "the split 'test' holds no images, on which the finished training is measured",
    "half a file": "cannot be read",
}


@pytest.mark.parametrize("kind", DATA)
def test_launch_refuses_data(kind, refuse, trained, tmp_path):
    path = data_file(tmp_path, kind)
    line = refuse(
        launch.main, f"--config={trained[1]}", f"--config.dataset.path={path}", f"--workdir={tmp_path / 'run'}"
    )
    holds(line, DATA[kind])
    assert [one.name for one in tmp_path.iterdir()] == ["data.npz"]


MUCH = {
    "images in a batch": ("train.batch_size=1000000000", "--config.train.batch_size=N with N far below"),
    "tokens in a batch": ("priors.top.train.batch_size=1000000000", "--config.priors.top.train.batch_size=N"),
    "pixels": ("dataset.image_size=1000000000", "not even one has room"),
    "codes": ("autoencoder.quantizer.codebook_size=1000000000", "codebook_size"),
    "channels": ("autoencoder.width=1000000", "width"),
    "samples": ("sample.count=1000000000000", "config.sample.count"),
    "steps": ("priors.top.train.epochs=2147483647", "--config.priors.top.train.epochs=N, fewer"),
    "one grey value": ("autoencoder.classes=1", "classes=1"),
    "grey values in another range": (
        "autoencoder.classes=16 --config.dataset.range=-1,1",
        "this autoencoder is of pixels from 0 to 1: --config.dataset.range=0,1",
    ),
}


@pytest.mark.parametrize("kind", MUCH)
def test_launch_refuses_what_cannot_be_before_it_is_tried(kind, refuse, trained, tmp_path):
    typed, words = MUCH[kind]
    also = ["--config.priors.top.train.steps=0"] if kind == "steps" else []
    argv = [f"--config={trained[1]}", *f"--config.{typed}".split(), *also, f"--workdir={tmp_path / 'run'}"]
    holds(refuse(launch.main, *argv), words)
    assert not list(tmp_path.iterdir())


NO_CONFIGS = {
    "returns nothing": ("def get_config(variant=None):\n    config = {}\n", "returned NoneType, not a config"),
    "returns text": ("def get_config(variant=None):\n    return 'x'\n", "returned str, not a config"),
    "leaves": ("import sys\n\n\ndef get_config(variant=None):\n    sys.exit(3)\n", "SystemExit: 3"),
    "leaves at once": ("import sys\n\nsys.exit()\n", "cannot be run: SystemExit"),
    "raises": ("def get_config(variant=None):\n    return 1 / 0\n", "ZeroDivisionError: division by zero"),
    "wants more": ("def get_config():\n    return {}\n", "TypeError: get_config() takes 0 positional"),
    "does not parse": ("def get_config(variant=None:\n", "SyntaxError"),
    "is no text": ("\udcff\udcfe", "cannot be run: SyntaxError"),
    "defines nothing": ("config = {}\n", "it defines no get_config(variant=None)"),
    "says nothing": ("def get_config(variant=None):\n    return {}\n", "config.autoencoder.name is missing"),
    "names a list": (
        "def get_config(variant=None):\n    return {'autoencoder': {'name': ['vqvae']}}\n",
        "config.autoencoder.name: there is no",
    ),
}


@pytest.mark.parametrize("kind", NO_CONFIGS)
def test_a_file_that_is_no_config(kind, refuse, tmp_path):
    text, words = NO_CONFIGS[kind]
    path = tmp_path / "mine.py"
    path.write_text(text, errors="surrogateescape")
    holds(refuse(launch.main, f"--config={path}", f"--workdir={tmp_path / 'run'}"), words)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("main", [launch.main, package.main])
def test_an_accelerator_that_is_not_there(main, refuse, trained, monkeypatch):
    """Where its plugin is not installed JAX asserts, where its driver is missing it raises a RuntimeError."""
    asked, devices = jax.config.jax_platforms, jax.devices

    def only_cpu():
        if jax.config.jax_platforms == "cuda":
            raise AssertionError
        return devices()

    monkeypatch.setattr(jax, "devices", only_cpu)
    jax.config.update("jax_platforms", "cuda")
    try:
        argv = ["sample"] if main is package.main else [f"--config={trained[1]}"]
        line = refuse(main, *argv, f"--workdir={trained[0]}")
    finally:
        jax.config.update("jax_platforms", asked)
    holds(line, "JAX_PLATFORMS=cuda", "only cpu", "leave JAX_PLATFORMS out", "docs/accelerators.md")


ENDS = {
    "a full disk": (OSError(28, "No space left on device", "x"), "No space left on device: 'x'; choose another place"),
    "a full disk, as Orbax says it": (ValueError("RESOURCE: write: No space left on device"), "make room"),
    "memory": (MemoryError(), "not enough memory (MemoryError)"),
    "memory, as XLA says it": (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), "batch_size"),
}


@pytest.mark.parametrize("kind", ENDS)
def test_what_the_machine_ends_is_one_line(kind, refuse, trained, monkeypatch):
    error, words = ENDS[kind]

    def fails(*_, **__):
        raise error

    monkeypatch.setattr("vqvae_jax.recipe.run", fails)
    monkeypatch.setattr("vqvae_jax.evaluate.evaluate", fails)
    holds(refuse(launch.main, f"--config={trained[1]}", f"--workdir={trained[0]}"), words)
    holds(refuse(package.main, "evaluate", f"--workdir={trained[0]}"), words)


def test_label_condition_without_labels(refuse, trained, tmp_path):
    path = write_data(tmp_path / "data.npz", labels=False)
    line = refuse(
        launch.main, f"--config={trained[1]}", f"--config.dataset.path={path}", f"--workdir={tmp_path / 'run'}"
    )
    holds(line, "config.priors.top.label_condition", "'npz' has no labels", "label_condition=false")
    assert not (tmp_path / "run").exists()


def test_a_loss_weight_for_nothing(refuse, trained, tmp_path):
    argv = [f"--config={trained[1]}", "--config.loss_weights.comitment=1", f"--workdir={tmp_path / 'run'}"]
    holds(refuse(launch.main, *argv), "'comitment'", "did you mean 'commitment'?")
    assert not (tmp_path / "run").exists()


# --- a finished run: nothing that is typed may change it


TRAINED = {
    "another config": (["--config.autoencoder.width=4"], ["config.autoencoder.width: 8 → 4", "another --workdir"]),
    "another seed": (["--config.seed=1"], ["config.seed: 0 → 1", "another --workdir"]),
    "codes under trained priors": (["--config.train.steps=9"], ["from step 4 to 9", "top, bottom", "rm -r"]),
    "more of an unknown stage": (["--stage=botom"], ["'botom'", "did you mean 'bottom'?"]),
}


@pytest.mark.parametrize("case", TRAINED)
def test_launch_leaves_a_finished_run_alone(case, refuse, trained):
    workdir, config = trained
    before = files(workdir)
    argv, words = TRAINED[case]
    holds(refuse(launch.main, f"--config={config}", f"--workdir={workdir}", *argv), *words)
    assert files(workdir) == before


def test_training_what_is_finished_is_no_mistake(trained, capsys):
    workdir, config = trained
    before = files(workdir)
    assert launch.main([f"--config={config}", f"--workdir={workdir}"]) == 0
    assert f"bottom: finished, {DONE} steps" in capsys.readouterr().err
    assert files(workdir) == before


def test_a_prior_first(refuse, trained, tmp_path):
    line = refuse(launch.main, f"--config={trained[1]}", f"--workdir={tmp_path}", "--stage=bottom")
    holds(line, "autoencoder", "not finished", "--stage=autoencoder", str(tmp_path))
    assert not list(tmp_path.iterdir())


# --- python -m vqvae_jax


USE = {
    "an unknown label": (["sample", "--label=7"], ["'7'", "There are: 0, 1, 2"]),
    "an unknown step": (["sample", "--step=3"], ["no step 3", "--step=top:2", "--step=top:4"]),
    "a step that is none": (["sample", "--step=last"], ["--step", "'last'", "best or latest"]),
    "no images": (["sample", "--count=0"], ["--count", "'0'"]),
    "half an image": (["sample", "--count=1.5"], ["--count", "'1.5'"]),
    "a seed that is none": (["sample", "--seed=x"], ["--seed", "'x'"]),
    "a seed too large": (["sample", "--seed=99999999999999999999"], ["--seed", "'99999999999999999999'"]),
    "an unknown kind of file": (["sample", "--output=x.jpg"], ["x.jpg", ".png", ".npz"]),
    "a temperature below 0": (["sample", "--temperature=-1"], ["temperature", "-1"]),
    "a temperature that is none": (["sample", "--temperature=nan"], ["--temperature: wants a plain number, got 'nan'"]),
    "endless guidance": (["sample", "--guidance=inf"], ["--guidance: wants a plain number, got 'inf'"]),
    "a share that is none": (["sample", "--top_p=nan"], ["--top_p: wants a plain number, got 'nan'"]),
    "no probability": (["sample", "--top_p=0"], ["top_p", "0"]),
    "less than no tokens": (["sample", "--top_k=-3"], ["top_k", "-3"]),
    "an unknown split": (["evaluate", "--split=tets"], ["tets", "train, test"]),
    "an unknown flag": (["sample", "--tempertaure=1"], ["--tempertaure", "--help"]),
    "half a flag": (["sample", "--temp=1"], ["--temp", "--help"]),
}


@pytest.mark.parametrize("case", USE)
def test_the_package_refuses(case, refuse, trained):
    workdir, _ = trained
    before = files(workdir)
    argv, words = USE[case]
    holds(refuse(package.main, *argv, f"--workdir={workdir}"), *words)
    assert files(workdir) == before
    assert not Path("x.jpg").exists()


PLACES = {
    "sample": ["--output=/dev/null/x.png"],
    "sample, arrays": ["--output=/dev/null/x.npz"],
    "sample, a folder": ["--output=/proc/x"],
    "sample, where a folder is": ["--output=DIR.png"],
    "sample, going on": ["--prefix=nowhere", "--output=/dev/null/x.png"],
    "sample, edited": ["--images=nowhere", "--mask=nowhere", "--output=/dev/null/x.png"],
    "encode": ["--output=/dev/null/x"],
    "decode": ["--tokens=WORKDIR/tokens", "--output=/dev/null/x"],
    "decode, arrays": ["--tokens=WORKDIR/tokens", "--output=/proc/x.npz"],
    "reconstruct": ["--images=WORKDIR", "--output=/dev/null/x"],
    "export": ["--output=/dev/null/x.npz"],
    "import": ["--checkpoint=nowhere.npz", "--workdir=/dev/null/x"],
    "compare": ["--against=WORKDIR", "--output=/dev/null/x.png"],
    "compare, a report": ["--reference=nowhere.npz", "--report=/dev/null/x.json"],
}


@pytest.mark.parametrize("case", PLACES)
def test_a_place_that_cannot_be_written_is_told_before_the_work(case, refuse, trained, tmp_path, monkeypatch):
    """As root, who may write anywhere: below what is a file, and where no files can be."""
    workdir, _ = trained
    monkeypatch.setattr("vqvae_jax.parts.Parts.load", None)  # nothing is read that takes long
    (folder := tmp_path / "x.png").mkdir()
    before = files(workdir)
    argv = [word.replace("WORKDIR", str(workdir)).replace("DIR.png", str(folder)) for word in PLACES[case]]
    line = refuse(package.main, case.partition(",")[0], f"--workdir={workdir}", *argv)
    holds(line, argv[-1].partition("=")[0], "is a folder" if str(folder) in line else "cannot be written")
    assert files(workdir) == before


@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_a_workdir_that_cannot_be_written_is_told_before_the_work(command, refuse, trained, monkeypatch):
    def read_only(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    monkeypatch.setattr("vqvae_jax.evaluate.load_images", None)
    monkeypatch.setattr("vqvae_jax.report.contents", None)
    holds(refuse(package.main, command, f"--workdir={trained[0]}"), str(trained[0]), "Read-only file system")


def test_a_training_that_has_no_place_is_told_before_data_are_read(refuse, trained, monkeypatch):
    monkeypatch.setattr("vqvae_jax.data.load", None)
    line = refuse(launch.main, f"--config={trained[1]}", "--workdir=/dev/null/run")
    holds(line, "--workdir=/dev/null/run cannot be written", "/dev/null is a file", "another place")


@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_before_training(command, refuse, trained, tmp_path):
    line = refuse(package.main, command, f"--workdir={tmp_path / 'nothing'}")
    holds(line, "nothing is not a workdir", "train first: python launch.py")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_before_the_training_is_far_enough(command, refuse, trained, tmp_path):
    """A run that was begun and has no checkpoint yet."""
    for name in ("config.json", "data.json"):
        (tmp_path / name).write_bytes((trained[0] / name).read_bytes())
    before = files(tmp_path)
    line = refuse(package.main, command, f"--workdir={tmp_path}")
    holds(line, "'autoencoder' was not trained", f"--workdir={tmp_path} --stage=autoencoder")
    assert files(tmp_path) == before


def test_the_commands_of_the_package(refuse):
    holds(refuse(package.main), "COMMAND", "--help")
    holds(refuse(package.main, "smaple"), "'smaple'", "sample", "evaluate")
    holds(refuse(package.main, "sample"), "--workdir")
