"""LogME: values by hand, the authors' numbers, a slow reference, invariances, unbounded evidence, rejected inputs."""

import doctest
import math

import numpy as np
import pytest
from helpers.measures import REJECTED, awkward_features, labelled_features
from hypothesis import given, settings
from scipy.optimize import minimize_scalar

from leep.measures import logme, measure_arguments, score_task
from leep.measures.logme import logme_score


def slow_logme(features, labels):
    """The largest log density of N(0, F Fᵀ / α + I / β) over α/β, at the best β; None if it has no upper bound."""
    f = np.asarray(features, float)
    n, kernel, evidences = len(f), f @ f.T, []
    rank = np.linalg.matrix_rank(f)
    for c in np.unique(labels):
        y = (labels == c).astype(float)
        if rank < n and np.linalg.matrix_rank(np.column_stack([f, y])) == rank:
            return None

        def loss(log_ratio, y=y):
            share = 1 / (1 + np.exp(log_ratio))  # of the kernel; stays finite at both ends
            covariance = share * kernel + (1 - share) * np.eye(n)
            variance = y @ np.linalg.solve(covariance, y) / n
            return 0.5 * (math.log(2 * math.pi * variance) + 1 + np.linalg.slogdet(covariance)[1] / n)

        grid = np.arange(-20, 20, 0.25)
        losses = [loss(x) for x in grid]
        at = int(np.argmin(losses))
        near = minimize_scalar(loss, bounds=(grid[max(at - 1, 0)], grid[min(at + 1, len(grid) - 1)]), method="bounded")
        evidences.append(-min(near.fun, losses[at]))
    return np.mean(evidences)


def test_constant_feature_by_hand():
    # σ = 4, (uᵀy)² = 1, ‖y‖² = 2; with q = t / (t + 4): S = 1 + q, evidence ½ log(2/π) − ½ − ½ log(1 + q) + ⅛ log q
    # whose derivative vanishes at q = 1/3.
    expected = 0.5 * math.log(2 / math.pi) - 0.5 - 0.5 * math.log(4 / 3) - math.log(3) / 8
    assert logme_score(np.full((4, 1), 7.0), [0, 0, 1, 1]) == pytest.approx(expected, abs=1e-13)


def test_features_that_say_nothing_by_hand():
    # uᵀy = 0: noise alone is best, with the variance 2/4.
    expected = 0.5 * math.log(2 / math.pi) - 0.5 - 0.5 * math.log(2)
    assert logme_score([[1.0], [-1.0], [1.0], [-1.0]], [0, 0, 1, 1]) == pytest.approx(expected, abs=1e-13)
    assert logme_score(np.zeros((4, 3)), [0, 0, 1, 1]) == pytest.approx(expected, abs=1e-15)


def test_no_noise_is_best_by_hand():
    # Variances (1, 4) / α + 1 / β. y = (1, 0) wants equal ones: α = ∞, variances ½. y = (0, 1) wants the second as
    # large as can be: β = ∞, variances (1/8, 1/2): log N is log 2 larger.
    noise = -0.5 * math.log(math.pi) - 0.5
    expected = noise + math.log(2) / 2 / 2  # per example, the mean of two classes
    assert logme_score([[1.0, 0.0], [0.0, 2.0]], [0, 1]) == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize(
    ("seed", "n", "d", "n_classes", "authors", "iterated"),
    [
        (0, 60, 5, 4, -0.5058459589786699, -0.505832098186704),
        (1, 200, 20, 7, -0.06538385533993557, -0.06538385050443953),
        (4, 30, 30, 3, -0.07211927679796967, -0.07211923335604062),
        (5, 300, 40, 2, 0.1583812550177321, 0.15838125922910962),
    ],
)
def test_the_authors_numbers(seed, n, d, n_classes, authors, iterated):
    """`iterated` is their fixed point without the 1e-5 and until nothing changes."""
    score = logme_score(*labelled_features(seed, n, d, n_classes))
    assert score == pytest.approx(iterated, abs=1e-11)
    assert score == pytest.approx(authors, abs=2e-5)


