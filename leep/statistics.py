"""Correlation of scores with accuracies, its uncertainty, and transferability levels (Section 5)."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from scipy import special  # scipy.stats takes half a second to import

FEWEST_TASKS = 10  # below them the points are shown in place of a correlation


@dataclass(frozen=True)
class Correlation:
    """Pearson's r in [−1, 1], two-sided p-value and 95 % interval; None where r is undefined (a constant column)."""

    r: float | None
    p_value: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """A difference of two correlations, two-sided p-value and 95 % interval; None where one is undefined."""

    difference: float | None
    p_value: float | None
    low: float | None
    high: float | None
    n: int


def _is_constant(x: np.ndarray) -> np.ndarray:
    """Whether the values of each row differ by no more than rounding: H is C − 1 up to rounding where n ≤ d."""
    return np.ptp(x, axis=-1) <= 1e-9 * np.abs(x).max(axis=-1)


def pearson(
    scores: np.ndarray,
    accuracies: np.ndarray,
    n_resamples: int = 10_000,
    seed: int = 0,
    clusters: np.ndarray | None = None,
) -> Correlation:
    """Pearson correlation over tasks with a bootstrap interval.

    Parameters
    ----------
    scores, accuracies : float arrays `(n_tasks,)`
        Finite, at least three.
    n_resamples : int
        Resamples of the tasks; the interval is their 2.5 % and 97.5 % percentiles.
    seed : int
    clusters : int array `(n_tasks,)`, optional
        Tasks with the same number are drawn together (cluster bootstrap), because tasks of the same classes are not
        independent, and an interval that treats them so is too narrow. Where every task is a cluster of its own, the
        interval is the usual one.

    Raises
    ------
    ValueError
        If the shapes differ, there are fewer than three tasks or two clusters, or a value is not finite.

    Examples
    --------
    >>> round(pearson(np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 4])).r, 3)
    0.8
    """
    columns = _columns(3, scores=scores, accuracies=accuracies)
    if clusters is not None:
        clusters = _numbered(clusters, columns.shape[1])
    if _is_constant(columns).any():
        return Correlation(None, None, None, None, columns.shape[1])
    r = float(_correlations(columns)[0, 1])
    low, high = _percentiles(_resampled_correlations(columns, n_resamples, seed, clusters)[:, 0, 1])
    return Correlation(r, _p_value(r, columns.shape[1] - 2), low, high, columns.shape[1])


def too_few(scores: np.ndarray, accuracies: np.ndarray) -> str:
    """What is said in place of a correlation over less than `FEWEST_TASKS` tasks: the points.

    Examples
    --------
    >>> too_few([-0.5, -1.25], [0.8, 0.61])
    '2 tasks, of 10 that a correlation needs; score and test result: (−0.500, 0.800) (−1.250, 0.610)'
    """
    points = " ".join(f"({x:.3f}, {y:.3f})" for x, y in zip(scores, accuracies)).replace("-", "−")
    tasks = f"{len(scores)} task{'s' * (len(scores) != 1)}"
    return f"{tasks}, of {FEWEST_TASKS} that a correlation needs; score and test result: {points}"


def partial_pearson(
    scores: np.ndarray, accuracies: np.ndarray, given: np.ndarray, n_resamples: int = 10_000, seed: int = 0
) -> Correlation:
    """Pearson correlation of what a linear regression on `given` leaves of scores and of accuracies.

    Parameters
    ----------
    scores, accuracies, given : float arrays `(n_tasks,)`
        Finite, at least four. Where one is constant, or one a linear function of `given`, the result is undefined.
    n_resamples, seed : int
        As for `pearson`.

    Raises
    ------
    ValueError
        If the shapes differ, there are fewer than four tasks, or a value is not finite.
    """
    columns = _columns(4, scores=scores, accuracies=accuracies, given=given)
    r = _partial(_correlations(columns))
    if _is_constant(columns).any() or np.isnan(r):
        return Correlation(None, None, None, None, columns.shape[1])
    low, high = _percentiles(_partial(_resampled_correlations(columns, n_resamples, seed)))
    return Correlation(float(r), _p_value(float(r), columns.shape[1] - 3), low, high, columns.shape[1])


