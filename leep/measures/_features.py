"""Labelled features: their check, and the products that several measures share."""

from __future__ import annotations

import numpy as np

from leep.measures._blas import one_thread
from leep.measures._check import check_finite, check_labels, check_matrix, check_same_length

LARGE_PRODUCT = 1 << 29  # multiplications of a matrix product from which on BLAS's threads pay
GRAM_BLOCK = 256  # columns of a Gram matrix that a thread makes at a time


def check_features(features: np.ndarray, target_labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return finite features, float32 or float64 `(n, n_features)`, and labels, int64 `(n,)`."""
    features = check_matrix("features", "n_features", features)
    labels = check_labels("target_labels", target_labels)
    check_same_length(features=features, target_labels=labels)
    check_finite("features", features)
    return features, labels


def smaller_gram(x: np.ndarray) -> np.ndarray:
    """xᵀ x, `(d, d)`, or x xᵀ, `(n, n)`: the smaller one. Its bits do not depend on the number of threads.

    OpenBLAS's bits may depend on it, so a large product is made of blocks, each on one thread of BLAS.
    """
    n, d = x.shape
    rows = x.T if n > d else x
    if n * d * min(n, d) <= LARGE_PRODUCT:
        with one_thread():
            return rows @ rows.T
    from leep.threads import map_in_threads  # which imports the measures

    gram = np.empty((len(rows), len(rows)))

    def fill(first: int) -> None:
        block = slice(first, first + GRAM_BLOCK)
        gram[first:, block] = rows[first:] @ rows[block].T
        gram[block, first:] = gram[first:, block].T

    map_in_threads(fill, range(0, len(rows), GRAM_BLOCK))
    return gram


def scale_to_one(features: np.ndarray) -> np.ndarray:
    """Features divided by their largest size, float64 `(n, n_features)`. All zeros stay."""
    x = features.astype(np.float64)
    peak = np.abs(x).max()
    if peak > 0:
        x /= peak
    return x


def centre(features: np.ndarray) -> tuple[np.ndarray, float]:
    """Features less their column means, divided by a common scale: float64 `(n, n_features)`, and the scale.

    Subtracting the first row makes a constant column exactly 0, which subtracting a rounded mean does not; halves
    cannot overflow. If no column varies, all is 0 and the scale is 1.
    """
    x = np.multiply(features, 0.5, dtype=np.float64)
    x -= x[0].copy()
    peak = float(np.abs(x).max())
    if peak == 0:
        return x, 1.0
    x /= peak
    x -= np.add.reduce(x) / len(x)
    return x, 2 * peak