def test_the_authors_code_is_wrong_where_examples_are_few():
    """It gives 1.938, for it lacks (n_features − n) log α / 2n; with that term, and iterated, the number below."""
    features, labels = labelled_features(2, 40, 60, 3)
    score = logme_score(features, labels)
    assert score == pytest.approx(0.13998682187759912, abs=1e-11)
    assert score == pytest.approx(slow_logme(features, labels), abs=1e-9)
    assert abs(score - 1.9383375610175702) > 1


def test_the_authors_code_counts_labels_that_do_not_occur():
    """With class 3 called 5 it gives 1.847, for the evidence of the empty classes 3 and 4 is bounded by 1e-5 alone."""
    features, labels = labelled_features(0, 60, 5, 4)
    assert logme_score(features, np.where(labels == 3, 5, labels)) == pytest.approx(-0.505832098186704, abs=1e-11)


@pytest.mark.parametrize(("n", "d"), [(12, 3), (20, 20), (15, 40), (40, 6)])
@pytest.mark.parametrize("seed", range(3))
def test_random_tasks_equal_the_slow_reference(seed, n, d):
    features, labels = labelled_features(seed, n, d, 3)
    assert logme_score(features, labels) == pytest.approx(slow_logme(features, labels), abs=1e-7)


@settings(deadline=None, max_examples=60)
@given(awkward_features())
def test_awkward_tasks_equal_the_slow_reference_or_are_unbounded(task):
    expected = slow_logme(*task)
    if expected is None:
        with pytest.raises(ValueError, match="evidence is unbounded"):
            logme_score(*task)
    else:
        assert logme_score(*task) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("features", "labels", "which"),
    [
        ([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], [7, 7, 9, 9], "class 7"),  # repeated rows, one-hot
        (np.full((5, 2), 3.0), [2] * 5, "class 2"),  # one class is a multiple of a constant
        ([[1.0], [0.0], [0.0]], [1, 0, 4], "class 1"),
    ],
)
def test_unbounded_evidence_is_said(features, labels, which):
    with pytest.raises(ValueError, match=which):
        logme_score(features, labels)


def test_single_class():
    features, _ = labelled_features(0)
    score = logme_score(features, np.full(60, 3))
    assert score == pytest.approx(slow_logme(features, np.full(60, 3)), abs=1e-9)
    # One example: variance 1
    assert logme_score([[2.0, 3.0]], [4]) == pytest.approx(-0.5 * math.log(2 * math.pi) - 0.5, abs=1e-14)


@pytest.mark.parametrize(("n", "d"), [(60, 5), (20, 40)])
def test_invariances(n, d):
    features, labels = labelled_features(3, n, d)
    rng = np.random.default_rng(3)
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    order, expected = rng.permutation(n), logme_score(features, labels)
    padded = np.insert(features, 2, 0.0, axis=1)
    for same in (features @ rotation, 1e-3 * features, 1e200 * features, 1e-200 * features, padded):
        assert logme_score(same, labels) == pytest.approx(expected, abs=1e-9)
    assert logme_score(features[order], labels[order]) == pytest.approx(expected, abs=1e-11)
    assert logme_score(features, rng.permutation(20)[labels]) == pytest.approx(expected, abs=1e-12)


def test_an_intercept_matters():
    features, labels = labelled_features(3)
    assert logme_score(np.insert(features, 0, 1.0, axis=1), labels) > logme_score(features, labels) + 0.01


def test_float32_is_computed_in_float64():
    features, labels = labelled_features(1, 200, 20, dtype=np.float32)
    before = features.copy()
    assert logme_score(features, labels) == logme_score(features.astype(np.float64), labels)
    assert type(logme_score(features, labels)) is float
    assert np.array_equal(features, before)


def test_dependent_columns():
    features, labels = labelled_features(1, 80, 4)
    repeated = np.hstack([features, features]) / math.sqrt(2)  # the same kernel
    assert logme_score(repeated, labels) == pytest.approx(logme_score(features, labels), abs=1e-10)


@pytest.mark.parametrize(("features", "labels", "match"), REJECTED)
def test_rejected_inputs(features, labels, match):
    with pytest.raises(ValueError, match=match):
        logme_score(features, labels)


def test_found_by_its_name():
    features, labels = labelled_features(0)
    assert measure_arguments("logme") == ("features", "target_labels")
    expected = logme_score(features, labels)
    assert score_task("logme", {"features": features, "target_labels": labels}) == expected
    assert doctest.testmod(logme) == (0, 3)
