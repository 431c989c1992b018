"""What tensors do not show, a file that was exported says itself: range, size, channels, labels, quantizer."""

import json

import jax
import numpy as np
import pytest
from small_models import drawn

import vqvae_jax
from vqvae_jax import config as configs
from vqvae_jax import parts
from vqvae_jax.__main__ import main
from vqvae_jax.checkpoint import Checkpoints
from vqvae_jax.data import text as text_files
from vqvae_jax.files import write_json
from vqvae_jax.interop import files, importing
from vqvae_jax.quantizers import QUANTIZERS
from vqvae_jax.types import Model, UserError

FACTS = {"image_size": 16, "channels": 3, "label_names": ["cat", "größe"], "label_counts": [7, 1]}
RANGE = (-1.0, 1.0)
CODES = {"codebook_size": 12, "code_dim": 4}
QUANTIZER = {
    name: {"name": name, **{field: size for field, size in CODES.items() if field in kind.__dataclass_fields__}}
    for name, kind in QUANTIZERS.items()
} | {
    "residual": {"name": "residual", "depth": 2, "inner": {"name": "ema", **CODES}},
    "multiscale": {"name": "multiscale", "scales": (1, 2, 4), "inner": {"name": "ema", **CODES}},
    "fsq": {"name": "fsq", "levels": (4, 3, 3)},
}
OF_LEVELS = {"multiscale": {"top": {"scales": (1, 2)}}}  # of those whose fields differ from level to level
PRIOR = {"name": "pixelcnn", "depth": 8, "layers": 1, "attention_after": (1,), "heads": 4, "label_condition": True}


def workdir(folder, autoencoder="hierarchical", quantizer="vq", **sections):
    """A workdir as training leaves it, of weights that were drawn."""
    config = configs.complete({
        "dataset": {"name": "npz", "path": "somewhere.npz", "image_size": 16, "range": RANGE, "flip": True},
        "autoencoder": {
            "name": autoencoder,
            "width": 4,
            "quantizer": QUANTIZER[quantizer],
            "quantizers": OF_LEVELS.get(quantizer, {}),
        },
        "loss_weights": {"reconstruction": 1.0},
        "train": {"steps": 9},
        **sections,
    })  # fmt: skip
    module = parts.build_autoencoder(config, FACTS)
    like = parts.abstract_autoencoder(module, FACTS)
    save(folder, "autoencoder", Model(drawn(like.params), module.init_codebooks(jax.random.key(3))), config)
    for level in config["priors"]:
        like = parts.Parts(config, FACTS).abstract(level)
        save(folder, level, Model(drawn(like.params), {}), config)
    write_json(folder / "data.json", FACTS)
    configs.save(config, folder)
    return folder


def save(folder, stage, model, config):
    with Checkpoints(folder / stage / "checkpoints") as checkpoints:
        checkpoints.save(9, model, {}, config)


def carried(run, tmp_path, *stages, suffix=".safetensors"):
    """Out, and in again."""
    for stage in stages:
        path = tmp_path / f"{stage}{suffix}"
        assert main(["export", f"--workdir={run}", f"--stage={stage}", f"--output={path}"]) == 0
        assert main(["import", f"--checkpoint={path}", f"--workdir={tmp_path / 'back'}"]) == 0
    return vqvae_jax.load(run), vqvae_jax.load(tmp_path / "back")


@pytest.mark.parametrize(
    "autoencoder, quantizer, suffix",
    [("hierarchical", name, ".safetensors") for name in QUANTIZERS]
    + [("vqvae2", name, ".npz") for name in ("vq", "ema", "cosine", "fsq")],
)
def test_every_code_and_every_pixel_comes_back(autoencoder, quantizer, suffix, tmp_path, capsys):
    one, other = carried(workdir(tmp_path / "run", autoencoder, quantizer), tmp_path, "autoencoder", suffix=suffix)
    said = capsys.readouterr().out
    assert "the network wants float32 [N, 3, 16, 16], x / 255 * 2 + -1 of uint8 x: from -1 to 1" in said
    assert (
        "by its own metadata: uint8 0 and 255 become -1.0 and 1.0, 16 pixels, 2 labels" in said
        and "weights do" not in said
    )
    assert other.facts == FACTS and other.config["autoencoder"] == one.config["autoencoder"]
    assert other.config["dataset"] == one.config["dataset"]
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    tokens = one.encode(images)
    assert len(np.unique(tokens[-1])) > 1
    same(other.encode(images), tokens)
    same(other.reconstruct(images), one.reconstruct(images))
    same([other.decode(tokens)], [one.decode(tokens)])


