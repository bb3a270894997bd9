"""GBC: values by hand, the authors' numbers, a slow reference, invariances, variances of 0, rejected inputs."""

import doctest
import math

import numpy as np
import pytest
from helpers.measures import REJECTED, awkward_features, labelled_features
from hypothesis import given, settings

from leep.measures import gbc, measure_arguments
from leep.measures.gbc import gbc_score


def slow_gbc(features, labels, covariance="spherical", n_components=None, least=0.0):
    x = np.asarray(features, float) - np.mean(features, axis=0)
    if n_components is not None:
        x = x @ np.linalg.svd(x, full_matrices=False)[2][:n_components].T
    classes, total = np.unique(labels), 0.0
    for a in classes:
        for b in classes:
            if a == b:
                continue
            parts = [x[labels == c] for c in (a, b)]
            first, second = (np.maximum(part.var(axis=0), least) for part in parts)
            if covariance == "spherical":
                first, second = (np.full_like(variances, variances.mean()) for variances in (first, second))
            coefficient = 1.0
            for m, v, w in zip(parts[0].mean(axis=0) - parts[1].mean(axis=0), first, second):
                if v < 1e-14 and w < 1e-14:
                    coefficient *= abs(m) < 1e-9
                elif v < 1e-14 or w < 1e-14:
                    coefficient = 0.0
                else:
                    coefficient *= math.exp(-m * m / (v + w) / 4) * math.sqrt(2 * math.sqrt(v * w) / (v + w))
            total -= coefficient
    return total


def test_by_hand():
    # Means 1 and 5, variances 1: D = 16 / 8, twice.
    assert gbc_score([[0.0], [2.0], [4.0], [6.0]], [0, 0, 1, 1]) == pytest.approx(-2 * math.exp(-2), abs=1e-14)


# Means (0, 0) and (2, 0); variances (1, 4) and (4, 1): their averages are 2½ in each column.
CROSSED = np.array([[1, 2], [1, -2], [-1, 2], [-1, -2], [4, 1], [4, -1], [0, 1], [0, -1]], float)
CROSSED_LABELS = [0] * 4 + [1] * 4


@pytest.mark.parametrize(
    ("covariance", "distance"),
    [("spherical", 4 / 2.5 / 8), ("diagonal", 4 / 2.5 / 8 + math.log(2.5 / 2))],  # ½ log(2½ / √(1 · 4)) a column
)
def test_covariances_by_hand(covariance, distance):
    score = gbc_score(CROSSED, CROSSED_LABELS, covariance=covariance, n_components=None)
    assert score == pytest.approx(-2 * math.exp(-distance), abs=1e-14)


def test_spherical_variances_count_in_each_dimension():
    # Means 0, variances 1 and 4 in two columns: the coefficient is (√(1 · 4) / 2½)^(2/2) = 0.8. The authors'
    # code, which takes the logarithm once, has √0.8.
    inner = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], float)
    score = gbc_score(np.vstack([inner, 2 * inner]), [0] * 4 + [1] * 4)
    assert score == pytest.approx(-2 * 0.8, abs=1e-14)


@pytest.mark.parametrize(
    ("seed", "n", "d", "n_classes", "diagonal", "spherical", "authors_spherical"),
    [
        (3, 60, 6, 3, -1.2697926640575692, -1.558506731801948, -1.5885753187812766),
        (4, 60, 6, 4, -2.634470327733751, -2.8906877196216105, -2.9125395687211673),
        (1, 200, 20, 7, -1.2556077207318463, -1.5962052256474386, -1.6290138519318373),
    ],
)
def test_the_authors_numbers(seed, n, d, n_classes, diagonal, spherical, authors_spherical):
    """`spherical` is their code with the logarithm times the dimension."""
    features, labels = labelled_features(seed, n, d, n_classes)
    options = {"n_components": None, "min_variance": 1e-4}
    assert gbc_score(features, labels, covariance="diagonal", **options) == pytest.approx(diagonal, abs=1e-12)
    assert gbc_score(features, labels, **options) == pytest.approx(spherical, abs=1e-12)
    assert gbc_score(features, labels, **options) > authors_spherical + 0.01


def test_principal_components_equal_those_of_scikit_learn():
    features, labels = labelled_features(3, 60, 6, 3)
    options = {"min_variance": 1e-4}
    assert gbc_score(features, labels, n_components=2, covariance="diagonal", **options) == pytest.approx(
        -1.7064269061897752, abs=1e-11
    )
    assert gbc_score(features, labels, n_components=2, **options) == pytest.approx(-1.7295583032689967, abs=1e-11)
    assert gbc_score(features, labels, n_components=4) == pytest.approx(-1.7267388868901583, abs=1e-11)


