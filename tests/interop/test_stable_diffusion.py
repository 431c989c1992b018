"""Stable Diffusion 1 from outside: at full size without memory, and a tiny one from its files to pictures of a text."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interop import diffusion_names as names
from interop import torch_bytes as tb
from interop.test_first_stages import FILES
from interop.test_vqgan import pickled
from interop.vqgan_names import by_diffusers, published
from networks.test_text_encoders import states_of
from small_models import quick

import vqvae_jax
from vqvae_jax import config as configs
from vqvae_jax.__main__ import main
from vqvae_jax.data import text
from vqvae_jax.interop import clip, files, stable_diffusion
from vqvae_jax.interop.recognise import recognise
from vqvae_jax.types import Condition, UserError

TEXTS = ("a red heart", "a green circle")
WIDTH, PLACES, LEVELS = 8, 9, 2
FIRST = published(8, (1,) * LEVELS, 0, 4, z=4, blocks=1, attention_in=())
UNET = {"width": 16, "factors": (1, 1), "blocks": 1, "attention": (1,), "context": WIDTH}
SIZE = 8  # pixels
MARKS = ("<|startoftext|>", "<|endoftext|>")


def tokenizer_json():
    """Learned words, and CLIP's marks as the last two."""
    found = json.loads(text.learned(TEXTS, 280))
    vocab = found["model"]["vocab"]
    vocab |= {mark: len(vocab) + i for i, mark in enumerate(MARKS)}
    return json.dumps(found)


WORDS = text.Tokenizer(tokenizer_json(), 3).size - 1


def random(shapes, seed=0):
    draw = np.random.default_rng(seed)
    return {name: draw.normal(size=shape, scale=0.2).astype(np.float32) for name, shape in shapes.items()}


def parts(**unet):
    """The tensors of the three parts, each by its own names."""
    shapes = FIRST, names.unet(**{**UNET, **unet}), names.clip_text(WIDTH, 2, WORDS, PLACES)
    return [random(one, seed) for seed, one in enumerate(shapes)]


BESIDE = {
    "betas": np.ones(9, np.float32),
    "model_ema.decay": np.float32(0.9999),
    "scale_factor": np.float32(0.18215),  # which the published file has not: of its network it is taken for granted
    "cond_stage_model.transformer.text_model.embeddings.position_ids": np.arange(PLACES)[None],
}


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """A folder with a file of all of it, and the tokenizer."""
    folder = tmp_path_factory.mktemp("sd")
    files.write(folder / "sd.safetensors", names.stable_diffusion(*parts()) | BESIDE)
    (folder / "tokenizer.json").write_text(tokenizer_json())
    return folder


def bring(checkpoint, run, *more):
    return main(["import", f"--checkpoint={checkpoint}", f"--workdir={run}", *more])


@pytest.fixture(scope="module")
def run(there):
    """Imported, with small pictures."""
    more = f"--image_size={SIZE}", f"--tokenizer={there / 'tokenizer.json'}"
    assert bring(there / "sd.safetensors", there / "run", *more) == 0
    return there / "run"


def test_all_of_it_has_its_names_and_numbers_at_full_size():
    """Through the importer, shapes alone; of the first stage in test_first_stages.py."""
    own, told = names.unet(), names.clip_text()
    shapes = names.stable_diffusion({}, own, told)
    assert (len(own), len(told), FILES["kl_f8"][1:]) == (686, 196, (248, 83_653_863))
    match = recognise({name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}, "file", 0)
    count = lambda tree: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert set(match.like.params) == {"network", "text_encoder"}
    assert count(match.like.params["network"]) == 859_520_964
    assert count(match.like.params["text_encoder"]) == 123_060_480
    assert (match.module.network.heads, match.module.text_encoder.heads) == (8, 12)
    assert str(match.module.maps[0]) == "codes 64x64 of 4 numbers" and match.module.text == (49_409, 75)
    assert match.facts["image_size"] == 512 and match.facts["autoencoder"]["factors"] == (1, 2, 4, 4)


