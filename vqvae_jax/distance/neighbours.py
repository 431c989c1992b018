"""Precision and recall by nearest neighbours, https://arxiv.org/abs/1904.06991."""

import numpy as np

NEIGHBOURS = 3  # as in the paper


def precision_and_recall(real: np.ndarray, made: np.ndarray, k: int = NEIGHBOURS) -> tuple[float, float]:
    """Shares of features [M, D] that lie among the real ones [N, D], and of the real ones that lie among them.

    A place lies among a set where some member of it is no farther than that member's k-th neighbour in its own set.
    Both sets want more than k members.
    """
    x, y = np.asarray(real, np.float64), np.asarray(made, np.float64)
    across = _squares(x, y)  # [N, M]
    inside = across <= _reach(x, k)[:, None]
    covered = across <= _reach(y, k)[None]
    return float(inside.any(0).mean()), float(covered.any(1).mean())


def _reach(x: np.ndarray, k: int) -> np.ndarray:
    """The squared distance of each row to its k-th neighbour, [N]; the row itself is the one before the first."""
    squares = _squares(x, x)
    np.fill_diagonal(squares, 0)
    return np.partition(squares, k, axis=1)[:, k]


def _squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared distances between all rows of x [N, D] and of y [M, D], float64 [N, M]."""
    found = np.sum(x**2, 1)[:, None] + np.sum(y**2, 1)[None] - 2 * x @ y.T
    return np.maximum(found, 0)
