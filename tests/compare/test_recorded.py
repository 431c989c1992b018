"""The recordings of PyTorch by the command line: imported, compared, exported. Float32 sums differ in their order.

The recordings in tests/reference come from https://github.com/unixpickle/vq-vae-2 and, for the paper's VQ-VAE-2, from
https://github.com/rosinality/vq-vae-2-pytorch; those of VQ-GAN from https://github.com/CompVis/taming-transformers
(3ba01b2), https://github.com/FoundationVision/LlamaGen (ce98ec4) and, without codes,
https://github.com/CompVis/latent-diffusion (a506df5) by scripts/record_vqgan.py, of the gradients some; that of
DALL-E's dVAE from https://github.com/openai/DALL-E (5be4b23), by a script like scripts/record_dvae.py; those of VAR
from https://github.com/FoundationVision/VAR (78b9539), the tokenizer's by scripts/record_var.py --factors=1,1
--seed=3 (without the gradient of decoder.conv_in.bias, which the norms behind it leave little of), the others by
scripts like it; those of MaskGIT from https://github.com/google-research/maskgit (1db2359), those of DiT from
https://github.com/facebookresearch/DiT (ed81ce2), dit_small by scripts/record_diffusion.py dit with hidden_size 16,
depth 1, num_heads 2, input_size 4 and num_classes 3.
Three whole priors are too large to lie there: pytest --reference=DIR.
"""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from interop import var_names
from jaxprs import EXACT, precisions

from vqvae_jax.__main__ import main
from vqvae_jax.compare import recorded, rows
from vqvae_jax.networks import fast

RECORDINGS = Path(__file__).parents[1] / "reference"
HERE = (
    "mnist_vae",
    "hierarchical_vae",
    "rosinality_vqvae2",
    "vqgan",
    "llamagen_vq",
    "var_tokenizer",
    "kl_autoencoder",
    "dalle_dvae",
    "maskgit_tokenizer",
    "maskgit_transformer",
    "pixel_conv_a",
    "pixel_cnn_vector_condition",
    "pixel_cnn_spatial_condition",
    "unet",
)
LARGE = ("mnist_generator", "top_prior", "bottom_prior")
HEADS = {"pixel_cnn_spatial_condition": "4", "unet": "4"}  # else 2, as weights do not show
MORE = {"var_tokenizer": ["--scales=1,2,3,4"]}
BEHIND = ("grad", "train", "trained")  # sections
REACHED = 2e-5  # outputs, gradients and losses come this near; the command allows more
NEARLY = {"grad/quantizer/codebook": 5e-5}  # through an entropy at a temperature of 0.01


def recording(name, pytestconfig):
    folder = RECORDINGS if name in HERE else pytestconfig.getoption("--reference")
    if folder is None:
        pytest.skip(f"{name}.npz is too large for this repository; pytest --reference=DIR says where it lies")
    return folder / f"{name}.npz"


def bring(path, workdir):
    """The file as a workdir."""
    heads = HEADS.get(path.stem, "2")
    more = MORE.get(path.stem, [])
    assert main(["import", f"--checkpoint={path}", f"--workdir={workdir}", f"--heads={heads}", *more]) == 0


def changed(path, to, arrays=None, without=()):
    """A copy of a recording with some arrays replaced, by name, and some sections left out."""
    with np.load(path) as file:
        kept = {name: array for name, array in file.items() if name.split("/")[0] not in without}
    np.savez(to, **{**kept, **(arrays or {})})
    return to


@pytest.mark.parametrize("name", HERE + LARGE)
def test_imported_compared_and_exported(name, tmp_path, pytestconfig):
    path, workdir, report = recording(name, pytestconfig), tmp_path / "run", tmp_path / "report.json"
    bring(path, workdir)
    assert main(["compare", f"--workdir={workdir}", f"--reference={path}", f"--report={report}"]) == 0
    found = json.loads(report.read_text())["rows"]
    check_all_is_compared(path, {row["tensor"]: row["note"] for row in found})
    for row in found:
        near = 1e-3 if row["tensor"].startswith("trained/") else NEARLY.get(row["tensor"], REACHED)
        assert row["note"].startswith("left out") or row["relative"] <= near, row
    assert main(["export", f"--workdir={workdir}", f"--output={tmp_path / 'back.npz'}"]) == 0
    check_same_bits(path, tmp_path / "back.npz")


