"""PyTorch's weights in and out by the command line: what is recognised, what joins what, what is refused."""

import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from small_models import drawn
from small_priors import made

import vqvae_jax
from vqvae_jax import config as configs
from vqvae_jax import parts, recipe
from vqvae_jax.__main__ import main
from vqvae_jax.autoencoders import HierarchicalVAE
from vqvae_jax.interop import files, hierarchical, pixelcnn
from vqvae_jax.interop.places import countdown, to_torch
from vqvae_jax.quantizers import EMAQuantizer, VectorQuantizer
from vqvae_jax.types import Model, UserError

RECORDINGS = Path(__file__).parents[1] / "reference"
CODES = 12
SMALL = {"depth": 8, "layers": 2, "attention_after": (1,), "heads": 2}


def vae(path, levels=2, width=8, channels=3):
    """A file of an autoencoder with other weights than any recording."""
    module = HierarchicalVAE((VectorQuantizer(CODES, width),) * levels, levels, width, channels)
    like = parts.abstract_autoencoder(module, {"image_size": 16 * 2**levels, "channels": channels})
    books = {name: q.init(jax.random.key(3)) for name, q in zip(module.level_names, module.quantizers, strict=True)}
    files.write(path, to_torch(Model(drawn(like.params), books), hierarchical.places(module, like)))
    return path


def prior(path, vocab_size=CODES, **fields):
    """A file of a prior."""
    module = made("pixelcnn", vocab_size, (8, 8), **{**SMALL, **fields})
    like = parts.abstract_prior(module)
    files.write(path, to_torch(Model(drawn(like.params), {}), pixelcnn.places(module, like)))
    return path


def bring(checkpoint, workdir, *more):
    return main(["import", f"--checkpoint={checkpoint}", f"--workdir={workdir}", *more])


def export(workdir, output, *more):
    return main(["export", f"--workdir={workdir}", f"--output={output}", *more])


def same(one, other):
    one, other = files.read(one), files.read(other)
    assert set(one) == set(other)
    for name in one:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_autoencoder_top_and_bottom_sample_pictures(tmp_path):
    run = tmp_path / "run"
    assert bring(vae(tmp_path / "vae.npz"), run, "--image_size=32") == 0
    assert bring(prior(tmp_path / "top.safetensors", output_blocks=1), run) == 0
    bottom = prior(tmp_path / "bottom.npz", coarse_sizes=(CODES,), condition_blocks=1)
    assert bring(bottom, run, "--heads=2") == 0
    model = vqvae_jax.load(run)
    assert list(model.priors) == ["top", "bottom"] and model.facts["image_size"] == 32
    pictures = model.sample(3, seed=1)
    assert pictures.shape == (3, 32, 32, 3) and len(np.unique(pictures)) > 9
    assert main(["sample", f"--workdir={run}", "--count=2", f"--output={tmp_path / 'a.png'}"]) == 0
    assert [shape.shape for shape in model.encode(pictures)] == [(3, 4, 4), (3, 8, 8)]
    for stage, came in (("autoencoder", "vae.npz"), ("top", "top.safetensors"), ("bottom", "bottom.npz")):
        assert export(run, tmp_path / f"{stage}.npz", f"--stage={stage}") == 0
        same(tmp_path / f"{stage}.npz", tmp_path / came)


