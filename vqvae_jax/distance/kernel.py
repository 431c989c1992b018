"""Kernel distance, https://arxiv.org/abs/1801.01401: unbiased, so fair to small sets; it may fall below 0."""

from collections.abc import Callable

import numpy as np


def kernel_distance(one: np.ndarray, other: np.ndarray) -> float:
    """The squared maximum mean discrepancy by the kernel (x·y / D + 1)³, of features [N, D] and [M, D]; N, M > 1."""
    return kernel_distances(one, other)(np.arange(len(one)))


def kernel_distances(one: np.ndarray, other: np.ndarray) -> Callable[[np.ndarray], float]:
    """The same of chosen rows of the first, int [n]: products are taken once."""
    x, y = np.asarray(one, np.float64), np.asarray(other, np.float64)
    own, across, fixed = _kernel(x, x), _kernel(x, y).mean(1), _apart(_kernel(y, y))
    return lambda rows: _apart(own[np.ix_(rows, rows)]) + fixed - 2 * float(across[rows].mean())


def _apart(kernel: np.ndarray) -> float:
    """The mean over pairs of different rows."""
    return float(kernel.sum() - np.trace(kernel)) / (len(kernel) * (len(kernel) - 1))


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    root = x @ y.T / x.shape[1] + 1
    return root * root * root
