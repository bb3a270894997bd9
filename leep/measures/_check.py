"""Checks of the arrays that measures take. Each returns the array in the form in which the measures compute with it."""

from __future__ import annotations

import numpy as np

ROW_SUM_TOLERANCE = 1e-3  # float32 softmax over 1,000 classes errs by 1e-6, float16 by 5e-4; logits by far more


def check_labels(name: str, labels: np.ndarray) -> np.ndarray:
    """Return labels as int64 `(n,)`, n ≥ 1, non-negative. Reject floats and booleans; accept gaps."""
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(f"{name} must have shape (n,), got {labels.shape}")
    if len(labels) == 0:
        raise ValueError(f"{name} must hold at least one label, got none")
    if labels.dtype.kind not in "iu":
        raise ValueError(f"{name} must be integers, got dtype {labels.dtype} (first value {labels[0]!r})")
    if labels.dtype.kind == "i" and labels.min() < 0:
        raise ValueError(f"{name} must be non-negative, got {labels.min()}")
    if labels.dtype == np.uint64 and int(labels.max()) >= 2**63:  # of Python: NumPy would compare as float64
        raise ValueError(f"{name} must fit int64, got {labels.max()}")
    return labels.astype(np.int64, copy=False)


def check_matrix(name: str, columns: str, values: np.ndarray) -> np.ndarray:
    """Return a matrix `(n, columns)`, n ≥ 1, as it is in float32, else in float64. Its values are not checked."""
    values = np.asarray(values)
    if values.ndim != 2:
        raise ValueError(f"{name} must have shape (n, {columns}), got {values.shape}")
    if values.size == 0:
        raise ValueError(f"{name} must hold at least one example and one column, got shape {values.shape}")
    if values.dtype.kind not in "fiu":
        raise ValueError(f"{name} must be real numbers, got dtype {values.dtype}")
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float64)


def check_finite(name: str, values: np.ndarray) -> None:
    """Reject a matrix with a NaN or an infinity."""
    finite = np.isfinite(values)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise ValueError(f"{name} must be finite, got {values[row, column]} in row {row}, column {column}")


def check_same_length(**arrays: np.ndarray) -> None:
    """Reject arrays that differ in their number of examples."""
    lengths = [len(values) for values in arrays.values()]
    if min(lengths) != max(lengths):
        raise ValueError(f"{' and '.join(arrays)} must have as many rows as each other, got {lengths}")


def reject_row(probs: np.ndarray, row: int) -> None:
    """Raise what is wrong with a row of `source_probs` that is not a distribution, as the first pass found."""
    values = probs[row].astype(np.float64)
    if not np.isfinite(values).all():
        wrong = values[~np.isfinite(values)][0]
        raise ValueError(f"source_probs must be finite, got {wrong} in row {row}")
    if values.min() < 0:
        raise ValueError(f"source_probs must be non-negative, got {values.min()} in row {row} (logits need a softmax)")
    raise ValueError(
        f"source_probs must sum to 1 in each row, to {ROW_SUM_TOLERANCE:g}, got {values.sum()} in row {row} "
        "(logits need a softmax)"
    )
