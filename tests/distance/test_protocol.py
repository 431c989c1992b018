"""Distances by another road: square roots of matrices, loops over pairs, and sets whose distance is known."""

import itertools

import numpy as np
import pytest

from vqvae_jax.distance.kernel import kernel_distance
from vqvae_jax.distance.moments import added, frechet, moments
from vqvae_jax.distance.neighbours import precision_and_recall
from vqvae_jax.distance.protocol import FEWEST, distances, is_tie, sides
from vqvae_jax.types import UserError

DIM = 6


def drawn(count, seed=0, shift=0.0, scale=1.0, dim=DIM):
    return (np.random.default_rng(seed).normal(shift, scale, (count, dim))).astype(np.float32)


def root(matrix):
    """Of any matrix with positive eigenvalues, by Denman and Beavers' iteration."""
    y, z = matrix, np.eye(len(matrix))
    for _ in range(60):
        y, z = (y + np.linalg.inv(z)) / 2, (z + np.linalg.inv(y)) / 2
    return y


def frechet_by_hand(x, y):
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    return np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(a + b - 2 * root(a @ b))


def test_frechet_is_the_formula():
    x, y = drawn(90).astype(np.float64), drawn(70, 1, 0.4, 1.7).astype(np.float64) @ np.diag(np.arange(1.0, 7.0))
    assert frechet(moments(x), moments(y)) == pytest.approx(frechet_by_hand(x, y), rel=1e-9)
    assert frechet(moments(x), moments(x)) == pytest.approx(0, abs=1e-9)


def test_frechet_of_gaussians_that_are_known():
    """N(0, 1) and N(1, 4) in D dimensions: D (1 + 1)."""
    x, y = drawn(200_000, 0), drawn(200_000, 1, 1.0, 2.0)
    assert frechet(moments(x), moments(y)) == pytest.approx(2 * DIM, rel=0.02)


def test_fewer_images_than_channels_is_no_trouble():
    """The covariance then has no inverse; nothing is NaN."""
    x, y = drawn(10, dim=40), drawn(12, 1, dim=40)
    assert np.isfinite(frechet(moments(x), moments(y)))


def test_sums_add_up_and_padding_counts_for_nothing():
    x = drawn(50)
    padded = np.concatenate([x[30:], np.full((7, DIM), 1e6, np.float32)])
    both = added(moments(x[:30]), moments(padded, np.arange(27) < 20))
    for one, other in zip(both, moments(x), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def test_the_kernel_distance_is_the_mean_over_pairs():
    x, y = drawn(9).astype(np.float64), drawn(7, 1, 0.5).astype(np.float64)
    kernel = lambda a, b: (a @ b / DIM + 1) ** 3  # noqa: E731
    own = [np.mean([kernel(a, b) for a, b in itertools.permutations(z, 2)]) for z in (x, y)]
    across = np.mean([kernel(a, b) for a in x for b in y])
    assert kernel_distance(x, y) == pytest.approx(sum(own) - 2 * across)


def test_the_kernel_distance_is_unbiased_where_frechets_is_not():
    """Of small sets of the same kind: the mean of one is 0, the other grows as sets shrink."""
    pairs = [(drawn(20, 2 * i), drawn(20, 2 * i + 1)) for i in range(200)]
    kernels = [kernel_distance(x, y) for x, y in pairs]
    assert abs(np.mean(kernels)) < 3 * np.std(kernels) / np.sqrt(len(pairs))
    assert np.mean([frechet(moments(x), moments(y)) for x, y in pairs]) > 0.5


def precision_by_hand(real, made, k):
    def reach(x):
        return [sorted(np.linalg.norm(x - one, axis=1))[k] for one in x]

    def share(of, among):
        radii = reach(among)
        return np.mean([any(np.linalg.norm(o - a) <= r for a, r in zip(among, radii, strict=True)) for o in of])

    return share(made, real), share(real, made)


def test_precision_and_recall_by_loops():
    real, made = drawn(60).astype(np.float64), drawn(50, 1, 0.8, 0.6).astype(np.float64)
    assert precision_and_recall(real, made) == pytest.approx(precision_by_hand(real, made, 3))


def test_recall_sees_lost_modes_and_precision_strangers():
    modes = np.repeat(np.eye(4) * 50, 50, 0)
    real = modes + np.random.default_rng(0).normal(size=modes.shape)
    half = real[:100] + 1e-3
    assert precision_and_recall(real, half) == pytest.approx((1, 0.5), abs=0.05)
    strangers = np.concatenate([real, real + 500])[::2] + 1e-3
    assert precision_and_recall(real, strangers)[0] == pytest.approx(0.5, abs=0.05)


def test_a_sorted_set_is_divided_fairly():
    """OpenMoji is in the order of its names: neither side may be one end of the alphabet."""
    rows = sides(1000, 400)
    assert len(rows.aside) == len(rows.measured) == 400 and len(rows.reference) == 600
    assert sorted([*rows.reference, *rows.aside]) == list(range(1000))
    assert abs(rows.aside.mean() - 500) < 50 and abs(rows.measured.mean() - 200) < 20
    assert sides(1000, 400, seed=1).aside.tolist() != rows.aside.tolist()
    assert sides(1000, 400).aside.tolist() == rows.aside.tolist()


def test_of_few_training_images_no_more_than_half_are_set_aside():
    rows = sides(100, 400)
    assert len(rows.aside) == len(rows.measured) == len(rows.reference) == 50
    assert rows.measured.max() > 300


@pytest.mark.parametrize(("training", "images"), [(30, 500), (5000, 5)])
def test_too_few_images_are_told(training, images):
    with pytest.raises(UserError, match=f"{images} and {training}"):
        sides(training, images)


def test_a_frechet_distance_wants_so_many_images():
    reference = drawn(FEWEST, 2)
    assert "fd_net" not in distances("net", reference, drawn(FEWEST - 1))
    assert "fd_net" not in distances("net", reference[:-1], drawn(FEWEST))
    found = distances("net", reference, drawn(FEWEST))
    assert set(found) == {"fd_net", "fd_net_spread", "kd_net", "kd_net_spread", "precision", "recall"}
    assert found == distances("net", reference, drawn(FEWEST))


def test_the_spread_is_what_other_draws_show():
    """The standard error of one set beside the deviation over thirty."""
    reference = drawn(FEWEST, 99)
    found = [distances("net", reference, drawn(FEWEST, seed, 0.3)) for seed in range(30)]
    for name in ("fd_net", "kd_net"):
        true = np.std([one[name] for one in found])
        assert np.median([one[f"{name}_spread"] for one in found]) == pytest.approx(true, rel=0.35)


def test_ties():
    assert is_tie(5.0, 5.4, (0.1, 0.2)) and not is_tie(5.0, 5.5, (0.1, 0.2))  # twice 0.224
    draws = np.random.default_rng(0).normal(size=(20_000, 2))
    assert np.mean([not is_tie(*pair, (1.0, 1.0)) for pair in draws]) == pytest.approx(0.05, abs=0.01)


def test_what_is_scaled_is_the_kernel_alone():
    x, y = drawn(FEWEST), drawn(FEWEST, 1, 0.5)
    plain, scaled = distances("net", x, y), distances("net", 10 * x, 10 * y, scale=10)
    assert scaled["fd_net"] == pytest.approx(100 * plain["fd_net"], rel=1e-5)
    assert scaled["kd_net"] == pytest.approx(plain["kd_net"], rel=1e-4)
