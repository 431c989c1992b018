"""Other recipes in small: trained, gone on with, evaluated, sampled. test_recipe.py looks at one more closely."""

import json

import numpy as np
import pytest
from test_recipe import picture, tiny
from toy_priors import GaussianPrior

import launch
import vqvae_jax
from vqvae_jax import data as datasets
from vqvae_jax import recipe
from vqvae_jax.checkpoint import Checkpoints
from vqvae_jax.data import tokens as token_files
from vqvae_jax.priors import PRIORS
from vqvae_jax.types import UserError

GENERATOR = {"name": "mnist_generator", "depth": 8, "layers": 1}
PIXELCNN = {"name": "pixelcnn", "depth": 8, "layers": 1, "condition_blocks": 1}
TRANSFORMER = {"name": "transformer", "width": 16, "layers": 1, "heads": 2, "dropout": 0.1}
QUANTIZER = {"name": "vq", "codebook_size": 8, "code_dim": 8}
RESIDUAL = {"name": "residual", "depth": 3, "inner": QUANTIZER}
EVERY = {"batch_size": 16, "log_every": 1, "evaluate_every": 2, "checkpoint_every": 1}
CLUSTERING = {"name": "cvq", "codebook_size": 8, "code_dim": 8, "distance": "sphere"}
SCALARS = {"name": "fsq", "levels": (3, 3)}
NUMBERS = {"name": "kl", "code_dim": 3}
# Autoencoder, prior, levels, channels, image size: as fashion_mnist_pixelcnn, openmoji_vqvae2,
# fashion_mnist_transformer, cifar10_cvqvae (cifar10_vqvae with other codes), openmoji_hierarchical:fsq,
# cifar10_rvqvae, openmoji_kl, smaller; and transformers over two levels.
KINDS = {
    "one level and the reference's generator": ({"levels": 1, "width": 8}, GENERATOR, ("codes",), 1, 12),
    "vqvae2": ({"name": "vqvae2", "width": 8, "residual_width": 4}, PIXELCNN, ("top", "bottom"), 3, 16),
    "patches and transformer": ({"name": "patch_vqvae", "width": 8, "groups": 2}, TRANSFORMER, ("codes",), 1, 12),
    "clustering codes": (
        {"name": "vqvae", "width": 8, "residual_width": 4, "quantizer": CLUSTERING},
        PIXELCNN,
        ("codes",),
        3,
        16,
    ),
    "finite scalars": ({"width": 8, "quantizer": SCALARS}, PIXELCNN, ("top", "bottom"), 3, 16),
    "residual codes and transformer": (
        {"name": "patch_vqvae", "width": 8, "groups": 2, "quantizer": RESIDUAL},
        TRANSFORMER,
        ("codes",),
        1,
        12,
    ),
    "a residual top over a plain bottom": (
        {"name": "vqvae2", "width": 8, "residual_width": 4, "quantizers": {"top": RESIDUAL}},
        TRANSFORMER,
        ("top", "bottom"),
        3,
        16,
    ),
    "numbers and a toy prior": (
        {"name": "vqvae", "width": 8, "residual_width": 4, "quantizer": NUMBERS},
        {"name": "gaussian"},
        ("codes",),
        3,
        16,
    ),
}


def config(kind, path, epochs):
    autoencoder, prior, levels, _, size = KINDS[kind]
    config = tiny(path)
    config["dataset"] |= {"image_size": size, "flip": False}
    config["autoencoder"] = {"name": "hierarchical", "quantizer": QUANTIZER, **autoencoder}
    config["loss_weights"] = {"reconstruction": 1.0} | weights_of(config["autoencoder"])
    config["train"] = {**EVERY, "epochs": epochs}
    config["priors"] = {level: {**prior, "train": {**EVERY, "epochs": epochs}} for level in levels}
    config["sample"]["count"] = 4
    return recipe.configs.complete(config)


def check_scale(model):
    """Of the images that it was trained on; on disk they are float16."""
    images = datasets.load(model.config["dataset"], "train").image
    for maps in (model.encode(np.asarray(images[:]))[0], token_files.read(model.workdir / "tokens", "train").maps[0]):
        flat = np.asarray(maps, np.float64).reshape(-1, maps.shape[-1])
        np.testing.assert_allclose(flat.mean(0), 0, atol=2e-3)
        np.testing.assert_allclose(flat.std(0), 1, atol=2e-3)


def check_a_sampler_s_own_fields(kind, path, run, model):
    """They differ from call to call and from run to run: the weights are the same."""
    still, again = (model.sample_tokens(4, seed, sample_noise=0.0)[0] for seed in (1, 2))
    np.testing.assert_array_equal(still, again)
    assert (model.sample_tokens(4, 1)[0] != model.sample_tokens(4, 2)[0]).any()
    np.testing.assert_array_equal(model.sample_tokens(4, 1, sample_noise={"codes": 0.0})[0], still)
    for wrong in ({"sample_steps": 3}, {"sample_noise": {"top": 1.0}}):
        with pytest.raises(UserError, match="no such field of the prior"):
            model.sample(4, **wrong)
    changed = config(kind, path, epochs=2)
    changed["priors"]["codes"]["sample_noise"] = 0.2
    assert recipe.configs.differs(changed, run)  # allowed, and stored when the run goes on


