"""Editing where maps hold numbers, by a diffusion prior: a hole, the upper half, a strength, the way between two seeds.

The run is made by small_runs.py: 16 pixels, one map of 4×4 places of three numbers.
"""

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from small_runs import DIFFUSION, made, of_numbers
from test_encode import refuse, run  # noqa: F401
from test_models import PIXELCNN, write_images
from test_recipe import picture, refused, tiny

import vqvae_jax
from vqvae_jax import config as configs
from vqvae_jax import encode, logs, masks, recipe, sample, trained
from vqvae_jax.data import tokens
from vqvae_jax.priors.diffusion import DiffusionPrior
from vqvae_jax.priors.draw import draw
from vqvae_jax.priors.maskgit import MaskGITPrior
from vqvae_jax.types import Condition, Level, Pick, UserError

NOISE = np.random.default_rng(0)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "data.npz", 3, 16)


@pytest.fixture(scope="module")
def workdir(path, tmp_path_factory):
    return made(of_numbers(path), tmp_path_factory.mktemp("made") / "run")


@pytest.fixture(scope="module")
def model(workdir):
    return vqvae_jax.load(workdir)


@pytest.fixture(scope="module")
def images(path):
    return np.load(path)["test_image"][:2]


@pytest.fixture(scope="module")
def hole():
    mask = np.zeros((2, 16, 16), bool)
    mask[0, 5:7, 9:11] = mask[1, 8:, 3:9] = True
    return mask


@pytest.fixture
def decoded(model, monkeypatch):
    """The maps that were decoded."""
    every, decode = [], model.decode
    monkeypatch.setattr(model, "decode", lambda maps: every.append(maps) or decode(maps))
    return every


def begun(seed, number=0):
    """The noise that image `number` of a seed begins with, [4, 4, 3]."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), 0)
    return jax.random.normal(jax.random.split(key)[0], (4, 4, 3))


# --- a part anew


def test_kept_numbers_are_those_of_the_filled_picture_and_others_are_drawn(model, images, hole, decoded):
    for seed in (3, 4):
        model.edit(images, hole, count=2, seed=seed)
    (one,), (other,) = decoded
    (given,), keep = model.encode(masks.filled(images, hole)), masks.kept(hole, (4, 4))
    assert one.shape == (4, 4, 4, 3) and one.dtype == np.float32 and keep.any()
    for i in range(4):
        np.testing.assert_array_equal(one[i][keep[i // 2]], given[i // 2][keep[i // 2]])
        anew = ~keep[i // 2]
        assert (one[i] != other[i])[anew].all() and (one[i] != given[i // 2])[anew].all()
    assert (one[0] != one[1]).any()


def test_what_was_in_the_hole_plays_no_part_and_the_rest_stays(model, images, hole):
    others = np.where(hole[..., None], NOISE.integers(0, 256, images.shape, np.uint8), images)
    assert (others != images).any()
    one, other = (model.edit(given, hole, count=2, seed=1) for given in (images, others))
    assert one.tobytes() == other.tobytes()
    for k in range(2):
        np.testing.assert_array_equal(one[:, k][~hole], images[~hole])
    assert (one[:, 0][hole] != one[:, 1][hole]).any()


def test_an_upper_half_is_continued(model, images, decoded):
    assert model.complete(images, count=2, seed=3).shape == (2, 2, 16, 16, 3)
    ((maps,),), (given,) = decoded, model.encode(images)
    np.testing.assert_array_equal(maps[:, :2], given[:, :2].repeat(2, 0))
    assert (maps[:, 2:] != given[:, 2:].repeat(2, 0)).all()


def test_one_level_has_no_variations(model, images):
    with pytest.raises(
        UserError, match=r"'codes' alone; say .*: edit\(images, mask\), or how much by redraw\(images, 0.6\)"
    ):
        model.variations(images)


def test_numbers_that_are_none_are_not_filled(model, images):
    (given,), keep = model.encode(images), np.ones((2, 4, 4), bool)
    for wrong in (np.nan, np.inf):
        with pytest.raises(UserError, match="codes: maps are finite numbers; in this one there is NaN or infinity"):
            model.fill([np.where(np.arange(4) == 1, wrong, given.swapaxes(1, 3)).swapaxes(1, 3)], [keep])
    np.testing.assert_array_equal(model.fill([given], [keep])[0], given)


# --- a strength


def test_a_strength_is_the_time_of_the_first_step(model, images, decoded):
    """One step of the flow from there, by hand: what is between the picture's map and noise, less the velocity."""
    model.redraw(images, 0.4, count=2, seed=5, sample_steps=1)
    prior, weights = model.priors["codes"]
    (given,), ((maps,),) = model.encode(images), decoded
    noise = jnp.stack([begun(5, number) for number in range(4)])
    x = 0.6 * given.repeat(2, 0) + 0.4 * noise
    none = Condition(jnp.full(4, prior.num_labels))
    said = prior.apply({"params": weights.params}, x, jnp.full(4, 0.4), none, method="foretell")
    np.testing.assert_allclose(maps, x - 0.4 * said, atol=1e-4)


