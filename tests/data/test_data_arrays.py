"""Batches are a pure function of (seed, step); evaluation covers the split once; the hold-out is by group."""

import numpy as np
import pytest
from PIL import Image

from vqvae_jax import data
from vqvae_jax.data import ArrayData, Arrays
from vqvae_jax.data.arrays import Grey, held_out
from vqvae_jax.types import UserError


def numbered(count: int) -> Arrays:
    """Image i is filled with i and has label i."""
    image = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 2, 2, 3))
    return Arrays(image, np.arange(count, dtype=np.int32), text=tuple(map(str, range(count))))


def stream(source: ArrayData, steps: int) -> np.ndarray:
    return np.concatenate([source.batch(step)["index"] for step in range(steps)])


@pytest.mark.parametrize("batch_size", [1, 4, 7, 25])  # 25 reaches over three epochs
def test_every_epoch_shows_every_image_once(batch_size):
    epochs = stream(ArrayData(numbered(10), batch_size, seed=0), 280)[: 280 // 10 * 10].reshape(-1, 10)
    assert (np.sort(epochs, axis=1) == np.arange(10)).all()
    assert not (epochs[0] == epochs[1]).all()


def test_the_stream_does_not_depend_on_the_batch_size():
    a, b = (stream(ArrayData(numbered(10), size, seed=3), 60 // size) for size in (4, 15))
    np.testing.assert_array_equal(a, b)


def test_a_batch_depends_on_seed_and_step_alone():
    source, again = ArrayData(numbered(10), 4, seed=0), ArrayData(numbered(10), 4, seed=0)
    source.batch(0)
    np.testing.assert_array_equal(source.batch(17)["index"], again.batch(17)["index"])
    assert not (stream(source, 5) == stream(ArrayData(numbered(10), 4, seed=1), 5)).all()


def test_the_order_is_the_same_in_every_version_and_on_every_machine():
    np.testing.assert_array_equal(ArrayData(numbered(8), 8, seed=0).batch(0)["index"], [3, 2, 1, 6, 0, 7, 4, 5])


def test_images_labels_and_index_belong_together_and_have_their_types():
    batch = ArrayData(numbered(10), 4, seed=0).batch(2)
    assert batch["image"].shape == (4, 2, 2, 3) and batch["image"].dtype == np.uint8
    assert batch["label"].dtype == batch["index"].dtype == np.int32
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["index"])
    np.testing.assert_array_equal(batch["label"], batch["index"])
    assert "label" not in ArrayData(Arrays(numbered(10).image), 4, seed=0).batch(0)


def test_processes_together_see_the_batches_of_one():
    one = ArrayData(numbered(10), 6, seed=0)
    three = [ArrayData(numbered(10), 6, 0, process, 3) for process in range(3)]
    joined = np.concatenate([part.batch(5)["index"] for part in three])
    np.testing.assert_array_equal(joined, one.batch(5)["index"])
    batches = [list(part.evaluation(9)) for part in three]
    assert [len(part) for part in batches] == [2, 2, 2]
    shown = [np.concatenate([part[i]["index"][part[i]["mask"]] for part in batches]) for i in range(2)]
    np.testing.assert_array_equal(np.concatenate(shown), np.arange(10))


@pytest.mark.parametrize("batch_size", [1, 4, 5, 10, 16])
def test_evaluation_covers_the_split_once_in_order(batch_size):
    batches = list(ArrayData(numbered(10), 4, seed=0).evaluation(batch_size))
    assert {batch["image"].shape for batch in batches} == {(batch_size, 2, 2, 3)}
    mask, index = (np.concatenate([batch[name] for batch in batches]) for name in ("mask", "index"))
    np.testing.assert_array_equal(index[mask], np.arange(10))
    assert not index[~mask].any() and mask.dtype == bool


def test_steps_per_epoch_is_not_rounded_down():
    assert ArrayData(numbered(10), 4, seed=0).steps_per_epoch == 2.5


def test_a_batch_size_that_does_not_divide_says_what_does():
    with pytest.raises(UserError, match="set train.batch_size to 8"):
        ArrayData(numbered(10), 9, 0, 0, 4)
    with pytest.raises(UserError, match="no images"):
        ArrayData(numbered(0), 4, 0)


def test_groups_are_held_out_whole():
    groups = tuple(f"group {i // 3}" for i in range(6000))
    held = held_out(Arrays(np.zeros((6000, 1, 1, 3), np.uint8), group=groups))
    assert 0.03 < held.mean() < 0.07
    assert (held.reshape(-1, 3) == held.reshape(-1, 3)[:, :1]).all()


def test_equal_images_are_held_out_together():
    image = np.random.default_rng(0).integers(0, 256, (2000, 2, 2, 3), np.uint8)
    held = held_out(Arrays(np.concatenate([image, image])))
    np.testing.assert_array_equal(held[:2000], held[2000:])
    assert 0.03 < held.mean() < 0.07


def test_take_keeps_everything_in_step():
    part = numbered(10).take(np.array([7, 2]))
    assert part.text == ("7", "2") and list(part.label) == [7, 2] and part.image[:][:, 0, 0, 0].tolist() == [7, 2]
    assert part.num_labels == 8 and Arrays(part.image).num_labels == 0


def test_an_unknown_data_set_names_the_nearest():
    section = {"name": "openmojy", "path": "", "split": "train", "test_split": "test", "image_size": 64}
    with pytest.raises(UserError, match="did you mean 'openmoji'. There are: openmoji, npz"):
        data.load(section, "train")
    with pytest.raises(ValueError, match="train, validation, test"):
        data.load(section, "valid")


def test_colour_as_grey_is_what_pillow_makes_of_it():
    colour = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
    grey = Grey(colour)
    assert grey.shape == (5, 4, 6, 1) and len(grey) == 5
    want = np.stack([np.asarray(Image.fromarray(one).convert("L")) for one in colour])[..., None]
    for index in (2, slice(1, 4), np.array([4, 0])):
        np.testing.assert_array_equal(grey[index], want[index])
