"""First stages of latent diffusion from outside: by their authors' names, in a whole model, by diffusers' names."""

import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
from interop import torch_bytes as tb
from interop.test_vqgan import built, pickled, random, without_memory
from interop.vqgan_names import LAYERS, OLD_LAYERS, by_diffusers, published
from small_models import quick

import vqvae_jax
from vqvae_jax import config as configs
from vqvae_jax.__main__ import main
from vqvae_jax.autoencoders.published import PRESETS
from vqvae_jax.interop import files
from vqvae_jax.interop.recognise import recognise
from vqvae_jax.quantizers.kl import mean_and_deviation

RECORDING = Path(__file__).parents[1] / "reference" / "kl_autoencoder.npz"
# name → (names and shapes, how many, parameters); kl_f8's numbers are the published ones.
FILES = {
    "kl_f4": (published(128, (1, 2, 4), 0, 3, z=3, attention_in=()), 204, 55_312_063),
    "kl_f8": (published(128, (1, 2, 4, 4), 0, 4, z=4, attention_in=()), 248, 83_653_863),
    "kl_f16": (published(128, (1, 1, 2, 2, 4), 0, 16, z=16), 342, 69_610_963),
    "kl_f32": (published(128, (1, 1, 2, 2, 4, 4), 0, 64, z=64, attention_in=(4, 5)), 436, 103_880_131),
}
LEVELS = 3
SMALL = published(8, (1, 1, 2), 0, 4, z=4, blocks=1)  # attention in the coarsest level too
CONFIG = {"_class_name": "AutoencoderKL", "norm_num_groups": 4, "scaling_factor": 0.5, "shift_factor": 0.25, "odd": [1]}
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)


@pytest.mark.parametrize("name", FILES)
def test_published_files_are_recognised_at_full_size(name):
    shapes, tensors, numbers = FILES[name]
    assert len(shapes) == tensors and sum(map(math.prod, shapes.values())) == numbers
    levels = len(PRESETS[name]["factors"])
    beside = {"loss.logvar": (), "loss.discriminator.main.0.weight": (64, 3, 4, 4)}
    for there in (
        shapes | beside,
        *(by_diffusers(without_memory(shapes), levels, one) for one in (LAYERS, OLD_LAYERS)),
    ):
        match = recognise(without_memory(there) if there == shapes | beside else there, "file", 2)
        assert match.module == built(PRESETS[name]).clone(decoder_blocks=3)
        leaves = jax.tree.leaves(match.like.params)
        assert (len(leaves), sum(leaf.size for leaf in leaves)) == (tensors, numbers)
        assert match.facts["image_size"] == 256 and match.facts["range"] == (-1.0, 1.0)
        # Theirs sum over an image of 256 pixels what here are means.
        ratio = PRESETS[name]["z"] * (256 / 2 ** (levels - 1)) ** 2 / (256**2 * 3)
        assert match.facts["loss_weights"] == {"reconstruction": 1.0, "kl": pytest.approx(1e-6 * ratio)}


