"""launch.py --dry_run: what a training would be, and nothing of it is there afterwards."""

import math

import jax
import numpy as np
import pytest
from test_recipe import tiny, write_data

import launch
from vqvae_jax import config as configs
from vqvae_jax import dry_run
from vqvae_jax.recipe import Recipe
from vqvae_jax.types import Level, UserError


def test_each_stage_is_told_and_nothing_is_written(tmp_path, capsys, monkeypatch):
    config = tiny(write_data(tmp_path / "x.npz"), train__steps=40)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(configs, "read", lambda *_: config)
    assert launch.main(["--config=x.py", f"--workdir={tmp_path / 'run'}", "--dry_run"]) == 0
    said, told = capsys.readouterr()
    blocks = said.split("\n")
    assert blocks[0].startswith("autoencoder: 40 steps of 16") and "16x16x3 to top 2x2 of 16 codes" in blocks[2]
    assert "20 tokens an image" in blocks[2] and blocks[2].strip().endswith("image")
    recipe = Recipe(config, tmp_path / "run")
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(recipe.parts.abstract("top").params))
    assert f"{count:,} parameters" in said and "told top 2x2 of 16 codes" in said
    assert said.count("memory of a step") == 3 and said.count("s a step, 0:00:0") == 3
    assert told.splitlines()[-3:] == ["autoencoder: 3 steps", "top: 3 steps", "bottom: 3 steps"]
    assert sorted(tmp_path.rglob("*")) == before


def test_what_a_training_is_refused_for_a_dry_run_is_too(tmp_path):
    config = tiny(write_data(tmp_path / "x.npz"), loss_weights={"reconstruction": 1.0})
    with pytest.raises(UserError, match="has no weight"):
        dry_run.dry_run(config, tmp_path / "run")
    assert "leave one of both out" in refused("--dry_run", "--stage=top", "--from_step=3")


def refused(*argv):
    with pytest.raises(UserError) as caught:
        launch.check_flags(*launch.parser().parse_known_args(["--config=x.py", *argv]))
    return str(caught.value)


def test_maps_in_place_of_codes_are_of_their_levels():
    noise = np.random.default_rng(0)
    codes = dry_run.of_level(noise, Level("top", (2, 3), 5), 40)
    assert codes.shape == (40, 2, 3) and set(np.unique(codes)) == set(range(5))
    numbers = dry_run.of_level(noise, Level("codes", (2, 3), None, 4), 7)
    assert numbers.shape == (7, 2, 3, 4) and numbers.dtype == np.float32


@pytest.mark.parametrize("command", [launch.main, __import__("vqvae_jax.__main__", fromlist=["main"]).main])
def test_the_version(command, capsys):
    with pytest.raises(SystemExit) as caught:
        command(["--version"])
    assert not caught.value.code and capsys.readouterr().out.startswith("vqvae_jax 0.")
