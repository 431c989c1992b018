"""Batches: how large, how far ahead of what is fetched, and what happens where memory does not do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vqvae_jax import codec
from vqvae_jax.priors.draw import maps_at_once

GB = 1 << 30


class Pending:
    """Stands for an array that the device still computes: it notes when it is fetched."""

    def __init__(self, number, rows, events):
        self.number, self.rows, self.events = number, rows, events
        events.append(("begun", number))

    def __array__(self, dtype=None, copy=None):
        self.events.append(("fetched", self.number))
        return self.rows


def check_dispatched_ahead(events, count):
    """One result is fetched only when the two after it have begun."""
    assert sorted(events) == sorted((what, i) for what in ("begun", "fetched") for i in range(count))
    for i in range(count):
        assert all(events.index(("begun", j)) < events.index(("fetched", i)) for j in range(i, min(i + 3, count)))
        assert all(events.index(("begun", j)) > events.index(("fetched", i)) for j in range(i + 3, count))


def test_batches_are_dispatched_before_the_last_one_is_fetched():
    events, rows = [], np.arange(22).reshape(11, 2)

    def function(batch):
        return {"rows": Pending(len(events) - sum(what == "fetched" for what, _ in events), batch, events)}

    np.testing.assert_array_equal(codec.in_batches(function, rows, size=2)["rows"], rows)
    check_dispatched_ahead(events, 6)


@pytest.mark.parametrize("count", [1, 4, 5, 8])
def test_batches_put_together_are_the_whole(count):
    one, other = np.arange(count * 3).reshape(count, 3), np.arange(count)
    shapes = []

    def function(a, b):
        shapes.append((a.shape, b.shape))
        return jnp.asarray(a) + 1, [jnp.asarray(b) * 2]

    a, [b] = codec.in_batches(function, one, other, size=4)
    np.testing.assert_array_equal(a, one + 1)
    np.testing.assert_array_equal(b, other * 2)
    assert set(shapes) == {((4, 3), (4,))}


@pytest.mark.parametrize("when", ["begun", "fetched"])
def test_batches_that_memory_does_not_hold_are_halved(when):
    tried = []

    class Late:
        def __init__(self, rows):
            self.rows = rows

        def __array__(self, dtype=None, copy=None):
            return check(self.rows)

    def check(rows):
        if len(rows) > 4:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
        return rows

    def function(rows):
        tried.append(len(rows))
        return check(rows) if when == "begun" else Late(rows)

    rows = np.arange(13)
    np.testing.assert_array_equal(codec.in_batches(function, rows, size=16), rows)
    assert list(dict.fromkeys(tried)) == [16, 8, 4]


@pytest.mark.parametrize(("error", "size"), [("RESOURCE_EXHAUSTED", 1), ("INTERNAL: another one", 16)])
def test_other_errors_are_raised(error, size):
    def function(rows):
        raise jax.errors.JaxRuntimeError(error)

    with pytest.raises(jax.errors.JaxRuntimeError, match=error):
        codec.in_batches(function, np.arange(3), size=size)


@pytest.mark.parametrize(
    ("memory", "side", "size"),
    [
        (None, 16, 64),
        (None, 64, 64),
        (None, 128, 16),
        (None, 1024, 1),
        (60 * GB, 32, 1024),
        (60 * GB, 64, 1024),
        (60 * GB, 28, 1024),
        (60 * GB, 96, 1024),
        (60 * GB, 100, 1024),
        (60 * GB, 256, 128),
        (60 * GB, 4096, 1),
        (12 * GB, 64, 512),
        (1, 64, 64),
    ],
)
def test_images_at_once(memory, side, size):
    assert codec.images_at_once(side, side, memory) == size


@pytest.mark.parametrize(
    ("size", "count", "want"),
    [(64, 3, 64), (16, 3, 16), (1024, 1, 64), (1024, 65, 128), (1024, 128, 128), (1024, 900, 1024), (1024, 9999, 1024)],
)
def test_few_images_are_no_large_batch(size, count, want):
    assert codec.no_more(size, count) == want


@pytest.mark.parametrize(
    ("memory", "maps"), [(None, 64), (1, 64), (3 * GB, 64), (12 * GB, 256), (16 * GB, 512), (60 * GB, 1024)]
)
def test_maps_at_once(memory, maps):
    assert maps_at_once(memory) == maps
