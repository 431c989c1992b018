"""First stages of text-to-image models from outside: DALL-E's dVAE, and taming's VQ-GAN whose codes are drawn."""

import math

import jax
import numpy as np
import pytest
from interop import torch_bytes as tb
from interop.test_vqgan import built, lightning, pickled, random, without_memory
from interop.vqgan_names import conv, published

import vqvae_jax
from vqvae_jax import config as configs
from vqvae_jax.__main__ import main
from vqvae_jax.autoencoders.published import PRESETS
from vqvae_jax.interop import files
from vqvae_jax.interop.recognise import recognise

PARTS = {"encoder": (3, 3, 3, 1), "decoder": (1, 3, 3, 3)}  # kernels of a block


def layer(name, out, into, size):
    return {f"{name}.w": (out, into, size, size), f"{name}.b": (out,)}


def openai(width=256, blocks=2, code_dim=128, codes=8192):
    """Name → shape of all tensors of both files."""
    found = layer("encoder.blocks.input", width, 3, 7) | layer("decoder.blocks.input", code_dim, codes, 1)
    for part, sizes in PARTS.items():
        here = width if part == "encoder" else code_dim
        for group, factor in enumerate((1, 2, 4, 8) if part == "encoder" else (8, 4, 2, 1), 1):
            for block in range(1, blocks + 1):
                name, wide = f"{part}.blocks.group_{group}.block_{block}", factor * width
                found |= layer(f"{name}.id_path", wide, here, 1) if here != wide else {}
                inside = (here, wide // 4, wide // 4, wide // 4, wide)
                for i, size in enumerate(sizes):
                    found |= layer(f"{name}.res_path.conv_{i + 1}", inside[i + 1], inside[i], size)
                here = wide
    found |= layer("encoder.blocks.output.conv", codes, 8 * width, 1)
    return found | layer("decoder.blocks.output.conv", 6, width, 1)


def gumbel_f8(width=128, factors=(1, 1, 2, 4), z=256, code_dim=256, codes=8192, blocks=2):
    """The same of taming's, as published."""
    found = published(width, factors, codes, code_dim, z=z, blocks=blocks)
    del found["quantize.embedding.weight"]
    return found | conv("quantize.proj", codes, code_dim, 1) | {"quantize.embed.weight": (codes, code_dim)}


def test_published_files_are_recognised_at_full_size():
    shapes = openai()
    sizes = {part: [math.prod(one) for name, one in shapes.items() if name.startswith(part)] for part in PARTS}
    assert [(len(each), round(sum(each) / 1e6, 1)) for each in sizes.values()] == [(74, 53.8), (76, 43.8)]
    found = recognise(without_memory(shapes), "file", 0)
    assert found.module.width == 256 and found.module.factors == (1, 2, 4, 8) and found.module.blocks == 2
    (quantizer,) = found.module.quantizers
    assert (quantizer.codebook_size, quantizer.code_dim) == (8192, 128)
    assert found.facts["image_size"] == 256 and found.facts["range"] == (0.0, 1.0)
    assert found.facts["loss_weights"]["kl"] == pytest.approx(6.6 / 192)


def test_taming_s_drawn_codes_are_recognised_at_full_size():
    found = recognise(without_memory(gumbel_f8() | {"loss.discriminator.main.0.weight": (64, 3, 4, 4)}), "file", 0)
    assert found.title.startswith("taming's VQ-GAN of Gumbel codes, 128 wide, 4 levels")
    assert found.module == built(PRESETS["taming_gumbel_f8"]).clone(decoder_blocks=3, attention=(3,))
    book = found.like.codebooks["codes"]
    leaves = jax.tree.leaves((found.like.params, book.codes, book.params))
    assert sum(leaf.size for leaf in leaves) == sum(map(math.prod, gumbel_f8().values()))


def of_openai(tensors):
    """As the one line in interop/dvae.py saves both."""
    weights, storages = pickled(tensors)
    return tb.zipped(tb.program(weights), storages)


SMALL = {"dvae.pt": (openai(16, 1, 6, 12), of_openai), "last.ckpt": (gumbel_f8(4, (1, 1, 2), 6, 6, 12, 1), lightning)}


@pytest.mark.parametrize("name", SMALL)
def test_a_file_there_and_back(name, tmp_path, capsys):
    shapes, write = SMALL[name]
    tensors, run = random(shapes), tmp_path / "run"
    (tmp_path / name).write_bytes(write(tensors))
    assert main(["import", f"--checkpoint={tmp_path / name}", f"--workdir={run}", "--image_size=16"]) == 0
    said = capsys.readouterr().out
    assert ("DALL-E's dVAE, 16 wide" if name == "dvae.pt" else "of Gumbel codes, 4 wide") in said
    assert main(["export", f"--workdir={run}", f"--output={tmp_path / 'back.npz'}"]) == 0
    assert "otherwise than" not in capsys.readouterr().out  # PyTorch's class has such codes
    back = files.read(tmp_path / "back.npz")
    assert set(back) == set(tensors)
    for one, array in tensors.items():
        np.testing.assert_array_equal(back[one], array, err_msg=one)
    again = tmp_path / "again"
    assert main(["import", f"--checkpoint={tmp_path / 'back.npz'}", f"--workdir={again}"]) == 0
    assert configs.load(again)["autoencoder"] == configs.load(run)["autoencoder"]
    images = np.random.default_rng(1).integers(0, 256, (1, 16, 16, 3), np.uint8)
    one, other = (vqvae_jax.load(folder).encode(images)[0] for folder in (run, again))
    np.testing.assert_array_equal(one, other)


def test_the_likeliest_code_is_that_of_their_layers(tmp_path):
    """quant_conv, then proj: recomputed from the file's own arrays."""
    tensors, run = random(SMALL["last.ckpt"][0]), tmp_path / "run"
    files.write(tmp_path / "x.npz", tensors)
    assert main(["import", f"--checkpoint={tmp_path / 'x.npz'}", f"--workdir={run}", "--image_size=8"]) == 0
    module, model = vqvae_jax.load(run).autoencoder
    images = np.random.default_rng(1).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
    apply = lambda method: module.apply({"params": model.params}, images, method=method)  # noqa: E731
    x = np.asarray(apply(lambda module, images: module.encoder(images)), float)
    for name in ("quant_conv", "quantize.proj"):
        x = x @ tensors[f"{name}.weight"][:, :, 0, 0].T + tensors[f"{name}.bias"]
    (indices,) = module.apply({"params": model.params}, images, model.codebooks, method="encode")
    np.testing.assert_array_equal(indices, x.argmax(-1))
    codes = module.quantizers[0].lookup(model.codebooks["codes"], (indices,))
    np.testing.assert_array_equal(codes, tensors["quantize.embed.weight"][x.argmax(-1)])


def test_what_cannot_be_is_said(tmp_path, capsys):
    tensors = random(SMALL["dvae.pt"][0])
    files.write(tmp_path / "x.npz", tensors)
    bring = ["import", f"--checkpoint={tmp_path / 'x.npz'}", f"--workdir={tmp_path / 'run'}", "--image_size=16"]
    assert main([*bring, "--range=-1,1"]) == 2
    assert "its values go from 0 to 1; leave --range out" in capsys.readouterr().err
    del tensors["decoder.blocks.input.w"]
    files.write(tmp_path / "x.npz", tensors)
    assert main(bring) == 2
    said = capsys.readouterr().err
    assert "closest is DALL-E's dVAE, 16 wide, 4 groups. missing: decoder.blocks.input.w [6, 12, 1, 1]" in said
