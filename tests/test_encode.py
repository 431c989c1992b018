"""Images to tokens and back, and priors trained on tokens, as one types it. The run is the one of test_recipe.py."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
from test_recipe import files, picture, tiny, trained_run
from toy_priors import GaussianPrior

import vqvae_jax
from vqvae_jax import __main__ as package
from vqvae_jax import config as configs
from vqvae_jax import data, encode, evaluate, recipe
from vqvae_jax import facts as facts_file
from vqvae_jax.data import tokens
from vqvae_jax.files import read_checked_json, write_checked_json
from vqvae_jax.logs import read_metrics
from vqvae_jax.priors import PRIORS
from vqvae_jax.types import UserError


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return trained_run(tmp_path_factory)


@pytest.fixture(scope="module")
def model(trained):
    return vqvae_jax.load(trained[0])


@pytest.fixture(scope="module")
def encoded(trained, tmp_path_factory):
    """The run's own data as tokens."""
    folder = tmp_path_factory.mktemp("encoded") / "tokens"
    assert run("encode", f"--workdir={trained[0]}", f"--output={folder}") == 0
    return folder


def run(*argv):
    try:
        return package.main([str(word) for word in argv])
    except SystemExit as error:  # argparse
        return error.code


@pytest.fixture
def refuse(capsys):
    """Runs a command that is refused; gives the one line."""

    def refuse(*argv):
        capsys.readouterr()
        assert run(*argv) == 2
        err = capsys.readouterr().err.splitlines()[-1]
        assert err.startswith("error: ") and "Traceback" not in err, err
        return err

    return refuse


