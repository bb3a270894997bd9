"""Examples grouped by class, and target tasks given as sets of whole classes (Section 5.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from leep.measures._check import check_labels


def encode(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the labels that occur.

    Parameters
    ----------
    labels : int64 array `(n,)`
        Checked labels.

    Returns
    -------
    classes : int64 array `(n_classes,)`
        The labels that occur, ascending.
    codes : int64 array `(n,)`
        The position of each label in `classes`.
    """
    if labels.max() > 2 * len(labels) + 1000:  # a table of all labels would be larger than the labels
        classes, codes = np.unique(labels, return_inverse=True)
        return classes, codes
    occurs = np.bincount(labels) > 0
    classes = occurs.nonzero()[0]
    return classes, labels if len(classes) == len(occurs) else (occurs.cumsum() - 1)[labels]


def add_rows_by_class(values: np.ndarray, codes: np.ndarray, sums: np.ndarray) -> None:
    """Add row i of `values` to row `codes[i]` of `sums`, in the order of i.

    Both matrices are float64 in C order. `np.add.at` does the same, fifty times as slowly. SciPy multiplies by the
    sparse matrix that has a one per example, which its public form would build, check and copy for every block.
    """
    n = len(codes)
    matrix = np.arange(n + 1), codes, np.ones(n)
    try:
        from scipy.sparse._sparsetools import csc_matvecs
    except ImportError:  # a later SciPy may move it
        from scipy.sparse import csc_matrix

        sums += csc_matrix(matrix[::-1], shape=(len(sums), n)) @ values
        return
    csc_matvecs(len(sums), n, values.shape[1], *matrix, values.ravel(), sums.ravel())


@dataclass(frozen=True, eq=False)
class Grouping:
    """The examples of each class.

    Attributes
    ----------
    classes : int64 array `(n_classes,)`
        The labels that occur, ascending.
    order : int64 array `(n,)`
        Rows sorted by label, ascending within a class.
    starts : int64 array `(n_classes + 1,)`
        The rows of `classes[k]` are `order[starts[k] : starts[k + 1]]`.
    """

    classes: np.ndarray
    order: np.ndarray
    starts: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        return np.diff(self.starts)

    @property
    def codes(self) -> np.ndarray:
        """The label of each row as 0 … n_classes − 1, int64 `(n,)`."""
        codes = np.empty_like(self.order)
        codes[self.order] = np.repeat(np.arange(len(self.classes)), self.counts)
        return codes

    def rows(self, k: int) -> np.ndarray:
        return self.order[self.starts[k] : self.starts[k + 1]]


def group_by_class(labels: np.ndarray) -> Grouping:
    """Group checked labels, int64 `(n,)`."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    firsts = np.flatnonzero(np.diff(ordered, prepend=-1))  # labels are non-negative
    return Grouping(ordered[firsts], order, np.append(firsts, len(labels)))


def memberships(tasks: Sequence[np.ndarray], classes: np.ndarray) -> np.ndarray:
    """Which of `classes` each task takes, bool `(n_tasks, n_classes)`.

    Raises
    ------
    ValueError
        If a task is not a 1-D integer array, is empty, repeats a class or takes one that does not occur.
    """
    member = np.zeros((len(tasks), len(classes)), bool)
    for t, task in enumerate(tasks):
        task = check_labels(f"tasks[{t}]", task)
        distinct = np.unique(task)
        if len(distinct) < len(task):
            raise ValueError(f"tasks[{t}] must not repeat a class, got {task.tolist()}")
        absent = np.setdiff1d(distinct, classes)
        if len(absent):
            raise ValueError(f"tasks[{t}] must take classes that occur in target_labels, got {absent.tolist()}")
        member[t] = np.isin(classes, distinct)
    return member
