"""Any part of a picture drawn anew. The run is the one of test_recipe.py: 16 pixels, maps 2×2 and 4×4."""

import types
from fractions import Fraction

import numpy as np
import PIL.Image
import pytest
from test_encode import pictures, refuse, run, trained  # noqa: F401
from test_recipe import picture

import vqvae_jax
from vqvae_jax import data, edit, logs, masks
from vqvae_jax import drawn as drawing
from vqvae_jax.priors.maskgit import MaskGITPrior
from vqvae_jax.priors.pixelcnn import PixelCNNPrior
from vqvae_jax.priors.var import VARPrior
from vqvae_jax.types import Level, UserError

NOISE = np.random.default_rng(0)


@pytest.fixture(scope="module")
def model(trained):  # noqa: F811
    return vqvae_jax.load(trained[0])


@pytest.fixture(scope="module")
def images(model):
    return data.load(model.config["dataset"], "test").image[:3]


@pytest.fixture(scope="module")
def hole():
    """A piece of each picture, of another size and place."""
    mask = np.zeros((3, 16, 16), bool)
    mask[0, 5:7, 9:11] = mask[1, 8:, 3:9] = mask[2, 15, 0] = True
    return mask


@pytest.fixture
def decoded(model, monkeypatch):
    """The maps that were decoded."""
    every, decode = [], model.decode
    monkeypatch.setattr(model, "decode", lambda maps: every.append(maps) or decode(maps))
    return every


