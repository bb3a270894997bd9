"""The nearest-mean classifier on the source's features, with which CNAPs are compared: nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from leep.transfer.method import Budget, Method, Pair, Transfer


@dataclass(frozen=True)
class NearestMean(Method):
    """Nearest class mean of the source's features."""

    name: ClassVar[str] = "nearest_mean"
    label: ClassVar[str] = "Nearest mean"
    style: ClassVar[dict[str, str]] = {"color": "#E69F00", "marker": "D", "hatch": "\\\\"}
    takes_epochs: ClassVar[bool] = False

    def prepare(self, pair: Pair, budget: Budget, checkpoints: Path) -> Transfer:
        """The nearest mean for each task, from the features of the one pass."""
        from leep.transfer.metrics import evaluate

        outputs = pair.outputs()

        def transfer(index, report):
            task = pair.task(index)
            train, test = outputs.train_features[task.train_rows], outputs.test_features[task.test_rows]
            predicted = predict_nearest_mean(train, task.train_labels, len(task.classes), test)
            return evaluate(predicted, task.test_labels, len(task.classes), task.minority_class), []

        return transfer


def predict_nearest_mean(
    features: np.ndarray, labels: np.ndarray, n_classes: int, test_features: np.ndarray
) -> np.ndarray:
    """The class whose mean feature is nearest, in Euclidean distance; of equals, the first.

    Parameters
    ----------
    features : float array `(n, n_features)`
    labels : int array `(n,)`
        0 … n_classes − 1, each at least once.
    n_classes : int
    test_features : float array `(m, n_features)`

    Returns
    -------
    int64 array `(m,)`

    Raises
    ------
    ValueError
        If a class has no example.
    """
    counts = np.bincount(labels, minlength=n_classes)
    if len(counts) > n_classes or counts.min() == 0:
        raise ValueError(f"labels must take all values from 0 to {n_classes - 1}, got counts {counts.tolist()}")
    means = np.stack([features[labels == k].mean(0, dtype=np.float64) for k in range(n_classes)])
    return (test_features @ means.T - (means**2).sum(1) / 2).argmax(1)
