"""Fisher's linear discriminant with a shrunk covariance within classes, for SFDA and ETran."""

from __future__ import annotations

import numpy as np

from leep.measures._span import class_means

DECAY = 5.0  # of the shrinkage with the largest eigenvalue
LEAST_SHRINKAGE = 1e-10
COLLAPSED = 1e-30  # share of the variance within classes that is rounding


def log_posterior(
    x: np.ndarray, codes: np.ndarray, counts: np.ndarray, shrinkage: float | None, n_features: int, scale: float
) -> tuple[np.ndarray, float]:
    """Log-probability of each class for each example, by the discriminant of these examples.

    The classes' Gaussians share the covariance (1 − s) S + s tr(S) / n_features · I with S, that within classes. Where
    S is 0 an example has its own mean's classes, by their priors: the limit of a small S.

    Parameters
    ----------
    x : float64 array `(n, n_columns)`
        Features over `scale`, in an orthonormal basis of their span.
    codes, counts : int64 arrays `(n,)` and `(n_classes,)`
        Each example's class, and the size of each class.
    shrinkage : float in (0, 1], optional
        s. By default `adaptive_shrinkage` of S.
    n_features : int
        Dimension of the features, of which x has only the span.
    scale : float

    Returns
    -------
    log_probs : float64 array `(n, n_classes)`
    shrinkage : float
    """
    from scipy.linalg import cho_factor, cho_solve, eigh  # slow to import
    from scipy.special import log_softmax

    n, k = x.shape
    means = class_means(x, codes, counts)
    offsets = x - means[codes]
    within = offsets.T @ offsets
    within /= n
    priors = np.log(counts / n)
    trace = within.trace()
    if not trace > COLLAPSED * np.square(x).sum() / n:
        apart = _squared_distances(x, means) > COLLAPSED * np.square(x).sum() / n
        return log_softmax(np.where(apart, -np.inf, priors), axis=1), 1.0 if shrinkage is None else shrinkage
    if shrinkage is None:
        largest = within.diagonal().max()  # at most the eigenvalue
        if adaptive_shrinkage(largest, scale) > LEAST_SHRINKAGE:
            largest = eigh(within, eigvals_only=True, subset_by_index=[k - 1, k - 1], check_finite=False)[0]
        shrinkage = adaptive_shrinkage(largest, scale)
    within *= 1 - shrinkage
    within.flat[:: k + 1] += shrinkage * trace / n_features
    weights = cho_solve(cho_factor(within, lower=True, overwrite_a=True, check_finite=False), means.T)
    logits = x @ weights
    logits += priors - 0.5 * np.einsum("ij,ji->i", means, weights)
    return log_softmax(logits, axis=1), shrinkage


def adaptive_shrinkage(largest: float, scale: float) -> float:
    """exp(−5 λ), at least 1e-10, with the largest eigenvalue λ of the covariance within classes, here over scale²."""
    with np.errstate(over="ignore"):
        return float(max(np.exp(-DECAY * np.float64(largest) * np.float64(scale) * np.float64(scale)), LEAST_SHRINKAGE))


def _squared_distances(x: np.ndarray, means: np.ndarray) -> np.ndarray:
    """‖xᵢ − μ_y‖², `(n, n_classes)`, exactly 0 where they are the same."""
    return np.stack([np.square(x - mean).sum(axis=1) for mean in means], axis=1)