def test_from_one_file_to_pictures_of_a_text(run, tmp_path, capsys):
    config = configs.load(run)
    prior = config["priors"]["codes"]
    assert (prior["path"], prior["foretold"], prior["network"]["name"]) == ("linear", "noise", "unet")
    assert config["text"] == {"vocab_size": WORDS + 1, "length": PLACES - 2, "tokenizer": ""}
    sample = ["sample", f"--workdir={run}", f"--text={TEXTS[0]}", "--count=1", "--sample_steps=2", "--guidance=7.5"]
    assert main([*sample, f"--output={tmp_path / 'a.npz'}"]) == 0
    capsys.readouterr()
    drawn = np.load(tmp_path / "a.npz")["arr_0"]
    assert drawn.shape == (1, SIZE, SIZE, 3) and drawn.dtype == np.uint8 and len(np.unique(drawn)) > 9
    other = vqvae_jax.load(run).sample(1, text=TEXTS[1], guidance=7.5, sample_steps=2)
    assert np.any(other != drawn)


def test_the_network_hears_clip_s_states_and_no_text_is_an_empty_one(run):
    """Beside the encoder recomputed in NumPy; all states, and no vector."""
    model = vqvae_jax.load(run)
    prior, weights = model.priors["codes"]
    (row,) = model.tokenizer.numbers([TEXTS[0]])
    ids = [WORDS - 2, *(row[row > 0] - 1)]
    told = [ids + [WORDS - 1] * (PLACES - len(ids)), [WORDS - 2] + [WORDS - 1] * (PLACES - 1)]
    there = parts()[2]
    states = np.float32([states_of(there, words, 1) for words in told])
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 4)).astype(np.float32)
    time, numbers = np.float32([0.3, 1.0]), np.stack([row, 0 * row])

    def both(params):
        said = prior.apply({"params": params}, x, time, Condition(text=jnp.asarray(numbers)), method="foretell")
        return said, prior.network.apply({"params": params["network"]}, x, 1000 * time - 1, None, states)

    said, wanted = quick(both)(weights.params)
    np.testing.assert_allclose(said, wanted, atol=2e-5 * np.abs(wanted).max())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same as diffusers has it."""
    here = tmp_path_factory.mktemp("diffusers")
    first, unet, encoder = parts()
    config = {"_class_name": "AutoencoderKL", "scaling_factor": 0.18215}
    heads = {"text_config": {"num_attention_heads": 1, "hidden_act": "quick_gelu", "num_hidden_layers": 2}}
    for name, stem, tensors, beside in (
        ("vae", "diffusion_pytorch_model", by_diffusers(first, LEVELS), config),
        ("unet", "diffusion_pytorch_model", {names.by_diffusers(name, 1): one for name, one in unet.items()}, {}),
        ("text_encoder", "model", encoder, heads),
    ):
        (here / name).mkdir(parents=True)
        files.write(here / name / f"{stem}.safetensors", tensors)
        (here / name / "config.json").write_text(json.dumps(beside))
    return here


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_what_is_found_in_other_files_is_the_same(there, folder, tmp_path):
    weights, storages = pickled(names.stable_diffusion(*parts()) | {"betas": BESIDE["betas"]})
    (tmp_path / "sd.ckpt").write_bytes(tb.zipped(tb.program(tb.dictionary({"state_dict": weights})), storages))
    found = [
        stable_diffusion.in_file(files.read(path), path, None)
        for path in (there / "sd.safetensors", tmp_path / "sd.ckpt")
    ]
    assert [whole.factor is None for whole in found] == [False, True]
    assert not any("betas" in name or "position_ids" in name for whole in found for name in whole.prior)
    same(found[0].prior, found[1].prior)
    same(found[0].first_stage, found[1].first_stage)
    apart = stable_diffusion.in_folder(folder, None)
    assert set(apart.first_stage) == set(by_diffusers(found[0].first_stage, LEVELS)) and apart.tokenizer is None
    assert (apart.first_stage_file.parent, apart.encoder_file.parent) == (folder / "vae", folder / "text_encoder")
    assert clip.beside(apart.encoder_file) == {"heads": 1} and set(apart.prior) > set(
        names.stable_diffusion({}, {}, parts()[2])
    )


def test_one_after_the_other_and_out_again(run, there, folder, tmp_path, capsys):
    """First stage, then a U-Net by diffusers' names with its encoder; the prior exported, and once more."""
    first, words = "--key=first_stage_model", f"--tokenizer={there / 'tokenizer.json'}"
    encoder = f"--text_encoder={folder / 'text_encoder' / 'model.safetensors'}"
    apart, back, again = tmp_path / "apart", tmp_path / "back.safetensors", tmp_path / "again"
    assert bring(there / "sd.safetensors", apart, first, f"--image_size={SIZE}", "--scale=0.18215") == 0
    assert bring(folder / "unet" / "diffusion_pytorch_model.safetensors", apart, encoder) == 0
    assert "whose words weights do not show: sample --text wants them, --tokenizer" in capsys.readouterr().out
    assert main(["export", f"--workdir={apart}", "--stage=codes", f"--output={back}"]) == 0
    same(files.read(back), names.stable_diffusion({}, *parts()[1:]))
    assert bring(back, again, words) == 0
    wanted, others = vqvae_jax.load(run), [vqvae_jax.load(path) for path in (apart, again)]
    for other in others:
        assert other.config["text"] == wanted.config["text"]
        assert other.parts.prior("codes") == wanted.parts.prior("codes")
        same(other.priors["codes"][1].params, wanted.priors["codes"][1].params)
    same(others[0].autoencoder[1], wanted.autoencoder[1])
    assert others[0].tokenizer is None and others[1].tokenizer.crc32 == wanted.tokenizer.crc32
    capsys.readouterr()


