"""Diffusion models' weights from outside: names and sizes as published (without memory), small ones there and back."""

import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interop import diffusion_names as names
from interop import torch_bytes as tb
from interop.test_vqgan import pickled
from small_models import quick

import vqvae_jax
from vqvae_jax import config as configs
from vqvae_jax import facts as facts_file
from vqvae_jax import parts
from vqvae_jax.__main__ import main
from vqvae_jax.interop import diffusion, files
from vqvae_jax.interop.exporting import load_stack
from vqvae_jax.interop.places import from_torch, of_params, shapes, to_torch
from vqvae_jax.interop.recognise import recognise
from vqvae_jax.interop.stages import fitting_facts
from vqvae_jax.interop.unet_names import original_renames
from vqvae_jax.networks.dit import waves
from vqvae_jax.networks.unet import UNet
from vqvae_jax.priors.diffusion import DiffusionPrior
from vqvae_jax.types import Level, Model, UserError

RECORDINGS = Path(__file__).parents[1] / "reference"
SMALL = {"width": 32, "layers": 2, "side": 8, "labels": 3}


def random(shapes):
    draw = np.random.default_rng(0)
    return {name: draw.normal(size=shape, scale=0.2).astype(np.float32) for name, shape in shapes.items()}


def without_memory(shapes):
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def placed(tensors):
    """With DiT's places in it."""
    _, places, width = tensors["pos_embed"].shape
    side = math.isqrt(places)
    return tensors | {"pos_embed": waves((side, side), width)[None].astype(np.float32)}


def bring(file, run, *more):
    return main(["import", f"--checkpoint={file}", f"--workdir={run}", *more])


def sizes(match):
    return sum(leaf.size for leaf in jax.tree.leaves(match.like.params))


def test_dit_xl_is_recognised_at_full_size():
    shapes = names.dit()
    assert sum(map(math.prod, shapes.values())) == 675_129_632
    match = recognise(placed(without_memory(shapes)), "file", 0)
    assert sizes(match) == 675_129_632 - 256 * 1152
    prior = match.module
    assert (prior.network.heads, prior.network.layers, prior.network.patch, prior.network.spare) == (16, 28, 2, 4)
    assert str(prior.maps[0]) == "codes 32x32 of 4 numbers" and prior.num_labels == 1000
    assert match.facts["image_size"] == 256


def test_dit_by_its_authors_numbers():
    """ed81ce2 of facebookresearch/DiT, through the importer: output and all gradients."""
    with np.load(RECORDINGS / "dit.npz") as file:
        recorded = {name.removeprefix("learn_sigma_false/"): array for name, array in file.items()}
    tensors = {name.removeprefix("param/"): array for name, array in recorded.items() if name.startswith("param/")}
    match = recognise(tensors, "file", int(recorded["meta/num_heads"]))
    params, network = from_torch(tensors, match.places, match.like).params, match.module.network
    x, cotangent = (jnp.asarray(recorded[name].transpose(0, 2, 3, 1)) for name in ("input/x", "cotangent/0"))

    def mean(params, x):
        label = params["embed_label"]["embedding"][recorded["input/y"]]
        out = network.apply({"params": params["network"]}, x, jnp.asarray(recorded["input/t"], jnp.float32), label)
        return jnp.mean(out * cotangent), out

    (_, out), (of_weights, of_x) = quick(jax.value_and_grad(mean, (0, 1), has_aux=True))(params, x)
    near(out, recorded["output/0"].transpose(0, 2, 3, 1), 1e-5)
    near(of_x, recorded["grad_input/x"].transpose(0, 2, 3, 1), 3e-5)
    for name, got in to_torch(Model(of_weights, {}), match.places).items():
        near(got, recorded[f"grad/{name}"], 3e-5, name)


def near(got, want, share, name=""):
    np.testing.assert_allclose(got, want, rtol=0, atol=share * np.abs(want).max(), err_msg=name)