def check_all_is_compared(path, compared):
    """No output, gradient or trained weight of the recording is passed over."""
    with np.load(path) as file:
        names = {name for name in file if name.split("/")[0] in ("output", "grad", "trained")}
    names |= {"train/losses"} if any(name.startswith("trained/") for name in names) else set()
    if "a tie" in compared.get("train/losses", ""):  # on the way: the weights went another way too
        names = {name for name in names if not name.startswith("trained/")}
    assert names <= set(compared)


def check_same_bits(path, exported):
    with np.load(path) as there, np.load(exported) as here:
        wanted = {name for name in there if name.startswith("param/")}
        assert wanted == set(here.files) - {"metadata"}
        for name in wanted:
            assert there[name].dtype == here[name].dtype and np.array_equal(there[name], here[name]), name


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in HERE
        if name
        not in ("llamagen_vq", "var_tokenizer", "unet", "dalle_dvae", "maskgit_tokenizer", "maskgit_transformer")
    ],
)
def test_convolutions_as_elsewhere(name, tmp_path):
    """Outputs and gradients with the convolutions that run where there is no CPU."""
    path = changed(RECORDINGS / f"{name}.npz", tmp_path / f"{name}.npz", without=("train", "trained"))
    bring(path, tmp_path / "run")
    with fast.plain():
        assert main(["compare", f"--workdir={tmp_path / 'run'}", f"--reference={path}"]) == 0


@pytest.mark.parametrize("key", ["small", "wide"])
def test_a_quantizer_of_many_scales_by_itself(key, tmp_path, capsys):
    path, workdir, report = RECORDINGS / "var_quantizer.npz", tmp_path / "run", tmp_path / "report.json"
    assert main(["import", f"--checkpoint={path}", f"--key={key}/param", f"--workdir={workdir}"]) == 0
    compare = ["compare", f"--workdir={workdir}", f"--reference={path}"]
    assert main([*compare, f"--key={key}", f"--report={report}"]) == 0
    with np.load(path) as file:
        arrays = {name.partition("/")[2]: file[name] for name in file if name.startswith(key)}
    found = json.loads(report.read_text())["rows"]
    wanted = {name for name in arrays if name.split("/")[0] in ("output", "grad", "train")}
    assert wanted <= {row["tensor"] for row in found} and max(row["relative"] for row in found) <= REACHED
    assert main(["export", f"--workdir={workdir}", f"--output={tmp_path / 'back.npz'}"]) == 0
    with np.load(tmp_path / "back.npz") as here:
        for name in here.files:
            np.testing.assert_array_equal(here[name], arrays[name])
    capsys.readouterr()
    assert main(compare) == 2
    assert "holds several recordings; choose one by --key=NAME: small, wide" in capsys.readouterr().err
    arrays["output/indices/2"] = (arrays["output/indices/2"] + 1) % 32
    np.savez(tmp_path / "other.npz", **arrays)
    assert main(["compare", f"--workdir={workdir}", f"--reference={tmp_path / 'other.npz'}"]) == 1
    assert next(line for line in capsys.readouterr().out.splitlines() if "FAIL" in line).startswith("output/indices/2")


def test_a_transformer_of_scales_with_its_tokenizer(tmp_path, capsys):
    """The recording has the codes and φ that it heard by, and no networks around them: these are random here."""
    path, workdir, report = RECORDINGS / "var_transformer.npz", tmp_path / "run", tmp_path / "report.json"
    tensors = var_names.given(var_names.tokenizer(4, (1, 2), 32, 8, 4, 1), (), np.random.default_rng(0))
    with np.load(path) as file:
        tensors |= {
            name.replace("quantizer/", "quantize."): file[name] for name in file if name.startswith("quantizer/")
        }
        wanted = {name for name in file if name.split("/")[0] in ("output", "grad", "greedy")}
    np.savez(tmp_path / "tokenizer.npz", **tensors)
    assert (
        main(["import", f"--checkpoint={tmp_path / 'tokenizer.npz'}", f"--workdir={workdir}", "--scales=1,2,3,4"]) == 0
    )
    bring(path, workdir)
    assert main(["compare", f"--workdir={workdir}", f"--reference={path}", f"--report={report}"]) == 0
    found = json.loads(report.read_text())["rows"]
    assert {name for name in wanted if "smallest_gap" not in name} <= {row["tensor"] for row in found}
    assert max(row["relative"] for row in found) <= REACHED
    bring(RECORDINGS / "mnist_vae.npz", tmp_path / "other")
    assert main(["compare", f"--workdir={tmp_path / 'other'}", f"--reference={path}"]) == 2
    assert "records a prior, and" in capsys.readouterr().err