def test_a_prior_of_tokens_samples_tokens(tmp_path):
    """Where there is no autoencoder: the top alone, then the bottom with it, whatever comes first."""
    top, bottom = prior(tmp_path / "top.npz", output_blocks=1), prior(tmp_path / "b.npz", coarse_sizes=(CODES,))
    assert bring(top, tmp_path / "run", "--image_size=32") == 0
    assert [maps.shape for maps in vqvae_jax.load(tmp_path / "run").sample_tokens(2)] == [(2, 4, 4)]
    assert bring(bottom, tmp_path / "run") == 0
    assert [maps.shape for maps in vqvae_jax.load(tmp_path / "run").sample_tokens(2)] == [(2, 4, 4), (2, 8, 8)]
    assert main(["sample", f"--workdir={tmp_path / 'run'}", "--count=2", f"--output={tmp_path / 'tokens'}"]) == 0
    assert bring(bottom, tmp_path / "other", "--image_size=32") == 0 and bring(top, tmp_path / "other") == 0
    again = vqvae_jax.load(tmp_path / "other").sample_tokens(2)
    for one, other in zip(vqvae_jax.load(tmp_path / "run").sample_tokens(2), again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_the_generator_never_uses_is_kept(tmp_path):
    """Its layers B have a cond_layer; a generator trained here gets zeros, for load_state_dict is strict."""
    generator = prior(tmp_path / "g.npz", merge="sum", depth=8, layers=7, attention_after=(), norm=True)
    tensors = files.read(generator)
    noise = np.random.default_rng(0)
    for i in range(1, 8):
        tensors[f"model.layer_{i}.cond_layer.weight"] = noise.normal(size=(32, 8)).astype(np.float32)
        tensors[f"model.layer_{i}.cond_layer.bias"] = noise.normal(size=32).astype(np.float32)
    files.write(tmp_path / "whole.npz", tensors)
    for name in ("g", "whole"):
        assert bring(tmp_path / f"{name}.npz", tmp_path / name) == 0
        assert export(tmp_path / name, tmp_path / f"{name}_back.npz") == 0
    same(tmp_path / "whole.npz", tmp_path / "whole_back.npz")
    zeros = files.read(tmp_path / "g_back.npz")["model.layer_7.cond_layer.weight"]
    assert zeros.shape == (32, 8) and not zeros.any()
    tokens = [vqvae_jax.load(tmp_path / name).sample_tokens(2)[0] for name in ("g", "whole")]
    np.testing.assert_array_equal(*tokens)


@pytest.mark.parametrize("levels", [1, 3])
def test_any_number_of_levels_there_and_back(levels, tmp_path):
    came = vae(tmp_path / "vae.npz", levels, width=4, channels=1)
    assert bring(came, tmp_path / "run", "--image_size=32") == 0
    config = configs.load(tmp_path / "run")
    assert config["autoencoder"]["levels"] == levels and config["autoencoder"]["quantizer"]["codebook_size"] == CODES
    assert export(tmp_path / "run", tmp_path / "back.safetensors") == 0
    same(came, tmp_path / "back.safetensors")


def test_labels_and_several_coarser_maps_keep_our_names(tmp_path):
    fields = {"num_labels": 5, "label_condition": True, "coarse_sizes": (7, 9), "condition_blocks": 1}
    came = prior(tmp_path / "p.npz", **fields)
    assert bring(came, tmp_path / "run") == 0
    assert vqvae_jax.load(tmp_path / "run").facts["label_names"] == list("01234")
    assert export(tmp_path / "run", tmp_path / "back.npz") == 0
    same(came, tmp_path / "back.npz")


def test_guidance_that_a_strangers_prior_may_not_have_learned_is_refused(tmp_path, capsys):
    """No weight shows whether labels were hidden in its training. With a label, or a drawn one, it samples."""
    came = prior(tmp_path / "p.npz", merge="sum", num_labels=5, label_condition=True)
    assert bring(came, tmp_path / "run") == 0
    assert "label_dropout=0, so no guidance" in capsys.readouterr().out
    assert configs.load(tmp_path / "run")["priors"]["codes"]["label_dropout"] == 0
    model = vqvae_jax.load(tmp_path / "run")
    assert model.sample_tokens(2)[0].shape == model.sample_tokens(2, label="3")[0].shape == (2, 7, 7)
    with pytest.raises(UserError, match="guidance=2 .*--config.priors.codes.label_dropout=0.1, or leave guidance"):
        model.sample_tokens(2, label="3", guidance=2)


def test_steps_unused_count_up_here_and_down_there(tmp_path):
    tensors = files.read(vae(tmp_path / "vae.npz", levels=1))
    left = np.array([100, 99, 40, 0] * 3, np.int64)
    tensors["encoder_0.vq.usage_count"] = left
    files.write(tmp_path / "vae.npz", tensors)
    assert bring(tmp_path / "vae.npz", tmp_path / "run", "--image_size=32") == 0
    idle = vqvae_jax.load(tmp_path / "run").autoencoder[1].codebooks["codes"].stats["idle"]
    np.testing.assert_array_equal(idle, [0, 1, 60, 100] * 3)
    np.testing.assert_array_equal(countdown(100).theirs(np.array([130, 100, 7])), [0, 0, 93])


def test_averages_of_a_codebook_stay_behind_where_pytorch_has_none():
    module = HierarchicalVAE((EMAQuantizer(CODES, 8),), 1, 8)
    like = parts.abstract_autoencoder(module, {"image_size": 28, "channels": 3})
    assert {name for name in hierarchical.places(module, like) if ".vq." in name} == {
        "encoder_0.vq.dictionary",
        "encoder_0.vq.usage_count",
    }


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_dropped(prefix, tmp_path):
    tensors = files.read(vae(tmp_path / "vae.npz"))
    files.write(tmp_path / "wrapped.safetensors", {prefix + name: array for name, array in tensors.items()})
    assert bring(tmp_path / "wrapped.safetensors", tmp_path / "run", "--image_size=32") == 0
    assert export(tmp_path / "run", tmp_path / "back.npz") == 0
    same(tmp_path / "vae.npz", tmp_path / "back.npz")


def test_half_precision_becomes_float32(tmp_path):
    tensors = {name: a.astype(np.float16) if a.dtype == np.float32 else a for name, a in
               files.read(vae(tmp_path / "vae.npz")).items()}  # fmt: skip
    files.write(tmp_path / "half.npz", tensors)
    assert bring(tmp_path / "half.npz", tmp_path / "run", "--image_size=32") == 0
    leaves = jax.tree.leaves(vqvae_jax.load(tmp_path / "run").autoencoder[1].params)
    assert {leaf.dtype for leaf in leaves} == {np.dtype(np.float32)}


def test_counts_of_zero_stay_as_they_came(tmp_path):
    """rosinality's start: its first steps are those of where it came from, by its state, not by a flag."""
    with np.load(RECORDINGS / "rosinality_vqvae2.npz") as file:
        tensors = {name.removeprefix("param/"): file[name] for name in file if name.startswith("param/")}
    tensors["quantize_t.cluster_size"] = np.zeros(64, np.float32)
    files.write(tmp_path / "r.npz", tensors)
    assert bring(tmp_path / "r.npz", tmp_path / "run", "--image_size=32") == 0
    module, model = vqvae_jax.load(tmp_path / "run").autoencoder
    assert not model.codebooks["top"].stats["count"].any() and module.quantizers[0].revive_after == 0
    z_e = jax.random.normal(jax.random.key(0), (1, 2, 2, 16))
    after = module.quantizers[0](model.codebooks["top"], z_e, key=jax.random.key(1), train=True).codebook
    assert np.abs(after.codes).max() > 1e3  # as there


def config_of_data(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "data.npz", train_image=noise[:48], test_image=noise[48:])
    return {"name": "npz", "path": str(tmp_path / "data.npz"), "image_size": 32}


@pytest.mark.thorough
def test_trained_on_from_imported_weights(tmp_path, capsys):
    run, new = tmp_path / "run", tmp_path / "new"
    assert bring(vae(tmp_path / "vae.npz"), run, "--image_size=32") == 0
    assert "train on, with a fresh optimizer: python launch.py --config=" in capsys.readouterr().out
    config = configs.load(run) | {"dataset": config_of_data(tmp_path)}
    config["train"] |= {"steps": 2, "batch_size": 8, "evaluate_every": 2, "checkpoint_every": 2}
    recipe.run(configs.complete(config), new)
    assert "with a fresh optimizer" in capsys.readouterr().err
    before, after = (vqvae_jax.load(one).autoencoder[1].params for one in (run, new))
    gaps = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, after)
    assert 0 < max(jax.tree.leaves(gaps)) < 5e-3  # two steps of 1e-3 away
    assert main(["compare", f"--workdir={run}", f"--against={new}", "--dataset=npz",
                 f"--path={tmp_path / 'data.npz'}", f"--report={tmp_path / 'ab.json'}"]) == 0  # fmt: skip
    told = json.loads((tmp_path / "ab.json").read_text())
    one, other = (told[name]["metrics"]["mse"] for name in "AB")
    assert told["images"] == 12 and one != other and told["A"]["workdir"] == str(run)
    assert (run / "comparison.png").is_file() and "usage/top" in capsys.readouterr().out
    assert main(["evaluate", f"--workdir={run}", "--dataset=npz", f"--path={tmp_path / 'data.npz'}"]) == 0
    metrics = json.loads((run / "metrics_npz_data.json").read_text())
    assert metrics["autoencoder"]["mse"] == pytest.approx(one, rel=1e-5)