def same(one, other):
    assert set(one) == set(other)
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


def test_dit_there_and_back(tmp_path, capsys):
    tensors = placed(random(names.dit(**SMALL)))
    files.write(tmp_path / "dit.safetensors", tensors)
    run = tmp_path / "run"
    assert bring(tmp_path / "dit.safetensors", run, "--heads=4") == 0
    said = capsys.readouterr().out
    assert "DiT, 32 wide, 2 layers, 8x8 of 4 numbers, 3 labels" in said and "4 heads of attention" in said
    section = configs.load(run)["priors"]["codes"]
    assert (section["path"], section["foretold"], section["network"]["spare"]) == ("ddpm", "noise", 4)
    (drawn,) = vqvae_jax.load(run).sample_tokens(2, label=1, guidance=2.0)
    assert drawn.shape == (2, 8, 8, 4) and np.isfinite(drawn).all()
    assert main(["export", f"--workdir={run}", f"--output={tmp_path / 'back.safetensors'}"]) == 0
    assert "the network wants numbers: float32 [N, 4, 8, 8]" in capsys.readouterr().out
    same(files.read(tmp_path / "back.safetensors"), tensors)
    assert bring(tmp_path / "back.safetensors", tmp_path / "again") == 0  # says itself what it is
    assert configs.load(tmp_path / "again")["priors"]["codes"]["network"] == section["network"]


def test_what_no_file_holds_is_made_at_export():
    match = recognise(placed(random(names.dit(**SMALL))), "file", 4)
    assert set(diffusion.fixed(match.module)) == {"pos_embed"}
    places = diffusion.places(match.module, match.like)
    assert set(places) | {"pos_embed"} == set(names.dit(**SMALL))


