"""VAR's weights from outside: names and sizes as published (without memory), files as its trainer writes them."""

import math

import jax
import numpy as np
import pytest
from interop import var_names as names

import vqvae_jax
from vqvae_jax import config as configs
from vqvae_jax import parts
from vqvae_jax.__main__ import main
from vqvae_jax.autoencoders.published import PRESETS, SCALES
from vqvae_jax.interop import files
from vqvae_jax.interop.recognise import recognise

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