def test_strength_0_is_the_reconstruction_and_1_a_new_picture(model, images):
    same = model.redraw(images, 0, count=2, seed=5)
    for k in range(2):
        np.testing.assert_array_equal(same[:, k], model.reconstruct(images)[-1])
    new = model.redraw(images[:1], 1.0, count=2, seed=5, label="1")
    np.testing.assert_array_equal(new[0], model.sample(2, seed=5, label="1"))


@pytest.mark.parametrize("strength", [-0.1, 1.01, float("nan"), float("inf"), True, "0.5", None])
def test_strengths_that_are_none(model, images, strength):
    with pytest.raises(UserError, match="strength is from 0, the picture as it is, to 1, nothing of it; got"):
        model.redraw(images, strength)


def test_maps_without_places_to_keep_are_for_priors_that_begin_with_them(model):
    prior, weights = model.priors["codes"]
    given = [jax.random.split(jax.random.key(0), 2), Condition(jnp.zeros(2, jnp.int32))]
    with pytest.raises(UserError, match="known and keep go together"):
        draw(prior, Pick(), weights, *given, None, (jnp.ones((2, 4, 4), bool),))
    with pytest.raises(UserError, match="known is a map for each"):
        draw(prior, Pick(), weights, *given, (jnp.zeros((2, 4, 2, 3)),))


# --- from seed to seed


def test_the_ends_are_the_two_seeds_pictures_and_the_way_is_that_of_the_noise(model, decoded):
    images = model.interpolate(1, 2, count=3, label="1")
    for image, seed in ((images[0], 1), (images[2], 2)):
        np.testing.assert_array_equal(image, model.sample(1, seed, label="1")[0])
    np.testing.assert_array_equal(model.interpolate(1, 2, count=2, label="1"), images[::2])
    one, other = begun(1), begun(2)
    cosine = jnp.sum(one * other) / jnp.linalg.norm(one.ravel()) / jnp.linalg.norm(other.ravel())
    middle = (one + other)[None] / (2 * jnp.cos(jnp.arccos(cosine) / 2))
    prior, weights = model.priors["codes"]
    told = Condition(jnp.ones(1, jnp.int32))
    (want,) = draw(prior, Pick(), weights, jax.random.split(jax.random.key(9), 1), told, noise=middle)
    np.testing.assert_allclose(decoded[0][0][1], want[0], rtol=1e-3, atol=1e-3)


def test_seeds_between_which_there_is_no_way(model):
    label = {seed: int(sample.label_numbers(model.facts, seed, 1, None, True)[0]) for seed in range(9)}
    other = next(seed for seed in label if label[seed] != label[0])
    with pytest.raises(UserError, match=f"labels '{label[0]}' and '{label[other]}'.*say it: label={label[0]}"):
        model.interpolate(0, other)
    for count in (1, 0, 2.5):
        with pytest.raises(UserError, match="count is (a whole number of )?at least"):
            model.interpolate(0, 1, count, label="1")
    with pytest.raises(UserError, match="with fresh noise in each step no way leads.*add sample_eta=0"):
        model.interpolate(0, 1, label="1", sample_eta=0.5, sample_order=1)


# --- the command


@pytest.fixture
def own(images, tmp_path):
    """A folder of two own pictures."""
    (tmp_path / "own").mkdir()
    for number, image in enumerate(images):
        PIL.Image.fromarray(image).save(tmp_path / "own" / f"{number}.png")
    return tmp_path / "own"


