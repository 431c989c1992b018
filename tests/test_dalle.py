"""DALL-E's recipe in small, by the front door: trained, stopped, gone on with, drawn from, measured, reported."""

import csv
import json

import numpy as np
import PIL.Image
import pytest

import launch
import vqvae_jax
from vqvae_jax import __main__ as commands
from vqvae_jax import nearness

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 220)}


def write_pictures(folder, size=32):
    """Squares in one of three colours, with two captions each; of one in nine none."""
    noise, rows = np.random.default_rng(0), []
    for split, count in (("train", 90), ("test", 12)):
        (folder / split).mkdir(parents=True)
        for i in range(count):
            colour = list(COLOURS)[i % 3]
            pixels = np.clip(noise.normal(COLOURS[colour], 12, (size, size, 3)), 0, 255).astype(np.uint8)
            PIL.Image.fromarray(pixels).save(folder / split / f"{i:03d}.png")
            rows += [(f"{split}/{i:03d}.png", f"a {colour} {what}") for what in ("square", "field")] if i % 9 else []
    with (folder / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "caption"), *rows])


def test_from_pictures_and_captions_to_pictures_of_a_text(tmp_path, capsys):
    write_pictures(tmp_path / "pictures")
    run = tmp_path / "run"
    argv = [
        "--config=configs/openmoji_dalle.py:tiny",
        f"--workdir={run}",
        "--config.dataset.name=folder",
        f"--config.dataset.path={tmp_path / 'pictures'}",
        "--config.dataset.split=train",
    ]
    assert launch.main([*argv, "--stage=autoencoder", "--config.train.steps=4"]) == 0
    assert launch.main(argv) == 0
    assert "have no text" in capsys.readouterr().err
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"nll", "text", "with_another_text"} <= set(metrics["priors"]["codes"])
    lines = [json.loads(line) for line in (run / "codes/metrics.jsonl").read_text().splitlines()]
    assert all("held_out/with_another_text" in line for line in lines if "held_out/nll" in line)
    trained = [line for line in lines if "train/nll" in line]
    assert trained[0]["train/loss"] == pytest.approx(trained[0]["train/nll"] * 7 / 8 + trained[0]["train/text"] / 8)
    assert (run / "report.html").is_file() and (run / "samples.png").is_file()

    asked = [f"--workdir={run}", "--text=a purple field", "--count=2", "--best_of=3", f"--output={run / 'two.npz'}"]
    assert commands.main(["sample", *asked]) == 0
    assert "'purple'" in capsys.readouterr().err
    model = vqvae_jax.load(run)
    told = nearness.texts_of(model, 40)  # what samples are drawn under whose distance is measured
    assert len(told) == 40 and set(told) <= {f"a {colour} square" for colour in COLOURS} and len(set(told)) == 3
    drawn = np.load(run / "two.npz")["arr_0"]
    every = model.sample(6, text="a purple field")
    assert drawn.shape == (2, 32, 32, 3)
    of_tokens = model.score_tokens(model.sample_tokens(6, text="a purple field"), "a purple field").reshape(2, 3)
    np.testing.assert_array_equal(drawn, every[np.arange(2) * 3 + of_tokens.argmax(axis=1)])
