"""Pictures whose upper half is given, continued. The run is the one of test_recipe.py."""

import numpy as np
import pytest
from test_encode import pictures, refuse, run, trained  # noqa: F401
from test_recipe import picture

import vqvae_jax
from vqvae_jax import data, logs
from vqvae_jax.masks import upper_half
from vqvae_jax.types import UserError


@pytest.fixture(scope="module")
def model(trained):  # noqa: F811
    return vqvae_jax.load(trained[0])


@pytest.fixture(scope="module")
def images(model):
    return data.load(model.config["dataset"], "test").image[:3]


def test_upper_codes_are_the_pictures_and_lower_ones_are_drawn(model, images, monkeypatch):
    decoded = []
    monkeypatch.setattr(
        model, "decode", lambda maps: decoded.append(maps) or np.zeros((6, *images.shape[1:]), np.uint8)
    )
    model.complete(images, count=2, seed=3)
    model.complete(images, count=2, seed=4)
    one, other = decoded
    for number, given in enumerate(model.encode(images)):
        half = given.shape[1] // 2
        for i in range(6):
            np.testing.assert_array_equal(one[number][i, :half], given[i // 2, :half])
    assert any((a != b).any() for a, b in zip(one, other, strict=True))  # another seed
    assert any((a[0] != a[1]).any() for a in one)  # another draw for the same picture


def test_the_middle_row_of_an_odd_number_is_drawn():
    assert upper_half((2, 7, 2))[1, :, 0].tolist() == [True] * 3 + [False] * 4


def test_any_places_are_kept_and_all_others_drawn(model, images):
    tokens = model.encode(images)
    keep = [np.random.default_rng(0).random(one.shape) < 0.6 for one in tokens]
    one, other = (model.fill(tokens, keep, seed) for seed in (1, 2))
    for number, (given, kept) in enumerate(zip(tokens, keep, strict=True)):
        np.testing.assert_array_equal(one[number][kept], given[kept])
        assert (one[number] != given)[~kept].any()
    assert any((a != b).any() for a, b in zip(one, other, strict=True))
    everything = [np.ones(one.shape, bool) for one in tokens]
    for got, given in zip(model.fill(tokens, everything), tokens, strict=True):
        np.testing.assert_array_equal(got, given)


def test_fill_refuses_what_does_not_fit(model, images):
    tokens = model.encode(images)
    keep = [np.ones(one.shape, bool) for one in tokens]
    for given in (
        (tokens[:1], keep[:1]),
        (tokens, keep[:1]),
        (tokens, [one[:, :1] for one in keep]),
        (tokens, keep[::-1]),
    ):
        with pytest.raises(UserError, match="a map for each of"):
            model.fill(*given)
    for nothing in (None, [], [1]):
        with pytest.raises(UserError):
            model.fill(nothing, keep)
    with pytest.raises(UserError, match="keep: a map for each of .*got NoneType"):
        model.fill(tokens, None)
    for size in (5, ("a", 3), (64,)):
        with pytest.raises(UserError, match="two whole numbers"):
            model.decode(tokens[:1], size)
    with pytest.raises(UserError, match="tokens are from 0 to"):
        model.fill([one + 1000 for one in tokens], keep)


def test_shapes_seeds_and_sizes(model, images):
    new = model.complete(images, count=2, seed=1)
    assert new.shape == (3, 2, *images.shape[1:]) and new.dtype == np.uint8
    np.testing.assert_array_equal(new, model.complete(images, count=2, seed=1))
    with pytest.raises(UserError, match="trained on images of 16 pixels"):
        model.complete(np.tile(images, (1, 2, 2, 1)))


def test_it_refuses_what_sample_refuses(model, images):
    for asked in ({"temprature": 1.0}, {"count": 0}, {"count": 1.5}, {"seed": "x"}, {"seed": 2**64}, {"top_k": 5.5}):
        for call in (model.sample, lambda **asked: model.complete(images, **asked)):
            with pytest.raises(UserError, match=next(iter(asked))):
                call(**asked)


def test_a_label_that_no_prior_knows(model, images, monkeypatch):
    monkeypatch.setattr("vqvae_jax.asked._conditional", lambda asked: False)
    for call in (model.sample, lambda **asked: model.complete(images, **asked)):
        with pytest.raises(UserError, match="without label_condition; leave label out"):
            call(label="1")


def test_numbers_of_numpy_and_lists_are_taken(model, images):
    asked = {"count": np.int64(1), "seed": np.int64(3)}
    np.testing.assert_array_equal(model.complete(images, **asked), model.complete(images, count=1, seed=3))
    tokens = model.encode(images)
    np.testing.assert_array_equal(model.decode([one.tolist() for one in tokens]), model.decode(tokens))
    with pytest.raises(UserError, match="tokens are whole numbers; got float64"):
        model.decode([one.astype(float) for one in tokens])


def test_the_command(trained, pictures, refuse, tmp_path, capsys):  # noqa: F811
    argv = ("sample", f"--workdir={trained[0]}", f"--prefix={pictures}", "--count=2")
    assert run(*argv, f"--output={tmp_path / 'a.png'}") == 0
    assert "broken.jpg is left out" in capsys.readouterr().err
    page = picture(tmp_path / "a.png")
    side = 64 + logs.SEPARATOR
    assert page.shape[1] == 4 * side - logs.SEPARATOR  # picture, half, two drawn
    assert (page[32:64, side : side + 64] == logs.GREY).all() and (page[:32, side : side + 64] == page[:32, :64]).all()
    assert run(*argv, f"--output={tmp_path / 'a.npz'}") == 0
    with np.load(tmp_path / "a.npz") as file:
        assert file["arr_0"].shape[0] == 2 * round((page.shape[0] + 2) / side)