def test_a_prior_is_trained_on_and_its_autoencoder_stays(tmp_path, capsys):
    run, new = tmp_path / "run", tmp_path / "new"
    assert bring(vae(tmp_path / "vae.npz", levels=1), run, "--image_size=32") == 0
    assert bring(prior(tmp_path / "p.npz", layers=1, attention_after=()), run) == 0
    assert "--config.priors.codes.train.steps=1000" in capsys.readouterr().out
    config = configs.load(run) | {"dataset": config_of_data(tmp_path)}
    config["priors"]["codes"]["train"] |= {"steps": 1, "batch_size": 8}
    configs.check(config := configs.complete(config))
    recipe.run(config, new)
    said = capsys.readouterr().err
    assert "autoencoder: the weights of" in said and "codes: starts from the weights of" in said
    one, other = vqvae_jax.load(run), vqvae_jax.load(new)
    assert one.checksum == other.checksum and other.priors
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), one.priors["codes"][1].params, other.priors["codes"][1].params
    )
    assert 0 < max(jax.tree.leaves(moved)) < 3e-4  # a step of 1e-4
    recipe.run(config, new)
    assert "autoencoder: finished" in capsys.readouterr().err


def test_no_training_writes_over_imported_weights(tmp_path):
    assert bring(vae(tmp_path / "vae.npz"), tmp_path / "run", "--image_size=32") == 0
    config = configs.load(tmp_path / "run") | {"dataset": config_of_data(tmp_path)}
    config["train"] |= {"steps": 2, "batch_size": 8}
    with pytest.raises(recipe.UserError, match="holds imported weights; to train on: --workdir=NEW"):
        recipe.run(configs.complete(config), tmp_path / "run")


