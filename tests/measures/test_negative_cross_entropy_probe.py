"""The probe: a value by hand, a slow reference, folds, invariances, degenerate and rejected inputs."""

import doctest
import importlib
import math

import numpy as np
import pytest
from feature_tasks import FEATURES, LABELS, REJECTED, awkward, check_arrays, task
from hypothesis import given, settings
from scipy.optimize import brentq, minimize
from scipy.special import log_softmax

from leep.measures import get_measure, measure_arguments
from leep.measures.negative_cross_entropy_probe import deal_folds, negative_cross_entropy_probe


def slow_probe(features, labels, strength=0.1, seed=0):
    features, (classes, codes) = np.array(features, float), np.unique(labels, return_inverse=True)
    folds, n_classes, own = deal_folds(codes, seed), len(classes), []
    for fold in range(folds.max() + 1):
        x, y = features[folds != fold], codes[folds != fold]
        varies = np.ptp(x, axis=0) > 0
        mean, deviation = x[:, varies].mean(axis=0), x[:, varies].std(axis=0)
        x, x_test = (x[:, varies] - mean) / deviation, (features[folds == fold][:, varies] - mean) / deviation
        penalty = strength * x.shape[1]

        def loss(theta, x=x, y=y, penalty=penalty):
            head = theta.reshape(-1, n_classes)
            log_probs = log_softmax(x @ head[1:] + head[0], axis=1)
            residual = np.exp(log_probs) - np.eye(n_classes)[y]
            gradient = np.vstack([residual.sum(axis=0), x.T @ residual + penalty * head[1:]])
            return penalty / 2 * (head[1:] ** 2).sum() - log_probs[np.arange(len(y)), y].sum(), gradient.ravel()

        start = np.zeros((x.shape[1] + 1) * n_classes)
        head = minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-9}).x.reshape(-1, n_classes)
        own.extend(log_softmax(x_test @ head[1:] + head[0], axis=1)[np.arange(len(x_test)), codes[folds == fold]])
    return np.mean(own)


def test_by_hand():
    # Each of the five folds trains on four examples of either class, which standardising takes to −1 and 1, and tests
    # the same two points. W = (−w, w), b = 0 and p(own) = p = 1 / (1 + e^(−2w)).
    # Half the derivative of −8 log p + 0.1 · (2 w²) / 2 is −8 (1 − p) + 0.1 w.
    w = brentq(lambda w: 0.1 * w - 8 / (1 + math.exp(2 * w)), 0, 5)
    score = negative_cross_entropy_probe(np.repeat([[-3.0], [5.0]], 5, axis=0), np.repeat([0, 1], 5))
    assert score == pytest.approx(-math.log(1 + math.exp(-2 * w)), abs=5e-5)


@pytest.mark.parametrize("shape", [(60, 5, 3), (30, 40, 3), (23, 4, 7)])
def test_equals_the_slow_one(shape):
    features, labels = task(0, *shape)
    assert negative_cross_entropy_probe(features, labels) == pytest.approx(slow_probe(features, labels), abs=1e-4)
    other = negative_cross_entropy_probe(features, labels, strength=2.0, seed=3)
    assert other == pytest.approx(slow_probe(features, labels, 2.0, 3), abs=1e-4)


def test_features_that_say_nothing_are_no_better_than_the_priors():
    rng = np.random.default_rng(0)
    score = negative_cross_entropy_probe(rng.normal(size=(200, 3)), np.arange(200) % 4)
    assert -math.log(4) - 0.1 < score < -math.log(4) + 0.01


def test_folds():
    labels = np.repeat([4, 1, 7, 2], [12, 7, 3, 1])
    folds = deal_folds(labels, 0)
    assert folds[-1] == -1
    for label in (4, 1, 7):
        counts = np.bincount(folds[labels == label], minlength=5)
        assert counts.max() - counts.min() <= 1
    counts = np.bincount(folds[:-1])
    assert (len(counts), counts.max() - counts.min() <= 1) == (5, True)


def test_arrays():
    check_arrays(negative_cross_entropy_probe, 1e-4)


@pytest.mark.parametrize("d", [6, 60])
def test_invariances(d):
    features, labels = task(1, 40, d, 4, 0.1)
    rng, expected = np.random.default_rng(0), negative_cross_entropy_probe(features, labels)
    names = rng.permutation(20)
    assert negative_cross_entropy_probe(features, names[labels]) == pytest.approx(expected, abs=1e-6)
    moved = features * rng.uniform(0.1, 10, d) + rng.normal(size=d)
    assert negative_cross_entropy_probe(moved, labels) == pytest.approx(expected, abs=1e-4)
    order = rng.permutation(40)
    assert negative_cross_entropy_probe(features[order], labels[order]) == pytest.approx(expected, abs=0.5)


@settings(deadline=None, max_examples=40)
@given(awkward())
def test_awkward_features(example):
    features, labels = example
    n_classes = len(np.unique(labels))
    if 1 < n_classes == len(labels):
        with pytest.raises(ValueError, match="a class of two examples or more"):
            negative_cross_entropy_probe(features, labels)
    else:
        score = negative_cross_entropy_probe(features, labels)
        assert -math.inf < score <= 0
        assert n_classes > 1 or score == 0


def test_subsample():
    features, labels = task(1, 300, 5, 3, 0.3)
    first = negative_cross_entropy_probe(features, labels, max_examples=200)
    assert first == negative_cross_entropy_probe(features, labels, max_examples=200)
    assert first != negative_cross_entropy_probe(features, labels)


@pytest.mark.parametrize(("features", "labels", "match"), REJECTED)
def test_rejects(features, labels, match):
    with pytest.raises(ValueError, match=match):
        negative_cross_entropy_probe(features, labels)


@pytest.mark.parametrize("option", [{"strength": 0.0}, {"strength": math.nan}, {"max_examples": 0}])
def test_rejects_options(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        negative_cross_entropy_probe(FEATURES, LABELS, **option)


def test_is_a_measure():
    name = "negative_cross_entropy_probe"
    assert get_measure(name) is negative_cross_entropy_probe
    assert measure_arguments(name) == ("features", "target_labels")
    module = importlib.import_module("leep.measures." + name)
    failed, tried = doctest.testmod(module, extraglobs={"np": np})
    assert (failed, tried > 0) == (0, True)
