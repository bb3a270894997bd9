"""The probe: a linear head trained to convergence on cached features, tested by cross-validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from leep.measures._check import check_finite, check_labels, check_matrix, check_same_length
from leep.measures._classes import group_by_class
from leep.measures._softmax import descend
from leep.threads import map_in_threads

N_FOLDS = 5
STRENGTHS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)  # of L2 over n_features; strong ones converge fast
DEFAULT_STRENGTH = 0.1  # where too few images are left to choose
SELECTION = 5_000  # images at most that choose the strength: it costs five paths of fits and depends little on n
TOLERANCE = 1e-4  # of the gradient per √(n / 1,000): the mean loss is then within 1e-6 of its minimum
FARTHEST = 1e100  # of a standardised test value
Z_95 = 1.959963984540054


@dataclass(frozen=True, eq=False)
class Probe:
    """Out-of-fold predictions of a linear head.

    Attributes
    ----------
    classes : int64 array `(n_classes,)`
        The labels that occur, ascending.
    labels : int64 array `(n,)`
        The images' classes as positions in `classes`.
    folds : int64 array `(n,)`
        The fold that tests each image; −1 for an image that is alone in its class, which trains in all folds.
    predicted : int64 array `(n,)`
        Predicted class as a position in `classes`; −1 where the image is not tested.
    log_probability : float64 array `(n,)`
        Predicted log-probability of the image's own class, ≤ 0; NaN where the image is not tested.
    strengths : float64 array `(n_folds,)`
        The strength of L2 of each fold's head, times the number of features.
    """

    classes: np.ndarray
    labels: np.ndarray
    folds: np.ndarray
    predicted: np.ndarray
    log_probability: np.ndarray
    strengths: np.ndarray

    @property
    def tested(self) -> np.ndarray:
        """Rows that were tested, int64 `(n_tested,)`, ascending."""
        return np.flatnonzero(self.folds >= 0)

    @property
    def correct(self) -> np.ndarray:
        """Whether each tested row was predicted right, bool `(n_tested,)`."""
        return (self.predicted == self.labels)[self.tested]

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of the accuracy over images, √(p (1 − p) / n)."""
        return float(np.sqrt(self.accuracy * (1 - self.accuracy) / len(self.tested)))

    @property
    def standard_error_over_folds(self) -> float:
        """Standard deviation of the folds' accuracies over √n_folds."""
        right = self.predicted == self.labels
        by_fold = [right[self.folds == fold].mean() for fold in range(len(self.strengths))]
        return float(np.std(by_fold, ddof=1) / np.sqrt(len(by_fold)))

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy, which has a width at 0 and at 1 too."""
        n, p = len(self.tested), self.accuracy
        middle, half = p + Z_95**2 / (2 * n), Z_95 * np.sqrt(p * (1 - p) / n + Z_95**2 / (4 * n**2))
        low, high = (middle - half) / (1 + Z_95**2 / n), (middle + half) / (1 + Z_95**2 / n)
        return float(min(max(low, 0.0), p)), float(max(min(high, 1.0), p))

    @property
    def confusion(self) -> np.ndarray:
        """Tested images of class i (row) predicted as class j (column), int64 `(n_classes, n_classes)`."""
        size = len(self.classes)
        pairs = self.labels[self.tested] * size + self.predicted[self.tested]
        return np.bincount(pairs, minlength=size * size).reshape(size, size)

    @property
    def accuracy_by_class(self) -> np.ndarray:
        """Accuracy of each class, float64 `(n_classes,)`; NaN for a class that was not tested."""
        counts = self.confusion.sum(axis=1)
        right = self.confusion.diagonal().astype(np.float64)
        return np.divide(right, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def probe(features: np.ndarray, target_labels: np.ndarray, *, seed: int = 0) -> Probe:
    """Cross-validate multinomial logistic regression with L2 on features.

    Five stratified folds. A class of m < 5 images is tested in m of them, so that few images of one class do not cost
    the others training images; an image that is alone in its class trains in every fold and is never tested. Each fold
    standardises the features by its training images. Each fold chooses the strength of L2 by the log-likelihood of two
    of its training folds, by heads that see neither that fold nor the test fold. The intercept is not penalised.

    Parameters
    ----------
    features : float array `(n, n_features)`
        Finite.
    target_labels : int array `(n,)`
        Non-negative, at least two classes, one of them with two images or more; gaps are allowed.
    seed : int
        Deals the images to folds. The folds depend on the seed and on which images share a class, on nothing else.

    Returns
    -------
    Probe
        The same for any number of threads.

    Raises
    ------
    ValueError
        If a shape, dtype or value is not as above.
    RuntimeError
        If a head does not converge.

    Examples
    --------
    >>> features = np.repeat([[0.0, 0.0], [0.0, 9.0], [9.0, 0.0]], 4, axis=0) + np.eye(12, 2)
    >>> probe(features, np.repeat([0, 1, 2], 4)).accuracy
    1.0
    """
    features, classes, labels = _check(features, target_labels)
    folds = deal_folds(labels, seed)
    strengths = _choose_strengths(features, labels, folds, seed)
    others = [np.flatnonzero(folds != fold) for fold in range(len(strengths))]
    return Probe(classes, labels, folds, *_out_of_fold(features, labels, folds, strengths, others), strengths)


def probe_on_part(features: np.ndarray, done: Probe, share: float, repeat: int, seed: int = 0) -> np.ndarray:
    """Correctness of heads that train on a share of each class's training images, and are tested on all images.

    Parameters
    ----------
    features : float array `(n, n_features)`
        Those of `done`.
    done : Probe
        Gives the folds and each fold's strength of L2.
    share : float in (0, 1]
        Of the training images of each class, rounded, at least one.
    repeat, seed : int
        Which images they are.

    Returns
    -------
    bool array `(n_tested,)`
    """
    keys = _keys(len(done.labels), seed, 1, repeat)
    parts = [_part(done.labels, np.flatnonzero(done.folds != f), share, keys) for f in range(len(done.strengths))]
    predicted, _ = _out_of_fold(features, done.labels, done.folds, done.strengths, parts)
    return (predicted == done.labels)[done.tested]


def held_out(features: np.ndarray, target_labels: np.ndarray, test_rows: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Correctness of one head that trains on all other rows and is tested on these, bool `(n_test,)`.

    The strength of L2 is the median of those that the folds of the training rows choose, as in `probe`.

    Parameters
    ----------
    features, target_labels, seed
        As for `probe`. Each class of the tested rows must occur among the others.
    test_rows : int array `(n_test,)`
        Rows that are tested.

    Raises
    ------
    ValueError
        If a shape, dtype or value is not as above.
    RuntimeError
        If the head does not converge.

    Examples
    --------
    >>> features = np.repeat([[0.0, 0.0], [0.0, 9.0], [9.0, 0.0]], 4, axis=0) + np.eye(12, 2)
    >>> held_out(features, np.repeat([0, 1, 2], 4), np.array([0, 4, 8])).tolist()
    [True, True, True]
    """
    train = np.setdiff1d(np.arange(len(target_labels)), test_rows)
    _, classes, labels = _check(features[train], np.asarray(target_labels)[train])
    tested = np.asarray(target_labels)[test_rows]
    if not np.isin(tested, classes).all():
        raise ValueError(f"each tested class must have other rows, {np.setdiff1d(tested, classes)} have none")
    strength = np.median(_choose_strengths(features[train], labels, deal_folds(labels, seed), seed))
    (log_probs,) = _heads(features, labels, train, test_rows, [float(strength)], TOLERANCE)
    return classes[log_probs.argmax(axis=1)] == tested


