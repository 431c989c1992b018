"""VAR's weights from outside: names and sizes as published (without memory), files as its trainer writes them."""

import math

import jax
import numpy as np
import pytest
from interop import torch_bytes as tb
from interop import var_names as names

import vqvae_jax
from vqvae_jax import config as configs
from vqvae_jax import parts
from vqvae_jax.__main__ import main
from vqvae_jax.autoencoders.published import PRESETS, SCALES
from vqvae_jax.interop import files, var_prior
from vqvae_jax.interop.recognise import recognise
from vqvae_jax.types import UserError

SIDES = (1, 2, 4)
SMALL = names.tokenizer(4, (1, 2), 12, 6, len(SIDES), 1)


def without_memory(shapes):
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def random(shapes, seed=0, sides=SIDES):
    return names.given(shapes, sides, np.random.default_rng(seed))


def bring(path, workdir, *more):
    return main(["import", f"--checkpoint={path}", f"--workdir={workdir}", *more])


def check_same(path, tensors):
    back = files.read(path)
    assert set(back) == set(tensors)
    for name, array in tensors.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array, err_msg=name)


def test_the_published_tokenizer_is_recognised_at_full_size():
    shapes = names.tokenizer()
    assert len(shapes) == 324
    assert sum(math.prod(shape) for name, shape in shapes.items() if name != names.HITS) == 108_948_355
    match = recognise(without_memory(shapes), "file", 2)
    whole = {"autoencoder": {"name": "vqgan", "quantizers": {}, **PRESETS["var"]}, "train": {"dtype": "float32"}}
    preset = parts.build_autoencoder(whole, {"channels": 3})
    assert match.module == preset.clone(decoder_blocks=3, attention=(4,))
    assert match.unused == {names.HITS: (10, 4096)}
    assert match.facts["image_size"] == 256 and match.facts["range"] == (-1.0, 1.0)


def test_a_tokenizer_there_and_back(tmp_path, capsys):
    tensors = random(SMALL)
    files.write(tmp_path / "vae.safetensors", tensors)
    run = tmp_path / "run"
    assert bring(tmp_path / "vae.safetensors", run) == 2
    assert "has 3 scales, and 1,2,3,4,5,6,8,10,13,16 are 10 sides: --scales=" in capsys.readouterr().err
    assert bring(tmp_path / "vae.safetensors", run, "--scales=1,2,4") == 0
    assert "maps of sides 1, 2, 4; weights do not show it: --scales=" in capsys.readouterr().out
    section = configs.load(run)["autoencoder"]["quantizer"]
    assert (section["scales"], section["phis"], section["shared"]) == ((1, 2, 4), 4, True)
    assert main(["export", f"--workdir={run}", f"--output={tmp_path / 'back.npz'}"]) == 0
    check_same(tmp_path / "back.npz", tensors)
    assert bring(tmp_path / "back.npz", tmp_path / "again") == 0  # says itself what it is
    assert configs.load(tmp_path / "again")["autoencoder"] == configs.load(run)["autoencoder"]
    assert bring(tmp_path / "back.npz", tmp_path / "more", "--scales=1,2,4") == 2
    assert "says them itself; leave it out" in capsys.readouterr().err
    images = np.random.default_rng(1).uniform(0, 255, (2, 8, 8, 3)).astype(np.uint8)
    assert [one.shape[1:] for one in vqvae_jax.load(run).encode(images)] == [(1, 1), (2, 2), (4, 4)]


def test_q_k_v_and_phi_lie_where_they_are_named(tmp_path):
    tensors = random(SMALL)
    files.write(tmp_path / "vae.npz", tensors)
    assert bring(tmp_path / "vae.npz", tmp_path / "run", "--scales=1,2,4") == 0
    _, model = vqvae_jax.load(tmp_path / "run").autoencoder
    qkv = tensors["encoder.mid.attn_1.qkv.weight"][:, :, 0, 0]  # [3 C, C]
    for i, name in enumerate("qkv"):
        here = model.params["encoder"]["middle_attention"][name]
        np.testing.assert_array_equal(np.reshape(here["kernel"], (8, 8)), qkv[8 * i : 8 * i + 8].T)
        np.testing.assert_array_equal(here["bias"], tensors["encoder.mid.attn_1.qkv.bias"][8 * i : 8 * i + 8])
    phis = model.codebooks["codes"].params
    for i in range(4):
        there = tensors[f"quantize.quant_resi.qresi_ls.{i}.weight"]
        np.testing.assert_array_equal(phis["kernel"][i], there.transpose(2, 3, 1, 0))
        np.testing.assert_array_equal(phis["bias"][i], tensors[f"quantize.quant_resi.qresi_ls.{i}.bias"])


