"""VQ-GAN's weights from outside: names and sizes as published (without memory), files as trainings write them."""

import math

import jax
import numpy as np
import pytest
from interop import torch_bytes as tb
from interop.vqgan_names import published
from small_models import quick

import vqvae_jax
from vqvae_jax import config as configs
from vqvae_jax import parts
from vqvae_jax.__main__ import main
from vqvae_jax.autoencoders.published import PRESETS
from vqvae_jax.interop import files
from vqvae_jax.interop.recognise import recognise

SMALL = (1, 1, 2)
# name → (names and shapes, how many, parameters)
FILES = {
    "taming_f16_1024": (published(128, (1, 1, 2, 2, 4), 1024, 256), 343, 72_141_699),
    "taming_f16_16384": (published(128, (1, 1, 2, 2, 4), 16384, 256), 343, 76_073_859),
    "llamagen_f16": (published(128, (1, 1, 2, 2, 4), 16384, 8, llamagen=True), 343, 71_883_403),
    "llamagen_f8": (published(128, (1, 2, 2, 4), 16384, 8, llamagen=True), 299, 70_109_835),
}
OTHERS = {"var": (323 + 7 * 4 - 2 * 3, 108_948_355), "maskgit": (168, 54_515_587)}  # VAR's: q, k, v one, four φ one


def without_memory(shapes):
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def counted(like):
    """How many arrays, and numbers."""
    book = like.codebooks["codes"]
    leaves = jax.tree.leaves((like.params, book.codes, book.params))
    return sum(leaf.size > 0 for leaf in leaves), sum(leaf.size for leaf in leaves)


@pytest.mark.parametrize("name", FILES)
def test_published_files_are_recognised_at_full_size(name):
    shapes, tensors, numbers = FILES[name]
    assert len(shapes) == tensors and sum(map(math.prod, shapes.values())) == numbers
    beside = {"quantize.codebook_used": (65536,)} if "llamagen" in name else {"loss.perceptual_loss.lin0.w": (1, 64)}
    match = recognise(without_memory(shapes | beside), "file", 2)
    assert match.unused == beside and counted(match.like) == (tensors, numbers)
    preset = built(PRESETS[name])
    assert match.module == preset.clone(decoder_blocks=3, attention=(len(preset.factors) - 1,))
    assert match.facts["image_size"] == 256 and match.facts["range"] == (-1.0, 1.0)


def built(section):
    whole = {"name": "vqgan", "quantizers": {}, **section}
    return parts.build_autoencoder({"autoencoder": whole, "train": {"dtype": "float32"}}, {"channels": 3})


@pytest.mark.parametrize("name", OTHERS)
def test_other_published_tokenizers_have_as_many_parameters(name):
    like = parts.abstract_autoencoder(built(PRESETS[name]), {"image_size": 256, "channels": 3})
    assert counted(like) == OTHERS[name]


def random(shapes):
    draw = np.random.default_rng(0)
    return {name: draw.normal(size=shape, scale=0.2).astype(np.float32) for name, shape in shapes.items()}


def lightning(tensors):
    """A checkpoint of PyTorch Lightning's: callbacks, hyper-parameters and an optimizer beside the weights."""
    weights, storages = pickled(tensors)
    config = tb.call("omegaconf.dictconfig", "DictConfig") + tb.plain({"_content": {"lr": 4.5e-6}}) + b"b"
    names = tb.named("argparse", "Namespace") + b")\x81" + tb.plain({"seed": 23}) + b"b"
    callback = tb.named("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
    beside = {
        "epoch": tb.plain(12),
        "pytorch-lightning_version": tb.plain("1.0.8"),
        "callbacks": b"}" + callback + tb.plain({"best": 1.0, "monitor": None}) + b"s",
        "optimizer_states": tb.plain([]),
        "hyper_parameters": config,
        "args": names,
    }
    return tb.zipped(tb.program(tb.dictionary(beside | {"state_dict": weights})), storages)


def llamagen(tensors):
    """A training's file of LlamaGen's."""
    weights, storages = pickled(tensors)
    names = tb.named("argparse", "Namespace") + b")\x81" + tb.plain({"image_size": 256}) + b"b"
    beside = {"optimizer": tb.plain({}), "steps": tb.plain(1), "args": names}
    return tb.zipped(tb.program(tb.dictionary({"model": weights} | beside)), storages)


def pickled(tensors):
    described, storages = {}, {}
    for number, (name, array) in enumerate(tensors.items()):
        key, strides = str(number), tuple(stride // 4 for stride in array.strides)
        described[name] = tb.tensor(key, array.size, array.shape, strides)
        storages[key] = array.tobytes()
    return tb.dictionary(described), storages


@pytest.mark.parametrize("kind", ["taming", "llamagen"])
def test_a_training_s_file_there_and_back(kind, tmp_path, capsys):
    code_dim, write = {"taming": (6, lightning), "llamagen": (4, llamagen)}[kind]
    tensors = random(published(4, SMALL, 12, code_dim, llamagen=kind == "llamagen", z=6, blocks=1))
    beside = (
        {"loss.discriminator.main.0.weight": (3, 3, 4, 4)} if kind == "taming" else {"quantize.codebook_used": (9,)}
    )
    tensors |= random(beside)
    (tmp_path / "last.ckpt").write_bytes(write(tensors))
    run = tmp_path / "run"
    assert main(["import", f"--checkpoint={tmp_path / 'last.ckpt'}", f"--workdir={run}", "--image_size=8"]) == 0
    assert "become -1.0 and 1.0" in capsys.readouterr().out
    config = configs.load(run)
    weights = {"reconstruction": 1.0, "codebook": 1.0, "commitment": 0.25}
    legacy = {"codebook": 0.25, "commitment": 1.0} if kind == "taming" else {}
    assert config["loss_weights"] == weights | legacy
    assert config["autoencoder"]["distance"] == ("absolute" if kind == "taming" else "squared")
    assert main(["export", f"--workdir={run}", f"--output={tmp_path / 'back.safetensors'}"]) == 0
    back = files.read(tmp_path / "back.safetensors")
    assert set(back) == set(tensors)
    for name, array in tensors.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)
    module, model = vqvae_jax.load(run).autoencoder
    images = np.random.default_rng(1).uniform(-1, 1, (1, 8, 8, 3)).astype(np.float32)
    tokens = quick(lambda params: module.apply({"params": params}, images, model.codebooks, method="encode"))
    assert tokens(model.params)[0].shape == (1, 2, 2)
    again = tmp_path / "again"  # what was exported says itself what it is
    assert main(["import", f"--checkpoint={tmp_path / 'back.safetensors'}", f"--workdir={again}"]) == 0
    assert configs.load(again)["autoencoder"] == config["autoencoder"]
    assert set(files.read(again / "autoencoder" / "unused.npz")) == set(beside)


def test_what_differs_from_taming_s_is_named(tmp_path, capsys):
    tensors = random(published(4, SMALL, 12, 6, z=6, blocks=1))
    del tensors["decoder.mid.attn_1.k.bias"]
    tensors["quant_conv.bias"] = np.ones(7, np.float32)
    files.write(tmp_path / "bad.npz", tensors)
    assert main(["import", f"--checkpoint={tmp_path / 'bad.npz'}", f"--workdir={tmp_path / 'run'}"]) == 2
    said = capsys.readouterr().err
    assert "closest is taming's VQ-GAN, 4 wide, 3 levels. missing: decoder.mid.attn_1.k.bias [8]" in said
    assert "quant_conv.bias is [7], not [6]" in said