def paired_difference(
    scores: np.ndarray, other_scores: np.ndarray, accuracies: np.ndarray, n_resamples: int = 10_000, seed: int = 0
) -> Difference:
    """How much better `scores` correlate with the accuracies than `other_scores`, by a paired bootstrap over tasks.

    Parameters
    ----------
    scores, other_scores, accuracies : float arrays `(n_tasks,)`
        Finite, at least three; every resample takes the same tasks of each.
    n_resamples, seed : int
        As for `pearson`. The p-value is two-sided: twice the share of resamples on the rarer side of zero.

    Raises
    ------
    ValueError
        If the shapes differ, there are fewer than three tasks, or a value is not finite.
    """
    columns = _columns(3, scores=scores, other_scores=other_scores, accuracies=accuracies)
    if _is_constant(columns).any():
        return Difference(None, None, None, None, columns.shape[1])
    r = _correlations(columns)
    resampled = _resampled_correlations(columns, n_resamples, seed)
    differences = resampled[:, 0, 2] - resampled[:, 1, 2]
    differences = differences[~np.isnan(differences)]
    rarer = min((differences <= 0).sum(), (differences >= 0).sum())
    p_value = min(1.0, 2 * float(rarer + 1) / (len(differences) + 1))
    return Difference(float(r[0, 2] - r[1, 2]), p_value, *_percentiles(differences), columns.shape[1])


def weighted_kendall(
    scores: np.ndarray, accuracies: np.ndarray, n_resamples: int = 2_000, seed: int = 0
) -> Correlation:
    """Kendall's τ in which exchanges near the top weigh more, with a bootstrap interval; it has no p-value.

    Vigna (2015), A weighted correlation index for rankings with ties: a pair of tasks weighs 1 / rank of the one plus
    1 / rank of the other. It is the mean of the τ with the ranks by scores and of that with the ranks by accuracies.

    Parameters
    ----------
    scores, accuracies : float arrays `(n_tasks,)`
        Finite, at least three.
    n_resamples, seed : int
        As for `pearson`.

    Raises
    ------
    ValueError
        If the shapes differ, there are fewer than three tasks, or a value is not finite.

    Examples
    --------
    The first two of three exchange places. Their pair weighs 1 + 1/2, all pairs 3/2 + 4/3 + 5/6 = 11/3.

    >>> round(weighted_kendall(np.array([3.0, 2, 1]), np.array([2.0, 3, 1])).r, 6), round(1 - 2 * (3 / 2) / (11 / 3), 6)
    (0.181818, 0.181818)
    """
    columns = _columns(3, scores=scores, accuracies=accuracies)
    n = columns.shape[1]
    if _is_constant(columns).any():
        return Correlation(None, None, None, None, n)
    low, high = _percentiles(_weighted_kendall(columns, n * _weights(n, n_resamples, seed)))
    return Correlation(float(_weighted_kendall(columns, np.ones((1, n)))[0]), None, low, high, n)


