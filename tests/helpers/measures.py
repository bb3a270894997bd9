"""Labelled features for the tests of measures."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


def labelled_features(seed, n=60, d=5, n_classes=4, dtype=np.float64):
    """Normal features whose means depend on the class; every class occurs."""
    rng = np.random.default_rng(seed)
    labels = np.append(np.arange(n_classes), rng.integers(0, n_classes, n - n_classes))
    features = rng.normal(size=(n, d)) + rng.normal(size=(n_classes, d))[labels]
    return features.astype(dtype), labels


@st.composite
def awkward_features(draw):
    """Small integers: columns that are constant, repeated or depend on others; n below and above the dimension."""
    n, d = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    features = draw(hnp.arrays(np.int64, (n, d), elements=st.integers(-3, 3)))
    return features, draw(hnp.arrays(np.int64, n, elements=st.sampled_from([0, 2, 3])))


FEATURES, LABELS = labelled_features(0, n=10)


def _with(index, value):
    features = FEATURES.copy()
    features[index] = value
    return features


REJECTED = [  # features, labels, what the message says
    (_with((3, 2), np.nan), LABELS, "features must be finite, got nan in row 3, column 2"),
    (_with((3, 2), -np.inf), LABELS, "features must be finite, got -inf in row 3, column 2"),
    (FEATURES[:, 0], LABELS, r"features must have shape \(n, n_features\), got \(10,\)"),
    (FEATURES[:0], LABELS[:0], "features must hold at least one example and one column"),
    (FEATURES[:, :0], LABELS, "features must hold at least one example and one column"),
    (FEATURES.astype(complex), LABELS, "features must be real numbers, got dtype complex128"),
    (FEATURES, LABELS[:9], r"must have as many rows as each other, got \[10, 9\]"),
    (FEATURES, LABELS + 0.5, "target_labels must"),
    (FEATURES, LABELS - 2, "target_labels must be non-negative, got -2"),
    (FEATURES, LABELS.reshape(5, 2), r"target_labels must have shape \(n,\), got \(5, 2\)"),
]