def head_of_fold(features: np.ndarray, done: Probe, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """The head that tests a fold: weight `(n_classes, n_features)` and bias `(n_classes,)`, float64.

    Its outputs `features @ weight.T + bias` have the probe's softmax. `features` are those of `done`.
    """
    n, d = features.shape
    train = np.flatnonzero(done.folds != fold)
    points = np.vstack([features, np.zeros((1, d)), np.eye(d)])  # an affine map is known by its values at these
    strength = done.strengths[fold : fold + 1]
    (values,) = _heads(points, done.labels[train], train, np.arange(n, n + d + 1), strength, TOLERANCE)
    return (values[1:] - values[0]).T, values[0]


def deal_folds(labels: np.ndarray, seed: int) -> np.ndarray:
    """The fold of each image, int64 `(n,)`; −1 where it is alone in its class.

    Each class is shuffled and dealt out fold by fold, from where the class before it stopped: folds differ by at most
    one image, in all and of each class. Classes come in the order in which they occur, so that their names do not
    matter. `labels` are int64 `(n,)`.
    """
    _, first, codes, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    keys = _keys(len(labels), seed, 0)
    dealt = np.flatnonzero(counts[codes] > 1)
    order = dealt[np.lexsort((keys[dealt], first[codes[dealt]]))]
    folds = np.full(len(labels), -1)
    folds[order] = np.arange(len(order)) % N_FOLDS
    return folds


def _check(features: np.ndarray, target_labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    features = check_matrix("features", "n_features", features)
    labels = check_labels("target_labels", target_labels)
    check_same_length(features=features, target_labels=labels)
    check_finite("features", features)
    groups = group_by_class(labels)
    if len(groups.classes) < 2:
        raise ValueError(f"target_labels must hold at least two classes, got only {groups.classes[0]}")
    if groups.counts.max() < 2:
        raise ValueError(f"target_labels must hold a class of two images or more, got {len(labels)} classes of one")
    return features, groups.classes, groups.codes


def _part(labels: np.ndarray, rows: np.ndarray, share: float, keys: np.ndarray) -> np.ndarray:
    """A share of each class of `rows`, those of the least keys; ascending."""
    order = rows[np.lexsort((keys[rows], labels[rows]))]
    ordered = labels[order]
    firsts = np.flatnonzero(np.diff(ordered, prepend=-1))
    counts = np.diff(np.append(firsts, len(order)))
    place = np.arange(len(order)) - np.repeat(firsts, counts)
    return np.sort(order[place < np.repeat(np.maximum(1, np.rint(share * counts)), counts)])


def _choose_strengths(features: np.ndarray, labels: np.ndarray, folds: np.ndarray, seed: int) -> np.ndarray:
    """The strength of L2 of each fold, float64 `(n_folds,)`.

    One path of fits leaves out two neighbouring folds. Each of the two validates the strength of the other.
    """
    n_folds, rows = int(folds.max()) + 1, np.arange(len(labels))
    if len(rows) > SELECTION:
        rows = _part(labels, rows, SELECTION / len(rows), _keys(len(rows), seed, 2))

    def validate(fold: int) -> np.ndarray:
        """Log-likelihood of `fold` and of the next one by strength, `(2, n_strengths)`; −inf where not computed."""
        pair = fold, (fold + 1) % n_folds
        train = rows[~np.isin(folds[rows], pair)]
        test = rows[np.isin(folds[rows], pair) & np.isin(labels[rows], labels[train])]
        if len(test) == 0:
            return np.zeros((2, len(STRENGTHS)))
        classes, codes = np.unique(labels[train], return_inverse=True)  # a small class may not be among them
        own = np.arange(len(test)), np.searchsorted(classes, labels[test])
        sums = np.full((2, len(STRENGTHS)), -np.inf)
        for s, log_probs in enumerate(_heads(features, codes, train, test, STRENGTHS, 100 * TOLERANCE)):
            sums[:, s] = [log_probs[own][folds[test] == f].sum() for f in pair]
            if s and (sums[:, s] < sums[:, s - 1]).all():
                break  # weaker ones follow the training images more closely still
        return sums

    sums = np.array(map_in_threads(validate, range(n_folds), _bytes(features, labels, len(rows))))
    by_fold = sums[:, 1] + np.roll(sums[:, 0], 1, axis=0)  # of the fold after it, and of the one before it
    chosen = np.array(STRENGTHS)[by_fold.argmax(axis=1)]
    return np.where(by_fold.any(axis=1), chosen, DEFAULT_STRENGTH)


def _out_of_fold(
    features: np.ndarray, labels: np.ndarray, folds: np.ndarray, strengths: np.ndarray, parts: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Predicted class, and log-probability of the own class, by heads trained on one of `parts` for each fold."""

    def test(fold: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = np.flatnonzero(folds == fold)
        (log_probs,) = _heads(features, labels[parts[fold]], parts[fold], rows, strengths[fold : fold + 1], TOLERANCE)
        return rows, log_probs.argmax(axis=1), log_probs[np.arange(len(rows)), labels[rows]]

    predicted, log_probability = np.full(len(labels), -1), np.full(len(labels), np.nan)
    most = max(map(len, parts))
    for rows, classes, own in map_in_threads(test, range(len(parts)), _bytes(features, labels, most)):
        predicted[rows], log_probability[rows] = classes, own
    return predicted, log_probability


def _heads(
    features: np.ndarray,
    codes: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    strengths: Sequence[float],
    tolerance: float,
) -> Iterator[np.ndarray]:
    """Log-probabilities `(n_test, n_classes)` by the head of each strength, each head starting from the one before.

    `codes` are the classes of `train`, 0 … n_classes − 1, all of which occur.
    """
    x, x_test = _standardise(features[train], features[test])
    n_features = max(x.shape[1], 1)
    z, z_test, variances = _rotate(x, x_test)
    del x, x_test
    start = None
    for strength in strengths:
        start = weights, bias, _ = solve(z, variances, codes, strength * n_features, tolerance, start)
        logits = z_test @ weights + bias
        yield logits - special.logsumexp(logits, axis=1, keepdims=True)


def _standardise(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns that vary in `train`, centred and with a mean square of 1 there; float64.

    Subtracting the first row makes a constant column exactly 0, which subtracting a rounded mean does not; halves
    cannot overflow.
    """
    x, x_test = (np.multiply(values, 0.5, dtype=np.float64) for values in (train, test))
    first = x[0].copy()
    x -= first
    x_test -= first
    peak = np.abs(x).max(axis=0)
    if not peak.all():
        x, x_test, peak = x[:, peak > 0], x_test[:, peak > 0], peak[peak > 0]
    x /= peak
    mean = x.mean(axis=0)
    x -= mean
    deviation = np.sqrt(np.einsum("ij,ij->j", x, x) / len(x))
    x /= deviation
    with np.errstate(over="ignore"):  # a column that hardly varies in `train`
        x_test /= peak
        x_test -= mean
        x_test /= deviation
    return x, np.clip(x_test, -FARTHEST, FARTHEST, out=x_test)


def _rotate(x: np.ndarray, x_test: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows in the principal axes of `x`, `(n, rank)`, and the squares' sum of each axis; L2 is the same in them.

    Where there are more features than rows the axes come from the rows' products: nothing is larger than `(n, n)`.
    """
    n, d = x.shape
    if n > d:
        variances, axes = np.linalg.eigh(x.T @ x)
    else:
        variances, axes = np.linalg.eigh(x @ x.T)
    kept = variances > max(n, d) * np.finfo(np.float64).eps * variances.max(initial=0.0)
    variances, axes = variances[kept], axes[:, kept]
    if n > d:
        return x @ axes, x_test @ axes, variances
    return axes * np.sqrt(variances), (x_test @ x.T) @ (axes / np.sqrt(variances)), variances


def solve(
    z: np.ndarray,
    variances: np.ndarray,
    codes: np.ndarray,
    penalty: float,
    tolerance: float,
    start: tuple[np.ndarray, np.ndarray, float] | None = None,
) -> tuple[np.ndarray, np.ndarray, float]:
    """The minimum of Σᵢ −log softmax(zᵢ W + b)_yᵢ + penalty / 2 · ‖W‖² by L-BFGS.

    Parameters
    ----------
    z : float64 array `(n, rank)`
        Its columns are orthogonal.
    variances : float64 array `(rank,)`
        Their squared norms.
    codes : int64 array `(n,)`
        yᵢ, 0 … n_classes − 1, all of which occur.
    penalty : float, above 0
    tolerance : float
        Of the gradient, in the scale below, per √(n / 1,000).
    start : what an earlier call returned, optional

    Returns
    -------
    W, b : float64 arrays `(rank, n_classes)` and `(n_classes,)`
    minimum : float

    Notes
    -----
    Each axis is scaled by the curvature there when each p(1 − p) is 1 / (4 n_classes). Without the scale L-BFGS takes
    ten times as many steps.
    """
    small = tolerance * np.sqrt(len(z) / 1000)
    first = None if start is None else start[:2]
    weight, bias, minimum, steepest = descend(z, variances, codes, int(codes.max()) + 1, penalty, small, first)
    if not steepest <= 100 * small:
        raise RuntimeError(f"the head must converge, got a gradient of {steepest:g}")
    return weight, bias, minimum


def _keys(n: int, seed: int, *purpose: int) -> np.ndarray:
    """A random number for each image, float64 `(n,)`, that depends on nothing else."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=purpose)).random(n)


def _bytes(features: np.ndarray, labels: np.ndarray, n: int) -> int:
    """Memory of one fit on `n` images: two copies of the features, axes, logits."""
    d = features.shape[1]
    return 8 * (2 * len(labels) * d + 3 * min(n, d) ** 2 + 3 * n * (int(labels.max()) + 1))
