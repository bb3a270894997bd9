"""H score with a shrunk covariance: the variance that the target classes explain, where examples are few."""

from __future__ import annotations

import numpy as np

from leep.measures._blas import one_thread
from leep.measures._classes import add_rows_by_class, encode
from leep.measures._features import centre, check_features, smaller_gram


def h_score_shrunk(features: np.ndarray, target_labels: np.ndarray) -> float:
    """Return tr(Σ_α⁻¹ (1 − α) cov(E[f|y])) with the Ledoit-Wolf covariance Σ_α = (1 − α) cov(f) + α tr(cov(f))/d · I.

    Parameters
    ----------
    features : float array `(n, n_features)`
        Finite. The score does not change if they are shifted, rotated or multiplied by a number, but, unlike
        `h_score`, it changes if columns are scaled one by one.
    target_labels : int array `(n,)`
        Non-negative; gaps are allowed.

    Returns
    -------
    float
        0 ≤ H ≤ min(n_classes − 1, n_features); higher is more transferable; 0 for a single class, for features that do
        not vary and for α = 1.

    Raises
    ------
    ValueError
        If a shape, dtype or value is not as above, or there are no examples.

    Notes
    -----
    Both covariances are those of the population: divided by n. Public code divides the second by n − 1, which makes
    the score n / (n − 1) times as large. α is Ledoit and Wolf's estimate; 0 for one feature. Where α is 0 and the
    covariance is singular, the inverse is the pseudo-inverse.

    What it assumes: that the features have about one scale, for all shrink toward the same variance.

    References
    ----------
    Ibrahim et al., 2021, Newer is not always better, Section 4; Ledoit and Wolf, 2004.

    Examples
    --------
    One feature is not shrunk: this is its `h_score`.

    >>> round(h_score_shrunk([[0.0], [2.0], [4.0], [6.0]], [0, 0, 1, 1]), 6)
    0.8
    >>> round(h_score_shrunk([[0.0, 1.0], [2.0, 0.0], [4.0, 0.0], [6.0, 2.0]], [0, 0, 1, 1]), 6)
    0.471106
    """
    features, labels = check_features(features, target_labels)
    classes, codes = encode(labels)
    x, _ = centre(features)
    if len(classes) == 1 or not x.any():
        return 0.0
    n, d = x.shape
    gram = smaller_gram(x) / n
    variance = gram.trace() / d
    alpha = _shrinkage(x, gram, variance)
    if n > d:
        sums = np.zeros((len(classes), d))
        add_rows_by_class(x, codes, sums)
    else:
        sums = (codes == np.arange(len(classes))[:, None]).astype(np.float64)
    sums /= np.sqrt(np.bincount(codes) * float(n))[:, None]  # the covariance of the means is sumsᵀ sums
    with one_thread():
        return _explained(gram, sums, alpha, variance, dual=n <= d)


def _shrinkage(x: np.ndarray, gram: np.ndarray, variance: float) -> float:
    """Ledoit and Wolf's α from centred features and xᵀ x / n or x xᵀ / n, which have the same squared norm."""
    n, d = x.shape
    if d == 1:
        return 0.0
    squared = np.square(gram).sum()
    spread = squared - d * variance**2  # ‖cov − variance · I‖²
    error = (np.square(np.einsum("ij,ij->i", x, x)).sum() / n - squared) / n  # of cov
    error = min(max(error, 0.0), spread)
    return error / spread if error > 0 else 0.0


def _explained(gram: np.ndarray, sums: np.ndarray, alpha: float, variance: float, dual: bool) -> float:
    """(1 − α) tr(S M⁻¹ Sᵀ) or, dual, (1 − α) n tr(S G M⁻¹ Sᵀ), with M = (1 − α) G + α · variance · I.

    G is xᵀ x / n and S the class sums of x, or G is x xᵀ / n and S those of the identity: x Σ_α⁻¹ xᵀ = n G M⁻¹.
    """
    from scipy.linalg import lapack

    weight = (1 - alpha) * (len(gram) if dual else 1)
    shrunk = (1 - alpha) * gram
    shrunk.flat[:: len(gram) + 1] += alpha * variance
    if alpha > 1e-8:  # the condition number is at most d / α
        lower, failed = lapack.dpotrf(shrunk, lower=1, clean=0)
        if not failed:
            left = sums @ gram if dual else sums
            solved, _ = lapack.dpotrs(lower, sums.T, lower=1)
            return float(weight * np.einsum("ij,ji->", left, solved))
    values, vectors = np.linalg.eigh(gram)
    kept = values > len(gram) * np.finfo(np.float64).eps * values.max()
    values = values[kept]
    inverse = (values if dual else 1.0) / ((1 - alpha) * values + alpha * variance)
    return float(weight * (np.square(sums @ vectors[:, kept]) @ inverse).sum())


score = h_score_shrunk
