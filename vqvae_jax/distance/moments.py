"""Fréchet distance of two sets of features, https://arxiv.org/abs/1706.08500, by sums that add up."""

from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """Sums over a set; those of two sets, or of two devices' shares of one, are added field by field."""

    size: np.ndarray  # float64 scalar: how many there are
    total: np.ndarray  # float64 [D]
    outer: np.ndarray  # float64 [D, D]

    @property
    def mean(self) -> np.ndarray:
        """The features' mean, float64 [D]."""
        return self.total / self.size

    @property
    def covariance(self) -> np.ndarray:
        """The features' covariance, float64 [D, D], divided by size - 1."""
        return (self.outer - np.outer(self.total, self.mean)) / (self.size - 1)


def moments(features: np.ndarray, mask: np.ndarray | None = None) -> Moments:
    """Of features [N, D]; of those that the mask, bool [N], counts."""
    rows = np.asarray(features, np.float64)
    rows = rows if mask is None else rows[np.asarray(mask, bool)]
    return Moments(np.array(float(len(rows))), rows.sum(0), rows.T @ rows)


def added(one: Moments, other: Moments) -> Moments:
    """The sums over two sets together."""
    return Moments(*(a + b for a, b in zip(one, other, strict=True)))


def frechet(one: Moments, other: Moments) -> float:
    """The squared distance of the two Gaussians, |μ - ν|² + tr(A + B - 2 (A^½ B A^½)^½); never below 0."""
    a, b = one.covariance, other.covariance
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    between = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ b @ root), 0)).sum()
    apart = np.sum((one.mean - other.mean) ** 2)
    return max(float(apart + np.trace(a) + np.trace(b) - 2 * between), 0.0)
