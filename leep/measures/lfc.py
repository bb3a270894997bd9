"""LFC, the label-feature correlation: how well products of features tell pairs of one class from other pairs."""

from __future__ import annotations

import numpy as np

from leep.measures._blas import one_thread
from leep.measures._classes import add_rows_by_class, encode
from leep.measures._features import centre, check_features, scale_to_one, smaller_gram


def lfc_score(features: np.ndarray, target_labels: np.ndarray, *, centred: bool = False) -> float:
    """Return the correlation, over all n² pairs, of f(xᵢ)·f(xⱼ) and of 1 for equal labels and −1 for others.

    Parameters
    ----------
    features : float array `(n, n_features)`
        Finite. The score does not change if they are rotated or multiplied by a number.
    target_labels : int array `(n,)`
        Non-negative; gaps are allowed.
    centred : bool
        Whether the features are centred first. In public code they are not; both matrices lose their mean entry.

    Returns
    -------
    float
        −1 ≤ LFC ≤ 1; higher is more transferable.

    Raises
    ------
    ValueError
        If a shape, dtype or value is not as above, there are no examples, or the correlation is undefined: all pairs
        have one product or one label, as with a single class.

    Notes
    -----
    Public code divides by spectral norms, which is no correlation: its values go beyond 1. The n × n matrices are never
    made; the cost is that of a covariance.

    What it assumes: that fine-tuning learns fast along the largest directions of the features.

    References
    ----------
    Deshpande et al., 2021, A linearized framework and a new benchmark for model selection for fine-tuning, Section 3.

    Examples
    --------
    >>> round(lfc_score([[0.0, 1.0], [0.0, 2.0], [1.0, 0.0], [2.0, 0.0]], [0, 0, 1, 1]), 6)
    0.825029
    """
    features, labels = check_features(features, target_labels)
    classes, codes = encode(labels)
    if len(classes) == 1:
        raise ValueError("target_labels must have two classes at least for LFC, got one")
    n = len(labels)
    x = scale_to_one(features)
    mean = np.zeros(x.shape[1]) if centred else x.mean(axis=0)
    x, scale = centre(x)
    mean /= scale
    with one_thread():
        shifts = x @ mean  # f(xᵢ)·f(xⱼ) = xᵢ·xⱼ + shiftᵢ + shiftⱼ + ‖mean‖², and x and the shifts sum to 0
        counts = np.bincount(codes)
        sums = np.zeros((len(classes), x.shape[1]))
        add_rows_by_class(x, codes, sums)
        covariance = np.square(sums).sum() + 2 * counts @ (sums @ mean)
    variance = np.square(smaller_gram(x)).sum() + 2 * n * shifts @ shifts
    if variance == 0:
        raise ValueError("features must have different products in different pairs for LFC, got the same in all")
    equal = (counts / n) @ (counts / n)  # share of the pairs
    return float(covariance / (n * np.sqrt(equal * (1 - equal) * variance)))


score = lfc_score