def weights_of(autoencoder):
    """Of the terms that there are beside the reconstruction."""
    if autoencoder["quantizer"] is NUMBERS:
        return {"kl": 1e-3}
    of_codes = {} if autoencoder["quantizer"] is SCALARS else {"codebook": 1.0, "commitment": 0.25}
    two_levels = autoencoder["name"] == "hierarchical" and autoencoder.get("levels", 2) > 1
    return of_codes | ({"feature": 0.5} if two_levels else {})


def write_images(path, channels, size):
    noise = np.random.default_rng(0)
    images = noise.integers(0, 256, (52, size // 4, size // 4, channels), np.uint8).repeat(4, 1).repeat(4, 2)
    labels = np.arange(52) % 3
    np.savez(path, train_image=images[:40], test_image=images[40:], train_label=labels[:40], test_label=labels[40:])
    return path


RECIPES = ("openmoji_vqgan", "openmoji_maskgit", "openmoji_diffusion", "openmoji_var")
FASHION = ("fashion_mnist_vqgan", "fashion_mnist_maskgit", "fashion_mnist_diffusion", "fashion_mnist_var")
LATER = [pytest.param(name, marks=pytest.mark.thorough) for name in FASHION]


@pytest.mark.parametrize("name", [*RECIPES, *LATER])
def test_a_recipe_in_small_stopped_and_gone_on_with(name, tmp_path):
    """Its variant `tiny` by the front door, on images of any kind: trained, sampled, measured, reported."""
    channels, size = (3, 32) if "openmoji" in name else (1, 28)
    path, run = write_images(tmp_path / "data.npz", channels, size), tmp_path / "run"
    argv = [
        f"--config=configs/{name}.py:tiny",
        f"--workdir={run}",
        "--config.dataset.name=npz",
        f"--config.dataset.path={path}",
    ]
    assert launch.main([*argv, "--stage=autoencoder", "--config.train.steps=4"]) == 0
    assert launch.main(argv) == 0
    lines = [json.loads(line) for line in (run / "autoencoder/metrics.jsonl").read_text().splitlines()]
    pushed = [line["step"] for line in lines if "train/adaptive_weight" in line]
    assert pushed == ([4, 6] if "vqgan" in name else [])
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["images"] == 12 and metrics["autoencoder"]["sharpness"] > 0
    numbers = "diffusion" in name
    assert ("bits_per_pixel" in metrics) != numbers
    found = metrics["priors"].get("codes", {})
    assert len([key for key in found if key.startswith("mse_at/")]) == (8 if numbers else 0)
    assert bool(list((run / "codes/pictures").glob("denoising_*.png"))) == numbers
    page = (run / "report.html").read_text()
    assert ("Loss by time" in page and "Samples after more and more steps" in page) == numbers
    assert ("Critic" in page and "Adaptive weight" in page) == ("vqgan" in name)
    model = vqvae_jax.load(run)
    new = model.sample(4, label="1")
    assert new.shape == (4, size, size, channels) and len(np.unique(new)) > 1
    np.testing.assert_array_equal(model.decode(model.encode(new)), model.reconstruct(new)[-1])


BRIEF = ("patches and transformer", "numbers and a toy prior")


@pytest.mark.parametrize("kind", [pytest.param(k, marks=() if k in BRIEF else pytest.mark.thorough) for k in KINDS])
def test_trained_gone_on_with_evaluated_and_sampled(kind, tmp_path, monkeypatch):
    monkeypatch.setitem(PRIORS, "gaussian", GaussianPrior)
    _, _, levels, channels, size = KINDS[kind]
    path = write_images(tmp_path / "data.npz", channels, size)
    run = tmp_path / "run"
    recipe.run(config(kind, path, epochs=1), run, "autoencoder")
    recipe.run(config(kind, path, epochs=2), run)
    for stage in ("autoencoder", *levels):
        with Checkpoints(run / stage / "checkpoints") as checkpoints:
            assert checkpoints.latest() == 5  # 38 images in batches of 16, twice
    names = {"epoch_1_original.png", "epoch_1_reconstruction.png", "epoch_2_original.png", "epoch_2_reconstruction.png"}
    drawn = {one.name for one in (run / "autoencoder" / "pictures").iterdir()}
    assert names <= drawn
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["images"] == 12 and set(metrics["priors"]) == set(levels)
    assert ({"psnr", "ssim", "kl/codes", "active/codes"} <= set(metrics["autoencoder"])) == ("numbers" in kind)
    model = vqvae_jax.load(run)
    if kind == "numbers and a toy prior":
        check_scale(model)
        check_a_sampler_s_own_fields(kind, path, run, model)
    new = model.sample(4)
    assert new.shape == (4, size, size, channels) and len(np.unique(new)) > 1
    assert picture(run / "samples.png").size and (run / "report.html").is_file()
    maps = model.parts.levels
    tokens = model.encode(new)
    assert [(one.shape, str(one.dtype)) for one in tokens] == [((4, *level.form), level.dtype) for level in maps]
    assert len(model.reconstruct(new)) == len(maps)
    np.testing.assert_array_equal(model.decode(tokens[:1]), model.reconstruct(new)[0])
