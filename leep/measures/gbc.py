"""GBC: how little the target classes overlap as Gaussians in the space of the features."""

from __future__ import annotations

import numpy as np

from leep.measures._blas import one_thread
from leep.measures._classes import add_rows_by_class, encode
from leep.measures._features import check_features
from leep.measures._pca import principal_components

SAME = 1e-24  # squared distance of means, relative to the largest square, that is rounding


def gbc_score(
    features: np.ndarray,
    target_labels: np.ndarray,
    *,
    covariance: str = "spherical",
    n_components: int | None = 64,
    min_variance: float = 0.0,
) -> float:
    """Return minus the sum over ordered pairs of classes of the Bhattacharyya coefficients of their Gaussians.

    The coefficient of two classes is exp(−D), D = (μ₁ − μ₂)ᵀ Σ⁻¹ (μ₁ − μ₂) / 8 + ½ log(|Σ| / √(|Σ₁| |Σ₂|)) with
    Σ = (Σ₁ + Σ₂) / 2, and population covariances.

    Parameters
    ----------
    features : float array `(n, n_features)`
        Finite. The score does not change if they are shifted or rotated, nor, if min_variance is 0, multiplied.
    target_labels : int array `(n,)`
        Non-negative; gaps are allowed.
    covariance : {"spherical", "diagonal"}
        One variance a class, the mean over components, as in the authors' experiments; or one a component.
    n_components : int or None
        Principal components of all examples that are kept, 64 in the authors' experiments, fewer where the features
        have a lower rank; None keeps the features as they are.
    min_variance : float
        The least variance of a class in a component. In the authors' code 1e-4, which is not in the paper, and which
        makes the score depend on the scale of the features.

    Returns
    -------
    float
        −n_classes (n_classes − 1) ≤ GBC ≤ 0; higher is more transferable; 0 for a single class.

    Raises
    ------
    ValueError
        If a shape, dtype, value or option is not as above, or there are no examples.

    Notes
    -----
    A class without variance, as one of a single example, overlaps no other, but for one that lies in the same point:
    this is the limit of the coefficient. The authors' code counts the logarithm of a spherical Gaussian's variance
    once, not once a component, so that its coefficients are too large.

    What it assumes: classes that are Gaussians. The score grows in size with the number of pairs, so that tasks with
    different numbers of classes are not comparable, and in many components all coefficients are close to 0.

    References
    ----------
    Pándy et al., 2022, Transferability estimation using Bhattacharyya class separability, Section 3.

    Examples
    --------
    The means are 1 and 5, the variances 1: D = 16 / 8.

    >>> round(gbc_score([[0.0], [2.0], [4.0], [6.0]], [0, 0, 1, 1]), 6)
    -0.270671
    """
    if covariance not in ("spherical", "diagonal"):
        raise ValueError(f"covariance must be spherical or diagonal, got {covariance!r}")
    if not 0 <= min_variance < np.inf:
        raise ValueError(f"min_variance must be non-negative and finite, got {min_variance!r}")
    features, labels = check_features(features, target_labels)
    classes, codes = encode(labels)
    x, scale = principal_components(features, n_components)
    if len(classes) == 1:
        return 0.0
    if x.shape[1] == 0:  # no component: all lie in one point
        return -float(len(classes) * (len(classes) - 1))
    means, variances = _moments(x, codes, len(classes))
    with np.errstate(over="ignore", divide="ignore"):  # features near the smallest float: all is below the least
        variances = np.maximum(variances, min_variance / scale / scale)
    if covariance == "spherical":
        dimensions, variances = x.shape[1], variances.mean(axis=1, keepdims=True)
    else:
        dimensions = 1
    with one_thread():
        return -2 * _overlaps(means, variances, dimensions, SAME * np.square(means).max(initial=0.0))


def _moments(x: np.ndarray, codes: np.ndarray, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population variance of each class in each column; 0 exactly where a class has one value."""
    counts = np.bincount(codes)[:, None]
    firsts = x[np.unique(codes, return_index=True)[1]]
    x = x - firsts[codes]
    sums, squares = np.zeros((2, n_classes, x.shape[1]))
    add_rows_by_class(x, codes, sums)
    means = sums / counts
    add_rows_by_class(np.square(x - means[codes]), codes, squares)
    return means + firsts, squares / counts


def _overlaps(means: np.ndarray, variances: np.ndarray, dimensions: int, same: float) -> float:
    """Sum of the coefficients over unordered pairs. Each column of `variances` counts for so many dimensions."""
    total, n_classes = 0.0, len(means)
    spherical = variances.shape[1] == 1
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for k in range(n_classes - 1):
            squares = np.square(means[k + 1 :] - means[k])
            if spherical:
                squares = squares.sum(axis=1, keepdims=True)
            average = (variances[k + 1 :] + variances[k]) / 2
            distance = np.where(squares <= same * (average == 0), 0.0, squares / average) / 8
            spread = np.sqrt(variances[k + 1 :]) * np.sqrt(variances[k])
            distance += np.where(average > 0, 0.5 * dimensions * np.log(average / spread), 0.0)
            total += np.exp(-distance.sum(axis=1)).sum()
    return float(total)


score = gbc_score
