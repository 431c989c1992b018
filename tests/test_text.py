"""Texts: as numbers, from the pictures to a prior, and from a prompt to pictures."""

import json
import shutil
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
from test_encode import run as command
from test_recipe import tiny, trained  # noqa: F401

import vqvae_jax
from vqvae_jax import __main__ as commands
from vqvae_jax import evaluate, recipe
from vqvae_jax.data import text
from vqvae_jax.data import tokens as token_files
from vqvae_jax.encode import encode
from vqvae_jax.types import UserError

TEXTS = ("red heart", "green circle", "a left-facing fist", "copyright", "Left arrow: red", "")
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 220)}


def tokenizer(length=24):
    return text.Tokenizer(text.learned(TEXTS, 300), length)


# --- numbers


def test_the_same_texts_give_the_same_numbers_in_every_process():
    code = f"from vqvae_jax.data import text; print(text.learned({TEXTS!r}, 300))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == text.learned(TEXTS, 300)


def test_0_stands_where_nothing_stands():
    made = tokenizer()
    numbers = made.numbers(["red heart", "", "  ", "RED  heart", "赤い ❤"])
    assert numbers.dtype == np.int32 and numbers.shape == (5, 24) and numbers.max() < made.size <= 300
    assert not numbers[1].any() and not numbers[2].any()
    for row in numbers[[0, 3, 4]]:
        count = np.count_nonzero(row)
        assert count and row[:count].all()  # none between
    assert np.count_nonzero(numbers[4]) >= 3  # bytes: no script is unknown


