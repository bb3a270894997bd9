"""The nearest-mean classifier on the source's features, with which CNAPs are compared: nothing is trained."""

from __future__ import annotations

import numpy as np


def predict_nearest_mean(
    features: np.ndarray, labels: np.ndarray, n_classes: int, test_features: np.ndarray
) -> np.ndarray:
    """The class whose mean feature is nearest, in Euclidean distance; of equals, the first.

    Parameters
    ----------
    features : float array `(n, n_features)`
    labels : int array `(n,)`
        0 … n_classes − 1, each at least once.
    n_classes : int
    test_features : float array `(m, n_features)`

    Returns
    -------
    int64 array `(m,)`

    Raises
    ------
    ValueError
        If a class has no example.
    """
    counts = np.bincount(labels, minlength=n_classes)
    if len(counts) > n_classes or counts.min() == 0:
        raise ValueError(f"labels must take all values from 0 to {n_classes - 1}, got counts {counts.tolist()}")
    means = np.stack([features[labels == k].mean(0, dtype=np.float64) for k in range(n_classes)])
    return (test_features @ means.T - (means**2).sum(1) / 2).argmax(1)
