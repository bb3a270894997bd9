"""Shrunk H score: values by hand, the authors' numbers, a slow reference, invariances, rejected inputs."""

import doctest

import numpy as np
import pytest
from helpers.measures import REJECTED, awkward_features, labelled_features
from hypothesis import given, settings

from leep import h_score
from leep.measures import h_score_shrunk as module
from leep.measures import measure_arguments
from leep.measures.h_score_shrunk import h_score_shrunk


def slow_h_score(features, labels):
    """Every covariance as it is defined, Ledoit and Wolf's error as a mean over the examples' own matrices."""
    x = np.asarray(features, float) - np.mean(features, axis=0)
    n, d = x.shape
    cov = x.T @ x / n
    mean = np.trace(cov) / d
    spread = np.sum((cov - mean * np.eye(d)) ** 2)
    error = sum(np.sum((np.outer(row, row) - cov) ** 2) for row in x) / n**2
    alpha = 0.0 if d == 1 or spread == 0 else min(error, spread) / spread
    between = np.cov(np.stack([x[labels == y].mean(axis=0) for y in labels]).T, bias=True)
    shrunk = (1 - alpha) * cov + alpha * mean * np.eye(d)
    return float((1 - alpha) * np.trace(np.linalg.pinv(shrunk, rcond=1e-12) @ np.atleast_2d(between)))


def test_by_hand_without_shrinkage():
    # One feature: variance 5, of the class means 4.
    assert h_score_shrunk([[0.0], [2.0], [4.0], [6.0]], [0, 0, 1, 1]) == pytest.approx(0.8, abs=1e-14)


def test_by_hand_with_shrinkage():
    # x = (±2, 0), (0, ±1): cov = diag(2, ½), mean 5/4, spread 2 (3/4)² = 9/8. ‖x‖⁴ has the mean 17/2, ‖cov‖² = 17/4:
    # error (17/2 − 17/4) / 4 = 17/16, α = 17/18. Class means (2, 0), (−⅔, 0): between = ¼ (4 + 3 · 4/9) = 4/3.
    # Σ_α = 2/18 + 17/18 · 5/4 = 93/72 in the first column.
    features = [[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]]
    assert h_score_shrunk(features, [0, 1, 1, 1]) == pytest.approx((1 / 18) * (4 / 3) / (93 / 72), abs=1e-14)


def test_full_shrinkage_scores_zero():
    # cov = diag(½, 0.605) is closer to its target than to the examples' own matrices: α = 1.
    assert h_score_shrunk([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.1], [0.0, -1.1]], [0, 1, 1, 1]) == 0.0


@pytest.mark.parametrize(
    ("seed", "n", "d", "n_classes", "authors"),
    [
        (0, 60, 5, 4, 1.1198544243337898),
        (1, 200, 20, 7, 3.428659903386769),
        (2, 40, 60, 3, 1.9306947354539983),
        (3, 250, 512, 5, 3.990594186681454),
    ],
)
def test_public_numbers(seed, n, d, n_classes, authors):
    """Of scikit-learn's LedoitWolf in public code, times (n − 1) / n for its mixed covariances."""
    assert h_score_shrunk(*labelled_features(seed, n, d, n_classes)) == pytest.approx(authors, abs=1e-10)


@settings(deadline=None, max_examples=80)
@given(awkward_features())
def test_awkward_tasks_equal_the_slow_reference(task):
    score = h_score_shrunk(*task)
    assert score == pytest.approx(slow_h_score(*task), abs=1e-8)
    assert -1e-12 <= score <= min(len(np.unique(task[1])) - 1, task[0].shape[1]) + 1e-9


@pytest.mark.parametrize(("n", "d"), [(30, 4), (20, 20), (12, 40)])
def test_random_tasks_equal_the_slow_reference(n, d):
    features, labels = labelled_features(5, n, d)
    assert h_score_shrunk(features, labels) == pytest.approx(slow_h_score(features, labels), rel=1e-10)


def test_tells_tasks_apart_where_the_h_score_does_not():
    near, labels = labelled_features(6, 40, 80)
    far = near + 3 * near[:4][labels]
    assert h_score(near, labels) == pytest.approx(h_score(far, labels))
    assert h_score_shrunk(far, labels) > h_score_shrunk(near, labels) + 0.01


def test_approaches_the_h_score_where_examples_are_many():
    features, labels = labelled_features(7, 20_000, 4)
    assert h_score_shrunk(features, labels) == pytest.approx(h_score(features, labels), rel=1e-2)


def test_two_examples_are_not_shrunk():
    # ± (3, 4): each example's matrix is the covariance, α = 0, and the pseudo-inverse gives 1.
    assert h_score_shrunk([[3.0, 4.0], [-3.0, -4.0]], [0, 1]) == pytest.approx(1.0, abs=1e-12)
    assert h_score_shrunk([[3.0, 4.0, 0.0], [-3.0, -4.0, 0.0]], [0, 1]) == pytest.approx(1.0, abs=1e-12)


def test_nothing_to_explain_scores_zero():
    features, labels = labelled_features(0, dtype=np.float32)
    assert h_score_shrunk(features, np.full(60, 3)) == 0.0
    assert h_score_shrunk([[2.0, 3.0]], [4]) == 0.0
    assert h_score_shrunk(np.full((60, 3), np.float32(0.1)), labels) == 0.0


@pytest.mark.parametrize(("n", "d"), [(60, 5), (20, 40)])
def test_invariances(n, d):
    features, labels = labelled_features(3, n, d)
    rng = np.random.default_rng(3)
    rotation, order = np.linalg.qr(rng.normal(size=(d, d)))[0], rng.permutation(n)
    expected = h_score_shrunk(features, labels)
    for same in (features @ rotation, 1e200 * features, 1e-200 * features, features + rng.normal(size=d)):
        assert h_score_shrunk(same, labels) == pytest.approx(expected, rel=1e-10)
    assert h_score_shrunk(features[order], labels[order]) == pytest.approx(expected, rel=1e-12)
    assert h_score_shrunk(features, rng.permutation(20)[labels]) == pytest.approx(expected, rel=1e-12)
    single = features.astype(np.float32)
    assert h_score_shrunk(single, labels) == h_score_shrunk(single.astype(np.float64), labels)


@pytest.mark.parametrize(("features", "labels", "match"), REJECTED)
def test_rejected_inputs(features, labels, match):
    with pytest.raises(ValueError, match=match):
        h_score_shrunk(features, labels)


def test_found_by_its_name():
    assert measure_arguments("h_score_shrunk") == ("features", "target_labels")
    assert doctest.testmod(module) == (0, 2)
