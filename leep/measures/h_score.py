"""H score: how much of the features' variance the target classes explain (Section 5.6)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock, local

import numpy as np

from leep.measures._check import check_finite, check_labels, check_matrix, check_same_length
from leep.measures._classes import Grouping, class_means, group_by_class, memberships

WELL_CONDITIONED = 1e-8  # reciprocal condition number from which on no eigenvalue can fall to the cut of the rank
LEAST_VARIANCE = 1e-4  # share of a column's mean square that must be left after centring a sum of Gram matrices
ENTRIES = 105_000_000  # of Gram matrices held at once, 0.84 GB: 128 of 1,280 features
_BLAS = Lock()  # its number of threads is the whole process's
COLUMNS = 1 << 14  # of the Gram matrices that one thread adds up


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
    # Dual: with x = U Λ^½ Vᵀ the whitened features x V Λ^-½ are U, and U Uᵀ = I − 1 1ᵀ / n where the rank is n − 1.
    gram = x @ x.T
    if _factor(gram + gram.trace() / n**2) is not None:
        return len(groups.classes) - 1.0
    values, vectors = np.linalg.eigh(gram)
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
    in about 1 GB; one with no more examples than features, or ill-conditioned, is left to `h_score`.
    """
    features, labels = _check(features, target_labels)
    groups = group_by_class(labels)
    member = memberships(tasks, groups.classes)
    scores = np.full(len(member), np.nan)
    scores[member.sum(axis=1) == 1] = 0.0
    shared = np.flatnonzero(np.isnan(scores) & (member @ groups.counts > features.shape[1]))
    with _BLAS:
        scores[shared] = _by_moments(features, groups, member[shared])
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
    lower = _factor(scatter)
    if lower is not None:
        return _explained_by_cholesky(lower, means, counts)
    values, vectors = np.linalg.eigh(scatter)
    kept = _kept(values, int(counts.sum()), len(values))
    return float(counts @ (np.square(means @ vectors[:, kept]) / values[kept]).sum(axis=1))


def _factor(matrix: np.ndarray) -> np.ndarray | None:
    """L with matrix = L Lᵀ, ten times as fast as eigenvalues; None unless the rank is beyond doubt full."""
    from leep.measures import _lapack  # slow to import

    lower = matrix.copy("F")
    return lower if _lapack.factor(lower, np.abs(matrix).sum(axis=0).max()) >= WELL_CONDITIONED else None


def _explained_by_cholesky(lower: np.ndarray, means: np.ndarray, counts: np.ndarray) -> float:
    """Σ n_y ‖L⁻¹ (μ_y − μ)‖²."""
    from leep.measures import _lapack

    whitened = np.asfortranarray(means.T * np.sqrt(counts))
    _lapack.solve(lower, whitened)
    return float(np.square(whitened).sum())


@np.errstate(over="ignore", invalid="ignore", divide="ignore")  # features near the largest float: left to `h_score`
def _by_moments(features: np.ndarray, groups: Grouping, member: np.ndarray) -> np.ndarray:
    """H score of each task from its classes' Gram matrices about the overall mean; NaN unless well-conditioned.

    A class, or a task, is one thread's: as fast as all threads on one, or faster, and the same whatever their number.
    """
    from threadpoolctl import threadpool_info, threadpool_limits

    from leep.measures import _lapack  # slow to import, as are compiled kernels
    from leep.measures._h_score_kernels import pack

    low, high = features.min(axis=0), features.max(axis=0)
    varies, used = high > low, np.flatnonzero(member.any(axis=0))
    center, scale = features.mean(axis=0, dtype=np.float64)[varies], (high.astype(np.float64) - low)[varies]
    d, scores, held = len(center), np.full(len(member), np.nan), -1
    if d < 2 or len(member) == 0:
        return scores
    packed = d * (d + 1) // 2
    room = max(2, ENTRIES // packed)
    n_held = len(used) if len(used) <= 0.8 * room else room // 2  # classes; if not all, they are made for every block
    parts = [used[i : i + n_held] for i in range(0, len(used), n_held)]
    blocks = [np.arange(len(member))[i : i + room - n_held] for i in range(0, len(member), room - n_held)]
    sums, of_class = np.zeros((len(groups.classes), d)), np.empty((len(parts[0]), packed))
    of_task = np.empty((len(blocks[0]), packed))  # made once: fresh memory costs as much as the product
    columns = [slice(i, i + COLUMNS) for i in range(0, packed, COLUMNS)]
    mine = local()

    def start_thread() -> None:
        np.seterr(all="ignore")
        mine.lower = np.empty((d, d), order="F")

    def add_class(k: int, gram: np.ndarray) -> None:
        x = np.ascontiguousarray(features[groups.rows(k)][:, varies] - center) / scale
        sums[k] = x.sum(axis=0)
        _lapack.gram(x.T, mine.lower)
        pack(mine.lower, gram)

    def add(chosen: np.ndarray, grams: np.ndarray, totals: np.ndarray, part: int, some: slice) -> None:
        if part:
            totals[:, some] += chosen @ grams[:, some]
        else:
            np.matmul(chosen, grams[:, some], out=totals[:, some])

    def score(t: int, gram: np.ndarray) -> None:
        scores[t] = _from_moments(gram, sums[member[t]], groups.counts[member[t]], mine.lower)

    workers = max((found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"), default=1)
    workers = min(workers, max(1, ENTRIES // (8 * d**2)))
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(workers, initializer=start_thread) as pool:
        for block in blocks:
            for part, classes in enumerate(parts):
                if held != part:
                    held, _ = part, list(pool.map(add_class, classes, of_class))
                chosen = member[np.ix_(block, classes)].astype(np.float64)
                list(pool.map(partial(add, chosen, of_class[: len(classes)], of_task[: len(block)], part), columns))
            list(pool.map(score, block, of_task))
    return scores


def _from_moments(gram: np.ndarray, sums: np.ndarray, counts: np.ndarray, lower: np.ndarray) -> float:
    """H score from a task's packed Gram matrix, and the sums and counts of its classes; NaN unless well-conditioned.

    `lower`, `(d, d)` in Fortran's order, is worked in.
    """
    from leep.measures import _lapack
    from leep.measures._h_score_kernels import unpack_correlation

    n, d = counts.sum(), len(lower)
    mean = sums.sum(axis=0) / n
    squares = gram[np.cumsum(np.arange(d + 1, 1, -1)) - d - 1]  # its diagonal
    variance = squares - n * mean**2
    if not (variance > LEAST_VARIANCE * squares).all():
        return np.nan
    scale = np.sqrt(variance)
    norm = unpack_correlation(gram, n, mean, scale, lower)
    means = (sums / counts[:, None] - mean) / scale
    if not _lapack.factor(lower, norm) >= WELL_CONDITIONED:  # NaN neither
        return np.nan
    return _explained_by_cholesky(lower, means, counts)


score = h_score