def test_a_given_file_pads_and_cuts_nothing_and_may_have_gaps():
    """Fields of many files: else an empty text is one, and a text's numbers depend on those beside it."""
    given = json.loads(text.learned(TEXTS, 300))
    given["padding"] = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None}
    given["padding"] |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "!"}
    given["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    np.testing.assert_array_equal(text.Tokenizer(json.dumps(given), 24).numbers(TEXTS), tokenizer().numbers(TEXTS))
    last = max(given["model"]["vocab"], key=given["model"]["vocab"].get)
    given["model"]["vocab"][last] = 9000
    assert text.Tokenizer(json.dumps(given), 24).size == 9002


def test_priors_of_a_run_have_the_same_words(tmp_path):
    for name, texts in (("a", ["red"]), ("b", ["blue"])):
        (tmp_path / name).mkdir()
        (tmp_path / name / text.FILE).write_text(text.learned(texts, 280))
    section, origins = {"vocab_size": 300, "length": 4, "tokenizer": ""}, [tmp_path / name for name in "xab"]
    with pytest.raises(UserError, match="differ: words have the same numbers for all priors"):
        text.of_run(section, origins, TEXTS)
    assert text.of_run(section, origins[:2], TEXTS).crc32 == text.read(tmp_path / "a" / text.FILE, 4).crc32


def test_what_is_longer_loses_its_end_and_that_is_said():
    short, long = tokenizer(3), tokenizer()
    np.testing.assert_array_equal(short.numbers(TEXTS), long.numbers(TEXTS)[:, :3])
    cut = np.count_nonzero(np.count_nonzero(long.numbers(TEXTS), axis=1) > 3)
    assert text.remarks(short, TEXTS) == [
        "1 of 6 images have no text",
        f"{cut} of 6 texts lose their end: they are longer than config.text.length=3",
    ]


@pytest.mark.parametrize(
    "said, other",
    [
        ("left arrow", "right arrow"),
        ("right-facing fist", "left-facing fist"),
        ("up-left arrow", "up-right arrow"),
        ("leftwards hand", "rightwards hand"),
        ("Left Arrow", "Right Arrow"),
        ("man facing RIGHT", "man facing LEFT"),
        ("arrow_left", "arrow_right"),
        ("bright copyright rights", "bright copyright rights"),
    ],
)
def test_in_the_mirror_left_is_right(said, other):
    assert text.mirrored(said) == other and text.mirrored(other) == said


# --- a run


def write_pictures(folder, captions=True):
    """Plain pictures in one of three colours, and which one it is in words."""
    noise = np.random.default_rng(0)
    for split, count in (("train", 90), ("test", 24)):
        (folder / split).mkdir(parents=True)
        for i in range(count):
            colour = list(COLOURS)[i % 3]
            pixels = np.clip(noise.normal(COLOURS[colour], 12, (16, 16, 3)), 0, 255).astype(np.uint8)
            PIL.Image.fromarray(pixels).save(folder / split / f"{i:03d}.png")
            if captions:
                (folder / split / f"{i:03d}.txt").write_text(f"a {colour} square on the left")
    return folder


def told(folder, **changes):
    """A config of one level whose transformer is told texts."""
    config = tiny(folder)
    every = {"batch_size": 16, "log_every": 20, "evaluate_every": 40, "checkpoint_every": 40}
    config["dataset"] |= {"name": "folder", "views": 2, "range": (-1.0, 1.0)}
    config["autoencoder"] = {"name": "vqvae", "width": 16, "quantizer": {"name": "ema", "codebook_size": 8}}
    config["autoencoder"]["quantizer"] |= {"code_dim": 8, "revive_after": 5}
    config["loss_weights"] = {"reconstruction": 1.0, "commitment": 0.25}
    config["optimizer"] = {"learning_rate": 5e-3}
    config["train"] = {**every, "steps": 160}
    prior = {"name": "transformer", "width": 16, "layers": 2, "heads": 2, "text_condition": True}
    config["priors"] = {"codes": {**prior, "optimizer": {"learning_rate": 1e-2}, "train": {**every, "steps": 120}}}
    config["text"] = {"vocab_size": 300, "length": 16}
    config["sample"] = {"count": 4}
    for name, value in changes.items():
        config["priors"]["codes"][name] = value
    config = recipe.configs.complete(config)
    recipe.configs.check(config)
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run; its prior stopped in the middle and went on."""
    path = tmp_path_factory.mktemp("texts")
    folder, workdir = write_pictures(path / "pictures"), path / "run"
    half = told(folder)
    half["priors"]["codes"]["train"]["steps"] = 40
    recipe.run(half, workdir)
    recipe.run(told(folder), workdir)
    return workdir


def test_the_prior_hears_the_text(run):
    """Another picture's text fits less; a picture drawn under a text is of its colour, guided all the more."""
    found = json.loads((run / "metrics.json").read_text())["priors"]["codes"]
    assert found["with_another_text"] > found["nll"] + 0.2
    logged = [json.loads(line) for line in (run / "codes" / "metrics.jsonl").read_text().splitlines()]
    evaluated = [one for one in logged if "held_out/loss" in one]
    assert len(evaluated) == 3
    for one in evaluated:  # of a single picture, which has no other
        assert one["held_out/loss"] == one["held_out/nll"] == one["held_out/with_another_text"]
    model = vqvae_jax.load(run)
    for colour, rgb in COLOURS.items():
        images = model.sample(6, seed=1, text=f"a {colour} square on the left", temperature=0.5)
        assert (images.mean((1, 2)).argmax(1) == np.argmax(rgb)).all(), colour
    each = model.sample(3, text=[f"{colour} square" for colour in COLOURS])
    assert each.shape == (3, 16, 16, 3)
    np.testing.assert_array_equal(each, model.sample(3, text=[f"{colour} square" for colour in COLOURS]))
    assert model.sample(2).shape == (2, 16, 16, 3)  # told none: some were hidden in training


def test_texts_travel_as_they_were_written_and_mirrored_with_their_picture(run):
    maps = token_files.read(run / "tokens", "train")
    half = len(maps) // 2
    assert {one.split(" on the ")[1] for one in maps.text[:half]} == {"left"}
    assert {one.split(" on the ")[1] for one in maps.text[half:]} == {"right"}
    batch = maps.told(vqvae_jax.load(run).tokenizer).rows(np.arange(3))
    assert batch["text"].shape == (3, 16) and batch["text"].dtype == np.int32


def test_a_run_that_goes_on_keeps_its_words(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    before = (copy / text.FILE).read_bytes()
    (copy / text.FILE).write_text(text.learned(["other words"], 280))
    with pytest.raises(UserError, match=r"tokenizer.json is not the one that the run began with; restore it"):
        vqvae_jax.load(copy).sample(1, text="red")
    with pytest.raises(UserError, match="the data have changed .* tokenizer: "):
        recipe.run(recipe.configs.load(copy), copy)
    (copy / text.FILE).write_bytes(before)
    assert evaluate.evaluate(copy)["priors"]["codes"]["nll"] > 0


def test_priors_on_tokens_are_told_the_texts_of_these(run, tmp_path):
    encode(run, tmp_path / "maps")
    config = recipe.configs.load(run)
    config["dataset"] |= {"name": "tokens", "path": str(tmp_path / "maps"), "split": "train", "test_split": "test"}
    config["priors"]["codes"]["train"] |= {"steps": 2, "init_from": str(run)}
    config = recipe.configs.complete(config)
    recipe.run(config, tmp_path / "priors")
    assert (tmp_path / "priors" / text.FILE).read_bytes() == (run / text.FILE).read_bytes()
    found = json.loads((tmp_path / "priors" / "metrics.json").read_text())["priors"]["codes"]
    assert found["with_another_text"] > found["nll"]


# --- bad input


def test_what_cannot_be_told_is_refused_in_a_line(run, trained, tmp_path, capsys):  # noqa: F811
    plain = write_pictures(tmp_path / "plain", captions=False)
    with pytest.raises(UserError, match="the data have no texts: a .txt beside each picture"):
        recipe.run(told(plain), tmp_path / "none")
    config = told(write_pictures(tmp_path / "said"))
    config["text"]["tokenizer"] = str(plain / "train" / "000.png")
    with pytest.raises(UserError, match=r"000.png cannot be read"):
        recipe.run(config, tmp_path / "none")
    (tmp_path / "t.json").write_text("{}")
    config["text"]["tokenizer"] = str(tmp_path / "t.json")
    with pytest.raises(UserError, match="t.json is no tokenizer"):
        recipe.run(config, tmp_path / "none")
    (tmp_path / "t.json").write_text(tokenizer().json)
    config["text"]["vocab_size"] = 100
    with pytest.raises(UserError, match=r"--config.text.vocab_size=\d+"):
        recipe.run(config, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    for flags, said in (
        (["--text= "], "says nothing"),
        (["--text=\udcff"], "a text is a string of characters"),
        (["--sample_steps={[]:1}"], "no such field of the prior"),
        (["--sample_steps=3"], "no such field of the prior"),
        (["--codes.sample_steps=3"], "no such field of the prior codes"),
        (["--sampled=3"], "unrecognized arguments: --sampled=3"),
    ):
        assert command("sample", f"--workdir={run}", "--count=1", *flags) == 2
        assert said in capsys.readouterr().err
    assert commands.main(["sample", f"--workdir={trained[0]}", "--text=red"]) == 2
    assert "trained without text_condition, or come from a file" in capsys.readouterr().err
    with pytest.raises(UserError, match="one for all 3 images, or one for each; got 2"):
        vqvae_jax.load(run).sample(3, text=["red", "blue"])


def test_a_prior_from_a_file_draws_without_texts(run):
    """What `export` writes has no tokenizer, and the facts of an import know none."""
    model = vqvae_jax.load(run)
    del model.facts["tokenizer"]
    np.testing.assert_array_equal(model.sample_tokens(2, seed=3)[0], vqvae_jax.load(run).sample_tokens(2, seed=3)[0])
    with pytest.raises(UserError, match="come from a file, which has no tokenizer; leave --text out"):
        model.sample_tokens(2, text="red")


def test_a_prior_that_never_did_without_a_text_wants_one(run, tmp_path):
    with pytest.raises(UserError, match=r"text_dropout=0: guidance weighs the text against none"):
        config = told(run, text_dropout=0.0)
        config["sample"]["guidance"] = 2.0
        recipe.configs.check(config)
    config = told(run)
    config["priors"]["codes"] |= {"label_condition": True, "label_dropout": 0.0}
    with pytest.raises(UserError, match="label_dropout=0: where a text is told, the label is not"):
        recipe.configs.check(config)
    model = vqvae_jax.load(run)
    prior, weights = model.priors["codes"]
    model.priors["codes"] = (prior.clone(text_dropout=0.0), weights)
    assert model.sample(1, text="red").shape == (1, 16, 16, 3)
    with pytest.raises(UserError, match="no text is told, but with text_dropout=0"):
        model.sample(1)
    with pytest.raises(UserError, match="guidance=3 weighs the text against none"):
        model.sample(1, text="red", guidance=3)


def test_the_command_line_draws_what_is_said(run, tmp_path):
    arrays = tmp_path / "x.npz"
    assert commands.main(["sample", f"--workdir={run}", "--count=2", "--text=a blue square", f"--output={arrays}"]) == 0
    with np.load(arrays) as file:
        np.testing.assert_array_equal(file["arr_0"], vqvae_jax.load(run).sample(2, text="a blue square"))
