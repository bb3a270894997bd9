"""TransRate: values by hand, the authors' numbers, a slow reference, invariances, scale, rejected inputs."""

import doctest
import math

import numpy as np
import pytest
from helpers.measures import REJECTED, awkward_features, labelled_features
from hypothesis import given, settings

from leep.measures import measure_arguments, transrate
from leep.measures.transrate import transrate_score


def slow_transrate(features, labels, eps=1e-4):
    z = np.asarray(features, float) - np.mean(features, axis=0)

    def rate(part):
        singular = np.linalg.svd(part, compute_uv=False)
        return 0.5 * np.log1p(singular**2 / (len(part) * eps)).sum()

    return rate(z) - sum((labels == c).mean() * rate(z[labels == c]) for c in np.unique(labels))


def test_by_hand():
    # z² = 9, 1, 1, 9: R = ½ log 6, the classes' ½ log 10 and ½ log 2. Doubled features with 4 eps are the same.
    features, expected = np.array([[0.0], [2.0], [4.0], [6.0]]), 0.5 * math.log(6) - 0.25 * math.log(20)
    assert transrate_score(features, [0, 1, 1, 0], eps=1.0) == pytest.approx(expected, abs=1e-14)
    assert transrate_score(2 * features, [0, 1, 1, 0], eps=4.0) == pytest.approx(expected, abs=1e-14)


def test_by_hand_with_unit_rows():
    # z = (±3, 0), (0, ±1) become unit vectors: R = log 1½, both classes' ½ log 2.
    features = [[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]
    expected = math.log(1.5) - 0.5 * math.log(2)
    assert transrate_score(features, [0, 0, 1, 1], eps=1.0, unit_rows=True) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize(
    ("seed", "n", "d", "n_classes", "weighted", "unit", "listing"),
    [
        (0, 60, 5, 4, 0.8074525730539861, 0.5587694899746154, 0.7966363237405147),
        (1, 200, 20, 7, 6.750512571088848, 6.5094234734051, 6.968472085878005),
        (2, 40, 60, 3, 108.5410403958549, 50.19393279173619, 109.0708826780622),
        (3, 250, 512, 5, 915.0180978652255, 247.70913070767847, 917.5730103799345),
    ],
)
def test_the_authors_numbers(seed, n, d, n_classes, weighted, unit, listing):
    """The listing has equal weights of the classes, unlike the formula."""
    features, labels = labelled_features(seed, n, d, n_classes)
    assert transrate_score(features, labels) == pytest.approx(weighted, rel=1e-11)
    assert transrate_score(features, labels, unit_rows=True) == pytest.approx(unit, rel=1e-11)
    assert abs(transrate_score(features, labels) - listing) > 0.01


def test_labels_with_gaps():
    """The listing divides 0 by 0 for a label that does not occur."""
    features, labels = labelled_features(0)
    assert transrate_score(features, 10 * labels) == transrate_score(features, labels)


@settings(deadline=None, max_examples=80)
@given(awkward_features())
def test_awkward_tasks_equal_the_slow_reference(task):
    score = transrate_score(*task)
    assert score == pytest.approx(slow_transrate(*task), abs=1e-9)
    assert score >= -1e-9


@pytest.mark.parametrize(("n", "d"), [(30, 4), (40, 20), (20, 20), (12, 40)])
def test_random_tasks_equal_the_slow_reference(n, d):
    features, labels = labelled_features(5, n, d)
    assert transrate_score(features, labels) == pytest.approx(slow_transrate(features, labels), rel=1e-11)


@pytest.mark.parametrize(("n", "d"), [(30, 4), (12, 40)])
def test_large_features_with_dependent_columns(n, d):
    """Eigenvalues of 1e16: without a cut, the rounding of those that are 0 would count."""
    features, labels = labelled_features(5, n, d)
    features = 1e6 * np.hstack([features, features])
    assert transrate_score(features, labels) == pytest.approx(slow_transrate(features, labels), rel=1e-6)


@pytest.mark.parametrize(("n", "d"), [(60, 5), (20, 40)])
def test_invariances(n, d):
    features, labels = labelled_features(3, n, d)
    rng = np.random.default_rng(3)
    rotation, order = np.linalg.qr(rng.normal(size=(d, d)))[0], rng.permutation(n)
    expected = transrate_score(features, labels)
    for same in (features @ rotation, features + rng.normal(size=d), np.insert(features, 1, 7.0, axis=1)):
        assert transrate_score(same, labels) == pytest.approx(expected, rel=1e-10)
    assert transrate_score(features[order], labels[order]) == pytest.approx(expected, rel=1e-11)
    assert transrate_score(features, 9 - labels) == pytest.approx(expected, rel=1e-12)
    assert transrate_score(0.01 * features, labels) != pytest.approx(expected, rel=1e-3)
    assert transrate_score(10 * features, labels, eps=1e-2) == pytest.approx(expected, rel=1e-10)
    assert transrate_score(10 * features, labels, unit_rows=True) == pytest.approx(
        transrate_score(features, labels, unit_rows=True), rel=1e-10
    )
    single = features.astype(np.float32)
    assert transrate_score(single, labels) == transrate_score(single.astype(np.float64), labels)


def test_nothing_to_tell_apart_scores_zero():
    features, labels = labelled_features(0)
    assert transrate_score(features, np.full(60, 3)) == 0.0
    assert transrate_score([[2.0, 3.0]], [4]) == 0.0
    assert transrate_score(np.full((60, 3), 0.1), labels) == 0.0
    assert transrate_score(np.full((60, 3), 0.1), labels, unit_rows=True) == 0.0


@pytest.mark.parametrize("eps", [0.0, -1.0, np.nan, np.inf])
def test_rejected_eps(eps):
    with pytest.raises(ValueError, match="eps must be positive and finite"):
        transrate_score([[0.0], [1.0]], [0, 1], eps=eps)


def test_features_that_are_too_large_are_said():
    with pytest.raises(ValueError, match="need a larger eps"):
        transrate_score([[0.0], [1e200]], [0, 1])


@pytest.mark.parametrize(("features", "labels", "match"), REJECTED)
def test_rejected_inputs(features, labels, match):
    with pytest.raises(ValueError, match=match):
        transrate_score(features, labels)


def test_found_by_its_name():
    assert measure_arguments("transrate") == ("features", "target_labels")
    assert doctest.testmod(transrate) == (0, 2)
