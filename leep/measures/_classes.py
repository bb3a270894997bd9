"""Examples grouped by class, and target tasks given as sets of whole classes (Section 5.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from leep.measures._check import check_labels


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
    """Groups checked labels, int64 `(n,)`."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    firsts = np.flatnonzero(np.diff(ordered, prepend=-1))  # labels are non-negative
    return Grouping(ordered[firsts], order, np.append(firsts, len(labels)))


def class_means(values: np.ndarray, groups: Grouping) -> np.ndarray:
    """Mean row of each class, `(n_classes, n_columns)`."""
    return np.stack([values[groups.rows(k)].mean(axis=0) for k in range(len(groups.classes))])


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
