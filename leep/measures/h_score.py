"""H score: how much of the features' variance the target classes explain (Section 5.6)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from leep.measures._blas import factor_in_place, one_thread
from leep.measures._check import check_finite, check_matrix
from leep.measures._classes import Grouping, add_rows_by_class, encode, group_by_class, memberships
from leep.measures._features import check_features, smaller_gram

WELL_CONDITIONED = 1e-8  # reciprocal condition number from which on no eigenvalue can fall to the cut of the rank
LEAST_VARIANCE = 1e-4  # share of a column's mean square that must be left after centring a sum of Gram matrices
MAX_GRAM_ENTRIES = 105_000_000  # of Gram matrices held at once, 0.84 GB: 125 of 1,280 features
STRIPE = 32  # rows of a Gram matrix that are kept together
GRAM_BLOCK = 1 << 14  # entries of the Gram matrices that one thread adds up at a time


def h_score(features: np.ndarray, target_labels: np.ndarray) -> float:
    """Return the H score tr(cov(f)⁺ cov(E[f|y])), with population covariances and the pseudo-inverse.

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

    Examples
    --------
    The features have the mean 3 and the variance 5. The class means, 1 and 5, have the variance 4.

    >>> round(h_score([[0.0], [2.0], [4.0], [6.0]], [0, 0, 1, 1]), 6)
    0.8
    """
    features, labels = check_features(features, target_labels)
    classes, codes = encode(labels)
    x = _standardise(features)
    n, d = x.shape
    if len(classes) == 1 or d == 0:
        return 0.0
    counts = np.bincount(codes)
    scatter = smaller_gram(x)
    with one_thread():
        if n > d:
            return _explained(scatter, _class_means(x, codes, counts), counts)
        # Dual: with x = U Λ^½ Vᵀ the whitened features x V Λ^-½ are U. Where the rank is n − 1, U Uᵀ = I − 1 1ᵀ / n.
        shifted = np.add(scatter, scatter.trace() / n**2, order="F")
        if _factor(shifted, _norm(shifted)):
            return len(classes) - 1.0
        values, vectors = np.linalg.eigh(scatter)
        means = _class_means(vectors[:, _kept(values, n, d)], codes, counts)
        return float(counts @ np.square(means).sum(axis=1))


def feature_rank(features: np.ndarray) -> int:
    """Return the rank of the centred features that `h_score` uses, 0 … min(n − 1, n_features).

    Examples
    --------
    The third column is the sum of the others.

    >>> feature_rank([[0, 0, 0], [1, 0, 1], [0, 1, 1], [1, 1, 2]])
    2
    """
    features = check_matrix("features", "n_features", features)
    check_finite("features", features)
    x = _standardise(features)
    scatter = smaller_gram(x)
    with one_thread():
        return int(_kept(np.linalg.eigvalsh(scatter), *x.shape).sum())


def score_class_tasks(features: np.ndarray, target_labels: np.ndarray, tasks: Sequence[np.ndarray]) -> np.ndarray:
    """`h_score` of each task that takes all examples of some classes, float64 `(n_tasks,)`.

    `tasks` holds a 1-D integer array of distinct classes for each task. The tasks share the Gram matrices of their
    classes, in about 1 GB. A task with no more examples than features, or with features that nearly depend on each
    other, is left to `h_score`.
    """
    features, labels = check_features(features, target_labels)
    groups = group_by_class(labels)
    member = memberships(tasks, groups.classes)
    scores = np.full(len(member), np.nan)
    scores[member.sum(axis=1) == 1] = 0.0
    shared = np.flatnonzero(np.isnan(scores) & (member @ groups.counts > features.shape[1]))
    scores[shared] = _score_by_moments(features, groups, member[shared])
    for t in np.flatnonzero(np.isnan(scores)):
        rows = np.flatnonzero(np.isin(labels, groups.classes[member[t]]))
        scores[t] = h_score(features[rows], labels[rows])
    return scores


def _standardise(features: np.ndarray) -> np.ndarray:
    """Columns that vary, centred, with a mean square of 1; float64 `(n, ≤ n_features)`.

    Subtracting the first row makes a constant column exactly 0, which subtracting a rounded mean does not; halves
    cannot overflow.
    """
    x = np.multiply(features, 0.5, dtype=np.float64)
    x -= x[0].copy()
    peak = np.abs(x).max(axis=0)
    if not peak.all():
        x, peak = x[:, peak > 0], peak[peak > 0]
    x /= peak
    x -= np.add.reduce(x) / len(x)
    x /= np.sqrt(np.einsum("ij,ij->j", x, x) / len(x))
    return x


def _class_means(values: np.ndarray, codes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean row of each class, `(n_classes, n_columns)`."""
    sums = np.zeros((len(counts), values.shape[1]))
    add_rows_by_class(np.ascontiguousarray(values), codes, sums)
    return sums / counts[:, None]