# --- what is refused: one line, exit 2, nothing written


def refused(tmp_path, capsys, checkpoint, *more, workdir="run"):
    """The message."""
    before = listing(tmp_path)
    assert bring(checkpoint, tmp_path / workdir, *more) == 2
    assert listing(tmp_path) == before
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    return message


def listing(folder):
    return sorted(os.path.join(where, name) for where, folders, names in os.walk(folder) for name in folders + names)


def test_all_that_differs_is_named_at_once(tmp_path, capsys):
    tensors = files.read(vae(tmp_path / "vae.npz"))
    del tensors["encoder_0.conv2.bias"], tensors["decoder_1.conv4.bias"]
    tensors["extra.weight"] = np.ones(3, np.float32)
    tensors["encoder_1.conv.bias"] = np.ones(9, np.float32)
    files.write(tmp_path / "bad.npz", tensors)
    said = refused(tmp_path, capsys, tmp_path / "bad.npz")
    assert "closest is the reference's hierarchical VAE, 2 levels, 8 wide" in said
    missing = said.split("; ")[-3]
    assert "encoder_0.conv2.bias [8]" in missing and "decoder_1.conv4.bias [3]" in missing
    assert "left over: extra.weight [3]" in said and "encoder_1.conv.bias is [9], not [8]" in said


def test_what_is_unknown_is_said(tmp_path, capsys):
    np.savez(tmp_path / "resnet.npz", **{"conv1.weight": np.ones((4, 3, 7, 7)), "fc.bias": np.ones(4)})
    said = refused(tmp_path, capsys, tmp_path / "resnet.npz")
    assert "no architecture that is known" in said and "conv1.weight" in said and "rosinality's VQ-VAE-2" in said


def test_prefixes_that_hold_what_is_known_are_said(tmp_path, capsys):
    tensors = files.read(vae(tmp_path / "vae.npz"))
    known = {f"{name}/param/{tensor}": one for name in ("a", "b") for tensor, one in tensors.items()}
    np.savez(tmp_path / "several.npz", **known, **{"c/param/x": np.ones(3), "b/grad/x": np.ones(3)})
    said = refused(tmp_path, capsys, tmp_path / "several.npz")
    assert said.endswith("holds weights under prefixes; choose one by --key=PREFIX: a/param, b/param\n")
    assert bring(tmp_path / "several.npz", tmp_path / "run", "--key=b/param") == 0


