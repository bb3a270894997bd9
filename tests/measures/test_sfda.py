"""SFDA: values by hand, the authors' values, a slow reference, invariances, degenerate and rejected inputs."""

import doctest
import importlib
import math

import numpy as np
import pytest
import scipy.linalg
import scipy.special
from feature_tasks import REJECTED, awkward, check_arrays, check_invariances, task
from hypothesis import given, settings

from leep.measures import get_measure, measure_arguments
from leep.measures.sfda import sfda_score


def sigmoid(t):
    return 1 / (1 + math.exp(-t))


def slow_sfda(x, y):
    """With a generalised eigenvalue problem in all dimensions, as the paper has it."""
    x, (_, y), n = np.array(x, float), np.unique(y, return_inverse=True), len(y)
    classes, d, shrinkage = np.unique(y), np.shape(x)[1], None
    for stage in range(2):
        means = np.stack([x[y == c].mean(axis=0) for c in classes])
        priors = np.array([(y == c).mean() for c in classes])
        within = (x - means[y]).T @ (x - means[y]) / n
        total = (x - x.mean(axis=0)).T @ (x - x.mean(axis=0)) / n
        if shrinkage is None:
            shrinkage = max(math.exp(-5 * np.linalg.eigvalsh(within)[-1]), 1e-10)
        shrunk = (1 - shrinkage) * within + shrinkage * np.trace(within) / d * np.eye(d)
        _, axes = scipy.linalg.eigh(total - shrunk, shrunk)
        projected, centres = x @ axes, means @ axes
        probs = scipy.special.softmax(projected @ centres.T - 0.5 * (centres**2).sum(axis=1) + np.log(priors), axis=1)
        if stage == 1:
            break
        soft = scipy.special.softmax(probs, axis=1)[np.arange(n), y][:, None]
        others = np.stack([np.delete(means, c, axis=0).mean(axis=0) for c in classes])
        x = soft * x + (1 - soft) * others[y]
    return probs[np.arange(n), y].mean()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_by_hand(scale):
    # Means 1 and 3, variance 1 within classes, which the shrinkage leaves as it is in one dimension.
    # log odds of the second class: (3 − 1) (x − 2). Own class: σ(4), σ(0), σ(0), σ(4). Softened: σ(2 p − 1).
    # The examples move towards the other mean: x₁ = 3 − 3 c with c = σ(2 σ(4) − 1), x₂ = (2 + 3) / 2.
    c = sigmoid(2 * sigmoid(4) - 1)
    first, second = 3 - 3 * c, 2.5
    mean, variance = (first + second) / 2, (first - second) ** 2 / 4
    odds = 2 * (2 - mean) / variance  # by symmetry about 2
    expected = (sigmoid((2 - first) * odds) + sigmoid((2 - second) * odds)) / 2
    assert sfda_score([[0.0], [2 * scale], [2 * scale], [4 * scale]], [0, 0, 1, 1]) == pytest.approx(
        expected, abs=1e-12
    )
    log = (math.log(sigmoid((2 - first) * odds)) + math.log(sigmoid((2 - second) * odds))) / 2
    assert sfda_score([[0.0], [2 * scale], [2 * scale], [4 * scale]], [0, 0, 1, 1], log=True) == pytest.approx(log)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((0, 60, 5, 3, 0.05), 0.36094242518759806),
        ((1, 40, 20, 4, 0.05), 0.8743901892272081),
        ((2, 30, 50, 3, 0.03), 0.9999536666276321),
        ((3, 200, 8, 6, 0.1), 0.46954893168592143),
    ],
)
def test_equals_the_authors_code(arguments, expected):
    """Where three steps of a power iteration find the largest eigenvalue."""
    assert sfda_score(*task(*arguments)) == pytest.approx(expected, abs=1e-6)


def test_largest_eigenvalue_of_rows_with_the_same_sum():
    """The authors' iteration begins at S · 1 = 0 there, and what it finds is rounding."""
    features, labels = task(4, 60, 6, 3, 0.1)
    features -= features.mean(axis=1, keepdims=True)
    assert sfda_score(features, labels) == pytest.approx(slow_sfda(features, labels), abs=1e-9)


@pytest.mark.parametrize("shape", [(50, 7, 4, 0.05), (20, 30, 3, 0.05), (20, 30, 3, 0.2), (30, 30, 2, 0.1)])
def test_equals_the_slow_one(shape):
    for seed in range(4):
        features, labels = task(seed, *shape)
        assert sfda_score(features, 7 * labels) == pytest.approx(slow_sfda(features, labels), abs=1e-8)


def test_given_shrinkage():
    features, labels = task(5, 40, 6, 3)
    assert sfda_score(features, labels) == sfda_score(features, labels, shrinkage=1e-10)
    assert sfda_score(features, labels, shrinkage=1.0) != pytest.approx(sfda_score(features, labels), abs=1e-3)
    scaled = sfda_score(1e200 * features, labels, shrinkage=0.3)
    assert scaled == pytest.approx(sfda_score(features, labels, shrinkage=0.3), abs=1e-12)
    for wrong in (0.0, 1.5, math.nan):
        with pytest.raises(ValueError, match="shrinkage must be above 0 and at most 1"):
            sfda_score(features, labels, shrinkage=wrong)


def test_arrays():
    check_arrays(sfda_score)


@pytest.mark.parametrize("d", [6, 60])
@pytest.mark.parametrize("seed", range(3))
def test_invariances(seed, d):
    check_invariances(sfda_score, seed, d)


@settings(deadline=None, max_examples=80)
@given(awkward())
def test_awkward_features(example):
    features, labels = example
    score, log = sfda_score(features, labels), sfda_score(features, labels, log=True)
    assert 0 < score <= 1 + 1e-12
    assert -math.inf < log <= 1e-12
    assert math.exp(log) <= score + 1e-12  # Jensen


def test_degenerate_tasks():
    assert sfda_score([[1.0], [2.0]], [3, 3]) == 1.0
    assert sfda_score([[1.0], [2.0]], [3, 3], log=True) == 0.0
    # Features that say nothing leave the priors 3/4 and 1/4.
    assert sfda_score(np.full((4, 3), 0.1), [0, 0, 0, 1]) == pytest.approx((3 * 0.75 + 0.25) / 4)
    # No variance within classes: a point that two classes share is each one's by half.
    assert sfda_score([[0.1], [0.1], [0.7]], [0, 1, 2]) == pytest.approx(2 / 3)
    assert sfda_score(np.eye(5), np.arange(5)) == pytest.approx(1.0)


@pytest.mark.parametrize("scale", [1e-200, 1e-5, 1e5, 1e200, 1e307])
def test_extreme_scales(scale):
    features, labels = task(6, 60, 5, 3)
    features /= np.abs(features).max()
    shrinkage = 1.0 if scale < 1 else 1e-10
    expected = sfda_score(features, labels, shrinkage=shrinkage)
    assert sfda_score(scale * features, labels) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("features", "labels", "match"), REJECTED)
def test_rejects(features, labels, match):
    with pytest.raises(ValueError, match=match):
        sfda_score(features, labels)


def test_is_a_measure():
    assert get_measure("sfda") is sfda_score
    assert measure_arguments("sfda") == ("features", "target_labels")
    failed, tried = doctest.testmod(importlib.import_module("leep.measures.sfda"))
    assert (failed, tried > 0) == (0, True)