def same(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("quantizer", ["ema", "residual"])
def test_averages_begin_at_the_codes(quantizer, tmp_path):
    """PyTorch's model has none; an average of nothing would throw the codes away at the first step."""
    _, other = carried(workdir(tmp_path / "run", "hierarchical", quantizer), tmp_path, "autoencoder")
    book = other.autoencoder[1].codebooks["top"]
    np.testing.assert_array_equal(book.stats["count"], np.ones_like(book.stats["count"]))
    np.testing.assert_array_equal(book.stats["sum"], book.codes)


@pytest.mark.parametrize("alone", [False, True])
def test_priors_come_back(alone, tmp_path):
    """With their labels, heads and maps; also without their autoencoder."""
    drawing = {"count": 9, "temperature": 0.5, "top_k": 7, "top_p": 0.9, "guidance": 2.0}
    priors = {"top": PRIOR, "bottom": {**PRIOR, "condition_blocks": 1}}
    run = workdir(tmp_path / "run", priors=priors, sample=drawing)
    one, other = carried(run, tmp_path, *(() if alone else ("autoencoder",)), "top", "bottom")
    assert other.config["sample"] == one.config["sample"] == drawing
    same(other.sample_tokens(3, 1, "cat"), one.sample_tokens(3, 1, "cat"))
    same(other.sample_tokens(3, 1), one.sample_tokens(3, 1))  # labels are drawn as often as there
    same(other.sample_tokens(3, 1, "cat", guidance=2), one.sample_tokens(3, 1, "cat", guidance=2))  # it learned that


# --- assumed, asked for, refused


def said_by(capsys, code, *command):
    capsys.readouterr()
    assert main(list(command)) == code
    out, err = capsys.readouterr()
    return err if code else out


@pytest.fixture
def exported(tmp_path):
    files_ = [tmp_path / f"vae{suffix}" for suffix in (".safetensors", ".npz")]
    for path in files_:
        assert main(["export", f"--workdir={workdir(tmp_path / path.suffix)}", f"--output={path}"]) == 0
    return files_


def test_a_strangers_file_is_told_its_range(exported, tmp_path, capsys):
    files.write(tmp_path / "stranger.npz", files.read(exported[0]))  # without metadata
    bring = ["import", f"--checkpoint={tmp_path / 'stranger.npz'}", "--image_size=16"]
    said = said_by(capsys, 0, *bring, f"--workdir={tmp_path / 'a'}")
    assert "uint8 0 and 255 become 0.0 and 1.0; weights do not show it: --range=A,B" in said
    said = said_by(capsys, 0, *bring, f"--workdir={tmp_path / 'b'}", "--range=-1,1")
    assert "weights do not show it" not in said and vqvae_jax.load(tmp_path / "b").value_range == RANGE
    for wrong in ("1,-1", "1", "0,inf", "a,b"):
        with pytest.raises(SystemExit):
            main([*bring, f"--workdir={tmp_path / 'c'}", f"--range={wrong}"])
        assert "wants two numbers, the lower one first" in capsys.readouterr().err


def test_another_range_than_the_file_says(exported, tmp_path, capsys):
    for path in exported:
        bring = ["import", f"--checkpoint={path}", f"--workdir={tmp_path / 'a'}", "--range=0,1"]
        assert "says itself that its values go from -1.0 to 1.0" in said_by(capsys, 2, *bring)


@pytest.mark.parametrize("names", [["größe", "cat"], ["cat", "dog"]])
def test_labels_of_other_names_or_another_order(names, tmp_path, capsys):
    """A prior knows labels by number: those of the workdir would get the pictures of others."""
    prior, run = tmp_path / "top.npz", workdir(tmp_path / "run", priors={"top": PRIOR})
    assert main(["export", f"--workdir={run}", "--stage=top", f"--output={prior}"]) == 0
    for where, known in (("other", names), ("same", FACTS["label_names"])):
        there = workdir(tmp_path / where)
        write_json(there / "data.json", {**FACTS, "label_names": known})
        said = said_by(capsys, 2 * (where == "other"), "import", f"--checkpoint={prior}", f"--workdir={there}")
        number = [one == two for one, two in zip(FACTS["label_names"], names, strict=True)].index(False)
        line = f"learned label {number} as {FACTS['label_names'][number]!r}, in {there} it is {names[number]!r}"
        assert (line in said) == (where == "other")


TOLD = {"name": "maskgit", "width": 8, "layers": 1, "heads": 2, "text_condition": True}


def test_another_tokenizer_of_the_same_size(tmp_path, capsys):
    texts = {"own": ["red heart", "green circle"] * 3, "other": ["blue horse", "yellow field"] * 3}
    for name, heard in texts.items():
        (tmp_path / f"{name}.json").write_text(text_files.learned(heard, 270))
    own, other = (text_files.read(tmp_path / f"{name}.json", 24) for name in texts)
    assert own.size == other.size and own.crc32 != other.crc32
    run = workdir(tmp_path / "run", priors={"top": TOLD, "bottom": TOLD}, text={"vocab_size": 270, "length": 24})
    write_json(run / "data.json", FACTS | {"tokenizer": own.crc32})
    for stage in ("top", "bottom"):
        path = tmp_path / f"{stage}.npz"
        assert main(["export", f"--workdir={run}", f"--stage={stage}", f"--output={path}"]) == 0
    bring = ["import", f"--checkpoint={tmp_path / 'top.npz'}", f"--workdir={tmp_path / 'back'}"]
    said = said_by(capsys, 2, *bring, f"--tokenizer={tmp_path / 'other.json'}")
    assert "is not the tokenizer that the prior 'top' of a workdir" in said and "the tokenizer.json of" in said
    assert not (tmp_path / "back").exists()
    said_by(capsys, 0, *bring, f"--tokenizer={tmp_path / 'own.json'}")
    assert vqvae_jax.load(tmp_path / "back").tokenizer.crc32 == own.crc32
    beside = ["import", f"--checkpoint={tmp_path / 'bottom.npz'}", f"--workdir={tmp_path / 'back'}"]
    facts = tmp_path / "back" / "data.json"
    known = {name: one for name, one in json.loads(facts.read_text()).items() if name != "crc32"}
    write_json(facts, known | {"tokenizer": other.crc32})
    assert "has a prior that is told texts in other numbers" in said_by(capsys, 2, *beside)


def test_tensors_that_were_not_exported(exported, tmp_path, capsys):
    for path in exported:
        tensors = files.read(path)
        tensors["decoder_1.conv1.bias"] = tensors["decoder_1.conv1.bias"] + 1
        files.write(path, tensors, files.metadata(path))
        said = said_by(capsys, 2, "import", f"--checkpoint={path}", f"--workdir={tmp_path / 'a'}")
        assert f"{path} holds other tensors than were exported: their checksum is" in said and "--range=A,B" in said
        assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("word", ["stage", "config", "facts", "checksum"])
def test_words_that_are_damaged(word, exported, tmp_path):
    words = files.metadata(exported[0])
    for wrong in ({}, {word: "{"}, {word: "[1]"}):
        kept = {name: one for name, one in words.items() if name != word} | wrong
        files.write(exported[0], files.read(exported[0]), kept)
        with pytest.raises(UserError, match="vae.safetensors"):
            importing.import_weights(exported[0], tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_what_is_written_can_be_read_by_others(exported):
    """Strings by name, of JSON; names of tensors are as they were without them."""
    words = [files.metadata(path) for path in exported]
    assert words[0] == words[1] and words[0]["format"] == "pt"
    assert json.loads(words[0]["range"]) == [-1, 1] and json.loads(words[0]["label_names"]) == FACTS["label_names"]
    with np.load(exported[1]) as file:
        names = {name.removeprefix("param/") for name in file.files} - {"metadata"}
    assert names == set(files.read(exported[0])) == set(files.read(exported[1]))


def test_the_library_reads_the_words(exported):
    library = pytest.importorskip("safetensors", reason="needs safetensors")
    with library.safe_open(exported[0], "numpy") as file:
        assert file.metadata() == files.metadata(exported[0])