def test_damaged_files(tmp_path, capsys):
    whole = vae(tmp_path / "vae.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    assert "damaged or cut off" in refused(tmp_path, capsys, tmp_path / "cut.npz")
    (tmp_path / "no.zip").write_bytes(b"PK\x03\x04 and nothing")
    assert "damaged or cut off" in refused(tmp_path, capsys, tmp_path / "no.zip")
    assert "there is no such file" in refused(tmp_path, capsys, tmp_path / "none.pt")


def test_weights_that_are_not_finite_are_named_with_their_file(tmp_path, capsys):
    tensors = files.read(vae(tmp_path / "vae.npz"))
    weight = tensors["encoder_0.conv1.weight"].copy()
    weight.flat[3] = np.nan
    files.write(
        tmp_path / "bad.npz", {f"module.{n}": t for n, t in (tensors | {"encoder_0.conv1.weight": weight}).items()}
    )
    said = f"error: {tmp_path}/bad.npz holds NaN or infinity in encoder_0.conv1.weight; take an earlier checkpoint"
    assert refused(tmp_path, capsys, tmp_path / "bad.npz").startswith(said)


@pytest.mark.parametrize("name", ["encoder_0.conv1.bias", "decoder_1.conv4.bias", "encoder_1.vq.dictionary"])
def test_another_number_of_axes(name, tmp_path, capsys):
    tensors = files.read(vae(tmp_path / "vae.npz"))
    files.write(tmp_path / "bad.npz", tensors | {name: tensors[name][..., 0]})
    assert f"{name} is {list(tensors[name].shape[:-1])}, not of" in refused(tmp_path, capsys, tmp_path / "bad.npz")
    files.write(tmp_path / "bad.npz", tensors | {name: tensors[name][:0]})
    assert f"{name} is [0" in refused(tmp_path, capsys, tmp_path / "bad.npz")


@pytest.mark.parametrize("lacking", ["layer_1.vertical_conv.weight", "layer_2.attention.kqv_projection.weight"])
def test_a_stack_that_lacks_one_tensor(lacking, tmp_path, capsys):
    tensors = files.read(RECORDINGS / "pixel_cnn_vector_condition.npz")
    shape = list(tensors.pop(lacking).shape)
    files.write(tmp_path / "bad.npz", tensors)
    said = refused(tmp_path, capsys, tmp_path / "bad.npz")
    assert "closest is 4 layers" in said and f"missing: {lacking}" in said and str(shape[0]) in said
    assert "left over" not in said and "of another shape" not in said


def test_what_a_killed_import_left_is_no_stage(tmp_path):
    run = tmp_path / "run"
    assert bring(vae(tmp_path / "vae.npz"), run, "--image_size=32") == 0
    (run / "top" / "checkpoints").mkdir(parents=True)  # not named in the config
    (run / ".top.importing" / "checkpoints").mkdir(parents=True)
    assert export(run, tmp_path / "a.npz") == 0
    assert bring(prior(tmp_path / "top.npz"), run) == 0
    assert vqvae_jax.load(run).priors and not (run / ".top.importing").exists()
    (tmp_path / ".other.importing").mkdir()
    (tmp_path / ".other.importing" / "half").write_text("")
    assert bring(tmp_path / "vae.npz", tmp_path / "other", "--image_size=32") == 0
    assert {one.name for one in (tmp_path / "other").iterdir()} == {"autoencoder", "config.json", "data.json"}


def test_a_full_workdir_is_left_alone(tmp_path, capsys):
    assert bring(vae(tmp_path / "vae.npz"), tmp_path / "run", "--image_size=32") == 0
    capsys.readouterr()
    assert "holds something already" in refused(tmp_path, capsys, tmp_path / "vae.npz")


def test_a_prior_joins_its_own_codes_only(tmp_path, capsys):
    assert bring(vae(tmp_path / "vae.npz"), tmp_path / "run", "--image_size=32") == 0
    capsys.readouterr()
    other = prior(tmp_path / "other.npz", vocab_size=99, output_blocks=1)
    assert "top 12, bottom 12" in refused(tmp_path, capsys, other)
    below = prior(tmp_path / "below.npz", coarse_sizes=(CODES, CODES))
    assert "is for 3 levels" in refused(tmp_path, capsys, below)
    top = prior(tmp_path / "top.npz")
    assert "have 32 pixels" in refused(tmp_path, capsys, top, "--image_size=64")
    assert bring(top, tmp_path / "run") == 0
    assert "has a prior 'top' already" in refused(tmp_path, capsys, top)


def test_flags_that_do_not_fit(tmp_path, capsys):
    assert "multiple of 8; nearest: 32" in refused(tmp_path, capsys, vae(tmp_path / "v.npz"), "--image_size=30")
    assert "heads" in refused(tmp_path, capsys, prior(tmp_path / "p.npz"), "--heads=3")
    assert "heads" in refused(tmp_path, capsys, RECORDINGS / "pixel_cnn_vector_condition.npz", "--heads=3")


def says(capsys, *command):
    assert main(list(command)) == 2
    return capsys.readouterr().err


def test_comparing_what_cannot_be_compared(tmp_path, capsys):
    run, recorded = tmp_path / "run", RECORDINGS / "hierarchical_vae.npz"
    assert bring(prior(tmp_path / "p.npz"), run) == 0
    said = says(capsys, "compare", f"--workdir={run}", f"--reference={recorded}")
    assert "records an autoencoder" in said and "holds top" in said
    assert bring(RECORDINGS / "mnist_vae.npz", tmp_path / "vae") == 0
    assert "wants [B, 1, H, W]" in says(capsys, "compare", f"--workdir={tmp_path / 'vae'}", f"--reference={recorded}")
    np.savez(tmp_path / "few.npz", **{"param/a": np.ones(3)})
    assert "no arrays input/…" in says(capsys, "compare", f"--workdir={run}", f"--reference={tmp_path / 'few.npz'}")
    images = {"input/images": np.zeros((1, 1, 28, 28), np.float32), "output/dec": np.ones(3, np.float32)}
    np.savez(tmp_path / "few.npz", **images)
    said = says(capsys, "compare", f"--workdir={tmp_path / 'vae'}", f"--reference={tmp_path / 'few.npz'}")
    assert "none of the outputs of this model; it has dec" in said
    assert "do not see the same images" in says(
        capsys, "compare", f"--workdir={tmp_path / 'vae'}", f"--against={bring_wide(tmp_path)}"
    )


def test_what_is_recorded_is_compared_or_fails(tmp_path, capsys):
    path = RECORDINGS / "pixel_conv_a.npz"
    assert bring(path, tmp_path / "run") == 0
    with np.load(path) as file:
        arrays = dict(file)

    def compare(without=(), **changes):
        kept = {name: array for name, array in arrays.items() if name not in without}
        np.savez(tmp_path / "r.npz", **kept | changes)
        return main(["compare", f"--workdir={tmp_path / 'run'}", f"--reference={tmp_path / 'r.npz'}"])

    assert compare(**{"output/7": np.ones(3, np.float32)}) == 1
    assert "recorded, and not compared" in capsys.readouterr().out
    wrapped = {f"grad/module.{name.removeprefix('grad/')}": 9 * a for name, a in arrays.items() if name[:5] == "grad/"}
    assert compare(**wrapped, without=[name for name in arrays if name[:5] == "grad/"]) == 1
    capsys.readouterr()
    assert compare(without=["cotangent/0"]) == 2 and "no cotangent/0" in capsys.readouterr().err
    assert compare(**{"cotangent/0": np.ones((2, 5, 4, 4), np.float32)}) == 2
    assert "not of the outputs' shapes" in capsys.readouterr().err
    assert compare(**{"input/1": np.ones((2, 4), np.float32)}) in (1, 2)
    assert compare(**{"input/0": np.ones((2, 5), np.float32)}) == 2


def bring_wide(tmp_path):
    assert bring(vae(tmp_path / "wide.npz"), tmp_path / "wide", "--image_size=32") == 0
    return tmp_path / "wide"


def test_exporting_what_is_not_there(tmp_path, capsys):
    assert "holds no trained model" in says(capsys, "export", f"--workdir={tmp_path}", "--output=a.npz")
    assert bring(vae(tmp_path / "vae.npz"), tmp_path / "run", "--image_size=32") == 0
    assert "has no stage 'top'" in says(
        capsys, "export", f"--workdir={tmp_path / 'run'}", "--output=a.npz", "--stage=top"
    )
    assert ".safetensors or .npz" in says(capsys, "export", f"--workdir={tmp_path / 'run'}", "--output=a.pt")


def test_layers_alone_are_for_comparing(tmp_path, capsys):
    assert bring(RECORDINGS / "pixel_conv_a.npz", tmp_path / "run") == 0
    assert "layers without embedding" in says(capsys, "sample", f"--workdir={tmp_path / 'run'}")


@pytest.mark.parametrize("fields", [{"depths": 2}, {"coarse_sizes": (8, 8), "coarse_shapes": ((2, 2), (2, 2))}])
def test_a_prior_of_residual_codes_has_no_twin_and_is_not_exported(fields):
    prior = made("pixelcnn", 8, (4, 4), depth=8, layers=1, **fields)
    with pytest.raises(UserError, match="residual codes"):
        pixelcnn.places(prior, parts.abstract_prior(prior))