@settings(deadline=None, max_examples=80)
@given(awkward_features())
def test_awkward_tasks_equal_the_slow_reference(task):
    for covariance in ("spherical", "diagonal"):
        score = gbc_score(*task, covariance=covariance, n_components=None)
        assert score == pytest.approx(slow_gbc(*task, covariance), abs=1e-9)
    score = gbc_score(*task)
    n_classes = len(np.unique(task[1]))
    assert -n_classes * (n_classes - 1) - 1e-9 <= score <= 0


@pytest.mark.parametrize(("n", "d", "n_components"), [(60, 10, 3), (12, 30, 4), (60, 10, 64), (12, 30, 64)])
@pytest.mark.parametrize("covariance", ["spherical", "diagonal"])
def test_random_tasks_equal_the_slow_reference(n, d, n_components, covariance):
    features, labels = labelled_features(5, n, d, 2)
    features[labels == 0] *= 0.7
    options = {"n_components": n_components, "covariance": covariance}
    kept = min(n_components, d, n - 1)
    expected = slow_gbc(features, labels, covariance, kept)
    assert gbc_score(features, labels, **options) == pytest.approx(expected, rel=1e-9, abs=1e-14)


def test_a_class_of_one_example_overlaps_no_other():
    features, labels = [[0.0], [0.0], [2.0], [1.0], [3.0]], [7, 0, 0, 1, 1]
    # Means 1 and 2, variances 1: D = 1/8; class 7 lies within class 0 but has no variance.
    assert gbc_score(features, labels) == pytest.approx(-2 * math.exp(-1 / 8), abs=1e-14)
    floored = gbc_score(features, labels, min_variance=1e-4)
    assert floored < -2 * math.exp(-1 / 8) - 0.01
    assert floored == pytest.approx(slow_gbc(features, np.array(labels), least=1e-4), abs=1e-12)


@pytest.mark.parametrize("n_components", [64, None])
def test_classes_in_one_point_overlap_fully(n_components):
    features = [[0.1, 0.7], [0.1, 0.7], [5.3, -1.9]]
    assert gbc_score(features, [0, 1, 2], n_components=n_components) == pytest.approx(-2.0, abs=1e-14)
    assert gbc_score(np.full((6, 3), 0.1), [0, 0, 1, 1, 2, 2], n_components=n_components) == -6.0


def test_every_example_its_own_class():
    features, _ = labelled_features(0, 9, 4)
    assert gbc_score(features, np.arange(9)) == 0.0


def test_single_class_scores_zero():
    features, _ = labelled_features(0)
    assert gbc_score(features, np.full(60, 3)) == 0.0
    assert gbc_score([[2.0, 3.0]], [4]) == 0.0


@pytest.mark.parametrize(("n", "d"), [(60, 5), (20, 40)])
def test_invariances(n, d):
    features, labels = labelled_features(3, n, d, 3)
    features = features / d
    rng = np.random.default_rng(3)
    rotation, order = np.linalg.qr(rng.normal(size=(d, d)))[0], rng.permutation(n)
    for options in ({}, {"n_components": 3, "covariance": "diagonal"}):
        expected = gbc_score(features, labels, **options)
        for same in (features @ rotation, features + rng.normal(size=d), 1e200 * features, 1e-200 * features):
            assert gbc_score(same, labels, **options) == pytest.approx(expected, rel=1e-9)
        assert gbc_score(features[order], labels[order], **options) == pytest.approx(expected, rel=1e-10)
        assert gbc_score(features, 9 - labels, **options) == pytest.approx(expected, rel=1e-10)
        single = features.astype(np.float32)
        assert gbc_score(single, labels, **options) == gbc_score(single.astype(np.float64), labels, **options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"covariance": "full"}, "covariance must be spherical or diagonal, got 'full'"),
        ({"n_components": 0}, "n_components must be a positive integer or None, got 0"),
        ({"n_components": 0.8}, "n_components must be a positive integer or None, got 0.8"),
        ({"min_variance": -1.0}, "min_variance must be non-negative and finite, got -1.0"),
        ({"min_variance": np.nan}, "min_variance must be non-negative and finite, got nan"),
    ],
)
def test_rejected_options(options, match):
    with pytest.raises(ValueError, match=match):
        gbc_score([[0.0], [1.0]], [0, 1], **options)


@pytest.mark.parametrize(("features", "labels", "match"), REJECTED)
def test_rejected_inputs(features, labels, match):
    with pytest.raises(ValueError, match=match):
        gbc_score(features, labels)


def test_found_by_its_name():
    assert measure_arguments("gbc") == ("features", "target_labels")
    assert doctest.testmod(gbc) == (0, 1)
