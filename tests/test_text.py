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
from vqvae_jax import evaluate, logs, recipe
from vqvae_jax.data import text
from vqvae_jax.data import tokens as token_files
from vqvae_jax.encode import encode
from vqvae_jax.sample import text_numbers
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


def test_lines_are_captions():
    """As many places as the picture with the most wants, zeros behind the others'; with one each none is wanted."""
    made, several = tokenizer(), ("red heart\n\n fist ", "", "green circle", "a\nred\nheart")
    numbers = text.numbers_of(made, several)
    assert numbers.shape == (4, 3, 24)
    for row, said in zip(numbers, (["red heart", "fist"], [], ["green circle"], ["a", "red", "heart"]), strict=True):
        np.testing.assert_array_equal(row, made.numbers(said + [""] * (3 - len(said))))
    np.testing.assert_array_equal(text.numbers_of(made, TEXTS), made.numbers(TEXTS))
    assert text.mirrored("left arrow\nan arrow to the right") == "right arrow\nan arrow to the left"
    assert text.learned(["a\nred", "heart"], 300) == text.learned(["a", "red", "heart"], 300)
    said = ["1 of 4 images have no text", "3 images have 6 texts: of several a step draws one"]
    assert text.remarks(made, several) == said


def clips():
    """A tokenizer.json of the form of CLIP's: few words, the same fields."""
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers import Tokenizer as Whole

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("r", "e"), ("re", "d</w>"), ("h", "e"), ("he", "a"), ("r", "t</w>"), ("hea", "rt</w>")]
    ends = ["<|startoftext|>", "<|endoftext|>"]
    words = [*letters, *(f"{one}</w>" for one in letters), *map("".join, merges), *ends]
    vocab = {word: number for number, word in enumerate(words)}
    made = Whole(models.BPE(vocab, merges, unk_token=ends[1], continuing_subword_prefix="", end_of_word_suffix="</w>"))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    made.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    parts = Regex(r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    split = pre_tokenizers.Split(parts, behavior="removed", invert=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.post_processor = processors.RobertaProcessing(
        (ends[1], vocab[ends[1]]), (ends[0], vocab[ends[0]]), False, False
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(ends)
    return made.to_str(), vocab


def test_clips_vocabulary_works_as_it_is_given(tmp_path):
    """Words end in </w>; neither its start nor its end is put around a text: zeros say where that ends."""
    given, vocab = clips()
    (tmp_path / "clip.json").write_text(given)
    section = {"vocab_size": 600, "length": 8, "tokenizer": str(tmp_path / "clip.json")}
    made = text.of_run(section, [tmp_path / "run"], TEXTS)
    assert made.size == len(vocab) + 1 == 521
    numbers = made.numbers(["Red  HEART!", "", "赤", "redheart reheat"])
    say = lambda *parts: [vocab[one] + 1 for one in parts]  # noqa: E731
    assert numbers[0].tolist() == [*say("red</w>", "heart</w>", "!</w>"), 0, 0, 0, 0, 0]
    assert not numbers[1].any() and np.count_nonzero(numbers[2]) == 3  # bytes of UTF-8
    assert numbers[3].tolist() == [*say("re", "d", "heart</w>", "re", "hea", "t</w>"), 0, 0]
    with pytest.raises(UserError, match="clip.json has 521 numbers .* --config.text.vocab_size=521"):
        text.of_run({**section, "vocab_size": 500}, [tmp_path / "run"], TEXTS)


def test_a_script_that_a_given_vocabulary_has_not_is_refused():
    """Without bytes in it, as old ones are."""
    import tokenizers

    given = tokenizers.Tokenizer(
        tokenizers.models.BPE({"r": 0, "e": 1, "d": 2, "re": 3, "red": 4}, [("r", "e"), ("re", "d")])
    )
    made = text.Tokenizer(given.to_str(), 4, "mine.json")
    assert text_numbers(made, 2, "red").tolist() == [[5, 0, 0, 0]] * 2
    with pytest.raises(UserError, match="the text '赤' has nothing that mine.json knows; leave text out"):
        text_numbers(made, 2, ["red", "赤"])


def test_priors_of_a_run_have_the_same_words(tmp_path):
    for name, texts in (("a", ["red"]), ("b", ["blue"])):
        (tmp_path / name).mkdir()
        (tmp_path / name / text.FILE).write_text(text.learned(texts, 280))
    section, origins = {"vocab_size": 300, "length": 4, "tokenizer": ""}, [tmp_path / name for name in "xab"]
    with pytest.raises(UserError, match="differ: words have the same numbers for all priors"):
        text.of_run(section, origins, TEXTS)
    assert text.of_run(section, origins[:2], TEXTS).crc32 == text.read(tmp_path / "a" / text.FILE, 4).crc32


def test_of_very_many_captions_the_first_are_read_and_that_is_said():
    """A file of 2,000 lines beside one picture would take the room of 2,000 captions for each."""
    made, many = tokenizer(), "\n".join(f"red heart {i}" for i in range(2000))
    numbers = text.numbers_of(made, ["green circle", many])
    assert numbers.shape == (2, text.MOST, 24)
    np.testing.assert_array_equal(numbers[1, -1], made.numbers([f"red heart {text.MOST - 1}"])[0])
    assert f"1 of 2 images have more than {text.MOST} texts: the first {text.MOST} of each are read" in text.remarks(
        made, ["green circle", many]
    )


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
        ("the leftmost of two", "the rightmost of two"),
        ("Lefthand side, right-hand side", "Righthand side, left-hand side"),
        ("a righthanded man", "a lefthanded man"),
        ("bright copyright rights", "bright copyright rights"),
        ("leftover soup, lefty, righteous", "leftover soup, lefty, righteous"),
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


def test_pictures_score_highest_under_their_own_text(run):
    """Each of three under each of three texts; a picture's score is not changed by those beside it."""
    model = vqvae_jax.load(run)
    images = np.stack([np.full((16, 16, 3), rgb, np.uint8) for rgb in COLOURS.values()])
    texts = [f"a {colour} square on the left" for colour in COLOURS]
    table = np.stack([model.score(images, one) for one in texts])
    assert table.dtype == np.float32 and (table.argmax(0) == range(3)).all() and (table.diagonal() > 0).all()
    np.testing.assert_array_equal(model.score(images, texts), table.diagonal())
    np.testing.assert_array_equal(model.score_tokens(model.encode(images[::-1]), texts[0], seed=5), table[0, ::-1])
    for wrong, given, said in (
        ({}, ["red"], "one for all 3 images, or one for each; got 1"),
        ({}, " ", "the text ' ' says nothing"),
        ({}, None, "texts: a text for all pictures, or one for each; got None"),
        ({"looks": 0}, "red", "looks is a whole number of at least 1; got 0"),
        ({"seed": 2**64}, "red", "seed is a whole number from"),
    ):
        with pytest.raises(UserError, match=said):
            model.score(images, given, **wrong)
    with pytest.raises(UserError, match="images of 16 pixels; got"):
        model.score(np.zeros((1, 32, 32, 3), np.uint8), "red")
    with pytest.raises(UserError, match="tokens: a map for each of"):
        model.score_tokens([np.zeros((1, 9, 9), np.int32)], "red")


def test_the_best_of_several_is_the_one_that_scores_highest(run):
    """Beside all that are drawn, scored one by one; of one each the samples are those without, bit for bit."""
    model = vqvae_jax.load(run)
    texts = [f"a {colour} square on the left" for colour in COLOURS]
    (one,), (plain,) = (model.sample_tokens(3, seed=4, text=texts, **best) for best in ({"best_of": 1}, {}))
    np.testing.assert_array_equal(one, plain)
    several = [text for text in texts for _ in range(5)]
    (every,) = model.sample_tokens(15, seed=4, text=several, temperature=2.0)
    score = model.score_tokens((every,), several, seed=4).reshape(3, 5)
    assert score.min(1).max() < score.max(1).min()
    (best,) = model.sample_tokens(3, seed=4, text=texts, best_of=5, temperature=2.0)
    np.testing.assert_array_equal(best, every[np.arange(3) * 5 + score.argmax(1)])
    images = model.sample(3, seed=4, text=texts, best_of=5, temperature=2.0)
    np.testing.assert_array_equal(images, model.decode((best,)))
    for best_of, one, said in ((0, "red", "at least 1; got 0"), (2.5, "red", "2.5"), (2, None, "best_of=2 keeps")):
        with pytest.raises(UserError, match=said):
            model.sample(1, text=one, best_of=best_of)
    with pytest.raises(UserError, match="count times best_of=1000000000000: the pictures are"):
        model.sample(1, text="red", best_of=10**12)


def test_words_that_were_never_said_are_named_and_drawn_all_the_same(run, tmp_path, capsys):
    """Old runs know no words and say nothing; a mirrored picture's are known."""
    assert (run / text.WORDS).read_text().split() == sorted({"a", "square", "on", "the", "left", "right", *COLOURS})
    model = vqvae_jax.load(run)
    assert model.sample(1, text="RED, squares; on_the left!").shape == (1, 16, 16, 3)
    assert capsys.readouterr().err == "no caption of the training has 'squares': what is drawn of that is a guess\n"
    model.sample(2, text=["赤い zebra", "ｒｅｄ"])
    model.sample(1, text="red")
    assert (
        capsys.readouterr().err == "no caption of the training has '赤い', 'zebra': what is drawn of that is a guess\n"
    )
    model.sample(1, text="red on " * 30)
    said = "'red on red on red on red on red on red o…': the end is not read, it is longer than config.text.length=16\n"
    assert capsys.readouterr().err == said
    shutil.copytree(run, tmp_path / "old")
    (tmp_path / "old" / text.WORDS).unlink()
    vqvae_jax.load(tmp_path / "old").sample(1, text="antelopes")
    assert not capsys.readouterr().err


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


def test_captions_that_are_changed_are_told_as_they_are_now(run, tmp_path):
    """By a run whose priors are trained again: its tokens are written anew, once."""
    copy, said = shutil.copytree(run, tmp_path / "copy"), run.parent / "pictures" / "train" / "005.txt"
    encoded = lambda: recipe.Recipe(recipe.configs.load(copy), copy)._encoded["train"]  # noqa: E731
    written = lambda: (copy / "tokens" / token_files.FILE).stat().st_mtime_ns  # noqa: E731
    first, times, before = encoded(), [written()], said.read_text()
    said.write_text("a blue field on the left")
    try:
        for _ in range(2):
            second, times = encoded(), [*times, written()]
    finally:
        said.write_text(before)
    assert times[0] < times[1] == times[2]
    row = first.name.index("005.png")
    assert (first.text[row], second.text[row]) == (before, "a blue field on the left")
    np.testing.assert_array_equal(first.maps[0], second.maps[0])


def test_priors_on_tokens_are_told_the_texts_of_these(run, tmp_path):
    """Raw, of one picture one caption, of others two."""
    captions = run.parent / "pictures" / "captions.csv"
    captions.write_text("file,caption\ntrain/000.png,red square\ntrain/005.png,blue square\ntest/007.png,it is green")
    encode(run, tmp_path / "maps")
    captions.unlink()
    maps = token_files.read(tmp_path / "maps", "train")
    assert maps.text[maps.name.index("005.png")] == "a blue square on the left\nblue square"
    assert maps.told(vqvae_jax.load(run).tokenizer).rows(np.arange(3))["text"].shape == (3, 2, 16)
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
    (tmp_path / "t.json").write_text("{}")
    (tmp_path / "t.txt").write_text("a red heart")
    for file, why in (
        (plain / "train" / "000.png", "is no tokenizer, nor any text"),
        (plain / "none.json", "cannot be read: No such file or directory"),
        (plain, "cannot be read: Is a directory"),
        (tmp_path / "t.json", "is no tokenizer of the package `tokenizers`: .*"),
        (tmp_path / "t.txt", "is no tokenizer of the package `tokenizers`: .*"),
    ):
        config["text"]["tokenizer"] = str(file)
        with pytest.raises(
            UserError, match=f"{file.name} {why}; give a tokenizer.json .*, or leave text.tokenizer out"
        ):
            recipe.run(config, tmp_path / "none")
    config["text"]["tokenizer"] = str(tmp_path / "t.json")
    (tmp_path / "t.json").write_text(tokenizer().json)
    config["text"]["vocab_size"] = 100
    with pytest.raises(UserError, match=r"--config.text.vocab_size=\d+"):
        recipe.run(config, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    for name, content in (("empty", b" \n\n"), ("latin", "grün".encode("latin-1")), ("two", b"red\nblue")):
        (tmp_path / f"{name}.txt").write_bytes(content)
    for flags, said in (
        (["--text= "], "says nothing"),
        (["--text=\udcff"], "a text is a string of characters"),
        (["--text=none.txt"], "--text=none.txt is read as a file, a text a line, which fails: No such file"),
        ([f"--text={tmp_path / 'empty.txt'}"], "empty.txt holds no text; write one a line"),
        ([f"--text={tmp_path / 'latin.txt'}"], "latin.txt is no file of text in UTF-8"),
        ([f"--text={tmp_path / 'two.txt'}", f"--images={plain}", "--shift=4,0"], "with --images say one text itself"),
        (["--text=red", "--best_of=2", f"--prefix={plain}"], "--best_of=2 is about new pictures; with --prefix"),
        (["--best_of=2"], "best_of=2 keeps the picture that fits its text best; say a text"),
        (["--text=red", "--best_of=0"], "wants a whole number above 0"),
        (["--sample_steps={[]:1}"], "no such field of the prior"),
        (["--sample_steps=3"], "no such field of the prior"),
        (["--codes.sample_steps=3"], "no such field of the prior codes"),
        (["--sampled=3"], "unrecognized arguments: --sampled=3"),
    ):
        assert command("sample", f"--workdir={run}", "--count=1", *flags) == 2
        assert said in capsys.readouterr().err
    assert commands.main(["sample", f"--workdir={trained[0]}", "--text=red"]) == 2
    assert "trained without text_condition, or come from a file" in capsys.readouterr().err
    with pytest.raises(UserError, match="were trained without text_condition, so no text fits better or worse"):
        vqvae_jax.load(trained[0]).score(np.zeros((1, 16, 16, 3), np.uint8), "red")
    with pytest.raises(UserError, match="one for all 3 images, or one for each; got 2"):
        vqvae_jax.load(run).sample(3, text=["red", "blue"])


def test_a_prior_from_a_file_draws_without_texts(run):
    """What `export` writes has no tokenizer, and the facts of an import know none."""
    model = vqvae_jax.load(run)
    del model.facts["tokenizer"]
    np.testing.assert_array_equal(model.sample_tokens(2, seed=3)[0], vqvae_jax.load(run).sample_tokens(2, seed=3)[0])
    with pytest.raises(UserError, match="come from a file, which has no tokenizer; leave text out"):
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
    with pytest.raises(UserError, match="with text_dropout=0 the prior 'codes' never learned to do without one"):
        model.score(np.zeros((1, 16, 16, 3), np.uint8), "red")
    with pytest.raises(UserError, match="no text is told, but with text_dropout=0"):
        model.sample(1)
    with pytest.raises(UserError, match="guidance=3 weighs the text against none"):
        model.sample(1, text="red", guidance=3)


def test_the_command_line_draws_what_is_said(run, tmp_path):
    arrays = tmp_path / "x.npz"
    assert commands.main(["sample", f"--workdir={run}", "--count=2", "--text=a blue square", f"--output={arrays}"]) == 0
    with np.load(arrays) as file:
        np.testing.assert_array_equal(file["arr_0"], vqvae_jax.load(run).sample(2, text="a blue square"))


def test_a_file_is_a_text_a_line(run, tmp_path):
    """As many pictures of each as --count says, a row a line."""
    file, grid, arrays = tmp_path / "some.TXT", tmp_path / "x.png", tmp_path / "x.npz"
    file.write_text("a blue square\r\n\n  a red square \n", "utf-8-sig")
    asked = ("sample", f"--workdir={run}", f"--text={file}", "--seed=3")
    texts = ["a blue square", "a red square"]
    assert command(*asked, f"--output={arrays}") == 0
    with np.load(arrays) as found:
        np.testing.assert_array_equal(found["arr_0"], vqvae_jax.load(run).sample(2, seed=3, text=texts))
    assert command(*asked, "--count=3", "--best_of=2", f"--output={grid}") == 0
    images = vqvae_jax.load(run).sample(6, seed=3, text=[one for one in texts for _ in range(3)], best_of=2)
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(grid)), logs.grid(images, columns=3, scale=4))
