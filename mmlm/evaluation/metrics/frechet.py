"""Evaluation room: the Frechet distance between two sets of features, each taken for a normal distribution.

d^2 = |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^(1/2)), by D. C. Dowson, B. V. Landau (1982); with the features of a
certain network, Heusel et al., "GANs Trained by a Two Time-Scale Update Rule" (2017). The last trace is that of the
singular values of A B^T where S1 = A^T A and S2 = B^T B: no root of a product that is not symmetric is taken, and
covariances without full rank are as good as others.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmlm.errors import InputError
from mmlm.evaluation.statistics import Array

_SYMMETRIC = 1e-6  # how far a covariance may be from its transpose, relative to its largest entry


@dataclass(frozen=True, slots=True)
class Normal:
    """A mean `[D]` and a factor `[R, D]` of the covariance, which is its transpose times itself."""

    mean: Array
    factor: Array


def version(extractor: str) -> str:
    """What a result says of this metric: a distance means something only beside the features it was taken of."""
    return f"frechet/{extractor}-1"


def of_features(features: NDArray[np.floating]) -> Normal:
    """From features `[N, D]` of at least two pictures; the covariance divides by N - 1."""
    table = np.asarray(features, dtype=np.float64)
    if table.ndim != 2 or len(table) < 2 or not table.shape[1] or not np.isfinite(table).all():
        raise InputError(
            f"features of shape {list(table.shape)}: expected finite numbers [N, D] of at least two pictures"
        )
    mean = table.mean(axis=0)
    factor = (table - mean) / np.sqrt(len(table) - 1)
    if len(table) <= table.shape[1]:
        return Normal(mean, factor)
    # Of many pictures the triangle of the QR decomposition holds the same, and no square is formed.
    triangle: Array = np.linalg.qr(factor)[1]
    return Normal(mean, triangle)


def of_moments(mean: NDArray[np.floating], covariance: NDArray[np.floating]) -> Normal:
    """From a mean `[D]` and a covariance `[D, D]`, which may lack full rank. InputError where it is not symmetric or
    has a negative eigenvalue beyond rounding."""
    m, s = np.asarray(mean, dtype=np.float64), np.asarray(covariance, dtype=np.float64)
    if m.ndim != 1 or not m.size or s.shape != (m.size, m.size) or not (np.isfinite(m).all() and np.isfinite(s).all()):
        raise InputError(f"mean {list(m.shape)} and covariance {list(s.shape)}: expected finite numbers [D] and [D, D]")
    size = np.abs(s).max()
    if np.abs(s - s.T).max() > _SYMMETRIC * size:
        raise InputError("covariance: expected a symmetric matrix")
    found, vectors = np.linalg.eigh((s + s.T) / 2)
    if found.min() < -_SYMMETRIC * size:
        raise InputError(f"covariance: expected no negative eigenvalue, got {found.min():.3g}")
    # A root magnifies rounding: what is nothing beside the largest eigenvalue is nothing.
    found = np.where(found > m.size * np.finfo(np.float64).eps * found.max(), found, 0.0)
    return Normal(m, np.sqrt(found)[:, None] * vectors.T)


def distance(first: Normal, second: Normal) -> float:
    """The squared distance d^2, the number that is published; 0 at least."""
    if first.mean.shape != second.mean.shape:
        raise InputError(
            f"features of {first.mean.size} and of {second.mean.size} numbers: expected those of one extractor"
        )
    apart = float(np.sum((first.mean - second.mean) ** 2))
    spread = float(np.sum(first.factor**2) + np.sum(second.factor**2))
    shared = float(np.linalg.svd(first.factor @ second.factor.T, compute_uv=False).sum())
    return max(0.0, apart + spread - 2 * shared)
