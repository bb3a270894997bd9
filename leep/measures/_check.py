"""Checks of the arrays that measures take. Each returns the array in the form in which the measures compute with it."""

from __future__ import annotations

from typing import Any

import numpy as np

ROW_SUM_TOLERANCE = 1e-3  # float32 softmax over 1,000 classes errs by 1e-6, float16 by 5e-4; logits by far more
_BFLOAT16_TOLERANCE = 2.0**-7  # it rounds a probability by 2⁻⁸ of itself, and its softmax the sum by as much again
_MOST_LOST = 0.05  # of the mass of a row, by printing few digits
_STEPS = (1e-3, 1e-4, 1e-5, 1e-6)  # of numbers that were printed with three to six digits


def as_array(name: str, values: Any) -> np.ndarray:
    """Return what a library of arrays or tables holds as a NumPy array, all of it at once.

    NumPy's own reading of MXNet's arrays takes a call for each element, and it refuses tensors of PyTorch that are on a
    GPU, need a gradient or are bfloat16, which becomes float32 here. Columns of lists become matrices.

    Raises
    ------
    ValueError
        If it cannot be read, or its rows differ in length.
    """
    if type(values) is np.ndarray and values.dtype.kind in "fiu":
        return values
    try:
        array = _read(values)
        return _unpack(array) if array.dtype.kind == "O" and array.ndim == 1 and len(array) else array
    except (ValueError, TypeError, RuntimeError, BufferError) as error:
        what = f"{type(values).__module__}.{type(values).__name__}"
        raise ValueError(f"{name} must be an array, got {what}, which NumPy cannot read: {error}") from error


def _read(values: Any) -> np.ndarray:
    if isinstance(values, list | tuple) and len(values) and _is_foreign(values[0]):
        return np.stack([_read(row) for row in values])
    if hasattr(values, "detach") and hasattr(values, "cpu"):  # PyTorch
        values = values.detach().cpu()
        values = values.float() if str(values.dtype).startswith(("torch.bfloat16", "torch.float8")) else values
    elif hasattr(values, "asnumpy"):  # MXNet
        values = values.asnumpy()
    elif hasattr(values, "toarray"):  # SciPy's sparse matrices
        raise TypeError("it is sparse; give values.toarray()")
    elif not hasattr(values, "__array__") and hasattr(values, "__dlpack__"):
        values = np.from_dlpack(values)
    array = np.asarray(values)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array  # of ml_dtypes: JAX, TensorFlow


def _is_foreign(value: Any) -> bool:
    return hasattr(value, "shape") and not isinstance(value, np.ndarray | np.generic)


def _unpack(array: np.ndarray) -> np.ndarray:
    """Python's numbers and lists in an array of objects, as tables have them, as an array of numbers."""
    if isinstance(array[0], str | bytes):
        return array
    if hasattr(array[0], "__len__"):
        return np.stack([_read(row) for row in array])
    numbers = np.array(array.tolist())
    return numbers if numbers.dtype.kind in "fiub" else array


def check_labels(name: str, labels: Any) -> np.ndarray:
    """Return labels as int64 `(n,)`, n ≥ 1, non-negative; gaps are accepted.

    As scikit-learn does, take a column `(n, 1)`, and floats that are whole numbers. Reject other floats and booleans.
    """
    labels = as_array(name, labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        hint = "; of one column a class take labels.argmax(axis=1)" if labels.ndim == 2 else ""
        raise ValueError(f"{name} must have shape (n,), got {labels.shape}{hint}")
    if len(labels) == 0:
        raise ValueError(f"{name} must hold at least one label, got none")
    labels = _whole(name, labels) if labels.dtype.kind == "f" else labels
    if labels.dtype.kind not in "iu":
        numbered = "; number them by np.unique(labels, return_inverse=True)[1]" if labels.dtype.kind in "OUSTb" else ""
        raise ValueError(f"{name} must be integers, got dtype {labels.dtype} (first value {labels[0]!r}){numbered}")
    if labels.dtype.kind == "i" and labels.min() < 0:
        raise ValueError(f"{name} must be non-negative, got {labels.min()}")
    if labels.dtype == np.uint64 and int(labels.max()) >= 2**63:  # of Python: NumPy would compare as float64
        raise ValueError(f"{name} must fit int64, got {labels.max()}")
    return labels.astype(np.int64, copy=False)


def _whole(name: str, labels: np.ndarray) -> np.ndarray:
    """Floats that are whole numbers, as MXNet's argmax gives them, as int64."""
    values = labels.astype(np.float64)
    wrong = np.flatnonzero(~((values == np.trunc(values)) & (np.abs(values) < 2.0**53)))  # NaN neither
    if len(wrong):
        hint = "number the classes, e.g. by probs.argmax(axis=1)"
        raise ValueError(f"{name} must be integers, got {labels[wrong[0]]} in row {wrong[0]}; {hint}")
    return values.astype(np.int64)


def check_matrix(name: str, columns: str, values: Any) -> np.ndarray:
    """Return a matrix `(n, columns)`, n ≥ 1, as it is in float32, else in float64. Its values are not checked."""
    values = as_array(name, values)
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


def normalise_rounded(probs: np.ndarray) -> np.ndarray:
    """Return distributions whose rows sum to 1 but for the rounding of few digits, divided by their sums in float64.

    Rounding to bfloat16 moves the sum of a row by at most 2⁻⁷. Printing with three digits moves it by at most 0.0005 a
    column, with four to six digits by less; more than 0.05 is refused, because too much is lost then. What the values
    are rounded to is seen from all of them: others must sum to 1 to `ROW_SUM_TOLERANCE`.

    Raises
    ------
    ValueError
        If rounding does not explain it; names the first row.
    """
    sums = probs.sum(axis=1, dtype=np.float64)
    errors = np.where(probs.min(axis=1) >= 0, np.abs(sums - 1), np.inf)  # of NaN infinite, too
    if len(bad := np.flatnonzero(~(errors <= max(ROW_SUM_TOLERANCE, _rounding(probs))))):
        reject_row(probs, int(bad[0]))
    return probs / sums[:, None]


def _rounding(probs: np.ndarray) -> float:
    """By how much the precision that all values have may move the sum of a row; 0 where they have all digits."""
    single = probs.astype(np.float32)
    bfloat16 = not (single.view(np.uint32) & 0xFFFF).any() and (single == probs).all()
    tolerance = _BFLOAT16_TOLERANCE if bfloat16 else 0.0
    for step in _STEPS:
        with np.errstate(invalid="ignore"):
            printed = np.abs(probs - np.rint(probs / step) * step) <= 2e-7  # float32 errs by half of it
        if printed.all():
            return max(tolerance, min(probs.shape[1] * step / 2, _MOST_LOST))
    return tolerance


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
        "(logits need a softmax; what was rounded needs more digits)"
    )