def test_the_command_redraws(workdir, model, images, own, tmp_path):
    argv = ("sample", f"--workdir={workdir}", "--seed=5", "--count=2")
    few = ("--sample_steps=1", f"--output={tmp_path / 'a.npz'}")
    assert run(*argv, f"--images={own}", "--strength=0.4", *few) == 0
    want = model.redraw(images, 0.4, count=2, seed=5, sample_steps=1)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npz")["arr_0"], want.reshape(4, 16, 16, 3))
    assert run(*argv, f"--images={own}", "--strength=0", f"--output={tmp_path / 'a.png'}") == 0
    assert picture(tmp_path / "a.png").shape[1] == 3 * (64 + logs.SEPARATOR) - logs.SEPARATOR  # picture | two drawn


def test_the_command_edits_and_goes_from_seed_to_seed(workdir, model, images, own, tmp_path):
    argv = ("sample", f"--workdir={workdir}", "--seed=1")
    white = np.zeros((16, 16), np.uint8)
    white[5:9, 5:9] = 255
    PIL.Image.fromarray(white).save(tmp_path / "mask.png")
    edited = ("--count=2", f"--mask={tmp_path / 'mask.png'}", f"--output={tmp_path / 'a.npz'}")
    assert run(*argv, f"--images={own}", *edited) == 0
    got, want = np.load(tmp_path / "a.npz")["arr_0"], model.edit(images, white > 0, count=2, seed=1)
    np.testing.assert_array_equal(got, want.reshape(4, 16, 16, 3))
    assert run(*argv, "--to_seed=2", "--count=3", "--label=1", f"--output={tmp_path / 'way.png'}") == 0
    row = picture(tmp_path / "way.png")
    assert row.shape[:2] == (64, 3 * (64 + logs.SEPARATOR) - logs.SEPARATOR)
    np.testing.assert_array_equal(row[::4, :64:4], model.sample(1, 1, label="1")[0])


def test_the_samplers_fields_are_flags(workdir, model, tmp_path, capsys):
    fields = {"sample_steps": 40, "sample_order": 1, "sample_eta": 0.5, "sample_spacing": "even"}
    fields |= {"sample_guided": (0.1, 0.8)}
    said = [f"--{name}={value}" for name, value in fields.items() if name != "sample_guided"]
    argv = ("sample", f"--workdir={workdir}", "--count=2", "--label=1", "--guidance=2", "--codes.sample_guided=0.1,0.8")
    assert run(*argv, *said, f"--output={tmp_path / 'a.npz'}") == 0
    assert "tokens" not in capsys.readouterr().err  # a map of 16 places in 40 steps
    want = model.sample(2, label="1", guidance=2.0, **fields)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npz")["arr_0"], want)
    assert (want != model.sample(2, label="1", guidance=2.0, **{**fields, "sample_guided": (0.0, 0.0)})).any()


@pytest.mark.parametrize("fields", [{"sample_eta": 1.0}, {"sample_guided": (0.8, 0.1)}], ids=str)
def test_a_sampler_that_there_is_not_is_refused_before_anything_is_drawn(fields, model, monkeypatch):
    monkeypatch.setattr(trained, "in_chunks", lambda *_: pytest.fail("something is drawn"))
    with pytest.raises(UserError, match="sample_"):
        model.sample_tokens(1, label="1", **fields)


REFUSED = {
    "--sample_steps=0": "codes.sample_steps must be above 0, got 0",
    "--sample_order=3": "codes.sample_order wants 1 or 2, got 3",
    "--sample_eta=0.5": "sample_eta=0 or sample_order=1",
    "--sample_eta=2": "codes.sample_eta must be at most 1",
    "--sample_spacing=odd": "codes.sample_spacing wants 'trailing'",
    "--sample_guided=0.8,0.1": "sample_guided is from a time to a later one",
    "--sample_guided=0.8": "codes.sample_guided wants 2 values",
    "--sample_temperature=1": "no such field",
    "--top_k=3": "the prior 'codes' draws numbers; leave them at top_k=0 and top_p=1",
    "--top_p=0.9": "the prior 'codes' draws numbers",
}


