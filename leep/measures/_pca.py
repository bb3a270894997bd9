"""Principal components of the examples."""

from __future__ import annotations

import numpy as np

from leep.measures._blas import one_thread
from leep.measures._features import centre, smaller_gram


def principal_components(features: np.ndarray, n_components: int | None) -> tuple[np.ndarray, float]:
    """Coordinates along the first principal components, centred, and the scale that they were divided by.

    Parameters
    ----------
    features : float array `(n, n_features)`
        Checked features.
    n_components : int or None
        How many at most; None keeps the centred features as they are. A component of rounding is not kept. Of either
        direction of a component it is that in which the largest weight of the features is positive.

    Returns
    -------
    coordinates : float64 array `(n, n_kept)`
    scale : float

    Raises
    ------
    ValueError
        If `n_components` is not a positive integer or None.
    """
    if n_components is not None and (not isinstance(n_components, (int, np.integer)) or n_components < 1):
        raise ValueError(f"n_components must be a positive integer or None, got {n_components!r}")
    x, scale = centre(features)
    if n_components is None:
        return x, scale
    from scipy.linalg import eigh

    n, d = x.shape
    gram = smaller_gram(x)
    with one_thread():
        k = min(n_components, len(gram))
        some = {"subset_by_index": (len(gram) - k, len(gram) - 1)} if 4 * k < len(gram) else {"driver": "evd"}
        values, vectors = eigh(gram, **some)  # all are faster than a quarter of them
        values, vectors = values[: -k - 1 : -1], vectors[:, : -k - 1 : -1]
        kept = values > max(n, d) * np.finfo(np.float64).eps * values[0]
        vectors = vectors[:, kept]
        weights = vectors if n > d else x.T @ vectors
        signs = np.sign(weights[np.abs(weights).argmax(axis=0), np.arange(weights.shape[1])])
        return np.ascontiguousarray(
            x @ (weights * signs) if n > d else vectors * (np.sqrt(values[kept]) * signs)
        ), scale