def test_what_does_not_belong_is_refused(there, tmp_path, capsys):
    def refused(tensors, words, *more, path=None):
        path = path or tmp_path / "bad.npz"
        if tensors is not None:
            files.write(path, tensors)
        assert bring(path, tmp_path / "run", *more) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1, said
        assert not (tmp_path / "run").exists()

    first, unet, encoder = parts()
    none = names.stable_diffusion(first, unet, {})
    refused(none, "vectors of 8, and no text encoder that is known")
    refused(none, "its first stage alone: --key=first_stage_model; CLIP's from another file: --text_encoder=FILE")
    second = names.stable_diffusion(*parts(context=1024)[:2], {"x": np.ones(1)})
    refused(second, "vectors of 1024, as Stable Diffusion 2's, whose text encoder is not read, and no text encoder")
    wide = names.stable_diffusion(*parts(context=24)[:2], encoder)
    refused(wide, "is told vectors of 24, the text encoder's are 8 wide; they do not belong together")
    hole = unet | {"input_blocks.0.0.weight": np.ones((16, 9, 3, 3), np.float32)}
    refused(names.stable_diffusion(first, hole, encoder), "is given 9 numbers a place and foretells 4")
    damaged = {name: one for name, one in encoder.items() if "layers.1.mlp.fc1.bias" not in name}
    missing = "missing: cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc1.bias [32]"
    refused(names.stable_diffusion(first, unet, damaged), missing)
    refused(encoder, "is CLIP's text encoder: it goes beside a U-Net, --checkpoint=UNET --text_encoder=")
    files.write(tmp_path / "clip.npz", encoder)
    refused(first, "goes with a U-Net that is told texts, and", f"--text_encoder={tmp_path / 'clip.npz'}")
    refused(first, "is told no texts; leave it out", f"--tokenizer={there / 'tokenizer.json'}")
    (tmp_path / "other.json").write_text(text.learned(TEXTS, 270))
    whole = names.stable_diffusion(first, unet, encoder)
    refused(whole, f"knows {WORDS + 1}: it is not the tokenizer.json", f"--tokenizer={tmp_path / 'other.json'}")
    refused(whole, "takes maps whose sides are multiples of 2; here they are 3x3", "--image_size=6")
    (tmp_path / "vae").mkdir()
    refused(None, "is a folder without vae/diffusion_pytorch_model.safetensors", path=tmp_path)


def test_a_config_of_another_activation_is_refused(tmp_path):
    for said, message in (
        ({"hidden_act": "gelu"}, "says hidden_act gelu; CLIP's text encoder has quick_gelu"),
        ({"num_attention_heads": "3"}, "says num_attention_heads 3, which is none"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({"num_hidden_layers": 2} | said))
        with pytest.raises(UserError, match=message):
            clip.beside(tmp_path / "model.safetensors")