@pytest.mark.parametrize("flag", REFUSED)
def test_the_command_refuses(flag, workdir, refuse, tmp_path):  # noqa: F811
    assert REFUSED[flag] in refuse("sample", f"--workdir={workdir}", flag, f"--output={tmp_path / 'x.png'}")
    assert not (tmp_path / "x.png").exists()


# --- before a training


def test_what_a_sample_cannot_pick_is_said_before_the_training(path, tmp_path):
    for wrong in ({"top_p": 0.9}, {"top_k": 5}):
        line = refused(tmp_path / "run", of_numbers(path, sample=wrong))
        assert "the prior 'codes' draws numbers; leave them at top_k=0 and top_p=1" in line


def test_a_prior_that_does_not_fit_names_the_one_that_does(path, tmp_path):
    line = refused(tmp_path / "run", of_numbers(path, PIXELCNN))
    assert line.startswith("a PixelCNN reads codes, ")
    assert "--config.priors.codes.name=diffusion, or a quantizer with codes" in line
    config = tiny(path)
    config["priors"]["top"] = {**DIFFUSION, "train": config["priors"]["top"]["train"]}
    line = refused(tmp_path / "run", configs.complete(config))
    assert "top 2x2 of 16 codes is of codes; take a prior of codes, --config.priors.top.name=maskgit, trans" in line
    with pytest.raises(UserError, match="diffusion on every level, or a quantizer with codes"):
        MaskGITPrior.fits((Level("bottom", (4, 4), 8),), (Level("top", (2, 2), None, 3),))


# --- on tokens


def test_a_prior_of_the_numbers_alone(path, workdir, model, images, tmp_path, refuse):  # noqa: F811
    maps, alone = tmp_path / "maps", tmp_path / "alone"
    assert run("encode", f"--workdir={workdir}", f"--output={maps}") == 0
    config = of_numbers(path, dataset={"name": "tokens", "path": str(maps)})
    made(config, alone)
    assert vqvae_jax.load(alone).parts.levels == model.parts.levels
    argv = ("sample", f"--workdir={alone}", "--count=2", "--seed=5", "--label=1")
    assert run(*argv, f"--autoencoder={workdir}", f"--output={tmp_path / 'a.npz'}") == 0
    np.testing.assert_array_equal(np.load(tmp_path / "a.npz")["arr_0"], model.sample(2, 5, label="1"))
    assert run(*argv, f"--output={tmp_path / 'drawn'}") == 0
    assert encode.decode(workdir, tmp_path / "drawn", tmp_path / "b.npz") == 2
    new, same = np.load(tmp_path / "b.npz")["sample_image"], np.load(tmp_path / "a.npz")["arr_0"]
    assert np.abs(new.astype(int) - same).max() <= 1  # by way of float16
    lent = vqvae_jax.load(alone, autoencoder=workdir)
    np.testing.assert_array_equal(
        lent.redraw(images, 0.4, 2, 5, sample_steps=1), model.redraw(images, 0.4, 2, 5, sample_steps=1)
    )
    made(of_numbers(path), tmp_path / "other", seed=1)
    line = refuse(*argv, f"--autoencoder={tmp_path / 'other'}")
    assert "made by another autoencoder" in line
    line = refuse("decode", f"--workdir={tmp_path / 'other'}", f"--tokens={maps}", f"--output={tmp_path / 'c'}")
    assert "made by another autoencoder" in line
    with_nan(maps)
    for call in (lambda: tokens.read(maps, "train"), lambda: recipe.Recipe(config, tmp_path / "again")):
        with pytest.raises(UserError, match="damaged: .*train_codes_00000.npy has numbers that are not finite; encode"):
            call()


def with_nan(folder):
    """One number that is none, in a folder of an earlier version, without checksums of the maps."""
    file = folder / "train_codes_00000.npy"
    maps = np.load(file)
    maps[1, 2, 3, 0] = np.nan
    np.save(file, maps)


def test_steps_beyond_the_places_are_not_spare(capsys):
    level = Level("codes", (2, 2), None, 3)
    sample.say_spare_steps({"codes": DiffusionPrior((level,), None, sample_steps=1000)})
    assert not capsys.readouterr().err
