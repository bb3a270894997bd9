"""ETran: values by hand, the authors' values, slow references, invariances, degenerate and rejected inputs."""

import doctest
import importlib
import math

import numpy as np
import pytest
import scipy.linalg
import scipy.special
from feature_tasks import FEATURES, LABELS, REJECTED, awkward, check_arrays, check_invariances, task
from hypothesis import given, settings

from leep.measures import get_measure, measure_arguments
from leep.measures.etran import classification_score, energy_score, etran_score, rank_models


def slow_classification(x, y, metric=None):
    """By Fisher's axes in all dimensions. With a metric, instead of the covariance's inverse."""
    x, (classes, y) = np.array(x, float), np.unique(y, return_inverse=True)
    (n, d), means = x.shape, np.stack([x[y == c].mean(axis=0) for c in range(len(classes))])
    within = (x - means[y]).T @ (x - means[y]) / n
    shrinkage = max(math.exp(-5 * np.linalg.eigvalsh(within)[-1]), 1e-10)
    shrunk = (1 - shrinkage) * within + shrinkage * np.trace(within) / d * np.eye(d)
    if metric is None:
        _, axes = scipy.linalg.eigh((x - x.mean(axis=0)).T @ (x - x.mean(axis=0)) / n - shrunk, shrunk)
        metric = axes @ axes.T
    logits = x @ metric @ means.T - 0.5 * np.einsum("ij,jk,ik->i", means, metric, means) + np.log(np.bincount(y) / n)
    return scipy.special.softmax(logits, axis=1)[np.arange(n), y].mean()


def test_by_hand():
    # Means 1 and 3, variance 1 within classes: log odds 2 (x − 2), own class σ(4), 1/2, 1/2, σ(4).
    # One feature: the energy is the feature itself, and one example of four is taken: 0.
    features, labels = [[0.0], [2.0], [2.0], [4.0]], [0, 0, 1, 1]
    classification = (1 / (1 + math.exp(-4)) + 0.5) / 2
    assert classification_score(features, labels) == pytest.approx(classification, abs=1e-13)
    assert energy_score(features) == 0.0
    assert energy_score(features, energy_share=0.75) == pytest.approx(4 / 3)
    assert etran_score(features, labels) == pytest.approx(0.85 * classification, abs=1e-13)
    assert etran_score(features, labels, energy_weight=0.5, energy_share=1.0) == pytest.approx(classification / 2 + 1)
    assert energy_score([[0.0, math.log(3.0)], [1000.0, 1000.0]]) == pytest.approx(math.log(4.0))
    assert energy_score([[1000.0, 1000.0]]) == pytest.approx(1000.0 + math.log(2.0))


@pytest.mark.parametrize(
    ("arguments", "expected"), [((0, 400, 6, 3, 1.0), 0.6774529788620659), ((1, 1000, 12, 4, 0.3), 2.284864841512925)]
)
def test_energy_equals_the_authors_code(arguments, expected):
    assert energy_score(task(*arguments)[0]) == pytest.approx(expected, abs=1e-12)


def test_energy_of_few_examples_is_their_least():
    """The authors' code takes the mean of no example, NaN."""
    features, _ = task(0, 199, 6, 3)
    assert energy_score(features) == pytest.approx(np.log(np.exp(features).sum(axis=1)).min(), abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "authors"), [((0, 60, 5, 3, 0.05), 0.33800877013485287), ((3, 200, 8, 6, 0.1), 0.18143071534022162)]
)
def test_authors_code_ignores_the_covariance(arguments, authors):
    """`eigh` of a matrix that is not symmetric gives a rotation: their discriminant has the identity for S⁻¹."""
    features, labels = task(*arguments)
    assert slow_classification(features, labels, np.eye(features.shape[1])) == pytest.approx(authors, abs=1e-12)
    right = slow_classification(features, labels)
    assert classification_score(features, labels) == pytest.approx(right, abs=1e-9)
    assert right > authors + 0.05


@pytest.mark.parametrize("shape", [(50, 7, 4, 0.05), (20, 30, 3, 0.05), (20, 30, 3, 0.2), (30, 30, 2, 0.1)])
def test_classification_equals_the_slow_one(shape):
    for seed in range(4):
        features, labels = task(seed, *shape)
        expected = slow_classification(features, labels)
        assert classification_score(features, 7 * labels) == pytest.approx(expected, abs=1e-8)


def test_models_are_ranked_by_scaled_scores():
    # (0.5 − 0.5) / 0.4 = 0, 0.5, 1 and (3 − 1) / 2 = 1, 0, 0.5
    assert rank_models([0.5, 0.7, 0.9], [3, 1, 2]) == pytest.approx([0.15, 0.425, 0.85 + 0.075])
    assert rank_models([0.5, 0.7], [2, 2], energy_weight=0.4) == pytest.approx([0.0, 0.6])
    for wrong in ([0.5, math.nan], [], [[0.5]], [0.5]):
        with pytest.raises(ValueError, match="classifications"):
            rank_models(wrong, [1.0, 2.0])


def test_arrays():
    check_arrays(etran_score)


@pytest.mark.parametrize("d", [6, 60])
@pytest.mark.parametrize("seed", range(3))
def test_invariances(seed, d):
    check_invariances(etran_score, seed, d, rotates=False, shifts=False)
    check_invariances(classification_score, seed, d)
    features, _ = task(seed, 40, d, 4, 0.1)
    assert energy_score(features + 3.0) == pytest.approx(energy_score(features) + 3.0, abs=1e-12)
    assert energy_score(features[:, ::-1]) == pytest.approx(energy_score(features), abs=1e-12)


@settings(deadline=None, max_examples=80)
@given(awkward())
def test_awkward_features(example):
    features, labels = example
    assert 0 < classification_score(features, labels) <= 1 + 1e-12
    sums = scipy.special.logsumexp(features.astype(float), axis=1)
    assert energy_score(features) == pytest.approx(sums.min(), abs=1e-12)
    assert energy_score(features, energy_share=1.0) == pytest.approx(sums.mean(), abs=1e-10)


def test_degenerate_tasks():
    assert classification_score([[1.0], [2.0]], [3, 3]) == 1.0
    assert classification_score(np.full((4, 3), 0.1), [0, 0, 0, 1]) == pytest.approx((3 * 0.75 + 0.25) / 4)
    assert classification_score([[0.1], [0.1], [0.7]], [0, 1, 2]) == pytest.approx(2 / 3)
    assert etran_score([[1.7e308], [-1.7e308]], [0, 1]) == pytest.approx(-0.15 * 1.7e308)
    assert energy_score([[1.7e308], [1.7e308]], energy_share=1.0) == 1.7e308


@pytest.mark.parametrize(("features", "labels", "match"), REJECTED)
def test_rejects(features, labels, match):
    with pytest.raises(ValueError, match=match):
        etran_score(features, labels)


@pytest.mark.parametrize("option", [{"energy_weight": 1.1}, {"energy_weight": math.nan}, {"energy_share": 0.0}])
def test_rejects_options(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        etran_score(FEATURES, LABELS, **option)


def test_is_a_measure():
    assert get_measure("etran") is etran_score
    assert measure_arguments("etran") == ("features", "target_labels")
    failed, tried = doctest.testmod(importlib.import_module("leep.measures.etran"))
    assert (failed, tried > 0) == (0, True)