@pytest.fixture
def pictures(tmp_path):
    """A folder of own pictures of several sizes, with labels, one of them broken."""
    folder = tmp_path / "pictures"
    noise = np.random.default_rng(0)
    for i in range(6):
        path = folder / ("cats" if i % 2 else "dogs") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(noise.integers(0, 256, (16 + 9 * (i % 3), 35, 3), np.uint8)).save(path)
    (folder / "dogs" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    return folder


# --- encode


def test_both_splits_are_encoded(encoded, trained, model):
    told = tokens.about(encoded)
    assert told["shards"] == {"train": 1, "test": 1} and told["source"]["autoencoder"] == model.checksum
    for split in ("train", "test"):
        images = data.read(model.config["dataset"], split)
        found = tokens.read(encoded, split)
        np.testing.assert_array_equal(found.label, images.label)
        for one, other in zip(found.maps, model.encode(images.image), strict=True):
            np.testing.assert_array_equal(one, other)


def test_encoding_again_changes_nothing(encoded, trained, capsys):
    before = files(encoded)
    assert run("encode", f"--workdir={trained[0]}", f"--output={encoded}") == 0
    assert files(encoded) == before and "96 of train, 20 of test" in capsys.readouterr().out


def test_a_folder_of_pictures_there_and_back(pictures, trained, model, tmp_path, capsys):
    assert run("encode", f"--workdir={trained[0]}", f"--images={pictures}", f"--output={tmp_path / 'tokens'}") == 0
    out, err = capsys.readouterr()
    assert "6 of train" in out and "dogs/broken.jpg" in err
    found = tokens.read(tmp_path / "tokens", "train")
    assert found.name[0] == "cats/1.png" and tokens.about(tmp_path / "tokens")["facts"]["label_names"] == [
        "cats",
        "dogs",
    ]
    argv = ("decode", f"--workdir={trained[0]}", f"--tokens={tmp_path / 'tokens'}")
    assert run(*argv, f"--output={tmp_path / 'back'}") == 0
    names = sorted(str(path.relative_to(tmp_path / "back")) for path in (tmp_path / "back").rglob("*.png"))
    assert names == ["cats/1.png", "cats/3.png", "cats/5.png", "dogs/0.png", "dogs/2.png", "dogs/4.png"]
    want = model.decode([level[:] for level in found.maps])
    np.testing.assert_array_equal(picture(tmp_path / "back" / names[2]), want[2])
    assert run(*argv, "--levels=1", f"--output={tmp_path / 'top'}") == 0
    np.testing.assert_array_equal(picture(tmp_path / "top" / names[2]), model.decode([found.maps[0][:]])[2])


def test_decoded_arrays_are_a_data_set(encoded, trained, model, tmp_path):
    path = tmp_path / "back.npz"
    assert run("decode", f"--workdir={trained[0]}", f"--tokens={encoded}", f"--output={path}") == 0
    again = data.read({**model.config["dataset"], "path": str(path)}, "test")
    images = data.read(model.config["dataset"], "test")
    np.testing.assert_array_equal(again.image, model.reconstruct(images.image)[1])
    np.testing.assert_array_equal(again.label, images.label)


def test_an_interrupted_encoding_goes_on(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tokens, "SHARD", 40)
    whole, stops = encode._watched, iter([False, False, True])

    def watched(*argv):
        if next(stops, False):
            raise KeyboardInterrupt
        return whole(*argv)

    monkeypatch.setattr(encode, "_watched", watched)
    assert run("encode", f"--workdir={trained[0]}", f"--output={tmp_path / 'tokens'}") == 130
    assert "the same command goes on from there" in capsys.readouterr().err
    before = files(tmp_path / "tokens")
    assert encode.encode(trained[0], tmp_path / "tokens") == {"train": 96, "test": 20}
    after = files(tmp_path / "tokens")
    shards = [path for path in before if "0000" in path.name]
    assert len(shards) == 2 * 3 and all(after[path] == before[path] for path in shards)


# --- refused


def test_another_output(encoded, trained, refuse, pictures, tmp_path):
    line = refuse("encode", f"--workdir={trained[0]}", f"--images={pictures}", f"--output={encoded}")
    assert "holds the tokens of other images" in line and "another --output" in line
    line = refuse("encode", f"--workdir={trained[0]}", f"--output={pictures}")
    assert "holds other files" in line
    (tmp_path / "file").write_text("")
    assert "is no folder" in refuse("encode", f"--workdir={trained[0]}", f"--output={tmp_path / 'file'}")


@pytest.mark.parametrize(("size", "message"), [(64, "--image_size=64: the scales.*--image_size=32, or"), (32, None)])
def test_scales_are_those_of_the_trainings_images(size, message):
    """Larger ones have maps, but no levels of a config."""
    parts = SimpleNamespace(autoencoder=SimpleNamespace(quantizers=[SimpleNamespace(scales=(1, 2))]))
    model = SimpleNamespace(autoencoder=None, stride=32, workdir="run", facts={"image_size": 32}, parts=parts)
    asked = {"name": "npz", "image_size": size}
    if message is None:
        encode._check_model(model, asked)
        return
    with pytest.raises(UserError, match=message):
        encode._check_model(model, asked)


def test_flags_of_encode(trained, refuse, tmp_path, pictures):
    argv = ("encode", f"--workdir={trained[0]}", f"--output={tmp_path / 'new'}")
    assert "--images=FOLDER: there is no folder nowhere" in refuse(*argv, "--images=nowhere")
    assert "multiple of 8" in refuse(*argv, f"--images={pictures}", "--image_size=20")
    assert "no split 'tets'" in refuse(*argv, f"--images={pictures}", "--split=tets")
    assert "did you mean 'openmoji'" in refuse(*argv, "--dataset=openmogi")
    assert "not allowed with" in refuse(*argv, "--dataset=npz", f"--images={pictures}")
    (tmp_path / "empty").mkdir()
    assert "holds no pictures" in refuse(*argv, f"--images={tmp_path / 'empty'}")
    assert not (tmp_path / "new").exists()


def test_pictures_that_changed_are_encoded_anew(trained, pictures, tmp_path, refuse):
    """As many as before: names, labels and pixels are looked at."""
    argv = ("encode", f"--workdir={trained[0]}", f"--images={pictures}", f"--output={tmp_path / 'tokens'}")
    assert run(*argv) == 0
    (pictures / "dogs" / "0.png").rename(pictures / "dogs" / "9.png")
    assert "holds the tokens of other images" in refuse(*argv)
    (pictures / "dogs" / "9.png").rename(pictures / "dogs" / "0.png")
    assert run(*argv) == 0
    os.utime(pictures / "dogs" / "0.png", (1, 1))
    assert "holds the tokens of other images" in refuse(*argv)


def test_captions_that_changed_are_not_kept(trained, pictures, tmp_path, refuse):
    """Names, labels and pixels are the same; where captions come, change or go, the texts are others."""
    argv = ("encode", f"--workdir={trained[0]}", f"--images={pictures}", f"--output={tmp_path / 'tokens'}")
    captions, old = pictures / "captions.csv", "file,caption\ndogs/0.png,a dog\n"
    captions.write_text(old)
    assert run(*argv) == 0 and tokens.read(tmp_path / "tokens", "train").text[3] == "a dog"
    for new in ("file,caption\ndogs/0.png,a hound\n", "file,caption\ndogs/2.png,a dog\n", None):
        captions.unlink()
        if new:
            captions.write_text(new)
        assert "holds the tokens of other images or captions" in refuse(*argv)
    captions.write_text(old)
    assert run(*argv) == 0


def test_streamed_pictures_that_cannot_be_read_have_no_tokens(trained, pictures, tmp_path, monkeypatch, capsys):
    for name in ("decoded", "streamed"):
        argv = ("encode", f"--workdir={trained[0]}", f"--images={pictures}", f"--output={tmp_path / name}")
        assert run(*argv) == 0 and "6 of train" in capsys.readouterr().out
        monkeypatch.setattr(data.folder, "fits", lambda *_: False)
    one, other = (tokens.read(tmp_path / name, "train") for name in ("decoded", "streamed"))
    assert one.name == other.name and one.label.tolist() == other.label.tolist()
    for a, b in zip(one.maps, other.maps, strict=True):
        np.testing.assert_array_equal(a, b)


def test_evaluation_refuses_other_data(trained, encoded, of_tokens, tmp_path):
    copy = Path(shutil.copytree(trained[0], tmp_path / "run"))
    facts = facts_file.read(copy)
    (copy / "data.json").write_text(json.dumps(facts | {"label_names": ["0", "1"], "label_counts": [1, 1]}))
    with pytest.raises(UserError, match="the data have changed since .*label_names was"):
        evaluate.evaluate(copy)
    copy = Path(shutil.copytree(of_tokens, tmp_path / "of_tokens"))
    facts = facts_file.read(copy)
    (copy / "data.json").write_text(json.dumps(facts | {"autoencoder": 1}))
    with pytest.raises(UserError, match="the data have changed since .*autoencoder was 1"):
        evaluate.evaluate(copy)
    with pytest.raises(UserError, match="no part 'tets'"):
        evaluate.evaluate(of_tokens, {"test_split": "tets"})


def test_images_of_other_channels(trained, refuse, tmp_path):
    np.savez(tmp_path / "grey.npz", train_image=np.zeros((4, 16, 16), np.uint8))
    argv = ("encode", f"--workdir={trained[0]}", f"--output={tmp_path / 'new'}", "--split=train")
    line = refuse(*argv, "--dataset=npz", f"--path={tmp_path / 'grey.npz'}")
    assert "trained on images of 3 channels, colour; those of" in line and "have 1: give images" in line


def test_tokens_of_another_model(encoded, trained, refuse, tmp_path):
    copy = Path(shutil.copytree(encoded, tmp_path / "tokens"))
    told = read_checked_json(copy / "tokens.json")
    told["source"]["autoencoder"] += 1
    write_checked_json(copy / "tokens.json", told)
    line = refuse("decode", f"--workdir={trained[0]}", f"--tokens={copy}", f"--output={tmp_path / 'back'}")
    assert "another autoencoder" in line and "checksum" in line and not (tmp_path / "back").exists()


def test_no_tokens(trained, refuse, tmp_path):
    line = refuse("decode", f"--workdir={trained[0]}", f"--tokens={tmp_path}", f"--output={tmp_path / 'back'}")
    assert "no whole set of tokens" in line
    argv = ("decode", f"--workdir={trained[0]}", f"--tokens={tmp_path}", "--levels=x", f"--output={tmp_path / 'back'}")
    assert "--levels" in refuse(*argv)


# --- priors on tokens


@pytest.fixture(scope="module")
def of_tokens(encoded, trained, tmp_path_factory):
    """Priors trained on tokens, by the config that trained the autoencoder."""
    workdir = tmp_path_factory.mktemp("of_tokens") / "run"
    recipe.run(tiny(trained[1], dataset__name="tokens", dataset__path=str(encoded)), workdir)
    return workdir


def test_priors_learn_from_tokens_as_from_images(of_tokens, trained):
    """The same codes, the same ones held out, the same seed: the same training."""
    assert not (of_tokens / "autoencoder").exists() and not (of_tokens / "tokens").exists()
    assert read_metrics(of_tokens / "top" / "metrics.jsonl")[-1]["step"] == 4
    metrics = json.loads((of_tokens / "metrics.json").read_text())
    before = json.loads((trained[0] / "metrics.json").read_text())
    assert metrics["images"] == before["images"] == 20
    for level in ("top", "bottom"):
        assert metrics["priors"][level] == before["priors"][level]
    assert metrics["bits_per_pixel"] == before["bits_per_pixel"] and (of_tokens / "report.html").is_file()


def test_a_finished_run_on_tokens_is_left_alone(of_tokens, encoded, trained):
    before = files(of_tokens)
    recipe.run(tiny(trained[1], dataset__name="tokens", dataset__path=str(encoded)), of_tokens)
    assert files(of_tokens) == before


def test_their_samples_are_tokens_and_are_decoded(of_tokens, trained, tmp_path, capsys):
    drawn = tmp_path / "drawn"
    assert run("sample", f"--workdir={of_tokens}", "--count=5", "--label=1", f"--output={drawn}") == 0
    assert len(tokens.read(drawn, "sample")) == 5
    argv = ("decode", f"--workdir={trained[0]}", f"--tokens={drawn}", f"--output={tmp_path / 'new'}")
    assert run(*argv) == 0
    assert "5 pictures" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [f"{i:06d}.png" for i in range(5)]
    maps = vqvae_jax.load(of_tokens).sample_tokens(5, label=1)
    want = vqvae_jax.load(trained[0]).decode(maps)
    np.testing.assert_array_equal(picture(tmp_path / "new" / "000003.png"), want[3])


def test_without_an_autoencoder(of_tokens, refuse, tmp_path):
    line = refuse("sample", f"--workdir={of_tokens}", f"--output={tmp_path / 'x.png'}")
    assert "want a new folder" in line and "--autoencoder=DIR" in line
    assert ": tokens of images 16x16x3; top 2x2 of 16 codes; " in repr(vqvae_jax.load(of_tokens))
    line = refuse("encode", f"--workdir={of_tokens}", f"--output={tmp_path / 'x'}", "--dataset=openmoji")
    assert "holds no autoencoder" in line and "--autoencoder=DIR" in line


def test_they_sample_pictures_when_told_where_the_autoencoder_is(of_tokens, trained, tmp_path, refuse):
    argv = ("sample", f"--workdir={of_tokens}", "--count=3", "--seed=2")
    assert run(*argv, f"--autoencoder={trained[0]}", f"--output={tmp_path / 'new.npz'}") == 0
    want = vqvae_jax.load(trained[0]).decode(vqvae_jax.load(of_tokens).sample_tokens(3, seed=2))
    with np.load(tmp_path / "new.npz") as file:
        np.testing.assert_array_equal(file["arr_0"], want)
    model = vqvae_jax.load(of_tokens, autoencoder=trained[0])
    known = model.complete(want, count=2, label=1)
    assert known.shape == (3, 2, *want.shape[1:]) and model.encode(want)[0].shape[0] == 3
    line = refuse(*argv, f"--autoencoder={trained[0]}", "--autoencoder_step=2")
    assert "made by another autoencoder" in line and "--autoencoder_step" in line
    assert "trained on tokens as well" in refuse(*argv, f"--autoencoder={of_tokens}")
    line = refuse("sample", f"--workdir={trained[0]}", f"--autoencoder={of_tokens}")
    assert "has an autoencoder of its own; leave --autoencoder out" in line
    assert "leave --autoencoder_step out" in refuse(*argv, "--autoencoder_step=2")


def test_tokens_of_another_kind_of_autoencoder(encoded, trained):
    config = tiny(trained[1], dataset__name="tokens", dataset__path=str(encoded))
    config["autoencoder"]["levels"] = 1
    config["priors"] = {"codes": config["priors"]["top"]}
    with pytest.raises(UserError, match="bottom 4x4 of 16 codes, the config's autoencoder makes codes 4x4"):
        recipe.Recipe(configs.complete(config), trained[0])


@pytest.mark.parametrize(("memory", "side", "images"), [(None, 16, 1024), (60 << 30, 16, 8192), (60 << 30, 256, 1024)])
def test_several_batches_lie_between_two_looks_at_the_progress(memory, side, images, monkeypatch):
    monkeypatch.setattr("vqvae_jax.codec.memory", lambda: memory)
    assert encode._chunk(side, side) == images


def test_maps_of_numbers_are_written_and_decoded(tmp_path, monkeypatch):
    """As float16: read back they are the maps to its 11 bits, and the pictures those of the very numbers."""
    from test_models import config, write_images

    path, folder = write_images(tmp_path / "data.npz", 3, 16), tmp_path / "run"
    monkeypatch.setitem(PRIORS, "gaussian", GaussianPrior)
    recipe.run(config("numbers and a toy prior", path, epochs=1), folder, "autoencoder")
    model, images = vqvae_jax.load(folder), np.load(path)["test_image"]
    levels = list(model.parts.levels)
    assert list(map(str, levels)) == ["codes 4x4 of 3 numbers"]
    assert run("encode", f"--workdir={folder}", f"--output={tmp_path / 'maps'}") == 0
    assert tokens.about(tmp_path / "maps")["levels"] == levels
    kept, (exact,) = tokens.read(tmp_path / "maps", "test"), model.encode(images)
    assert kept.maps[0].dtype == np.float16 and exact.dtype == kept.rows(np.arange(3))["tokens"][0].dtype == np.float32
    np.testing.assert_allclose(kept.maps[0], exact, rtol=1e-3, atol=1e-4)
    made = tmp_path / "x.npz"
    assert run("decode", f"--workdir={folder}", f"--tokens={tmp_path / 'maps'}", f"--output={made}") == 0
    assert np.abs(np.load(made)["test_image"].astype(int) - model.reconstruct(images)[-1]).max() <= 1
    for wrong in (exact[..., 0], exact[..., :2], exact * np.nan):
        with pytest.raises(UserError, match=r"\[N, h, w, C\] of numbers|finite numbers"):
            model.decode([wrong])
    metrics = evaluate.evaluate(folder)["autoencoder"]
    of_numbers = {f"{name}/codes" for name in ("kl", "active", "latent_mean", "latent_std")}
    assert set(metrics) == {"mse", "psnr", "ssim", "sharpness"} | of_numbers
    assert run("compare", f"--workdir={folder}", f"--against={folder}") == 0


def test_a_prior_of_codes_is_not_trained_on_numbers(tmp_path, monkeypatch):
    from test_models import PIXELCNN, config, write_images

    monkeypatch.setitem(PRIORS, "gaussian", GaussianPrior)
    said = config("numbers and a toy prior", write_images(tmp_path / "data.npz", 3, 16), epochs=1)
    said["priors"]["codes"] = {**PIXELCNN, "train": said["priors"]["codes"]["train"]}
    with pytest.raises(UserError, match="a PixelCNN reads codes, and 'codes' is a map of 3 numbers a place"):
        recipe.run(configs.complete(said), tmp_path / "run")
    assert not (tmp_path / "run" / "autoencoder").exists()


def test_one_picture_is_encoded_alone(trained, model, pictures, tmp_path):
    one = pictures / "cats" / "1.png"
    assert run("encode", f"--workdir={trained[0]}", f"--images={one}", f"--output={tmp_path / 'one'}") == 0
    found = tokens.read(tmp_path / "one", "train")
    assert found.name == ("1.png",)
    image = data.folder.read(str(pictures), "all", 16).image[:][:1]  # the first of them all
    assert all(map(np.array_equal, model.encode(image), found.maps))


def test_another_picture_under_the_same_name_is_noticed(trained, pictures, tmp_path, refuse):
    one, output = pictures / "cats" / "1.png", tmp_path / "one"
    assert run("encode", f"--workdir={trained[0]}", f"--images={one}", f"--output={output}") == 0
    PIL.Image.new("RGB", (20, 20)).save(one)
    assert "other images" in refuse("encode", f"--workdir={trained[0]}", f"--images={one}", f"--output={output}")


# --- how far it is


@pytest.mark.parametrize(
    ("command", "more", "said"),
    [
        ("sample", ["--count=2"], "drawing 4/4"),
        ("evaluate", ["--samples=0"], "measuring autoencoder 20/20"),
        ("encode", [], "encoding 116/116"),
    ],
)
def test_a_command_says_how_far_it_is_and_may_be_told_not_to(trained, tmp_path, capsys, command, more, said):
    workdir = Path(shutil.copytree(trained[0], tmp_path / "run"))
    for quiet in ([], ["--quiet"]):
        output = [] if command == "evaluate" else [f"--output={tmp_path / f'{command}{len(quiet)}'}"]
        capsys.readouterr()
        assert run(command, f"--workdir={workdir}", *more, *output, *quiet) == 0
        assert (said in capsys.readouterr().err) == (not quiet)


def test_from_python_nothing_is_shown(model, capsys):
    model.sample(2)
    assert "drawing" not in capsys.readouterr().err
