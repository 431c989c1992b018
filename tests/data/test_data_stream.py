"""Streamed batches are those of ArrayData, from any step, on any process; a bad image is replaced, named and masked."""

import threading
import time
from importlib.util import find_spec

import numpy as np
import pytest

from vqvae_jax.data import stream as stream_module
from vqvae_jax.data.arrays import ArrayData, Arrays, View
from vqvae_jax.data.decoded import Unreadable
from vqvae_jax.data.stream import Lazy, StreamData
from vqvae_jax.types import UserError

COUNT, SHAPE = 23, (2, 3, 3)
needs_grain = pytest.mark.skipif(find_spec("grain") is None, reason="grain is not installed")


def image(row: int) -> np.ndarray:
    return np.full(SHAPE, row, np.uint8)


def slow_now_and_then(row: int) -> np.ndarray:
    time.sleep(0.003 * (row % 5 == 0))  # so that threads overtake each other
    return image(row)


def lazy(read=slow_now_and_then) -> Arrays:
    return Arrays(Lazy(COUNT, SHAPE, read), np.arange(COUNT, dtype=np.int32))


def broken(*rows: int):
    def read(row):
        if row in rows:
            raise Unreadable(f"row {row} is broken")
        return image(row)

    return read


def in_memory() -> Arrays:
    return Arrays(np.stack([image(row) for row in range(COUNT)]), np.arange(COUNT, dtype=np.int32))


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])
        assert one[name].dtype == other[name].dtype


def test_lazy_is_indexed_like_an_array():
    images, whole = lazy().image, in_memory().image
    assert images.shape == whole.shape and len(images) == COUNT
    for index in (3, -1, np.int64(4), slice(2, 9, 3), slice(None), np.array([5, 5, -2, 0]), [1, 2], np.arange(0)):
        np.testing.assert_array_equal(images[index], whole[index])
    np.testing.assert_array_equal(images[np.arange(COUNT) % 2 == 0], whole[::2])
    with pytest.raises(IndexError):
        images[COUNT]


def test_the_next_readable_image_stands_for_a_bad_one_which_is_named_once(capfd):
    images = Lazy(COUNT, SHAPE, broken(4, 5, COUNT - 1))
    for _ in range(2):
        rows = np.array([3, 4, 5, COUNT - 1])
        assert images[rows][:, 0, 0, 0].tolist() == [3, 6, 6, 0]
        assert images.readable(rows).tolist() == [True, False, False, False]
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 3 and any("image 4 " in line and "row 4 is broken" in line for line in said)
    nothing = Lazy(2, SHAPE, broken(0, 1))
    for _ in range(2):
        with pytest.raises(UserError, match="none of the 2 images can be read; the first: row 0 is broken"):
            nothing[0]


@needs_grain
@pytest.mark.parametrize("batch_size", [1, 5, 30])  # 30 reaches over an epoch
def test_streamed_batches_are_those_of_memory(batch_size):
    stream, memory = StreamData(lazy(), batch_size, seed=3), ArrayData(in_memory(), batch_size, seed=3)
    assert len(stream) == len(memory) and stream.steps_per_epoch == memory.steps_per_epoch
    for step in range(12):
        assert_equal(stream.batch(step), memory.batch(step))
    for size in (None, 4, 23, 40):
        one, other = list(stream.evaluation(size)), list(memory.evaluation(size))
        assert len(one) == len(other)
        for batches in zip(one, other, strict=True):
            assert_equal(*batches)
    stream.close()


@needs_grain
def test_a_step_out_of_sequence_begins_there():
    stream, memory = StreamData(lazy(), 4, seed=0), ArrayData(in_memory(), 4, seed=0)
    for step in (0, 1, 7, 8, 7, 1000, 2, 3):
        assert_equal(stream.batch(step), memory.batch(step))
    stream.close()


@needs_grain
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_together_see_the_batches_of_one(processes):
    one = ArrayData(in_memory(), 8, seed=1)
    parts = [StreamData(lazy(), 8, 1, process, processes) for process in range(processes)]
    for step in (5, 6):
        batches = [part.batch(step) for part in parts]
        assert_equal({k: np.concatenate([b[k] for b in batches]) for k in batches[0]}, one.batch(step))
    evaluations = zip(*(part.evaluation() for part in parts), strict=True)
    for batches, whole in zip(evaluations, one.evaluation(), strict=True):
        assert_equal({k: np.concatenate([b[k] for b in batches]) for k in batches[0]}, whole)
    for part in parts:
        part.close()
    with pytest.raises(UserError, match="set train.batch_size to 8"):
        StreamData(lazy(), 9, 0, 0, 4)


@needs_grain
def test_a_part_of_the_images_is_streamed_and_bad_ones_are_masked(capfd):
    rows = np.array([20, 4, 11, 7, 0])
    arrays = lazy(broken(4, 12)).take(rows)
    assert isinstance(arrays.image, View)
    stream = StreamData(arrays, 2, seed=0)
    batches = list(stream.evaluation())
    assert [batch["mask"].tolist() for batch in batches] == [[True, False], [True, True], [True, False]]
    assert np.concatenate([batch["image"][:, 0, 0, 0] for batch in batches]).tolist() == [20, 5, 11, 7, 0, 20]
    assert np.concatenate([batch["label"] for batch in batches]).tolist() == [20, 4, 11, 7, 0, 20]
    assert capfd.readouterr().err.count("image 4 cannot be read") == 1


@needs_grain
def test_in_training_another_of_the_batch_stands_for_a_bad_one_with_its_label():
    """A row's neighbour may be held out, and has another label."""
    stream, memory = StreamData(lazy(broken(4, 12)), 8, seed=0), ArrayData(in_memory(), 8, seed=0)
    for step in range(6):
        batch, whole = stream.batch(step), memory.batch(step)
        assert not {4, 12} & set(batch["index"].tolist())
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["index"])
        np.testing.assert_array_equal(batch["label"], batch["index"])
        same = ~np.isin(whole["index"], (4, 12))
        np.testing.assert_array_equal(batch["index"][same], whole["index"][same])
        assert set(batch["index"].tolist()) <= set(whole["index"].tolist())
    stream.close()


@needs_grain
def test_where_nothing_of_a_batch_can_be_read_another_of_the_part_stands_for_it():
    """One image a process: the neighbour is held out, and would come under the label of the bad one."""
    whole = lazy(broken(2))
    part = Arrays(View(whole.image, rows := np.array([0, 1, 2, 4, 5])), whole.label[rows])
    stream = StreamData(part, 1, seed=0)
    seen = [stream.batch(step) for step in range(10)]
    stream.close()
    for batch in seen:
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"])
    assert sorted(int(batch["label"][0]) for batch in seen) == sorted(2 * [0, 1, 4, 5, 4])


def test_without_grain_it_is_said_before_a_training(monkeypatch):
    monkeypatch.setattr(stream_module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="the package grain, which is missing: pip install grain"):
        StreamData(lazy(), 4, seed=0)


@needs_grain
def test_threads_and_errors_come_to_an_end():
    def threads():
        return {thread for thread in threading.enumerate() if thread.name.startswith("grain")}

    before = threads()
    stream = StreamData(lazy(), 4, seed=0)
    stream.batch(0)
    next(evaluation := stream.evaluation())
    assert threads() - before
    evaluation.close()
    stream.close()
    give_up = time.monotonic() + 10
    while threads() - before and time.monotonic() < give_up:
        time.sleep(0.01)
    assert not threads() - before

    def fails(row):
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        StreamData(lazy(fails), 4, seed=0).batch(0)
