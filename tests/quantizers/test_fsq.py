"""FSQ beside a written-out grid and the formula in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_quantizers import kinds, vectors

from vqvae_jax.quantizers import FiniteScalarQuantizer
from vqvae_jax.types import UserError

GRID = [  # of levels 3, 4: the first channel changes fastest
    *([-1, -1], [0, -1], [1, -1]),
    *([-1, -0.5], [0, -0.5], [1, -0.5]),
    *([-1, 0], [0, 0], [1, 0]),
    *([-1, 0.5], [0, 0.5], [1, 0.5]),
]


def bounded_by_hand(z, levels):
    """[N, D] → [N, D], before rounding, one number after the other."""
    out = np.zeros(z.shape)
    for (n, d), value in np.ndenumerate(z.astype(np.float64)):
        half = (levels[d] - 1) * 0.999 / 2
        offset = 0.0 if levels[d] % 2 else 0.5
        out[n, d] = half * np.tanh(value + np.arctanh(offset / half)) - offset
    return out


def test_all_codes_of_a_small_grid():
    quantizer = FiniteScalarQuantizer((3, 4))
    book = quantizer.init(jax.random.key(0))
    assert quantizer.vocab_sizes == (12,) and quantizer.input_dim == quantizer.output_dim == 2
    np.testing.assert_array_equal(quantizer.lookup(book, (jnp.arange(12).reshape(1, 3, 4),)).reshape(12, 2), GRID)
    line = np.linspace(-4, 4, 41, dtype=np.float32)
    z = np.stack(np.meshgrid(line, line), -1)[None]  # [1, 41, 41, 2]
    out = quantizer(book, z)
    assert set(np.ravel(out.indices[0])) == set(range(12))
    np.testing.assert_array_equal(out.z_q, np.asarray(GRID)[np.asarray(out.indices[0])])


@pytest.mark.parametrize("levels", [(8, 6, 5), (3, 4), (7, 5, 5, 5, 5)], ids=str)
def test_equals_the_formula(levels):
    quantizer = FiniteScalarQuantizer(levels)
    z = vectors(0, 2, 8, 8, len(levels)) * 2
    out = quantizer(quantizer.init(jax.random.key(0)), z)
    whole = np.round(bounded_by_hand(z.reshape(-1, len(levels)), levels)).astype(int)
    np.testing.assert_allclose(out.z_q.reshape(whole.shape), whole / (np.array(levels) // 2), rtol=1e-6)
    index, base = 0, 1
    for d, level in enumerate(levels):
        index = index + (whole[:, d] + level // 2) * base
        base *= level
    np.testing.assert_array_equal(np.ravel(out.indices[0]), index)
    np.testing.assert_array_equal(quantizer(quantizer.init(jax.random.key(0)), z * 0).z_q, 0)


def test_every_code_can_be_reached():
    quantizer = FiniteScalarQuantizer((8, 6, 5))
    line = np.linspace(-3, 3, 30, dtype=np.float32)
    out = quantizer(quantizer.init(jax.random.key(0)), np.stack(np.meshgrid(line, line, line), -1))
    assert len(np.unique(out.indices[0])) == 240


def test_the_gradient_is_that_of_the_bound():
    levels = (8, 5)
    quantizer = FiniteScalarQuantizer(levels)
    book, z, weight = quantizer.init(jax.random.key(0)), vectors(0, 1, 3, 3, 2), vectors(1, 1, 3, 3, 2)
    got = jax.grad(lambda z: jnp.sum(quantizer(book, z, train=True).z_q * weight))(z)
    step, flat = 1e-6, z.reshape(-1, 2).astype(np.float64)
    slope = (bounded_by_hand(flat + step, levels) - bounded_by_hand(flat - step, levels)) / (2 * step)
    np.testing.assert_allclose(got.reshape(-1, 2), slope / (np.array(levels) // 2) * weight.reshape(-1, 2), rtol=1e-3)


def test_there_is_nothing_to_learn_and_no_key_is_needed():
    quantizer = FiniteScalarQuantizer((8, 6, 5))
    book = quantizer.init(jax.random.key(0))
    assert kinds(book.codes) == ((0, 3), "float32") and not book.params and not book.stats
    out = quantizer(book, vectors(0, 1, 2, 2, 3), train=True)
    assert out.losses == {} and out.fresh is None and out.codebook is book


def test_as_many_values_as_a_channel_may_have_can_be_reached():
    """At 1,003 the first and the last never are: the paper's interval is narrower by a share of itself."""
    quantizer = FiniteScalarQuantizer((1001,))
    line = np.linspace(-30, 30, 100_001, dtype=np.float32)[:, None]
    np.testing.assert_array_equal(np.unique(quantizer(quantizer.init(jax.random.key(0)), line).indices[0]), range(1001))
    assert np.round(bounded_by_hand(line[-1:], (1003,))) == 500  # of 501
    with pytest.raises(UserError, match="at most 1001 a channel, of more the outermost can never be reached"):
        FiniteScalarQuantizer((8, 1003))


@pytest.mark.parametrize("levels", [(), (8, 2), (256, 256, 257)], ids=str)
def test_levels_that_cannot_be(levels):
    with pytest.raises(UserError, match="levels"):
        FiniteScalarQuantizer(levels)