def _kept(values: np.ndarray, n: int, d: int) -> np.ndarray:
    """Which eigenvalues, ascending, of a d × d scatter or an n × n Gram matrix are not rounding."""
    kept = values > max(n, d) * np.finfo(np.float64).eps * values.max(initial=0.0)
    if n <= d:
        kept[0] = False  # centred rows sum to 0
    return kept


def _explained(scatter: np.ndarray, means: np.ndarray, counts: np.ndarray) -> float:
    """Σ n_y ‖(μ_y − μ) V Λ^-½‖² with the scatter matrix V Λ Vᵀ, `(d, d)`, and centred class means `(n_classes, d)`."""
    lower = scatter.copy("F")
    if _factor(lower, _norm(scatter)):
        return _explained_by_cholesky(lower, means, counts)
    values, vectors = np.linalg.eigh(scatter)
    kept = _kept(values, int(counts.sum()), len(values))
    return float(counts @ (np.square(means @ vectors[:, kept]) / values[kept]).sum(axis=1))


def _norm(matrix: np.ndarray) -> float:
    """The 1-norm."""
    return np.abs(matrix).sum(axis=0).max()


def _factor(matrix: np.ndarray, norm: float) -> bool:
    """Whether the rank is beyond doubt full; then the matrix's lower triangle becomes L, with matrix = L Lᵀ.

    The matrix, in Fortran's order, is overwritten. Only its lower triangle is read; `norm` is its 1-norm. This is ten
    times as fast as eigenvalues.
    """
    from scipy.linalg import lapack  # slow to import

    return factor_in_place(matrix) and lapack.dpocon(matrix, norm, "L")[0] >= WELL_CONDITIONED  # NaN neither


def _explained_by_cholesky(lower: np.ndarray, means: np.ndarray, counts: np.ndarray) -> float:
    """Σ n_y ‖L⁻¹ (μ_y − μ)‖²."""
    from scipy.linalg import lapack

    whitened, _ = lapack.dtrtrs(lower, means.T * np.sqrt(counts), lower=1)
    return float(np.square(whitened).sum())