def written(path, tensors, config=None):
    """A file, with a config.json beside."""
    path.parent.mkdir(exist_ok=True)
    files.write(path, tensors)
    if config is not None:
        (path.parent / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return path


def bring(path, workdir, *more):
    return main(["import", f"--checkpoint={path}", f"--workdir={workdir}", "--image_size=16", *more])


def latents(run, of):
    """Maps as a prior sees them, and the means that the encoder says."""
    model = vqvae_jax.load(run)
    module, weights = model.autoencoder
    maps = model.encode(of)[0]
    return maps, np.asarray(module.quantizers[0].lookup(weights.codebooks["codes"], (maps,)))


def same(one, other):
    assert set(one) == set(other)
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


def test_latents_are_the_authors_means_times_the_scale(tmp_path):
    with np.load(RECORDING) as file:
        tensors = {name.removeprefix("param/"): one for name, one in file.items() if name.startswith("param/")}
        images, mean = np.moveaxis(file["input/images"], 1, -1), np.moveaxis(file["output/mean"], 1, -1)
        made = np.moveaxis(file["output/reconstruction"], 1, -1)
    path = written(tmp_path / "vae" / "x.safetensors", by_diffusers(tensors, 2), {**CONFIG, "norm_num_groups": 32})
    for name, (file, factor, shift) in {
        "original": (RECORDING, 0.18215, 0.0),
        "diffusers": (path, 0.5, 0.25),
    }.items():
        assert bring(file, tmp_path / name, *(["--scale=0.18215"] if name == "original" else [])) == 0
        module, model = vqvae_jax.load(tmp_path / name).autoencoder

        def both(params, module=module, books=model.codebooks):
            (maps,) = module.apply({"params": params}, images, books, method="encode")
            return maps, module.apply({"params": params}, (maps,), books, method="decode")

        maps, again = quick(both)(model.params)
        np.testing.assert_allclose(maps, factor * (mean - shift), atol=1e-5)
        np.testing.assert_allclose(again, made, atol=3e-5)


def test_a_whole_model_gives_its_first_stage(tmp_path, capsys):
    """Stable Diffusion's file: a U-Net and a text encoder beside it, that are never read; some tell their scale."""
    tensors = random(SMALL)
    inside = {f"first_stage_model.{name}": one for name, one in tensors.items()}
    others = {"model.diffusion_model.out.2.bias": np.ones(4, np.float32), "betas": np.ones(9, np.float32)}
    for scale in (None, np.array(0.25, np.float32)):
        weights, storages = pickled(inside | others | ({} if scale is None else {"scale_factor": scale}))
        path, run = tmp_path / f"sd{scale}.ckpt", tmp_path / f"run{scale}"
        path.write_bytes(tb.zipped(tb.program(tb.dictionary({"state_dict": weights})), storages))
        assert bring(path, run) == 0
        said = capsys.readouterr().out
        wanted = "times 1; weights do not show it: --scale=S" if scale is None else f"times 0.25; as {path}: scale_fac"
        assert "latent diffusion's first stage, 8 wide, 3 levels" in said and wanted in said
        maps, mean = latents(run, IMAGES)
        np.testing.assert_allclose(maps, mean * (1 if scale is None else 0.25), rtol=1e-6)
        assert main(["export", f"--workdir={run}", f"--output={run / 'back.npz'}"]) == 0
        same(files.read(run / "back.npz"), tensors)


def test_without_a_word_stable_diffusion_s_network_has_stable_diffusion_s_scale(tmp_path, capsys):
    tensors = random(published(8, (1, 1, 1, 1), 0, 4, z=4, blocks=1, attention_in=()))
    assert bring(written(tmp_path / "vae.npz", tensors), tmp_path / "run") == 0
    assert "times 0.18215; weights do not show it" in capsys.readouterr().out
    mean, deviation = mean_and_deviation(vqvae_jax.load(tmp_path / "run").autoencoder[1].codebooks["codes"])
    assert not mean.any() and np.allclose(deviation, 1 / 0.18215, rtol=1e-6)


@pytest.mark.parametrize("layers", [LAYERS, OLD_LAYERS])
def test_diffusers_file_is_the_same_model_there_and_back(layers, tmp_path, capsys):
    tensors = random(SMALL)
    path = written(tmp_path / "vae" / "x.safetensors", by_diffusers(tensors, LEVELS, layers), CONFIG)
    original = written(tmp_path / "x.npz", tensors)
    assert bring(original, tmp_path / "a", "--scale=0.5") == 0 and bring(path, tmp_path / "b") == 0
    assert f"times 0.5, shifted; as {path.parent / 'config.json'} says" in capsys.readouterr().out
    ours = configs.load(tmp_path / "b")["autoencoder"]
    assert ours["groups"] == 4 and {**ours, "groups": 32} == configs.load(tmp_path / "a")["autoencoder"]
    maps, mean = latents(tmp_path / "b", IMAGES)
    np.testing.assert_allclose(maps, 0.5 * (mean - 0.25), atol=1e-6)
    back = tmp_path / "out" / "vae.safetensors"
    assert main(["export", f"--workdir={tmp_path / 'b'}", f"--output={back}"]) == 0
    same(files.read(back), by_diffusers(tensors, LEVELS))
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    assert CONFIG.items() <= said.items() and said["block_out_channels"] == [8, 8, 16] and said["latent_channels"] == 4
    assert said["down_block_types"] == ["DownEncoderBlock2D"] * 2 + ["AttnDownEncoderBlock2D"]
    assert bring(back, tmp_path / "c") == 0  # by its own words
    same({"maps": latents(tmp_path / "c", IMAGES)[0]}, {"maps": maps})
    assert main(["export", f"--workdir={tmp_path / 'b'}", f"--output={tmp_path / 'o.npz'}", "--names=original"]) == 0
    same(files.read(tmp_path / "o.npz"), tensors)
    assert bring(tmp_path / "o.npz", tmp_path / "d") == 0
    same({"maps": latents(tmp_path / "d", IMAGES)[0]}, {"maps": maps})


def test_a_scale_a_channel_goes_there_and_back(tmp_path):
    """As diffusers' pipelines have it: z = latents · latents_std / scaling_factor + latents_mean."""
    means, deviations = [0.5, -1.0, 0.0, 2.0], [1.0, 2.0, 3.0, 0.5]
    config = {**CONFIG, "latents_mean": means, "latents_std": deviations}
    path = written(tmp_path / "vae" / "x.npz", by_diffusers(random(SMALL), LEVELS), config)
    assert bring(path, tmp_path / "run") == 0
    maps, mean = latents(tmp_path / "run", IMAGES)
    np.testing.assert_allclose(maps * np.array(deviations) / 0.5 + np.array(means), mean, atol=1e-5)
    assert main(["export", f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'out' / 'x.npz'}"]) == 0
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    np.testing.assert_allclose(said["latents_std"], 2 * np.array(deviations), rtol=1e-6)
    assert said["scaling_factor"] == 1.0 and said["shift_factor"] is None


REFUSED = {  # config.json → what is said
    "{": "cannot be read as a config of diffusers",
    '{"_class_name": "AutoencoderKL", "scaling_factor": "much"}': "scaling_factor is no number: much",
    '{"_class_name": "AutoencoderKL", "scaling_factor": NaN}': "scaled by a number above 0, got nan",
    '{"_class_name": "AutoencoderKL", "scaling_factor": -1}': "scaled by a number above 0, got -1",
    '{"_class_name": "AutoencoderKL", "scaling_factor": 1, "latents_mean": [1], "latents_std": [1, 2]}': "4 numbers",
    '{"_class_name": "AutoencoderKL", "scaling_factor": 1, "shift_factor": Infinity}': "a scale is not finite: inf",
    '{"_class_name": "AutoencoderKL", "norm_num_groups": 3}': "norm_num_groups 3, which does not divide (8, 8, 16)",
    '{"_class_name": "AutoencoderKL", "norm_num_groups": "\\u001b"}': "norm_num_groups \\x1b",
    '{"_class_name": "AutoencoderKL", "act_fn": "relu"}': "act_fn 'relu'; this network has silu alone",
}


@pytest.mark.parametrize("config", REFUSED)
def test_a_config_that_cannot_be_is_refused(config, tmp_path, capsys):
    path = written(tmp_path / "vae" / "x.npz", by_diffusers(without_memory(SMALL), LEVELS), config)
    assert bring(path, tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert REFUSED[config] in said and str(path.parent) in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_config_of_something_else_is_not_asked_and_not_overwritten(tmp_path, capsys):
    theirs, other = by_diffusers(random(SMALL), LEVELS), {"dataset": {}}
    assert bring(written(tmp_path / "other" / "x.npz", theirs, other), tmp_path / "a") == 0
    assert "times 1; weights do not show it" in capsys.readouterr().out
    assert bring(written(tmp_path / "vae" / "x.npz", theirs, CONFIG), tmp_path / "b") == 0
    assert main(["export", f"--workdir={tmp_path / 'b'}", f"--output={tmp_path / 'other' / 'y.npz'}"]) == 2
    assert "is of something else, and diffusers wants its own there" in capsys.readouterr().err
    assert json.loads((tmp_path / "other" / "config.json").read_text()) == other
    assert not (tmp_path / "other" / "y.npz").exists()


def test_what_does_not_belong_is_refused(tmp_path, capsys):
    def refused(path, words, *more):
        assert bring(path, tmp_path / "run", *more) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1, said

    tensors = random(SMALL)
    damaged = {name: one for name, one in tensors.items() if name != "encoder.mid.attn_1.k.bias"}
    path = written(tmp_path / "bad.npz", damaged | {"quant_conv.bias": np.ones(7, np.float32)})
    refused(
        path, "closest is latent diffusion's first stage, 8 wide, 3 levels. missing: encoder.mid.attn_1.k.bias [16]"
    )
    theirs = by_diffusers(tensors, LEVELS)
    del theirs["decoder.mid_block.attentions.0.to_q.bias"]
    refused(written(tmp_path / "bad.npz", theirs), "closest is diffusers' AutoencoderKL")
    without = {name: one for name, one in by_diffusers(tensors, LEVELS).items() if "quant_conv" not in name}
    refused(written(tmp_path / "bad.npz", without), "missing: post_quant_conv.bias")  # of Stable Diffusion 3 and Flux
    flat = tensors | {"encoder.mid.attn_1.k.weight": np.ones((16, 16), np.float32)}
    refused(written(tmp_path / "bad.npz", flat), "encoder.mid.attn_1.k.weight is [16, 16], not of 4 axes")
    deep = by_diffusers(tensors, LEVELS) | {"encoder.mid_block.attentions.0.to_k.weight": np.ones((16, 16, 1, 1))}
    refused(written(tmp_path / "bad.npz", deep), "to_k.weight is [16, 16, 1, 1], not of 2 axes")
    whole = {f"first_stage_model.{name}": one for name, one in tensors.items()}
    for wrong in (np.array(np.nan), np.array(0.0), np.ones(2), np.array(-1.0)):
        words = "is no number" if wrong.ndim else "scaled by a number above 0"
        refused(written(tmp_path / "bad.npz", whole | {"scale_factor": wrong}), words)
    codes = random(published(4, (1, 2), 12, 4, z=4, blocks=1))
    refused(written(tmp_path / "codes.npz", codes), "it has no latents to scale; leave it out", "--scale=2")
    with pytest.raises(SystemExit):
        bring(path, tmp_path / "run", "--scale=-1")


def test_what_diffusers_has_no_class_for_is_refused(tmp_path, capsys):
    good, codes = written(tmp_path / "a.npz", random(SMALL)), random(published(4, (1, 2), 12, 4, z=4, blocks=1))
    assert bring(good, tmp_path / "numbers") == 0 and bring(written(tmp_path / "b.npz", codes), tmp_path / "codes") == 0
    for run, words in {
        "codes": "with a quantizer `kl`",
        "numbers": "wants groups=8; this autoencoder has groups=32",
    }.items():
        output = f"--output={tmp_path / 'out.npz'}"
        assert main(["export", f"--workdir={tmp_path / run}", output, "--names=diffusers"]) == 2
        assert words in capsys.readouterr().err
    assert main(["export", f"--workdir={tmp_path / 'numbers'}", f"--output={tmp_path / 'out.msgpack'}"]) == 2
    assert "no room for the scale of the latents" in capsys.readouterr().err
