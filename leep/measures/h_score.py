"""H score: how much of the features' variance the target classes explain (Section 5.6)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from leep.measures._check import check_finite, check_labels, check_matrix, check_same_length
from leep.measures._classes import Grouping, class_means, group_by_class, memberships

WELL_CONDITIONED = 1e-8  # reciprocal condition number from which on no eigenvalue can fall to the cut of the rank
LEAST_VARIANCE = 1e-4  # share of a column's mean square that must be left after centring a sum of Gram matrices
GRAM_ENTRIES = 1 << 25  # of the tasks' Gram matrices held at once: 256 MB, and as much for what is added to them
CLASSES_AT_ONCE = 8


def h_score(features: np.ndarray, target_labels: np.ndarray) -> float:
    """H score tr(cov(f)⁺ cov(E[f|y])), with population covariances and the pseudo-inverse.

    Parameters
    ----------
    features : float array `(n, n_features)`
        Finite. Constant columns do not count. The score does not change under an invertible linear map, and columns
        are standardised before the rank is cut at max(n, n_features) · eps of the largest eigenvalue.
    target_labels : int array `(n,)`
        Non-negative; gaps are allowed.

    Returns
    -------
    float
        0 ≤ H ≤ min(n_classes − 1, `feature_rank`); higher is more transferable; 0 for a single class.
        Where n ≤ n_features and the features are in general position H is n_classes − 1 whatever they are.

    Raises
    ------
    ValueError
        If a shape, dtype or value is not as above, or there are no examples.

    References
    ----------
    Bao et al., 2019; Nguyen et al., 2020, Section 5.6.
    """
    features, labels = _check(features, target_labels)
    groups = group_by_class(labels)
    x = _standardise(features)
    n, d = x.shape
    if len(groups.classes) == 1 or d == 0:
        return 0.0
    if n > d:
        return _explained(x.T @ x, class_means(x, groups), groups.counts)
    # Dual: with x = U Λ^½ Vᵀ the whitened features x V Λ^-½ are U.
    values, vectors = np.linalg.eigh(x @ x.T)
    means = class_means(vectors[:, _kept(values, n, d)], groups)
    return float(groups.counts @ np.square(means).sum(axis=1))


def feature_rank(features: np.ndarray) -> int:
    """The rank of the centred features that `h_score` uses, 0 … min(n − 1, n_features)."""
    features = check_matrix("features", "n_features", features)
    check_finite("features", features)
    x = _standardise(features)
    n, d = x.shape
    return int(_kept(np.linalg.eigvalsh(x.T @ x if n > d else x @ x.T), n, d).sum())


def score_class_tasks(features: np.ndarray, target_labels: np.ndarray, tasks: Sequence[np.ndarray]) -> np.ndarray:
    """`h_score` of each task that takes all examples of some classes, float64 `(n_tasks,)`.

    `tasks` holds a 1-D integer array of distinct classes for each task. Tasks share the Gram matrices of their classes,
    in under 1 GB; one with no more examples than features, or ill-conditioned, is left to `h_score`.
    """
    features, labels = _check(features, target_labels)
    groups = group_by_class(labels)
    member = memberships(tasks, groups.classes)
    scores = np.full(len(member), np.nan)
    scores[member.sum(axis=1) == 1] = 0.0
    shared = np.flatnonzero(np.isnan(scores) & (member @ groups.counts > features.shape[1]))
    size = max(1, GRAM_ENTRIES // features.shape[1] ** 2)
    for block in (shared[start : start + size] for start in range(0, len(shared), size)):
        grams, sums = _moments(features, groups, member[block])
        for t, gram in zip(block, grams):
            scores[t] = _from_moments(gram, sums[member[t]], groups.counts[member[t]])
    for t in np.flatnonzero(np.isnan(scores)):
        rows = np.flatnonzero(np.isin(labels, groups.classes[member[t]]))
        scores[t] = h_score(features[rows], labels[rows])
    return scores


def _check(features: np.ndarray, target_labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features = check_matrix("features", "n_features", features)
    labels = check_labels("target_labels", target_labels)
    check_same_length(features=features, target_labels=labels)
    check_finite("features", features)
    return features, labels


def _standardise(features: np.ndarray) -> np.ndarray:
    """Columns that vary, centred, with a mean square of 1; float64 `(n, ≤ n_features)`.

    Subtracting the first row makes a constant column exactly 0, which subtracting a rounded mean does not; halves
    cannot overflow.
    """
    x = np.multiply(features, 0.5, dtype=np.float64)
    x -= x[0].copy()
    peak = np.maximum(x.max(axis=0), -x.min(axis=0))
    if not peak.all():
        x, peak = x[:, peak > 0], peak[peak > 0]
    x /= peak
    x -= x.mean(axis=0)
    x /= np.sqrt(np.einsum("ij,ij->j", x, x) / len(x))
    return x


def _kept(values: np.ndarray, n: int, d: int) -> np.ndarray:
    """Which eigenvalues, ascending, of a d × d scatter or an n × n Gram matrix are not rounding."""
    kept = values > max(n, d) * np.finfo(np.float64).eps * values.max(initial=0.0)
    if n <= d:
        kept[0] = False  # centred rows sum to 0
    return kept


def _explained(scatter: np.ndarray, means: np.ndarray, counts: np.ndarray) -> float:
    """Σ n_y ‖(μ_y − μ) V Λ^-½‖² with the scatter matrix V Λ Vᵀ, `(d, d)`, and centred class means `(n_classes, d)`."""
    score = _explained_by_cholesky(scatter, means, counts)
    if score is not None:
        return score
    values, vectors = np.linalg.eigh(scatter)
    kept = _kept(values, int(counts.sum()), len(values))
    return float(counts @ (np.square(means @ vectors[:, kept]) / values[kept]).sum(axis=1))


def _explained_by_cholesky(scatter: np.ndarray, means: np.ndarray, counts: np.ndarray) -> float | None:
    """The same from scatter = L Lᵀ, ten times as fast; None unless the rank is beyond doubt full."""
    from scipy.linalg import lapack  # slow to import

    factor, info = lapack.dpotrf(scatter, lower=1)
    if info != 0 or lapack.dpocon(factor, np.abs(scatter).sum(axis=0).max(), uplo="L")[0] < WELL_CONDITIONED:
        return None
    whitened, _ = lapack.dtrtrs(factor, means.T * np.sqrt(counts), lower=1)
    return float(np.square(whitened).sum())


@np.errstate(over="ignore", invalid="ignore")  # features near the largest float give NaN: left to `h_score`
def _moments(features: np.ndarray, groups: Grouping, member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gram matrices of tasks `(n_tasks, d, d)` and column sums of classes `(n_classes, d)`, about the overall mean."""
    low, high = features.min(axis=0), features.max(axis=0)
    center = features.mean(axis=0, dtype=np.float64)[high > low]
    scale = (high.astype(np.float64) - low)[high > low]
    d = len(center)
    grams, sums = np.zeros((len(member), d * d)), np.zeros((len(groups.classes), d))
    for some in np.array_split(np.flatnonzero(member.any(axis=0)), -(-len(sums) // CLASSES_AT_ONCE)):
        class_grams = np.empty((len(some), d * d))
        for gram, k in zip(class_grams, some):
            x = (features[groups.rows(k)][:, high > low] - center) / scale
            sums[k] = x.sum(axis=0)
            gram[:] = (x.T @ x).ravel()
        grams += member[:, some].astype(np.float64) @ class_grams
    return grams.reshape(len(member), d, d), sums


def _from_moments(gram: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> float:
    """H score from a task's Gram matrix, and the sums and counts of its classes; NaN unless it is well-conditioned."""
    mean = sums.sum(axis=0) / counts.sum()
    scatter = gram - counts.sum() * np.outer(mean, mean)
    variance = scatter.diagonal()
    if variance.size == 0 or not (variance > LEAST_VARIANCE * gram.diagonal()).all():
        return np.nan
    scale = np.sqrt(variance)
    score = _explained_by_cholesky(scatter / np.outer(scale, scale), (sums / counts[:, None] - mean) / scale, counts)
    return np.nan if score is None else score


score = h_score
