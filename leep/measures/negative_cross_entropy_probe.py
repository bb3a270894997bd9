"""The probe: what a linear head predicts for examples that it was not trained on."""

from __future__ import annotations

import numpy as np

from leep.measures._blas import one_thread
from leep.measures._classes import encode
from leep.measures._features import check_features
from leep.measures._softmax import fit, rotate

N_FOLDS = 5
STRENGTH = 0.1
MAX_EXAMPLES = 8000
FARTHEST = 1e6  # of a standardised test value
TOLERANCE = 1e-4


def negative_cross_entropy_probe(
    features: np.ndarray,
    target_labels: np.ndarray,
    *,
    strength: float = STRENGTH,
    max_examples: int = MAX_EXAMPLES,
    seed: int = 0,
) -> float:
    """Return the mean out-of-fold log-probability of the own class, by multinomial logistic regression with L2.

    Five stratified folds; a class of m < 5 examples is tested in m of them. An example that is alone in its class is
    trained on in every fold, and tested in none. Each fold standardises the features by its training examples.

    Parameters
    ----------
    features : float array `(n, n_features)`
        Finite. The score does not change if a feature is shifted or multiplied by a number.
    target_labels : int array `(n,)`
        Non-negative; gaps are allowed.
    strength : float above 0
        The penalty is strength · n_features · ‖W‖² / 2, the loss a sum over examples. It is fixed, not chosen by the
        data, because choosing it costs ten times as much.
    max_examples : int
        More examples are subsampled at random.
    seed : int
        Of the folds and of the subsample.

    Returns
    -------
    float
        Nats, ≤ 0, higher is more transferable; 0 for a single class.

    Raises
    ------
    ValueError
        If a shape, dtype or value is not as above, or each of several classes has one example.
    RuntimeError
        If a head does not converge.

    Notes
    -----
    It is the baseline of the other measures of features: what one gets for a moment of training. Unlike theirs, its
    examples are not those it was fitted to. `leep.probe` chooses the strength and gives accuracies with intervals.

    Examples
    --------
    >>> features = np.repeat([[0.0, 0.0], [0.0, 9.0], [9.0, 0.0]], 4, axis=0) + np.eye(12, 2)
    >>> good = negative_cross_entropy_probe(features, np.repeat([0, 1, 2], 4))
    >>> bad = negative_cross_entropy_probe(features, np.tile([0, 1, 2], 4))
    >>> bad < -1 < good < 0
    True
    """
    features, labels = check_features(features, target_labels)
    for name, value in (("strength", strength), ("max_examples", max_examples)):
        if not 0 < value < np.inf:
            raise ValueError(f"{name} must be above 0, got {value}")
    if len(labels) > max_examples:
        rows = np.sort(np.random.default_rng(seed).choice(len(labels), max_examples, replace=False))
        features, labels = features[rows], labels[rows]
    classes, codes = encode(labels)
    if len(classes) == 1:
        return 0.0
    if len(classes) == len(labels):
        raise ValueError(f"target_labels must hold a class of two examples or more, got {len(classes)} classes of one")
    folds = deal_folds(codes, seed)
    with one_thread():
        own = [_log_probs(features, codes, folds != fold, folds == fold, strength) for fold in range(folds.max() + 1)]
    return float(np.concatenate(own).mean())


def deal_folds(codes: np.ndarray, seed: int) -> np.ndarray:
    """The fold of each example, int64 `(n,)`; −1 where it is alone in its class.

    Each class is shuffled and dealt out, from where the class before it stopped: folds differ by at most one example,
    in all and of each class. Classes come in the order in which they occur, so that their names do not matter.
    """
    _, first, codes, counts = np.unique(codes, return_index=True, return_inverse=True, return_counts=True)
    keys = np.random.default_rng(seed).random(len(codes))
    dealt = np.flatnonzero(counts[codes] > 1)
    order = dealt[np.lexsort((keys[dealt], first[codes[dealt]]))]
    folds = np.full(len(codes), -1)
    folds[order] = np.arange(len(order)) % N_FOLDS
    return folds


def _log_probs(
    features: np.ndarray, codes: np.ndarray, train: np.ndarray, test: np.ndarray, strength: float
) -> np.ndarray:
    """Log-probability of the own class of the rows `test` by a head of the rows `train`: all classes occur in it."""
    x, x_test = _standardise(features[train], features[test])
    z, axes, squares = rotate(x)
    n_classes = int(codes.max()) + 1
    weights, bias, _ = fit(z, squares, codes[train], n_classes, strength * max(x.shape[1], 1), TOLERANCE)
    logits = x_test @ (axes @ weights) + bias
    logits -= logits.max(axis=1, keepdims=True)
    return logits[np.arange(len(logits)), codes[test]] - np.log(np.exp(logits).sum(axis=1))


def _standardise(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns that vary in `train`, centred and with a mean square of 1 there; float64."""
    x, x_test = (np.multiply(values, 0.5, dtype=np.float64) for values in (train, test))
    first = x[0].copy()  # a constant column becomes exactly 0
    x -= first
    x_test -= first
    peak = np.abs(x).max(axis=0)
    varies = peak > 0
    x, x_test = x[:, varies] / peak[varies], x_test[:, varies]
    with np.errstate(over="ignore"):  # a column that hardly varies in `train`
        x_test = x_test / peak[varies]
    mean = x.mean(axis=0)
    x -= mean
    deviation = np.sqrt(np.einsum("ij,ij->j", x, x) / len(x))
    return x / deviation, np.clip((np.clip(x_test, -FARTHEST, FARTHEST) - mean) / deviation, -FARTHEST, FARTHEST)


score = negative_cross_entropy_probe