WRONG = {
    "other places": ({}, {"pos_embed": (1, 16, 32)}, "pos_embed are not DiT's sines and cosines"),
    "places of no square": ({"pos_embed": (1, 15, 32)}, {}, "pos_embed are not DiT's"),
    "axes": ({"x_embedder.proj.weight": (32, 4)}, {}, r"x_embedder.proj.weight is \[32, 4\], not of 4 axes"),
    "another width": ({"blocks.1.mlp.fc2.bias": (31,)}, {}, r"blocks.1.mlp.fc2.bias is \[31\], not \[32\]"),
    "a norm of queries": ({"blocks.0.attn.q_norm.weight": (8, 8)}, {}, "left over: blocks.0.attn.q_norm.weight"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_quite_dit_is_named(name):
    shapes, others, message = WRONG[name]
    tensors = placed(random(names.dit(**SMALL))) | random(shapes) | random(others)
    with pytest.raises(UserError, match=message):
        recognise(tensors, "file", 4)


def test_heads_divide():
    with pytest.raises(UserError, match="--heads=5: 32 channels of DiT do not divide among them"):
        recognise(placed(random(names.dit(**SMALL))), "file", 5)
    with pytest.raises(UserError, match="--heads=5: 32 channels of latent diffusion's U-Net do not divide"):
        recognise(random(names.unet(**LITTLE)), "file", 5)


LITTLE = {"width": 32, "factors": (1, 2, 2), "blocks": 1, "attention": (0, 2), "context": 6}


def test_stable_diffusion_s_unet_is_recognised_at_full_size():
    shapes = names.unet()
    assert (len(shapes), sum(map(math.prod, shapes.values()))) == (686, 859_520_964)
    for theirs in (shapes, {names.by_diffusers(name): shape for name, shape in shapes.items()}):
        match = recognise(without_memory(theirs), "file", 0)
        assert match.module == UNet(4, 320, (1, 2, 4, 4), 2, (0, 1, 2), 8) and sizes(match) == 859_520_964
        assert match.title == "latent diffusion's U-Net, 320 wide, 4 levels, told vectors of 768"


WAYS = {
    "bare": lambda name: name,
    "of a whole model": lambda name: f"model.diffusion_model.{name}",
    "diffusers": lambda name: names.by_diffusers(name, LITTLE["blocks"]),
}


@pytest.mark.parametrize("way", WAYS)
def test_unet_there_and_back(way, tmp_path, capsys):
    tensors = random(names.unet(**LITTLE))
    theirs = {WAYS[way](name): array for name, array in tensors.items()}
    files.write(tmp_path / "unet.npz", theirs)
    run = tmp_path / "run"
    assert bring(tmp_path / "unet.npz", run) == 0
    said = capsys.readouterr().out
    assert (
        "32 wide, 3 levels, told vectors of 6" in said and "8 heads of attention" in said and "a network, alone" in said
    )
    module, model, _ = load_stack(run)
    assert module == UNet(4, 32, (1, 2, 2), 1, (0, 2), 8)
    same(to_torch(model, of_params(model.params, original_renames(module))), tensors)
    assert main(["export", f"--workdir={run}", f"--output={tmp_path / 'back.npz'}"]) == 0
    same(files.read(tmp_path / "back.npz"), theirs if way == "diffusers" else tensors)
    assert main(["sample", f"--workdir={run}"]) == 2
    assert "or a network alone; it can be compared and exported only" in capsys.readouterr().err


def test_a_part_of_a_whole_model_by_its_key(tmp_path, capsys):
    """Beside it lie an autoencoder and a text encoder."""
    tensors = random(names.unet(**LITTLE))
    whole = {f"model.diffusion_model.{name}": array for name, array in tensors.items()}
    whole |= {"first_stage_model.quant_conv.bias": np.ones(8, np.float32), "betas": np.ones(9, np.float32)}
    files.write(tmp_path / "sd.safetensors", whole)
    weights, storages = pickled(whole)
    content = tb.zipped(tb.program(tb.dictionary({"state_dict": weights})), storages)
    (tmp_path / "sd.ckpt").write_bytes(content)
    for file in ("sd.safetensors", "sd.ckpt"):
        same(files.read(tmp_path / file, "model.diffusion_model"), tensors)
        assert bring(tmp_path / file, tmp_path / f"run {file}", "--key=model.diffusion_model") == 0
        with pytest.raises(UserError, match="--key"):
            files.read(tmp_path / file, "model.difusion_model")
    capsys.readouterr()


def test_a_prior_with_a_unet_has_the_authors_names():
    """And ADM's of its labels, https://github.com/openai/guided-diffusion."""
    maps = (Level("codes", (4, 4), None, 4),)
    prior = DiffusionPrior(maps, UNet(4, 32, (1, 2, 2), 1, (0, 2), 8), num_labels=3, label_condition=True)
    like = parts.abstract_prior(prior)
    wanted = {name: shape for name, shape in names.unet(**LITTLE).items() if not re.search(r"attn2|\.norm2\.", name)}
    assert shapes(diffusion.places(prior, like), like) == wanted | {"label_emb.weight": (4, 128)}


def test_a_prior_of_numbers_joins_the_same_numbers_alone(tmp_path):
    tensors = placed(random(names.dit(**SMALL)))
    files.write(tmp_path / "dit.npz", tensors)
    assert bring(tmp_path / "dit.npz", tmp_path / "run", "--heads=4") == 0
    config, facts = configs.load(tmp_path / "run"), facts_file.read(tmp_path / "run")
    match = recognise(tensors, "file", 4)
    assert fitting_facts(match, config, facts, tmp_path) == facts
    for fields, message in (
        ({"side": 4}, "is of a map of 4x4, .* makes 8x8"),
        ({"channels": 3}, "is of 3 numbers a place"),
    ):
        other = recognise(placed(random(names.dit(**SMALL | fields))), "file", 4)
        with pytest.raises(UserError, match=message):
            fitting_facts(other, config, facts, tmp_path)
