"""Correlation of scores with accuracies, its uncertainty, and transferability levels (Section 5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special  # scipy.stats takes half a second to import


@dataclass(frozen=True)
class Correlation:
    """Pearson's r in [−1, 1], two-sided p-value and 95 % interval; None where r is undefined (a constant column)."""

    r: float | None
    p_value: float | None
    low: float | None
    high: float | None
    n: int


def metric_of(setting: str) -> str:
    """What scores are correlated with: F1 of the smaller class on imbalanced tasks (Section 5.3), else accuracy."""
    return "test_f1" if setting == "small_imbalanced" else "test_accuracy"


def _is_constant(x: np.ndarray) -> np.ndarray:
    """Whether the values of each row differ by no more than rounding: H is C − 1 up to rounding where n ≤ d."""
    return np.ptp(x, axis=-1) <= 1e-9 * np.abs(x).max(axis=-1)


def pearson(scores: np.ndarray, accuracies: np.ndarray, n_resamples: int = 10_000, seed: int = 0) -> Correlation:
    """Pearson correlation over tasks with a bootstrap interval.

    Parameters
    ----------
    scores, accuracies : float arrays `(n_tasks,)`
        Finite, at least three.
    n_resamples : int
        Resamples of the tasks; the interval is their 2.5 % and 97.5 % percentiles.
    seed : int

    Raises
    ------
    ValueError
        If the shapes differ, there are fewer than three tasks, or a value is not finite.
    """
    x, y = np.asarray(scores, float), np.asarray(accuracies, float)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 3:
        raise ValueError(
            f"scores and accuracies must have one shape (n_tasks,), n_tasks ≥ 3, got {x.shape} and {y.shape}"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("scores and accuracies must be finite")
    if _is_constant(x) or _is_constant(y):
        return Correlation(None, None, None, None, len(x))
    r = float(_rowwise_r(x[None], y[None])[0])
    t = abs(r) * np.sqrt((len(x) - 2) / max(1 - r * r, np.finfo(float).tiny))
    p_value = float(2 * special.stdtr(len(x) - 2, -t))  # Student's t with n − 2 degrees of freedom
    rows = np.random.default_rng(seed).integers(0, len(x), (n_resamples, len(x)))
    resampled = _rowwise_r(x[rows], y[rows])
    low, high = np.percentile(resampled[~(_is_constant(x[rows]) | _is_constant(y[rows]))], [2.5, 97.5])
    return Correlation(r, p_value, float(low), float(high), len(x))


def _rowwise_r(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's r of each row; NaN or rounding where a row is constant."""
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))
    return np.clip(r, -1, 1)


def levels(scores: np.ndarray, n_levels: int = 5) -> np.ndarray:
    """Transferability level of each task: bins of equal width over the scores' range (Section 5.2).

    Returns
    -------
    int array `(n_tasks,)`, 1 (hardest to transfer) … n_levels; all 1 where the scores are constant
    """
    x = np.asarray(scores, float)
    low, width = x.min(), np.ptp(x)
    if width == 0:
        return np.ones(len(x), int)
    return np.minimum(((x - low) / width * n_levels).astype(int), n_levels - 1) + 1