def off(array):
    """By more than is allowed."""
    return array + 2e-3 * np.abs(array).max()


def failed(capsys):
    """Names of the tensors that the command says are too far, sorted."""
    lines = capsys.readouterr().out.splitlines()
    return sorted(line.split()[0] for line in lines if "  FAIL" in line)


@pytest.mark.parametrize("name, key, heads", [("dit", "learn_sigma_false", 4), ("dit_small", "learn_sigma_true", 2)])
def test_a_dit_by_its_key(name, key, heads, tmp_path, capsys):
    """A prior in a file of several recordings; its variances and what it says when it is guided, too."""
    path, workdir, report = RECORDINGS / f"{name}.npz", tmp_path / "run", tmp_path / "report.json"
    flags = [f"--key={key}/param", f"--heads={heads}"]
    assert main(["import", f"--checkpoint={path}", f"--workdir={workdir}", *flags]) == 0
    compare = ["compare", f"--workdir={workdir}"]
    assert main([*compare, f"--reference={path}", f"--key={key}", f"--report={report}"]) == 0
    with np.load(path) as file:
        arrays = {name.partition("/")[2]: file[name] for name in file if name.startswith(key)}
    found = json.loads(report.read_text())["rows"]
    wanted = {name for name in arrays if name.split("/")[0] in ("output", "grad")} | {"guided/output"}
    assert wanted <= {row["tensor"] for row in found} and max(row["relative"] for row in found) <= REACHED
    assert main(["export", f"--workdir={workdir}", f"--output={tmp_path / 'back.npz'}"]) == 0
    with np.load(tmp_path / "back.npz") as here:
        assert {name for name in arrays if name.startswith("param/")} == set(here.files) - {"metadata"}
        for name in set(here.files) - {"metadata"}:
            np.testing.assert_allclose(here[name], arrays[name], rtol=0, atol=2e-7 * name.endswith("pos_embed"))
    capsys.readouterr()
    names = ("grad/blocks.0.attn.proj.bias", "guided/output", "output/0")
    np.savez(tmp_path / "other.npz", **arrays | {name: off(arrays[name]) for name in names})
    assert main([*compare, f"--reference={tmp_path / 'other.npz'}"]) == 1
    assert failed(capsys) == list(names)
    np.savez(tmp_path / "other.npz", **arrays | {"input/y": arrays["input/y"] + 1})
    assert main([*compare, f"--reference={tmp_path / 'other.npz'}"]) == 2
    assert f"has labels up to {arrays['input/y'].max() + 1}, the model" in capsys.readouterr().err


