"""LogME: the largest evidence of linear regressions from the features to the class indicators."""

from __future__ import annotations

import numpy as np

from leep.measures._blas import one_thread
from leep.measures._classes import add_rows_by_class, encode
from leep.measures._features import check_features, scale_to_one, smaller_gram

GRID = 0.5  # step of the logarithm of the ratio α/β in the search for the largest evidence
MARGIN = 12.0  # how far the search goes beyond the logarithms of the smallest and the largest eigenvalue
ROUNDS = 36  # of golden sections, which leave 3e-8 of a step: the evidence is flat there to its last digits
GOLDEN = (5**0.5 - 1) / 2


def logme_score(features: np.ndarray, target_labels: np.ndarray) -> float:
    """Return the log evidence of a Bayesian linear regression to each class's indicator, per example, averaged.

    For each class the indicator y is N(F w, 1/β) with the prior w ~ N(0, 1/α), and α and β are those that make the
    evidence p(y | F, α, β) largest.

    Parameters
    ----------
    features : float array `(n, n_features)`
        F. Finite. They are neither centred nor standardised: a constant column is an intercept. The score does not
        change if they are rotated or multiplied by a number.
    target_labels : int array `(n,)`
        Non-negative; gaps are allowed. The average is over the classes that occur.

    Returns
    -------
    float
        Nats per example, of either sign, without bounds; higher is more transferable.

    Raises
    ------
    ValueError
        If a shape, dtype or value is not as above, there are no examples, or the evidence of a class has no upper
        bound. That is so where a linear function of dependent rows gives the indicator exactly, as with repeated
        examples among n ≤ n_features, or one class and a constant column: β has no largest value.

    Notes
    -----
    The evidence at its best β depends on α/β alone, so that its maximum is found by a search over this ratio, among
    all ratios from 0 to infinity. The authors' code iterates a fixed point from α = β = 1, 11 times at most; the
    evidence is stationary there. Without the 1e-5 that it adds to two denominators, and iterated on, it agrees where
    n ≥ n_features; as it is, to 2e-5. Where n < n_features it lacks ½ (n_features − n) log α of the determinant, the
    ratio may be 0, which no iteration reaches, and its score says nothing. It also averages over labels that do not
    occur.

    What it assumes: indicators that are linear in the features, with Gaussian noise. A rare class has a high evidence
    whatever the features are, so that scores of tasks with different numbers of classes are hardly comparable.

    References
    ----------
    You et al., 2021, LogME, Section 4; You et al., 2022, Ranking and Tuning Pre-trained Models, Algorithm 3.

    Examples
    --------
    The features of the first pair say more of its labels.

    >>> labels = [0, 0, 1, 1]
    >>> round(logme_score([[1.0, 0.0], [1.0, 0.2], [0.0, 1.0], [0.1, 1.0]], labels), 6)
    -0.09795
    >>> round(logme_score([[1.0, 0.0], [0.0, 1.2], [1.1, 0.0], [0.0, 1.0]], labels), 6)
    -1.072068
    """
    features, labels = check_features(features, target_labels)
    classes, codes = encode(labels)
    counts = np.bincount(codes)
    values, squares, full = _spectrum(scale_to_one(features), codes, counts)
    rest = counts - squares.sum(axis=1)  # ‖y‖² outside the span of the features
    n = len(labels)
    if full:
        rest = np.zeros(len(counts))
    else:
        exact = rest <= 100 * n * np.finfo(np.float64).eps * counts
        if exact.any():
            raise ValueError(
                "features must leave a residual to each class's indicator (LogME's evidence is unbounded), "
                f"got none for class {classes[exact.argmax()]}"
            )
    return float(_largest(values, squares, rest, counts, n).mean())


def _spectrum(x: np.ndarray, codes: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Eigenvalues σ of F Fᵀ above the rounding, `(k,)`, (uᵀ y)² of each class `(n_classes, k)`, and whether k = n."""
    n, d = x.shape
    gram = smaller_gram(x)
    with one_thread():
        values, vectors = np.linalg.eigh(gram)
        kept = values > max(n, d) * np.finfo(np.float64).eps * values.max(initial=0.0)
        values, vectors = values[kept], vectors[:, kept]
        rows, scale = (x, np.sqrt(values)) if n > d else (vectors, 1.0)
        sums = np.zeros((len(counts), rows.shape[1]))
        add_rows_by_class(np.ascontiguousarray(rows), codes, sums)
        products = sums @ vectors / scale if n > d else sums
    return values, np.square(products), len(values) == n


def _largest(values: np.ndarray, squares: np.ndarray, rest: np.ndarray, counts: np.ndarray, n: int) -> np.ndarray:
    """The largest evidence of each class over the ratio t = α/β ∈ [0, ∞], per example, `(n_classes,)`.

    At the best β it is ½ log(n / 2π) − ½ − ½ log S(t) − Σ log(1 + σ/t) / 2n with S(t) = rest + Σ squares / (1 + σ/t).
    """
    constant = 0.5 * np.log(n / (2 * np.pi)) - 0.5
    best = constant - 0.5 * np.log(counts)  # t = ∞: the features are not used
    if len(values) == 0:
        return best
    if len(values) == n:  # t = 0: no noise
        limit = constant - 0.5 * np.log((squares / values).sum(axis=1)) - 0.5 * np.log(values).sum() / n
        best = np.maximum(best, limit)

    def evidence(log_t: np.ndarray) -> np.ndarray:  # (n_classes,) at log t (n_classes,)
        ratio = values / np.exp(log_t)[:, None]
        s = rest + (squares / (1 + ratio)).sum(axis=1)
        return constant - 0.5 * np.log(s) - 0.5 * np.log1p(ratio).sum(axis=1) / n

    grid = np.arange(np.log(values.min()) - MARGIN, np.log(values.max()) + MARGIN + GRID, GRID)
    ratio = values / np.exp(grid)[:, None]  # (n_grid, k)
    s = rest[:, None] + squares @ (1 / (1 + ratio)).T
    coarse = -0.5 * np.log(s) - 0.5 * np.log1p(ratio).sum(axis=1) / n
    middle = grid[coarse.argmax(axis=1)]
    low, high = middle - GRID, middle + GRID
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = evidence(left), evidence(right)
    for _ in range(ROUNDS):
        up = at_right > at_left
        low, high = np.where(up, left, low), np.where(up, high, right)
        new = np.where(up, low + GOLDEN * (high - low), high - GOLDEN * (high - low))
        at_new = evidence(new)
        left, right = np.where(up, right, new), np.where(up, new, left)
        at_left, at_right = np.where(up, at_right, at_new), np.where(up, at_new, at_left)
    return np.maximum(best, np.maximum(at_left, at_right))


score = logme_score