@np.errstate(all="ignore")  # features near the largest float: left to `h_score`
def _score_by_moments(features: np.ndarray, groups: Grouping, member: np.ndarray) -> np.ndarray:
    """H score of each task from its classes' Gram matrices about the overall mean; NaN unless well-conditioned.

    Each class, then each task, is handled by one thread with BLAS on one thread. The result does not depend on the
    number of threads.
    """
    low, high = features.min(axis=0), features.max(axis=0)
    varies, used = high > low, np.flatnonzero(member.any(axis=0))
    center, scale = features.mean(axis=0, dtype=np.float64)[varies], (high.astype(np.float64) - low)[varies]
    d, n_tasks, scores = len(center), len(member), np.full(len(member), np.nan)
    if d < 2 or n_tasks == 0:
        return scores
    size = sum(min(STRIPE, d - i) * (d - i) for i in range(0, d, STRIPE))  # of a packed matrix
    room = max(2, MAX_GRAM_ENTRIES // size)
    n_held = len(used) if len(used) <= 0.8 * room else room // 2  # classes; if not all, they are made for every block
    class_blocks = [used[i : i + n_held] for i in range(0, len(used), n_held)]
    task_blocks = [np.arange(n_tasks)[i : i + room - n_held] for i in range(0, n_tasks, room - n_held)]
    of_class, of_task = np.empty((len(class_blocks[0]), size)), np.empty((len(task_blocks[0]), size))
    counts, sums, squares = groups.counts, np.zeros((len(groups.classes), d)), np.zeros((len(groups.classes), d))

    @np.errstate(all="ignore")
    def add_classes(places: np.ndarray) -> None:
        gram = np.empty((d, d))
        for place in places:
            k = classes[place]
            x = np.ascontiguousarray(features[groups.rows(k)][:, varies] - center) / scale
            np.matmul(x.T, x, out=gram)
            sums[k], squares[k] = x.sum(axis=0), gram.diagonal()
            for _, stripe, packed in _stripes(gram, of_class[place]):
                packed[...] = stripe

    @np.errstate(all="ignore")
    def add_up(start: int) -> None:
        some = slice(start, start + GRAM_BLOCK)
        product = chosen @ of_class[: len(classes), some]
        of_task[: len(tasks), some] = product if classes is class_blocks[0] else of_task[: len(tasks), some] + product

    @np.errstate(all="ignore")
    def score_tasks(places: np.ndarray) -> None:
        matrix = np.empty((d, d))
        for place in places:
            taken = member[tasks[place]]
            moments = of_task[place], counts[taken], sums[taken], squares[taken]
            scores[tasks[place]] = _from_moments(*moments, matrix)

    held = None
    with one_thread() as n_threads:
        n_workers = min(n_threads, max(1, MAX_GRAM_ENTRIES // (8 * d**2)))
        with ThreadPoolExecutor(n_workers) as pool:
            for tasks in task_blocks:
                for classes in class_blocks:
                    if held is not classes:
                        held, _ = classes, list(pool.map(add_classes, np.array_split(range(len(classes)), n_workers)))
                    chosen = member[np.ix_(tasks, classes)].astype(np.float64)
                    list(pool.map(add_up, range(0, size, GRAM_BLOCK)))
                list(pool.map(score_tasks, np.array_split(range(len(tasks)), n_workers)))
    return scores


def _from_moments(
    packed: np.ndarray, counts: np.ndarray, sums: np.ndarray, squares: np.ndarray, matrix: np.ndarray
) -> float:
    """H score from a task's packed Gram matrix, and its classes' counts, sums and sums of squares; NaN unless certain.

    `matrix`, `(d, d)`, is worked in.
    """
    n = counts.sum()
    mean, square = sums.sum(axis=0) / n, squares.sum(axis=0)
    variance = square - n * mean**2
    if not (variance > LEAST_VARIANCE * square).all():
        return np.nan
    scale, norms = np.sqrt(variance), np.zeros(len(mean))
    for i, stripe, gram in _stripes(matrix, packed):
        rows = slice(i, i + STRIPE)
        np.subtract(gram, (n * mean[rows])[:, None] * mean[i:], out=stripe)
        stripe /= scale[rows, None] * scale[i:]
        absolute = np.abs(stripe)
        norms[rows] += absolute.sum(axis=1)
        norms[i + STRIPE :] += absolute[:, STRIPE:].sum(axis=0)
    if not _factor(matrix.T, norms.max()):
        return np.nan
    return _explained_by_cholesky(matrix.T, (sums / counts[:, None] - mean) / scale, counts)


def _stripes(matrix: np.ndarray, packed: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield the stripes of rows of a matrix's upper triangle: the first row, the stripe, its place in `packed`."""
    at = 0
    for i in range(0, len(matrix), STRIPE):
        stripe = matrix[i : i + STRIPE, i:]
        yield i, stripe, packed[at : at + stripe.size].reshape(stripe.shape)
        at += stripe.size


score = h_score
