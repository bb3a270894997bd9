"""Tasks, and what every measure of features must do, for the tests of such measures."""

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


def task(seed, n, d, n_classes, scale=1.0):
    """Features with one strong direction and classes that differ, and their labels. References are stored for these."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    features = rng.normal(size=(n, d)) + 3 * rng.normal(size=(n, 1)) * rng.normal(size=d)
    features += rng.normal(size=(n_classes, d))[labels]
    return scale * features, labels


@st.composite
def awkward(draw):
    """Small integers: columns that are constant, repeated or dependent, equal rows, classes of one example."""
    n, d = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    features = draw(hnp.arrays(np.int64, (n, d), elements=st.integers(-3, 3)))
    scales = draw(hnp.arrays(np.int64, d, elements=st.sampled_from([1, 1, 3, 1024])))
    return features * scales, draw(hnp.arrays(np.int64, n, elements=st.sampled_from([0, 2, 3, 900])))


def rotation(d, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def check_arrays(score, tolerance=1e-10):
    """float32, strided, read-only and Fortran arrays, narrow labels; the inputs are not changed."""
    features, labels = task(0, 40, 12, 4, 0.1)
    features = features.astype(np.float32)
    expected = score(features, labels)
    assert type(expected) is float
    strided, narrow = np.repeat(features, 2, axis=0)[::2], labels.astype(np.uint8)
    strided.flags.writeable = narrow.flags.writeable = False
    assert score(strided, narrow) == pytest.approx(expected, abs=tolerance)
    assert score(np.asfortranarray(features), labels) == pytest.approx(expected, abs=tolerance)
    assert score(features.astype(np.float64), labels) == pytest.approx(expected, abs=tolerance)
    wide = features.astype(np.float64)
    score(wide, labels)
    assert np.array_equal(wide, features)


def check_invariances(score, seed, d, tolerance=1e-9, rotates=True, shifts=True):
    """Order of examples, names of classes; rotation and shift."""
    features, labels = task(seed, 40, d, 4, 0.1)
    rng = np.random.default_rng(seed)
    order, names, expected = rng.permutation(40), rng.permutation(20), score(features, labels)
    assert score(features[order], labels[order]) == pytest.approx(expected, abs=tolerance)
    assert score(features, names[labels]) == pytest.approx(expected, abs=tolerance)
    if rotates:
        assert score(features @ rotation(d, seed), labels) == pytest.approx(expected, abs=tolerance)
    if shifts:
        assert score(features + rng.normal(size=d), labels) == pytest.approx(expected, abs=tolerance)


FEATURES, LABELS = task(0, 10, 5, 3)


def changed(index, value):
    values = FEATURES.copy()
    values[index] = value
    return values


REJECTED = [
    (changed((3, 2), np.nan), LABELS, "features must be finite, got nan in row 3, column 2"),
    (changed((3, 2), -np.inf), LABELS, "features must be finite, got -inf in row 3, column 2"),
    (FEATURES[:, 0], LABELS, r"features must have shape \(n, n_features\), got \(10,\)"),
    (FEATURES[:0], LABELS[:0], "features must hold at least one example and one column"),
    (FEATURES.astype(complex), LABELS, "features must be real numbers"),
    (FEATURES[:9], LABELS, r"must have as many rows as each other, got \[9, 10\]"),
    (FEATURES, LABELS + 0.5, "target_labels must"),
    (FEATURES, LABELS - 2, "target_labels must be non-negative, got -2"),
    (FEATURES, LABELS.reshape(5, 2), r"target_labels must have shape \(n,\), got \(5, 2\)"),
]
