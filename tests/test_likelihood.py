"""How likely pictures are, and what the Python door refuses. The run is the one of test_recipe.py."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_recipe import tiny, trained_run

import vqvae_jax
from vqvae_jax import codec, data, fitted
from vqvae_jax import config as configs
from vqvae_jax.drawn import key_of
from vqvae_jax.types import Condition, Level, UserError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return vqvae_jax.load(trained_run(tmp_path_factory)[0])


@pytest.fixture(scope="module")
def images(model):
    return data.load(model.config["dataset"], "test").image[:5]


def test_nll_is_the_sum_of_each_tokens_cross_entropy(model, images):
    """Of the logits, place by place, both levels; a label for each picture or one for all."""
    tokens, labels = model.encode(images), np.array([0, 2, 1, 0, 2], np.int32)
    want = 0
    for i, (prior, weights) in enumerate(model.priors.values()):
        condition = Condition(jnp.asarray(labels), tuple(map(jnp.asarray, tokens[:i])))
        logits = prior.apply({"params": weights.params}, jnp.asarray(tokens[i]), condition)
        chosen = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), tokens[i][..., None], axis=-1)
        want -= chosen.sum((1, 2, 3))
    found = model.nll(images, label=labels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, want, rtol=1e-5)
    np.testing.assert_allclose(model.nll_tokens(tokens, label=["0", "2", "1", "0", "2"]), found, rtol=1e-6)
    np.testing.assert_allclose(model.nll(images[::-1], label="2")[[0, 3]], found[[4, 1]], rtol=1e-6)
    assert (model.nll(images) != found).all()  # told none


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"label": "7"}, "no label '7'"),
        ({"label": [0, 1]}, "one for all 5 images, or one for each; got 2"),
        ({"label": 1.5}, "label is the name of a label or its number.*got 1.5"),
        ({"label": np.array(1)}, "label is the name of a label or its number.*got array"),
        ({"label": [0.5] * 5}, "label is the name of a label or its number; got 0.5"),
        ({"text": "red"}, "without text_condition"),
        ({"looks": 0}, "looks is a whole number"),
        ({"seed": 2**64}, "seed is a whole number from"),
    ],
)
def test_nll_refuses(model, images, asked, message):
    with pytest.raises(UserError, match=message) as error:
        model.nll(images, **asked)
    assert "--" not in str(error.value)


def test_one_map_of_another_level(model, images):
    """A bottom map is not a top map of larger images, unless it is said; one array is no list of maps."""
    top, bottom = model.encode(images)
    for wrong in ([bottom], (bottom,)):
        with pytest.raises(UserError, match=r"begin with the coarsest, top 2x2.*those of bottom; .*size=\(H, W\)"):
            model.decode(wrong)
    larger = np.tile(images, (1, 2, 2, 1))
    maps = model.encode(larger)
    np.testing.assert_array_equal(model.decode(maps), model.reconstruct(larger)[1])
    np.testing.assert_array_equal(model.decode(maps[:1], size=(32, 32)), model.reconstruct(larger)[0])
    with pytest.raises(UserError, match=r"size=\(32, 32\) is of maps top \(4, 4\); got \(2, 2\)"):
        model.decode([top], size=(32, 32))
    for one in (top, 3, model):
        with pytest.raises(
            UserError, match=r"several maps, coarse to fine; one map alone is \(map,\), as \(tokens\[0\],\)"
        ):
            model.decode(one)
    with pytest.raises(UserError, match="its rows are not of one length"):
        model.decode([[[[1, 2], [3]]]])


def test_maps_of_growing_sizes():
    """The first scales alone are a picture; another scale in place of the first is none."""
    scales = [Level(f"codes.{i}", (side, side), 16) for i, side in enumerate((1, 2, 4))]
    maps = [np.zeros((3, side, side), int) for side in (1, 2, 4)]
    for few in (maps[:1], maps[:2], maps):
        codec.check_tokens(few, scales)
        codec.check_level(few, scales, None)
    for wrong in (maps[1:2], maps[1:]):
        with pytest.raises(UserError, match="begin with the coarsest, codes.0"):
            codec.check_level(wrong, scales, None)


@pytest.mark.parametrize(("tokens", "wrong"), [([-1, 12], -1), ([12, 16], 16), ([3, 99, -1], 99)])
def test_the_token_that_is_none_is_named(tokens, wrong):
    with pytest.raises(UserError, match=f"codes: tokens are from 0 to 15; got {wrong}$"):
        codec.check_tokens([np.array([[tokens]])], [Level("codes", (1, len(tokens)), 16)])


def test_wrong_types_are_said_without_flags(model, images):
    calls = {
        "temperature is a number; got 'hot'": lambda: model.sample(1, temperature="hot"),
        "top_p is a number; got True": lambda: model.sample(1, top_p=True),
        "guidance is a plain number; got nan": lambda: model.sample(1, guidance=float("nan")),
        "label is the name of a label or its number": lambda: model.sample(1, label=[1, 2]),
        "no label '7'": lambda: model.sample(1, label="7"),
        "leave text out": lambda: model.sample(1, text="red"),
        "seed is a whole number": lambda: model.sample(1, seed=0.5),
        "did you mean 'guidance'": lambda: model.complete(images, guidence=2.0),
        "images are an array": lambda: model.encode([[1, 2]]),
        "no such field of the prior": lambda: model.sample(1, sample_steps=3),
        "workdir is the path of a folder; got 3": lambda: vqvae_jax.load(3),
        "edit\\(images, mask\\)": lambda: model.redraw(images, 0.5),
    }
    for message, call in calls.items():
        with pytest.raises(UserError, match=message) as error:
            call()
        assert "--" not in str(error.value)


def test_seeds_of_64_bits():
    """Those of 32 are JAX's; no two of them are the same; NumPy's integers are integers."""
    for seed in (-(2**31), -1, 0, 7, 2**31 - 1):
        np.testing.assert_array_equal(*map(jax.random.key_data, (key_of(seed), jax.random.key(seed))))
    seeds = [0, 1, -1, 2**31, 2**32, 2**32 + 1, 2**40, 2**63 - 1, 2**64 - 1, -(2**63), -(2**31) - 1]
    keys = {jax.random.key_data(key_of(seed)).tobytes() for seed in seeds}
    assert len(keys) == len(seeds)
    same = key_of(np.uint64(2**63 + 5)), key_of(2**63 + 5)
    np.testing.assert_array_equal(*map(jax.random.key_data, same))


def test_samples_of_64_bit_seeds(model):
    one, other, low = (model.sample_tokens(8, seed)[1] for seed in (2**40 + 1, np.int64(2**40 + 1), 1))
    np.testing.assert_array_equal(one, other)
    assert (one != low).any()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((9, 8, 8, 3))}, r"images are uint8 .*got float64 \[9, 8, 8, 3\]"),
        ({"images": np.zeros((9, 3, 8, 8), np.uint8)}, "channels go last: np.moveaxis"),
        ({"images": np.zeros((9, 8, 6, 3), np.uint8)}, "squares"),
        ({"labels": np.zeros(3, int)}, "one for each of 9; got int64"),
        ({"labels": np.arange(9) + 2**32}, "below 1048576; got 4294967304: count yours from 0"),
        ({"test_images": np.zeros((0, 8, 8, 3), np.uint8)}, "test_images are uint8"),
        ({"labels": np.zeros(9, int), "test_images": np.zeros((9, 8, 8, 3), np.uint8)}, "go together"),
        ({"test_labels": np.zeros(9, int)}, "test_labels are of test_images"),
        ({"images": [np.zeros((8, 8, 3), np.uint8), np.zeros((9, 9, 3), np.uint8)]}, "images are one array"),
        ({"labels": [[0], [0, 1]]}, "labels are one array"),
        ({"changes": ["train.steps"]}, "changes are a dict"),
        ({"config": 3}, "config is the name of a file.*got int"),
        ({"workdir": None, "config": "configs/openmoji_hierarchical.py", "changes": {"train.stesp": 1}}, "'steps'"),
    ],
)
def test_fit_refuses(tmp_path, arrays, message):
    given = {"images": np.zeros((9, 8, 8, 3), np.uint8), "config": "configs/openmoji_hierarchical.py"} | arrays
    with pytest.raises(UserError, match=message):
        vqvae_jax.fit(workdir=tmp_path / "run", **{k: v for k, v in given.items() if k != "workdir"})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("tokens", "codes", "prior", "message"),
    [
        (np.zeros((9, 4, 4)), 8, {}, "tokens are whole numbers .*got float64"),
        (np.full((9, 4, 4), 8), 8, {}, "tokens are from 0 to 7, of codes=8; got 8 to 8"),
        (np.zeros((9, 4, 4), int), 0, {}, "codes is how many"),
        (np.zeros((9, 4, 4), int), 8, "transformer", "prior is a section such as"),
        (np.zeros((9, 4, 4), int), 8, {"name": "transfomer"}, "did you mean 'transformer'"),
    ],
)
def test_fit_prior_refuses(tmp_path, tokens, codes, prior, message):
    with pytest.raises(UserError, match=message):
        vqvae_jax.fit_prior(tokens, codes, tmp_path / "run", prior)
    assert not (tmp_path / "run").exists()


def test_another_call_with_other_arrays(tmp_path):
    first = {"image": np.zeros((4, 8, 8, 3), np.uint8)}
    other = {"image": np.ones((4, 8, 8, 3), np.uint8)}
    fitted._keep(tmp_path / "images.npz", other)  # of a call that was refused: nothing was trained
    fitted._keep(tmp_path / "images.npz", first)
    (tmp_path / "config.json").write_text("{}")
    fitted._keep(tmp_path / "images.npz", first)
    with pytest.raises(UserError, match="begun with other images; use another workdir"):
        fitted._keep(tmp_path / "images.npz", other)
    for content in (b"", b"what is this"):
        (tmp_path / "images.npz").write_bytes(content)
        with pytest.raises(UserError, match="images.npz is damaged"):
            fitted._keep(tmp_path / "images.npz", first)


def test_own_tokens_are_the_same_only_under_the_same_names(tmp_path):
    tokens, labels = np.arange(32).reshape(4, 2, 4) % 4, np.array([0, 1, 0, 1])
    keep = lambda maps, codes, names: fitted._keep_tokens(tmp_path / "own", [maps], codes, 8, labels, names)  # noqa: E731
    keep(tokens, 16, ("cat", "dog"))
    keep(tokens, 4, ("cat", "dog"))  # nothing was trained yet
    (tmp_path / "config.json").write_text("{}")
    keep(tokens, 4, ("cat", "dog"))
    for other in (
        (tokens, 16, ("cat", "dog")),
        (tokens, 4, ("dog", "cat")),
        (tokens.reshape(4, 4, 2), 4, ("cat", "dog")),
    ):
        with pytest.raises(UserError, match="begun with other tokens; use another workdir"):
            keep(*other)


def test_home_is_one_folder(tmp_path, monkeypatch):
    """The arrays, the training and what is loaded of it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    ran = []
    monkeypatch.setattr(fitted, "_run", lambda config, workdir: ran.append((config["dataset"]["path"], workdir)))
    vqvae_jax.fit(np.zeros((9, 32, 32, 3), np.uint8), "~/run", "configs/openmoji_kl.py")
    assert ran == [(str(tmp_path / "run" / "images.npz"), tmp_path / "run")]
    with pytest.raises(UserError, match=f"^{tmp_path}/run is not a workdir"):
        vqvae_jax.load("~/run")


