"""Coordinates of examples in the space that they span, and the means of their classes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import numpy as np

from leep.measures._blas import one_thread
from leep.measures._classes import add_rows_by_class
from leep.measures._features import LARGE_PRODUCT


def few_threads(x: np.ndarray) -> AbstractContextManager:
    """BLAS on one thread, unless the product of a matrix `(n, d)` with itself is worth more."""
    return nullcontext() if x.size * min(x.shape) > LARGE_PRODUCT else one_thread()


def in_span(x: np.ndarray) -> np.ndarray:
    """Coordinates of the rows in an orthonormal basis of their span, float64 `(n, min(n, d))`.

    Products of rows stay as they are. Where there are fewer examples than features, what follows is cheaper with them.
    """
    n, d = x.shape
    if n >= d:
        return x
    from scipy.linalg import lapack  # slow to import

    factor, _, _, _ = lapack.dgeqrf(x.T, lwork=64 * n)
    return np.ascontiguousarray(np.triu(factor[:n]).T)


def class_means(x: np.ndarray, codes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean row of each class, float64 `(n_classes, n_columns)`."""
    sums = np.zeros((len(counts), x.shape[1]))
    add_rows_by_class(np.ascontiguousarray(x), codes, sums)
    return sums / counts[:, None]
