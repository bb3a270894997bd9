"""How good the predictions of a transferred model are."""

from __future__ import annotations

import numpy as np


def evaluate(predicted: np.ndarray, labels: np.ndarray, n_classes: int, minority_class: int | None = None) -> dict:
    """Test accuracy and F1 scores of predicted classes.

    Parameters
    ----------
    predicted : ndarray of shape (n,), integer
        Predicted class of each test example, in 0..n_classes−1.
    labels : ndarray of shape (n,), integer
        True class of each test example, in 0..n_classes−1.
    n_classes : int, at least 1
        Number of classes of the target task.
    minority_class : int in 0..n_classes−1, optional
        The class with fewer training examples, in an imbalanced task.

    Returns
    -------
    metrics : dict of str to float, each in 0..1
        `test_accuracy`; `test_f1_macro`, the mean of F1 over the classes that occur in `labels` or `predicted`;
        and, if `minority_class` is given, `test_f1`: its F1 over the whole test set.
        F1 of a class that is never predicted, or predicted but never right, is 0.

    Raises
    ------
    ValueError
        If the arrays are empty, differ in length, are not integers or hold a class outside 0..n_classes−1.

    References
    ----------
    Nguyen et al., ICML 2020, Section 5.3: F1 beside accuracy on imbalanced tasks.
    """
    predicted, labels = _check(predicted, labels, n_classes, minority_class)
    from sklearn.metrics import f1_score  # slow to import

    metrics = {
        "test_accuracy": float(np.mean(predicted == labels)),
        "test_f1_macro": float(f1_score(labels, predicted, average="macro", zero_division=0)),
    }
    if minority_class is not None:
        f1 = f1_score(labels, predicted, labels=[minority_class], average="macro", zero_division=0)
        metrics["test_f1"] = float(f1)
    return metrics


def _check(predicted, labels, n_classes, minority_class):
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    for name, array in {"predicted": predicted, "labels": labels}.items():
        if array.ndim != 1 or len(array) == 0:
            raise ValueError(f"{name} must have shape (n,) with n at least 1, got {array.shape}")
        if array.dtype.kind not in "iu":
            raise ValueError(f"{name} must be integers, got {array.dtype}")
        if array.min() < 0 or array.max() >= n_classes:
            raise ValueError(f"{name} must lie in 0..{n_classes - 1}, got {array.min()}..{array.max()}")
    if len(predicted) != len(labels):
        raise ValueError(f"predicted and labels must have the same length, got {len(predicted)} and {len(labels)}")
    if minority_class is not None and not 0 <= minority_class < n_classes:
        raise ValueError(f"minority_class must lie in 0..{n_classes - 1}, got {minority_class}")
    return predicted, labels