CHANGED = {
    "maskgit_tokenizer": ("output/reconstruction", "train/entropy_loss", "grad/encoder/Conv_0/kernel"),
    "maskgit_transformer": ("output/logits", "output/loss_smoothing_0.1", "grad/MlmLayer_0/mlm_bias/bias"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_what_differs_of_maskgit_fails_and_is_named(name, tmp_path, capsys):
    path, workdir = RECORDINGS / f"{name}.npz", tmp_path / "run"
    bring(path, workdir)
    with np.load(path) as file:
        arrays = {one: off(file[one]) for one in CHANGED[name]}
    capsys.readouterr()
    assert main(["compare", f"--workdir={workdir}", f"--reference={changed(path, tmp_path / 'a.npz', arrays)}"]) == 1
    assert failed(capsys) == sorted(arrays)


def test_maskgit_s_words_that_the_model_does_not_know(tmp_path, capsys):
    path, workdir = RECORDINGS / "maskgit_transformer.npz", tmp_path / "run"
    bring(path, workdir)
    with np.load(path) as file:
        words, tokens = file["input/words"], file["input/tokens"]
    for arrays, message in (
        ({"meta/codes": np.int32(46)}, "has 46 codes, and the model 46 words"),
        ({"input/words": words + 5}, "the model knows 46 and 40"),
        ({"input/tokens": tokens[:, 1:]}, "input/tokens are (3, 16), input/words (3, 16); a map has 16 places"),
    ):
        other = changed(path, tmp_path / "a.npz", arrays)
        assert main(["compare", f"--workdir={workdir}", f"--reference={other}"]) == 2
        assert message in capsys.readouterr().err


OTHERS = {
    "dit": ("maskgit_transformer", "records a DiT that is told labels, not a MaskGITPrior"),
    "maskgit_transformer": ("dit", "records MaskGIT's transformer, not a DiffusionPrior"),
    "maskgit_tokenizer": ("kl_autoencoder", "is of another network than this autoencoder's, which wants input/images"),
    "dalle_dvae": ("maskgit_tokenizer", "input/image wants [B, H, W, 3], sides multiples of 2; it is"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_of_another_network(name, tmp_path, capsys):
    other, message = OTHERS[name]
    more = {"dit": "learn_sigma_false"}
    keys = [f"--key={more[other]}/param"] if other in more else []
    files = {one: RECORDINGS / f"{one}.npz" for one in (name, other)}
    assert main(["import", f"--checkpoint={files[other]}", f"--workdir={tmp_path / 'run'}", "--heads=4", *keys]) == 0
    keys = [f"--key={more[name]}"] if name in more else []
    assert main(["compare", f"--workdir={tmp_path / 'run'}", f"--reference={files[name]}", *keys]) == 2
    assert message in capsys.readouterr().err


def test_a_unet_and_layers_are_no_twins(tmp_path, capsys):
    bring(RECORDINGS / "unet.npz", tmp_path / "unet")
    bring(RECORDINGS / "pixel_conv_a.npz", tmp_path / "layers")
    for workdir, other in (("unet", "pixel_conv_a"), ("layers", "unet")):
        reference = RECORDINGS / f"{other}.npz"
        assert main(["compare", f"--workdir={tmp_path / workdir}", f"--reference={reference}"]) == 2
        assert f"{other}.npz is of another network than {tmp_path / workdir}" in capsys.readouterr().err


def test_parity_is_judged_with_all_bits_of_float32(tmp_path, monkeypatch):
    """On accelerators a product is TF32 or bfloat16 unless told otherwise, and 2e-5 out of reach."""
    path, workdir, seen = RECORDINGS / "pixel_conv_a.npz", tmp_path / "run", []
    bring(path, workdir)

    def stack(*given):
        seen.extend(precisions(lambda x: x @ x, jnp.ones((2, 2))))
        return [rows.near("output/0", np.ones(1), np.ones(1), 0.0)]

    monkeypatch.setitem(recorded.KINDS, "stack", stack)
    recorded.compare(workdir, path)
    assert seen == [(EXACT, EXACT)]


def test_what_differs_fails_and_is_named(tmp_path, capsys):
    path, workdir = RECORDINGS / "mnist_vae.npz", tmp_path / "run"
    bring(path, workdir)
    with np.load(path) as file:
        images, total = file["output/reconstructions/0"].copy(), file["output/indices/0"]
    images[0, 0, 3, 3] += 2e-4 * np.abs(images).max()
    other = changed(path, tmp_path / "a.npz", {"output/reconstructions/0": images}, BEHIND)
    assert main(["compare", f"--workdir={workdir}", f"--reference={other}"]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if "FAIL" in line]
    assert len(failed) == 1 and failed[0].startswith("output/reconstructions/0")
    far = (total + 7) % 32  # other codes, no ties
    other = changed(path, tmp_path / "b.npz", {"output/indices/0": far}, BEHIND)
    assert main(["compare", f"--workdir={workdir}", f"--reference={other}"]) == 1
    assert "392 of 392 differ" in capsys.readouterr().out


def test_a_weight_that_was_trained_since_is_named(tmp_path, capsys):
    path = RECORDINGS / "pixel_conv_a.npz"
    bring(path, tmp_path / "run")
    with np.load(path) as file:
        bias = file["param/vertical_conv.bias"] + np.float32(1e-3)
    other = changed(path, tmp_path / "a.npz", {"param/vertical_conv.bias": bias})
    assert main(["compare", f"--workdir={tmp_path / 'run'}", f"--reference={other}"]) == 1
    assert "was the model trained since" in capsys.readouterr().out


def test_behind_a_tie_the_recorded_codes_are_taken(tmp_path, monkeypatch, capsys):
    """Two codes of the same place: the recording chose the second, ours the first; all else still agrees."""
    path = RECORDINGS / "mnist_vae.npz"
    with np.load(path) as file:
        codes, indices = file["param/encoder_0.vq.dictionary"].copy(), file["output/indices/0"]
        used = int(np.bincount(indices.ravel()).argmax())
        twin = next(i for i in range(32) if i not in indices)
    codes[twin] = codes[used]
    chosen = np.where(indices == used, max(used, twin), indices)
    arrays = {"param/encoder_0.vq.dictionary": codes, "output/indices/0": chosen}
    other = changed(path, tmp_path / "a.npz", arrays, BEHIND)
    bring(other, tmp_path / "run")
    assert main(["compare", f"--workdir={tmp_path / 'run'}", f"--reference={other}"]) == 0
    assert " 0 of 392" not in capsys.readouterr().out  # ours takes the first of both


class TestRows:
    """What passes and what does not, by numbers small enough to see."""

    def test_near_is_relative_to_the_largest(self):
        recorded = np.array([0.0, -4.0])
        assert rows.near("a", recorded + [3.9e-4, 0], recorded, 1e-4).passed
        row = rows.near("a", recorded + [4.1e-4, 0], recorded, 1e-4)
        assert not row.passed and row.largest == pytest.approx(4.1e-4) and row.mean == pytest.approx(2.05e-4)

    def test_trained_is_relative_to_the_way(self):
        before, recorded = np.zeros(2), np.array([3.0, 4.0])  # a way of 5
        assert rows.trained("a", recorded + [0.24, 0], recorded, before).passed
        assert not rows.trained("a", recorded + [0.26, 0], recorded, before).passed
        assert rows.trained("a", before, before, before).passed
        assert not rows.trained("a", before + 1e-3, before, before).passed

    def test_losses_are_relative_to_themselves(self):
        assert rows.stepwise("a", [100.0, 1.0009], np.array([100.0, 1.0])).passed
        assert not rows.stepwise("a", [100.0, 1.0011], np.array([100.0, 1.0])).passed

    def test_codes_may_differ_at_ties_alone(self):
        codes, z_e = np.array([[0.0], [2.0], [5.0]]), np.array([[[[1.00001]]]])  # [1, 1, 1, 1]
        recorded = np.array([[[0]]])
        assert rows.indices("a", np.array([[[1]]]), recorded, z_e, codes).passed
        assert not rows.indices("a", np.array([[[2]]]), recorded, z_e, codes).passed
        assert not rows.indices("a", np.array([[[1]]]), recorded, z_e + 0.1, codes).passed
        assert not rows.indices("a", np.array([[[1]]]), np.array([[[7]]]), z_e, codes).passed

    def test_numbers_that_are_none_fail(self):
        assert not rows.near("a", [np.nan], np.ones(1), 1e-4).passed
        assert not rows.near("a", [[1.0]], np.ones(1), 1e-4).passed  # another shape
        assert not rows.trained("a", np.array([np.nan]), np.ones(1), np.ones(1)).passed
        z_e, codes = np.array([[[[1.0], [np.nan]]]]), np.array([[0.0], [2.0]])  # a tie, then a place that is no number
        assert not rows.indices("a", np.array([[[1, 1]]]), np.array([[[0, 0]]]), z_e, codes).passed

    def test_the_table_shows_all_that_fails(self):
        many = [rows.near(f"grad/{i}", [1.0], np.ones(1), 1e-3) for i in range(9)]
        many.append(rows.near("grad/wrong", [2.0], np.ones(1), 1e-3))
        lines = list(rows.table(many))
        assert any("grad/wrong" in line and "FAIL" in line for line in lines)
        assert "7 more pass" in lines[-2] and lines[-1] == "10 compared, 1 failed"