def _weighted_kendall(columns: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """τ of two rows in resamples that hold task i `counts[:, i]` times; NaN where all of a row are tied."""
    x, y = columns
    n = len(x)
    signs = [np.sign(values[:, None] - values) for values in (x, y)]
    pairs = np.stack([signs[0] * signs[1], np.abs(signs[0]), np.abs(signs[1])])
    sums = counts @ pairs  # (3, n_resamples, n): over the partners of each task
    harmonic = np.r_[0.0, np.cumsum(1 / np.arange(1, n + 1))]
    taus, weights = [], np.empty_like(counts)
    for keys in ((y, x), (x, y)):  # the last one is sorted by first
        order = np.lexsort(keys)[::-1]
        last = np.rint(np.cumsum(counts[:, order], 1)).astype(int)  # copies of a task have ranks next to each other
        weights[:, order] = np.diff(harmonic[last], axis=1, prepend=0.0)
        agree, of_x, of_y = np.einsum("krn,rn->kr", sums, weights)
        with np.errstate(invalid="ignore"):
            taus.append(agree / np.sqrt(np.where(of_x * of_y > 0, of_x * of_y, np.nan)))
    return (taus[0] + taus[1]) / 2


def compare_independent(r: float, n: int, other_r: float, other_n: int) -> float:
    """Two-sided p-value of the difference of two Pearson correlations of independent samples, by Fisher's z.

    Fisher (1921): artanh r is nearly normal with variance 1 / (n − 3).

    Parameters
    ----------
    r, other_r : float
        Within (−1, 1).
    n, other_n : int
        Sizes of the samples, at least four.

    Raises
    ------
    ValueError
        If a correlation or a size is out of its range.

    Examples
    --------
    >>> round(compare_independent(0.5, 103, 0.3, 103), 3)
    0.09
    """
    if not (-1 < r < 1 and -1 < other_r < 1 and min(n, other_n) > 3):
        raise ValueError(f"expected correlations within (−1, 1) and n ≥ 4, got {r} of {n} and {other_r} of {other_n}")
    z = (np.arctanh(r) - np.arctanh(other_r)) / np.sqrt(1 / (n - 3) + 1 / (other_n - 3))
    return float(special.erfc(abs(z) / np.sqrt(2)))


def _numbered(clusters: np.ndarray, n: int) -> np.ndarray:
    """The checked clusters, numbered in the order in which they first occur."""
    clusters = np.asarray(clusters)
    if clusters.shape != (n,):
        raise ValueError(f"clusters must have the shape ({n},) of the scores, got {clusters.shape}")
    _, first, number = np.unique(clusters, return_index=True, return_inverse=True)
    if len(first) < 2:
        raise ValueError("clusters must hold at least two different numbers: one cannot be resampled")
    return np.argsort(np.argsort(first))[number.reshape(-1)]


def _columns(least: int, **arrays: np.ndarray) -> np.ndarray:
    """The checked arrays as rows of one, `(k, n_tasks)`."""
    columns = [np.asarray(a, float) for a in arrays.values()]
    names = " and ".join(", ".join(arrays).rsplit(", ", 1))
    shapes = [c.shape for c in columns]
    if columns[0].ndim != 1 or len(set(shapes)) > 1 or len(columns[0]) < least:
        got = " and ".join(map(str, shapes))
        raise ValueError(f"{names} must have one shape (n_tasks,), n_tasks ≥ {least}, got {got}")
    if not all(np.isfinite(c).all() for c in columns):
        raise ValueError(f"{names} must be finite")
    return np.stack(columns)


def _correlations(columns: np.ndarray) -> np.ndarray:
    """Pearson's r of every two rows; NaN where one is constant."""
    centred = columns - columns.mean(1, keepdims=True)
    products = centred @ centred.T
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.clip(products / np.sqrt(np.outer(products.diagonal(), products.diagonal())), -1, 1)


def _resampled_correlations(
    columns: np.ndarray, n_resamples: int, seed: int, clusters: np.ndarray | None = None
) -> np.ndarray:
    """`(n_resamples, k, k)`: `_correlations` of resamples of tasks or clusters; NaN where a resample is constant."""
    k, n = columns.shape
    z = (columns - columns.mean(1, keepdims=True)) / columns.std(1, keepdims=True)
    i, j = np.triu_indices(k)
    sums = np.concatenate([z, z[i] * z[j], np.ones((1, n))])
    if clusters is not None:
        sums = sums @ np.eye(clusters.max() + 1)[clusters]
    moments = sums @ _weights(sums.shape[1], n_resamples, seed).T
    moments /= moments[-1]  # clusters differ in size
    covariances = moments[k:-1] - moments[i] * moments[j]
    variances = covariances[i == j]
    deviations = np.sqrt(np.where(variances > 1e-12, variances, np.nan))  # z has variance 1: less is rounding
    correlations = np.empty((n_resamples, k, k))
    correlations[:, i, j] = np.clip(covariances / (deviations[i] * deviations[j]), -1, 1).T
    correlations[:, j, i] = correlations[:, i, j]
    return correlations


@functools.lru_cache(maxsize=3)  # of all measures of a run: for r, for r over clusters, for τ
def _weights(n: int, n_resamples: int, seed: int) -> np.ndarray:
    """How often each of `n` tasks is drawn in each resample, `(n_resamples, n)`, divided by `n`."""
    drawn = np.random.default_rng(seed).integers(0, n, (n_resamples, n))
    drawn += n * np.arange(n_resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=n_resamples * n).reshape(n_resamples, n) / n


def _partial(r: np.ndarray) -> np.ndarray:
    """The correlation of the first two columns given the third; NaN where the third explains one of them fully."""
    left = (1 - r[..., 0, 2] ** 2) * (1 - r[..., 1, 2] ** 2)
    left = np.where(left > 1e-12, left, np.nan)
    return np.clip((r[..., 0, 1] - r[..., 0, 2] * r[..., 1, 2]) / np.sqrt(left), -1, 1)


def _p_value(r: float, degrees: int) -> float:
    """Two-sided, of Student's t."""
    t = abs(r) * np.sqrt(degrees / max(1 - r * r, float(np.finfo(float).tiny)))
    return float(2 * special.stdtr(degrees, -t))


def _percentiles(resampled: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(resampled[~np.isnan(resampled)], [2.5, 97.5])
    return float(low), float(high)


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
