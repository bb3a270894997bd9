"""NCE, the negative conditional entropy of target labels given dummy source labels (Sections 3 and 5.6)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from leep.measures._check import check_labels, check_same_length
from leep.measures._classes import encode, memberships


def nce_score(source_labels: np.ndarray, target_labels: np.ndarray) -> float:
    """Return the negative conditional entropy −H(Y|Z) = Σ P̂(y, z) log P̂(y|z).

    Parameters
    ----------
    source_labels : int array `(n,)`
        zᵢ, non-negative: the dummy labels, argmax of θ(xᵢ) in the paper.
    target_labels : int array `(n,)`
        yᵢ, non-negative; gaps are allowed in both.

    Returns
    -------
    float
        Nats, −H(Y) ≤ NCE ≤ 0; higher is more transferable; 0 where the source label determines the target label.

    Raises
    ------
    ValueError
        If a shape, dtype or value is not as above, or there are no examples.

    References
    ----------
    Tran et al., 2019; Nguyen et al., 2020, Section 3 and the proof of Property 2.

    Examples
    --------
    The dummy label 1 has the target label 1 only; the dummy label 0 has 0 twice and 1 once.

    >>> round(nce_score([0, 0, 0, 1], [0, 0, 1, 1]), 6)
    -0.477386
    """
    _, counts = _counts(source_labels, target_labels)
    n_dummies = counts.shape[1]
    pairs = counts.ravel().nonzero()[0]
    joint, given = counts.ravel()[pairs], counts.sum(axis=0)[pairs % n_dummies]
    return float(np.sum(joint * np.log(joint / given)) / len(source_labels))


def score_class_tasks(source_labels: np.ndarray, target_labels: np.ndarray, tasks: Sequence[np.ndarray]) -> np.ndarray:
    """`nce_score` of each task that takes all examples of some classes, float64 `(n_tasks,)`.

    `tasks` holds a 1-D integer array of distinct classes for each task.
    """
    classes, counts = _counts(source_labels, target_labels)
    member = memberships(tasks, classes)
    # Σ n(y,z) log n(y,z) − Σ n(z) log n(z), the sums over the classes of the task
    sums = member @ _x_log_x(counts).sum(axis=1) - _x_log_x(member @ counts).sum(axis=1)
    return np.where(member.sum(axis=1) == 1, 0.0, sums / np.maximum(member @ counts.sum(axis=1), 1))


def _counts(source_labels: np.ndarray, target_labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The target classes that occur, ascending, and n · P̂(y, z), float64 `(n_classes, n_dummy_labels)`."""
    z, y = check_labels("source_labels", source_labels), check_labels("target_labels", target_labels)
    check_same_length(source_labels=z, target_labels=y)
    (classes, y), (dummies, z) = encode(y), encode(z)
    shape = len(classes), len(dummies)
    return classes, np.bincount(y * shape[1] + z, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)


def _x_log_x(x: np.ndarray) -> np.ndarray:
    return x * np.log(np.maximum(x, 1.0))  # counts: 0 where x is 0 or 1


score = nce_score