def moved_config(workdir, name):
    return tiny(workdir / name, dataset__name="npz" if name.endswith("npz") else "tokens")


@pytest.mark.parametrize("name", configs.OWN)
def test_own_arrays_are_found_in_a_workdir_that_was_moved(tmp_path, name):
    """Also where something else lies at the old place by now; data that lie elsewhere are those of their path."""
    before, after = tmp_path / "before", tmp_path / "after"
    (before / name).mkdir(parents=True)
    configs.save(moved_config(before, name), before)
    shutil.copytree(before, after)
    for _ in range(2):
        stored = configs.load(after)
        assert configs.located(stored, after, None)["dataset"]["path"] == str(after / name)
        assert not configs.differs(stored, after) and not configs.differs(moved_config(after, name), after)
        with pytest.raises(UserError, match=r"config\.dataset\.path: .*before.* → .*elsewhere"):
            configs.differs(moved_config(tmp_path / "elsewhere", f"other_{name}"), after)
        shutil.rmtree(before, ignore_errors=True)
    (after / name).rmdir()
    assert configs.located(stored, after, None) == stored
    with pytest.raises(UserError, match=r"config\.dataset\.path"):
        configs.differs(moved_config(after, name), after)


def test_without_labels_too_a_config_is_whole_with_its_changes(tmp_path, monkeypatch):
    """Alone it says neither how long is trained nor of which size images are."""
    ran, quantizer = [], {"name": "vq", "codebook_size": 8}
    monkeypatch.setattr(fitted, "_run", lambda config, workdir: ran.append(config))
    written = {"autoencoder": {"name": "vqvae", "quantizer": quantizer}, "priors": {"codes": {"name": "pixelcnn"}}}
    written["priors"]["codes"]["label_condition"] = True
    changes = {"train.steps": 5, "priors.codes.train.steps": 7}
    for labels in (None, np.zeros(9, int)):
        vqvae_jax.fit(np.zeros((9, 28, 28), np.uint8), tmp_path / "run", written, changes, labels)
    assert [one["priors"]["codes"]["label_condition"] for one in ran] == [False, True]
    assert all((one["train"]["steps"], one["priors"]["codes"]["train"]["steps"]) == (5, 7) for one in ran)
    assert all(one["dataset"]["image_size"] == 28 for one in ran)


def test_changes_may_be_numpys_numbers():
    changes = fitted._fields({"train.steps": np.int64(5), "optimizer.learning_rate": np.float64(0.5)})
    made = fitted.configured("configs/openmoji_hierarchical.py", changes)
    assert made["train"]["steps"] == 5 and made["optimizer"]["learning_rate"] == 0.5


@pytest.mark.parametrize("tokens", [[], [[[1, 2], [1]]], [[[0, 1]], [[0]]]])
def test_lists_that_are_no_maps(tmp_path, tokens):
    with pytest.raises(UserError, match="tokens are whole numbers|not of one length"):
        vqvae_jax.fit_prior(tokens, 4, tmp_path / "run", {"name": "transformer"})
