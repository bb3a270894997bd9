"""LEEP, the log expected empirical prediction (Section 2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from leep.measures._check import check_labels, check_matrix, check_same_length, normalise_rounded
from leep.measures._classes import encode, group_by_class, memberships
from leep.measures._joint import log_likelihood, sum_by_class

ROWS_AT_ONCE = 4096  # of the batched form


def leep_score(source_probs: np.ndarray, target_labels: np.ndarray) -> float:
    """Return the average log-likelihood of the expected empirical predictor.

    Parameters
    ----------
    source_probs : float array `(n, n_source_classes)`
        θ(xᵢ), the source model's predicted distribution for each target example: non-negative, each row sums to 1
        to 0.001. Rows are used as they come, not normalised. float32 is read as it is, C order spares a copy.
        If a row errs by more, and its digits explain it, all rows are divided by their sums in float64: by 2⁻⁷ where
        all values are bfloat16's; by half a unit of the last digit a class, at most 0.05, where all have 3 to 6 digits.
    target_labels : int array `(n,)`
        yᵢ, non-negative; gaps are allowed. Whole floats and a column `(n, 1)` are taken, too.

    Arrays and tensors of PyTorch, MXNet, JAX and TensorFlow and columns of tables are read as NumPy's are.

    Returns
    -------
    float
        Nats, −H(Y) ≤ LEEP ≤ 0, up to the rounding of the rows; higher is more transferable; 0 for a single class.

    Raises
    ------
    ValueError
        If a shape, dtype or value is not as above, or there are no examples.

    Notes
    -----
    An example's own label never has the probability 0: a source class that holds 1/n_source_classes of θ(xᵢ) gives it
    at least 1/(n · n_source_classes²). A source class without mass contributes nothing.

    LEEP ≥ Σ P̂(y, z) log P̂(y|z) = −H(Y|Z) with P̂ of Eq. 1, by Jensen's inequality. Property 2 of the paper, a bound by
    the NCE of the dummy labels, is exact for one-hot predictions but does not hold for all data: its proof takes this
    P̂(y|z) for that of the dummy labels. `tests/test_measures.py` has a counter-example.

    References
    ----------
    Nguyen et al., 2020, Eq. 1 and 2.

    Examples
    --------
    Four examples of two target classes, and a source model of two classes that tells them apart.

    >>> source_probs = [[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]]
    >>> target_labels = [0, 0, 1, 1]
    >>> round(leep_score(source_probs, target_labels), 6)
    -0.47403
    """
    probs, classes, codes, sums = empirical_joint(source_probs, target_labels)
    if len(classes) == 1:
        return 0.0
    totals = sums.sum(axis=0)  # n · P̂(z)
    conditional = np.divide(sums, totals, out=np.zeros_like(sums), where=totals > 0)  # P̂(y|z)
    return log_likelihood(probs, codes, conditional) / len(probs)


def score_class_tasks(source_probs: np.ndarray, target_labels: np.ndarray, tasks: Sequence[np.ndarray]) -> np.ndarray:
    """`leep_score` of each task that takes all examples of some classes, float64 `(n_tasks,)`.

    `tasks` holds a 1-D integer array of distinct classes for each task. Every task shares the sums of Eq. 1.
    """
    probs, classes, codes, sums = empirical_joint(source_probs, target_labels)
    member = memberships(tasks, classes)
    groups = group_by_class(codes)
    totals = member @ sums  # (n_tasks, n_source_classes)
    # A reciprocal must not overflow; a mass of 1e-290 is far below the rounding of any p(y|x).
    inverse = np.divide(1.0, totals, out=np.zeros_like(totals), where=totals > 1e-290)
    scores = np.zeros(len(member))
    for k in range(len(classes)):
        with_k = np.flatnonzero(member[:, k])
        if len(with_k) == 0:
            continue
        given = np.ascontiguousarray(inverse[with_k].T)
        rows = groups.rows(k)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            joint = probs[rows[start : start + ROWS_AT_ONCE]] * sums[k]
            scores[with_k] += np.log(joint @ given).sum(axis=0)
    scores /= np.maximum(member @ groups.counts, 1)
    return np.where(member.sum(axis=1) == 1, 0.0, scores)


def empirical_joint(source_probs: np.ndarray, target_labels: np.ndarray) -> tuple[np.ndarray, ...]:
    """Checked probabilities, the classes that occur, each example's position among them, and n · P̂(y, z) (Eq. 1)."""
    probs = np.ascontiguousarray(check_matrix("source_probs", "n_source_classes", source_probs))
    labels = check_labels("target_labels", target_labels)
    check_same_length(source_probs=probs, target_labels=labels)
    classes, codes = encode(labels)
    sums, bad_row = sum_by_class(probs, codes, len(classes))
    if bad_row >= 0:
        probs = normalise_rounded(probs)
        sums, _ = sum_by_class(probs, codes, len(classes))
    return probs, classes, codes, sums


score = leep_score