def test_one_phi_has_a_name_of_its_own(tmp_path):
    tensors = random(names.tokenizer(4, (1, 2), 12, 6, 3, 1, phis=1))
    files.write(tmp_path / "vae.npz", tensors)
    assert bring(tmp_path / "vae.npz", tmp_path / "run", "--scales=1,2,4") == 0
    assert main(["export", f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'back.npz'}"]) == 0
    check_same(tmp_path / "back.npz", tensors)


def test_the_same_weights_at_512_pixels_have_other_scales():
    from vqvae_jax.interop.var import with_scales

    match = recognise(without_memory(names.tokenizer()), "file", 2)
    larger = with_scales(match, None, 512, "file")
    assert larger.module.quantizers[0].scales == SCALES[512] and larger.facts["image_size"] == 512
    assert jax.tree.map(lambda x: x.shape, larger.like) == jax.tree.map(lambda x: x.shape, match.like)


@pytest.mark.parametrize(
    "more, message",
    [
        (["--scales=1,2"], "has 3 scales, and 1,2 are 2 sides"),
        (["--scales=1,2,4", "--image_size=16"], "scales 1,2,4 are of images of 8 pixels; say the sides for yours"),
        (["--scales=4,2,1"], "scales are sides of maps that grow"),
        (["--scales=1,2,x"], "wants whole numbers above 0, such as 1,2,4"),
    ],
)
def test_other_scales_are_one_line(tmp_path, capsys, more, message):
    files.write(tmp_path / "vae.npz", random(SMALL))
    try:
        code = bring(tmp_path / "vae.npz", tmp_path / "run", *more)
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr().err
    assert code == 2 and message in said and said.count("\n") == 1 and not (tmp_path / "run").exists()


PRIOR = names.transformer(2, 8, 12, 6, 3, SIDES)


def workdir_of(folder, **more):
    """A workdir with a tokenizer of SIDES, and the tensors of both."""
    tensors = {"vae": random(SMALL), "var": random(PRIOR, 1)}
    for name, one in tensors.items():
        files.write(folder / f"{name}.npz", one)
    assert bring(folder / "vae.npz", folder / "run", "--scales=1,2,4") == 0
    return folder / "run", tensors


@pytest.mark.parametrize("depth, millions", [(16, 310), (30, 2010)])
def test_the_published_transformers_are_recognised_at_full_size(depth, millions):
    tensors = without_memory(names.transformer(depth)) | var_prior.buffers(SCALES[256], depth, 64 * depth)
    match = recognise(tensors, "file", 0)
    assert (match.module.width, match.module.heads, match.module.num_labels) == (64 * depth, depth, 1000)
    assert [level.shape[0] for level in match.module.maps] == list(SCALES[256])
    assert match.facts["sides"] == SCALES[256] and set(match.unused) == set(var_prior.buffers(SCALES[256], depth))
    learned = sum(leaf.size for leaf in jax.tree.leaves({**match.like.params, "features": {}}))
    assert round(learned / 1e6) == millions


def test_both_files_become_one_workdir_and_files_again(tmp_path, capsys):
    run, tensors = workdir_of(tmp_path)
    assert bring(tmp_path / "var.npz", run) == 0
    assert "drawn map by map; with the authors' guidance of 1.5: --guidance=2.5" in capsys.readouterr().out
    section = configs.load(run)["priors"]["codes"]
    assert section["held_features"] and section["sample_growing_guidance"] and section["optimizer"]["b2"] == 0.95
    for stage, name in (("autoencoder", "vae"), ("codes", "var")):
        output = tmp_path / f"{name}.safetensors"
        assert main(["export", f"--workdir={run}", f"--stage={stage}", f"--output={output}"]) == 0
        check_same(output, tensors[name])
    assert "Long [N], labels of which 3 means none, and float32 [N, 20, 6]" in capsys.readouterr().out
    trained = vqvae_jax.load(run)
    (_, tokenizer), prior = trained.autoencoder, trained.parts.load(run, "codes")
    features, book = prior.params["features"], tokenizer.codebooks["codes"]
    np.testing.assert_array_equal(features["codes"], book.codes)
    for one in ("kernel", "bias"):
        np.testing.assert_array_equal(features[one], book.params[one])
    drawn = trained.sample(2, label=1)
    assert drawn.shape == (2, 8, 8, 3) and drawn.dtype == np.uint8
    again = tmp_path / "again"  # what was exported says itself what it is, but has no codes
    assert bring(tmp_path / "var.safetensors", again) == 2
    assert "import that one first" in capsys.readouterr().err
    assert bring(tmp_path / "vae.safetensors", again) == bring(tmp_path / "var.safetensors", again) == 0
    np.testing.assert_array_equal(vqvae_jax.load(again).sample(2, label=1), drawn)


def test_what_its_trainer_saves_is_both(tmp_path):
    tensors, storages, described = {"vae_local": random(SMALL), "var_wo_ddp": random(PRIOR, 1)}, {}, {}
    for part, own in tensors.items():
        each = {}
        for name, array in own.items():
            key = f"{part}{len(each)}"
            kind = "LongStorage" if array.dtype == np.int64 else "FloatStorage"
            strides = tuple(stride // array.itemsize for stride in array.strides)
            each[name] = tb.tensor(key, array.size, array.shape, strides, kind=kind)
            storages[key] = array.tobytes()
        described[part] = tb.dictionary(each)
    optimizer = tb.plain({"optimizer": {"state": {}, "param_groups": []}})
    trainer = tb.dictionary({"config": tb.plain({"patch_nums": list(SIDES)}), **described, "var_opt": optimizer})
    beside = {"epoch": tb.plain(3), "iter": tb.plain(0), "trainer": trainer, "args": tb.plain({"depth": 2})}
    (tmp_path / "ar-ckpt-best.pth").write_bytes(tb.zipped(tb.program(tb.dictionary(beside)), storages))
    run = tmp_path / "run"
    assert bring(tmp_path / "ar-ckpt-best.pth", run) == 0  # the transformer says the scales
    for stage, part in (("autoencoder", "vae_local"), ("codes", "var_wo_ddp")):
        assert main(["export", f"--workdir={run}", f"--stage={stage}", f"--output={tmp_path / 'back.npz'}"]) == 0
        check_same(tmp_path / "back.npz", tensors[part])
    alone = tmp_path / "alone"  # one of the two by its name
    assert bring(tmp_path / "ar-ckpt-best.pth", alone, "--key=trainer.vae_local", "--scales=1,2,4") == 0


def test_buffers_may_be_missing_and_are_made(tmp_path):
    run, tensors = workdir_of(tmp_path)
    learned = {name: one for name, one in tensors["var"].items() if not var_prior.is_buffer(name)}
    files.write(tmp_path / "var.npz", learned)
    assert bring(tmp_path / "var.npz", run) == 0
    assert main(["export", f"--workdir={run}", "--stage=codes", f"--output={tmp_path / 'back.npz'}"]) == 0
    check_same(tmp_path / "back.npz", tensors["var"])


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"lvl_1L": np.zeros((1, 21), int)}, "lvl_1L is not that of 3 square maps of 21 places in all"),
        ({"attn_bias_for_masking": np.zeros((1, 1, 21, 21), np.float32)}, "attn_bias_for_masking is not VAR's"),
        ({"shared_ada_lin.1.weight": np.ones((48, 8), np.float32)}, "var_d36.pth, is not known; var_d16"),
        ({"head.bias": np.ones(13, np.float32)}, r"head.weight is \[12, 8\], not \[13, 8\]"),
        ({"pos_start": np.ones((1, 8), np.float32)}, "pos_start is .1, 8., not of 3 axes"),
        ({"word_embed.weight": np.ones((8, 5), np.float32)}, "is of codes of 5 numbers, those of .* are of 6"),
        (
            random(names.transformer(1, 8, 12, 6, 3, (1, 2, 3)), sides=(1, 2, 3)),
            "of sides 1,2,3, .* makes maps of 1x1, 2x2, 4x4",
        ),
        (random(names.transformer(1, 8, 13, 6, 3, SIDES)), r"models codes of \[13\] a level"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path, capsys, changed, message):
    run, tensors = workdir_of(tmp_path)
    whole = {"lvl_1L", "pos_1LC"} <= set(changed)
    files.write(tmp_path / "var.npz", changed if whole else {**tensors["var"], **changed})
    capsys.readouterr()
    assert bring(tmp_path / "var.npz", run) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "codes" not in configs.load(run)["priors"]
    with pytest.raises(UserError, match=message):
        raise UserError(said.strip())


def test_a_transformer_alone_is_refused(tmp_path, capsys):
    files.write(tmp_path / "var.npz", random(PRIOR))
    assert bring(tmp_path / "var.npz", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "import that one first, vae_ch160v4096z32.pth, into the same --workdir=" in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()
