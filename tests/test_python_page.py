"""The blocks of docs/python.md run, in order, in one namespace, on tiny runs in place of those that it names."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_recipe import files, tiny, trained_run

import vqvae_jax
from vqvae_jax import fitted

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
BLOCKS = re.findall(r"^## (.*?)\n.*?^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.S | re.M)
FEW = {"steps": 2, "log_every": 1, "pictures_every": 2, "evaluate_every": 2, "checkpoint_every": 2}


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """What the blocks know, and where they run: runs/demo is there, and trainings take two steps."""
    root = tmp_path_factory.mktemp("page")
    shutil.copytree(trained_run(tmp_path_factory)[0], root / "runs" / "demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        configured = fitted.configured

        def few(config, changes):
            if isinstance(config, str):  # the recipe, in small
                config = tiny("")
                del config["priors"]["bottom"]
            changes = {name: min(value, 2) if name.endswith("steps") else value for name, value in changes.items()}
            complete = configured(config, changes)
            for section in (complete, *complete["priors"].values()):
                section["train"] |= FEW
            return complete

        patch.setattr(fitted, "configured", few)
        yield {"root": root}


def test_every_block_is_found():
    assert len(BLOCKS) == PAGE.read_text("utf-8").count("```python") >= 6


@pytest.mark.parametrize(("name", "code"), BLOCKS, ids=[name for name, _ in BLOCKS])
def test_a_block_runs(space, name, code):
    code = code.replace("(96, 32, 32, 3)", "(96, 16, 16, 3)")  # as the tests have them everywhere: compiled already
    exec(compile(code, f"{PAGE.name}: {name}", "exec"), space)
    CHECKS[name](space)


def check_loaded(space):
    model = space["model"]
    assert [level.name for level in model.levels] == ["top", "bottom"] and model.label_names == ("0", "1", "2")
    assert {name: codes.shape for name, codes in model.codebooks.items()} == {"top": (16, 8), "bottom": (16, 8)}
    for said in ("runs/demo", "16x16x3", "top 2x2 of 16 codes", "prior of bottom: pixelcnn", "3 labels"):
        assert said in repr(model)


def check_tokens(space):
    np.testing.assert_array_equal(space["images"], space["from_all"])
    np.testing.assert_array_equal(space["coarse"], space["from_top"])
    codes, tokens = space["model"].codebooks, space["tokens"]
    np.testing.assert_array_equal(space["z_top"], codes["top"][tokens[0]])
    np.testing.assert_array_equal(space["z_bottom"], codes["bottom"][tokens[1]])


def check_drawn(space):
    assert space["some"].shape == (2, 16, 16, 3) and space["halves"].shape == (4, 2, 16, 16, 3)
    assert (space["edited"][:, 0][:, ~space["hole"]] == space["new"][:, ~space["hole"]]).all()


def check_measured(space):
    assert space["per_label"].shape == (3, 4) and space["metrics"]["images"] == 20
    assert (space["root"] / "runs/demo/metrics.json").is_file()


def check_fitted(space):
    """The run is what the commands take; the same call is finished."""
    mine, workdir = space["mine"], space["root"] / "runs" / "mine"
    assert all((workdir / name).is_file() for name in ("report.html", "samples.png", "metrics.json", "images.npz"))
    assert sum(mine.facts["label_counts"]) == mine.facts["train_images"] < 96
    assert vqvae_jax.load(workdir).sample(count=2).tobytes() == mine.sample(count=2).tobytes()
    moved, changes = Path(shutil.move(workdir, workdir.with_name("moved"))), {"train.steps": 2, "train.batch_size": 16}
    before = files(moved)
    fitted.fit(space["photos"], moved, "", changes | {"priors.top.train.steps": 2}, space["kinds"])
    assert files(moved) == before
    assert vqvae_jax.load(moved).evaluate(samples=0)["images"] > 0


def check_prior(space):
    assert space["drawn"].shape == (4, 6, 4) and space["drawn"].max() < 16
    assert space["nats"].shape == (8,) and (space["nats"] > 0).all()
    assert "bits_per_pixel" not in str(space["prior"].evaluate())
    assert ": own tokens; codes 6x4 of 16 codes; " in repr(space["prior"])


CHECKS = {
    "What was trained": check_loaded,
    "Images, tokens, codes": check_tokens,
    "New images": check_drawn,
    "How likely, how good": check_measured,
    "Training on your arrays": check_fitted,
    "A prior on your tokens": check_prior,
}
