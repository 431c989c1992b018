"""Kernel distance, https://arxiv.org/abs/1801.01401: unbiased, so fair to small sets; it may fall below 0."""

import numpy as np


def kernel_distance(one: np.ndarray, other: np.ndarray) -> float:
    """The squared maximum mean discrepancy by the kernel (x·y / D + 1)³, of features [N, D] and [M, D]; N, M > 1."""
    x, y = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return _apart(x) + _apart(y) - 2 * float(np.mean(_kernel(x, y)))


def _apart(x: np.ndarray) -> float:
    """The mean over pairs of different rows."""
    values = _kernel(x, x)
    return float(values.sum() - np.trace(values)) / (len(x) * (len(x) - 1))


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3