# --- masks


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 5), (8, 8), (3, 16)])
def test_a_hole_is_filled_from_the_smallest_block_that_holds_any_pixel(height, width):
    images = NOISE.integers(0, 256, (2, height, width, 3), np.uint8)
    mask = NOISE.random((2, height, width)) < 0.8
    got = masks.filled(images, mask)
    for n, r, c in np.ndindex(mask.shape):
        want = np.full(3, 128)
        for side in (1, 2, 4, 8, 16):
            rows, columns = (slice(i // side * side, i // side * side + side) for i in (r, c))
            if len(known := images[n, rows, columns][~mask[n, rows, columns]]):
                want = known.mean(0)
                break
        np.testing.assert_allclose(got[n, r, c], want, atol=0.51)


def test_a_picture_that_is_a_hole_is_grey():
    everything = np.ones((1, 6, 6), bool)
    assert (masks.filled(NOISE.integers(0, 256, (1, 6, 6, 1), np.uint8), everything) == 128).all()


@pytest.mark.parametrize("shape", [(2, 2), (4, 8), (1, 1), (3, 5)])
@pytest.mark.parametrize("grow", [0, 1, 2, 9])
def test_a_token_is_kept_unless_its_cell_or_one_near_it_touches_the_hole(shape, grow):
    mask = NOISE.random((4, 8, 16)) < [[[0.005]], [[0.02]], [[0.1]], [[1.0]]]
    got = masks.kept(mask, shape, grow)
    assert got.shape == (4, *shape)

    def inside(i, cells, size):
        """Pixels with a part in a cell; two cells may share one."""
        return [p for p in range(size) if p * cells < (i + 1) * size and (p + 1) * cells > i * size]

    rows, columns = ([inside(i, cells, size) for i in range(cells)] for cells, size in zip(shape, (8, 16), strict=True))
    for n, r, c in np.ndindex(got.shape):
        near = ((a, b) for a, b in np.ndindex(shape) if max(abs(a - r), abs(b - c)) <= grow)
        assert got[n, r, c] == (not any(mask[n][np.ix_(rows[a], columns[b])].any() for a, b in near))


@pytest.mark.parametrize("seam", [0, 1, 3])
def test_the_seam_lies_outside_of_the_hole(seam):
    images, drawn = NOISE.integers(0, 256, (1, 9, 9, 1), np.uint8), NOISE.integers(0, 256, (1, 2, 9, 9, 1), np.uint8)
    mask = np.zeros((1, 9, 9), bool)
    mask[0, 4, 4] = mask[0, 4, 5] = True
    got = masks.pasted(images, drawn, mask, seam)
    for k, r, c in np.ndindex(2, 9, 9):
        far = min(max(abs(r - row), abs(c - column)) for row, column in ((4, 4), (4, 5)))
        share = max(0, 1 - far / (seam + 1))
        want = share * drawn[0, k, r, c] + (1 - share) * images[0, r, c]
        np.testing.assert_allclose(got[0, k, r, c], want, atol=0.51)


@pytest.mark.parametrize(("down", "right"), [(0, 0), (2, 0), (-3, 4), (0, -5)])
def test_a_picture_moves_and_what_is_uncovered_is_anew(down, right):
    images, mask = NOISE.integers(0, 256, (2, 6, 7, 3), np.uint8), NOISE.random((2, 6, 7)) < 0.3
    moved, new = masks.shifted(images, mask, down, right)
    for r, c in np.ndindex(6, 7):
        row, column = r - down, c - right
        if 0 <= row < 6 and 0 <= column < 7:
            assert (moved[:, r, c] == images[:, row, column]).all() and (new[:, r, c] == mask[:, row, column]).all()
        else:
            assert new[:, r, c].all()


def test_a_shift_leaves_something_of_the_picture():
    for shift in ((16, 0), (0, -99)):
        with pytest.raises(UserError, match=r"leaves nothing of a picture of 16x16 pixels; take less"):
            masks.shifted(np.zeros((1, 16, 16, 3), np.uint8), np.zeros((1, 16, 16), bool), *shift)


@pytest.mark.parametrize(("side", "size"), [(9, 4), (4, 9), (16, 8), (5, 5), (1, 3), (30, 21)])
def test_a_mask_of_another_size_is_white_where_any_of_it_lies(side, size):
    """Also where a white pixel lies over the border between two."""
    mask = NOISE.random((side, side)) < 0.1
    got = masks.resized(mask, size)
    share = Fraction(side, size)  # pixels of the one to a pixel of the other
    for r, c in np.ndindex(size, size):
        white = [
            all(i * share < pixel + 1 and pixel < (i + 1) * share for i, pixel in ((r, row), (c, column)))
            for row, column in zip(*np.nonzero(mask), strict=True)
        ]
        assert got[r, c] == any(white)


# --- from Python


@pytest.mark.parametrize("grow", [0, 1])
def test_kept_tokens_are_those_of_the_filled_picture_and_others_are_drawn(model, images, hole, decoded, grow):
    model.edit(images, hole, count=2, seed=3, grow=grow)
    model.edit(images, hole, count=2, seed=4, grow=grow)
    one, other = decoded
    for number, given in enumerate(model.encode(masks.filled(images, hole))):
        keep = masks.kept(hole, given.shape[1:], grow)
        assert keep.any() or grow
        for i in range(6):
            np.testing.assert_array_equal(one[number][i][keep[i // 2]], given[i // 2][keep[i // 2]])
    assert any((a != b).any() for a, b in zip(one, other, strict=True))  # another seed
    assert any((a[0] != a[1]).any() for a in one)  # another draw for the same picture


def test_what_was_in_the_hole_plays_no_part_and_the_rest_stays(model, images, hole):
    others = np.where(hole[..., None], NOISE.integers(0, 256, images.shape, np.uint8), images)
    assert (others != images).any()
    one, other = (model.edit(given, hole, count=2, seed=1, grow=1) for given in (images, others))
    assert one.shape == (3, 2, 16, 16, 3) and one.dtype == np.uint8 and one.tobytes() == other.tobytes()
    for k in range(2):
        np.testing.assert_array_equal(one[:, k][~hole], images[~hole])
    assert (one[:, 0][hole] != one[:, 1][hole]).any()
    blended = model.edit(others, hole, count=2, seed=1, grow=1, seam=2)
    near = masks.grown(hole, 2)
    for k in range(2):
        np.testing.assert_array_equal(blended[:, k][hole], one[:, k][hole])
        np.testing.assert_array_equal(blended[:, k][~near], images[~near])
    assert (blended[:, 0] != one[:, 0])[near & ~hole].any()


def test_one_mask_is_for_all_pictures(model, images, hole):
    want = model.edit(images, np.broadcast_to(hole[1], hole.shape), seed=2)
    for mask in (hole[1], hole[1:2]):
        np.testing.assert_array_equal(model.edit(images, mask, seed=2), want)


def test_all_of_a_picture_anew_is_a_sample(model, images):
    """Told no label, as an edit is."""
    new = model.edit(images, np.ones((16, 16), bool), seed=5)[:, 0]
    nothing = [np.zeros((3, *level.shape), bool) for level in model.parts.levels]
    np.testing.assert_array_equal(new, model.decode(model.fill(model.encode(images), nothing, seed=5)))


def test_a_prior_of_the_top_alone(trained, images, hole):  # noqa: F811
    model = vqvae_jax.load(trained[0])
    del model.config["priors"]["bottom"]
    new = model.edit(images, hole)[:, 0]
    np.testing.assert_array_equal(new[~hole], images[~hole])
    with pytest.raises(UserError, match="has a prior of 'top' alone; say which part is drawn anew: edit"):
        model.variations(images)


def test_variations_keep_the_top_level(model, images, decoded):
    new = model.variations(images, count=2, seed=1)
    assert new.shape == (3, 2, 16, 16, 3) and new.dtype == np.uint8
    ((top, bottom),), given = decoded, model.encode(images)
    np.testing.assert_array_equal(top, given[0].repeat(2, axis=0))
    assert (bottom[::2] != bottom[1::2]).any()
    np.testing.assert_array_equal(new, model.variations(images, count=2, seed=1))


def test_a_level_that_is_kept_whole_costs_nothing(model, images, monkeypatch):
    drawn = []
    plainly = drawing.draw
    monkeypatch.setattr(drawing, "draw", lambda prior, *given: drawn.append(prior) or plainly(prior, *given))
    model.variations(images, count=2)
    assert drawn == [model.priors["bottom"][0]]


@pytest.mark.parametrize(
    "mask",
    [np.ones((8, 8), bool), np.ones((2, 16, 16), bool), np.ones((16, 16), np.uint8), np.ones((3, 16, 16, 1), bool), 1],
    ids=lambda mask: f"{np.asarray(mask).dtype}{list(np.shape(mask))}",
)
def test_arrays_that_are_no_mask(model, images, mask):
    with pytest.raises(UserError, match=r"mask is bool \[16, 16\], .* True where it is drawn anew; got .*\["):
        model.edit(images, mask)


def test_edit_refuses(model, images, hole):
    with pytest.raises(UserError, match="its rows are not of one length"):
        model.edit(images, [[True], [True, False]])
    with pytest.raises(UserError, match="nothing is to be drawn anew in picture 1; True is what is drawn"):
        model.edit(images, hole & (np.arange(3) != 1)[:, None, None])
    for wrong in ({"grow": -1}, {"seam": 1.5}, {"seam": 17}, {"grow": True}):
        with pytest.raises(UserError, match=f"{next(iter(wrong))} is a whole number from 0 to 16; got"):
            model.edit(images, hole, **wrong)
    for asked in ({"count": 0}, {"seed": "x"}, {"temprature": 1.0}, {"label": "7"}):
        for call in (
            lambda **asked: model.edit(images, hole, **asked),
            lambda **asked: model.variations(images, **asked),
        ):
            with pytest.raises(UserError, match=next(iter(asked))):
                call(**asked)
    with pytest.raises(UserError, match="trained on images of 16 pixels"):
        model.edit(np.tile(images, (1, 2, 2, 1)), hole)
    with pytest.raises(UserError, match="the prior 'top' draws codes, which have none: take a diffusion prior, or say"):
        model.redraw(images, 0.5)
    with pytest.raises(UserError, match="the prior 'top' draws codes; leave to_seed out"):
        model.interpolate(1, 2)


# --- the command


@pytest.fixture
def drawn_masks(pictures, tmp_path):  # noqa: F811
    """A mask of each picture's name and size, white at its left in the middle square."""
    for path in pictures.rglob("*.png"):
        white = np.zeros(picture(path).shape[:2], np.uint8)
        white[:, : 35 // 2] = 255
        (tmp_path / "masks" / path.parent.name).mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(white).save(tmp_path / "masks" / path.parent.name / path.name)
    return tmp_path / "masks"


def saved(path, white):
    PIL.Image.fromarray(white).save(path)
    return path


def test_the_command(trained, pictures, drawn_masks, tmp_path, capsys):  # noqa: F811
    argv = ("sample", f"--workdir={trained[0]}", f"--images={pictures}", f"--mask={drawn_masks}", "--count=2")
    assert run(*argv, f"--output={tmp_path / 'a.png'}") == 0
    err = capsys.readouterr().err
    assert "broken.jpg is left out" in err
    assert [line for line in err.splitlines() if "draws in raster order" in line and "top and bottom: " in line]
    page, side = picture(tmp_path / "a.png"), 64 + logs.SEPARATOR
    assert page.shape[:2] == (6 * side - logs.SEPARATOR, 4 * side - logs.SEPARATOR)  # picture, with the hole, two drawn
    hole = (page[:64, side : side + 64] == logs.GREY).all(-1)
    assert hole[:, 0].all() and not hole[:, -1].any()
    for left in (2 * side, 3 * side):
        np.testing.assert_array_equal(page[:64, left : left + 64][~hole], page[:64, side : side + 64][~hole])
    assert run(*argv, "--grow=1", "--seam=2", f"--output={tmp_path / 'a.npz'}") == 0
    with np.load(tmp_path / "a.npz") as file:
        assert file["arr_0"].shape == (12, 16, 16, 3)


def test_what_was_in_the_hole_plays_no_part_in_smaller_pictures(trained, tmp_path):  # noqa: F811
    """Nor does a resized picture carry it into what is around."""
    image, white = NOISE.integers(0, 256, (50, 61, 3), np.uint8), np.zeros((50, 61), np.uint8)
    white[13:30, 25:38] = 255
    other = np.where(white[..., None], 255 - image, image)
    mask, new = saved(tmp_path / "mask.png", white), []
    for name, pixels in (("one", image), ("other", other)):
        path = saved(tmp_path / f"{name}.png", pixels)
        argv = ("sample", f"--workdir={trained[0]}", f"--images={path}", f"--mask={mask}", "--count=1")
        assert run(*argv, f"--output={tmp_path / name}.npz") == 0
        new.append((tmp_path / f"{name}.npz").read_bytes())
    assert new[0] == new[1]


def test_one_mask_of_the_trainings_size_for_all(trained, pictures, tmp_path, capsys, monkeypatch):  # noqa: F811
    """Transparent is white. A prior that sees all has nothing to be told of."""
    monkeypatch.setattr(PixelCNNPrior, "any_order", True)
    white = np.zeros((16, 16, 4), np.uint8)
    white[..., 3] = 255
    white[4:8, 4:8, 3] = 0
    argv = ("sample", f"--workdir={trained[0]}", f"--images={pictures / 'cats'}", "--count=1")
    assert run(*argv, f"--mask={saved(tmp_path / 'mask.png', white)}", f"--output={tmp_path / 'new'}") == 0
    assert "raster" not in capsys.readouterr().err
    assert len(list((tmp_path / "new").iterdir())) == 3


def test_beyond_an_edge_and_variations(trained, model, images, tmp_path):  # noqa: F811
    path = saved(tmp_path / "x.png", images[0])
    argv = ("sample", f"--workdir={trained[0]}", f"--images={path}", "--seed=2")
    assert run(*argv, "--shift=-6,0", "--count=1", f"--output={tmp_path / 'moved.npz'}") == 0
    with np.load(tmp_path / "moved.npz") as file:
        (moved,) = file["arr_0"]
    np.testing.assert_array_equal(moved[:10], images[0, 6:])
    assert run(*argv, "--variations=3", f"--output={tmp_path / 'a.png'}") == 0
    assert picture(tmp_path / "a.png").shape[1] == 4 * (64 + logs.SEPARATOR) - logs.SEPARATOR
    assert run(*argv, "--variations=3", f"--output={tmp_path / 'a.npz'}") == 0
    with np.load(tmp_path / "a.npz") as file:
        np.testing.assert_array_equal(file["arr_0"], model.variations(images[:1], 3, 2)[0])


ALONE = {
    "a mask without pictures": (["--mask=WHITE"], ["--mask", "--images=FOLDER"]),
    "a seam without pictures": (["--seam=2"], ["--seam", "--images=FOLDER"]),
    "nothing to be drawn": (["--images=OWN"], ["--mask=FILE", "--shift=DOWN,RIGHT", "--variations=N"]),
    "noise of nothing": (["--strength=0.5"], ["--strength", "--images=FOLDER"]),
    "a strength beyond": (["--images=OWN", "--strength=1.5"], ["--strength", "from 0 to 1", "'1.5'"]),
    "a strength that is none": (["--images=OWN", "--strength=nan"], ["--strength", "from 0 to 1", "'nan'"]),
    "noise and a mask": (["--images=OWN", "--strength=0.5", "--mask=WHITE"], ["draws all", "leave --mask out"]),
    "noise and variations": (["--images=OWN", "--strength=0.5", "--variations=2"], ["leave --strength out"]),
    "noise in codes": (["--images=OWN", "--strength=0.5"], ["'top' draws codes", "--mask=FILE", "--variations=N"]),
    "from codes to codes": (["--to_seed=2"], ["'top' draws codes", "leave --to_seed out"]),
    "a way from pictures": (["--images=OWN", "--to_seed=2"], ["leave own pictures out"]),
    "grown of nothing": (["--images=OWN", "--grow=1"], ["say what is drawn anew: --mask=FILE"]),
    "variations with a mask": (["--images=OWN", "--mask=WHITE", "--variations=2"], ["leave --mask out"]),
    "variations twice": (["--images=OWN", "--count=2", "--variations=2"], ["leave --count out"]),
    "continued and edited": (["--images=OWN", "--prefix=OWN"], ["--prefix", "--images", "not allowed"]),
    "a shift that is none": (["--images=OWN", "--shift=0,0"], ["--shift", "'0,0'", "such as 16,0"]),
    "too far": (["--images=OWN", "--shift=16,0"], ["shift=16,0", "16x16 pixels", "take less"]),
    "no folder": (["--images=nowhere", "--mask=WHITE"], ["--images=FOLDER", "nowhere"]),
    "no mask": (["--images=OWN", "--mask=nowhere"], ["--mask: there is no folder nowhere"]),
    "no file of a mask": (["--images=OWN", "--mask=WIHTE"], ["--mask: there is no file", "did you mean 'white.png'?"]),
    "no picture in it": (["--images=OWN", "--mask=EMPTY"], ["--mask: ", "empty holds no pictures, nor other files"]),
    "another size": (["--images=OWN", "--mask=LARGE"], ["large.png has 20x24 pixels", "own.png 16x18", "or 16x16"]),
    "a black mask": (["--images=OWN", "--mask=BLACK"], ["black.png", "nothing is to be drawn anew; white is what"]),
    "white outside of the square": (["--images=OWN", "--mask=BESIDE"], ["beside.png", "in the square in the middle"]),
    "no picture": (["--images=OWN", "--mask=TEXT"], ["text.png cannot be used: not a picture", "give a picture"]),
    "no mask of its name": (["--images=OWN", "--mask=FOLDER"], ["no mask of own.png; name it own.png", "one file"]),
    "half a token": (["--images=OWN", "--mask=WHITE", "--grow=0.5"], ["--grow", "'0.5'"]),
}


@pytest.mark.parametrize("case", ALONE)
def test_the_command_refuses(case, trained, refuse, tmp_path):  # noqa: F811
    own, there = tmp_path / "own", {}
    own.mkdir()
    saved(own / "own.png", np.zeros((18, 16, 3), np.uint8))
    (tmp_path / "folder").mkdir()
    beside = np.zeros((18, 16), np.uint8)
    beside[0] = 255
    for name, white in {
        "white": np.full((16, 16), 255, np.uint8),
        "large": np.full((24, 20), 255, np.uint8),
        "black": np.full((18, 16), 127, np.uint8),
        "beside": beside,
        "folder/other": beside,
    }.items():
        there[name.upper()] = saved(tmp_path / f"{name}.png", white)
    (tmp_path / "text.png").write_text("white")
    (tmp_path / "empty").mkdir()
    there |= {"OWN": own, "TEXT": tmp_path / "text.png", "FOLDER": tmp_path / "folder"}
    there |= {"WIHTE": tmp_path / "wihte.png", "EMPTY": tmp_path / "empty"}
    argv, words = ALONE[case]
    argv = [f"{flag}={there.get(value, value)}" for flag, _, value in (word.partition("=") for word in argv)]
    line = refuse("sample", f"--workdir={trained[0]}", *argv, f"--output={tmp_path / 'x.png'}")
    assert all(word in line for word in words), line
    assert not (tmp_path / "x.png").exists()


def test_each_order_of_drawing_is_told_in_a_line(capsys):
    model = types.SimpleNamespace(
        priors={"top": (VARPrior, None), "bottom": (MaskGITPrior, None), "a": (PixelCNNPrior, None)}
    )
    edit._tell_order(model)
    scales, raster = capsys.readouterr().err.splitlines()
    assert scales.startswith("top: the prior draws map after map") and raster.startswith("a: the prior draws in raster")


# --- maps that grow


GROWN = [Level(f"codes.{i}", (side, side), 9) for i, side in enumerate((1, 2, 3, 8))]


def test_of_maps_that_grow_a_coarse_token_stays_where_half_of_its_cell_does():
    """Strictly, any hole draws the first map anew, which is of all of the picture."""
    hole = np.zeros((1, 8, 8), bool)
    hole[:, 2:5, 2:5] = True  # nine of 64 pixels; all of one cell of 3x3, and part of its neighbours
    one, four, nine, last = masks.kept_of(hole, GROWN, grow=1)
    assert one.all() and nine.sum() == 8 and not nine[0, 1, 1]
    np.testing.assert_array_equal(four[0], hole[0].reshape(2, 4, 2, 4).mean((1, 3)) <= 0.5)
    np.testing.assert_array_equal(last, masks.kept(hole, (8, 8), 1))
    assert not masks.kept(hole, (1, 1)).any()


def test_depths_of_one_size_and_levels_are_strict_as_ever():
    hole = np.zeros((1, 8, 8), bool)
    hole[:, 0, 0] = True
    levels = [Level("top", (2, 2), 9), Level("codes.0", (4, 4), 9), Level("codes.1", (4, 4), 9)]
    for level, keep in zip(levels, masks.kept_of(hole, levels), strict=True):
        np.testing.assert_array_equal(keep, masks.kept(hole, level.shape))
    assert masks.grows(GROWN) and not masks.grows(levels)
