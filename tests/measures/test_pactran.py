"""PACTran: a value by hand, the authors' values, a slow reference, invariances, degenerate and rejected inputs."""

import doctest
import importlib
import math

import numpy as np
import pytest
from feature_tasks import FEATURES, LABELS, REJECTED, awkward, check_arrays, check_invariances, task
from hypothesis import given, settings
from scipy.optimize import brentq

from leep.measures import get_measure, measure_arguments
from leep.measures._softmax import fit, rotate
from leep.measures.pactran import pactran_score


def test_by_hand():
    # f = −1, 1 with a class each: by symmetry W = (−w, w), b = 0, p(own) = p = 1 / (1 + e^(−2w)).
    # Loss −log p + (2 w²) / (2 · 1 · 2), whose derivative is −2 (1 − p) + w.
    # Hessian: two classes × two examples of p (1 − p), for the weight as for the bias; the prior's 1 / 2 twice.
    w = brentq(lambda w: w - 2 / (1 + math.exp(2 * w)), 0, 2)
    p = 1 / (1 + math.exp(-2 * w))
    hessian = 2 * 4 * p * (1 - p) + 2 / 2
    expected = -math.log(p) + w**2 / 2 + 2 * 100 / (2 * 2) * math.log(hessian * 2 / 2)
    assert pactran_score([[4.0], [6.0]], [3, 8]) == pytest.approx(-expected, abs=1e-8)
    expected += 2 * 100 / (2 * 2) * (math.log(hessian / 2 + 1 / 2) - math.log(hessian))
    assert pactran_score([[4.0], [6.0]], [3, 8], mean_hessian=True) == pytest.approx(-expected, abs=1e-8)


@pytest.mark.parametrize(
    ("arguments", "options", "expected"),
    [
        ((0, 60, 5, 3, 0.3), {}, 17.428325824877753),
        ((1, 40, 20, 4, 0.3), {}, 21.485567544697314),
        ((2, 30, 50, 3, 0.1), {}, 14.939752059600831),
        ((3, 200, 8, 6, 1.0), {"strength": 10.0, "variance": 1000.0}, 17.55683442926539),
        ((0, 60, 5, 3, 0.3), {"strength": 0.1, "variance": 10.0}, 12.679778231147676),
    ],
)
def test_equals_the_authors_code(arguments, options, expected):
    """With its optimiser run to convergence: as published it stops early, and errs by up to 0.006 here."""
    assert pactran_score(*task(*arguments), **options) == pytest.approx(-expected, rel=1e-6)


@pytest.mark.parametrize("shape", [(50, 6), (20, 30)])
def test_regression_is_at_its_minimum(shape):
    features, labels = task(0, *shape, 4)
    features -= features.mean(axis=0)
    z, axes, squares = rotate(features)
    np.testing.assert_allclose(features @ axes, z, atol=1e-10)
    np.testing.assert_allclose(z.T @ z, np.diag(squares), atol=1e-8)
    weights, bias, minimum = fit(z, squares, labels, 4, 0.3, 1e-8)
    logits = z @ weights + bias
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    residual = probs - np.eye(4)[labels]
    assert np.abs(z.T @ residual + 0.3 * weights).max() < 1e-5
    assert np.abs(residual.sum(axis=0)).max() < 1e-5
    loss = -np.log(probs[np.arange(len(labels)), labels]).sum() + 0.15 * (weights**2).sum()
    assert minimum == pytest.approx(loss, abs=1e-10)


def test_subsample():
    features, labels = task(1, 300, 5, 3, 0.3)
    first = pactran_score(features, labels, max_examples=200)
    assert first == pactran_score(features, labels, max_examples=200) != pactran_score(features, labels)
    assert first != pactran_score(features, labels, max_examples=200, seed=1)


def test_arrays():
    check_arrays(pactran_score, 1e-6)


@pytest.mark.parametrize("d", [6, 60])
def test_invariances(d):
    check_invariances(pactran_score, 0, d, 1e-6)


@settings(deadline=None, max_examples=40)
@given(awkward())
def test_awkward_features(example):
    assert math.isfinite(pactran_score(*example))


def test_degenerate_tasks():
    # Constant features: the entropy log 2, and the Hessian of the biases, 4 · 2 · 1/4, over 4, and the prior's.
    expected = math.log(2) + 2 * 100 / (2 * 4) * math.log(4 * 2 / (1 * 2) + 1)
    constant = pactran_score(np.full((4, 1), 0.1), [0, 0, 1, 1])
    assert constant == pytest.approx(-(math.log(2) + 25 * math.log(4 * (4 * 2 / 4) / 2 + 1)), abs=1e-8)
    assert constant == pytest.approx(-expected, abs=1e-8)
    assert pactran_score(1e-200 * np.eye(4)[:, :1], [0, 0, 1, 1]) == pytest.approx(constant, abs=1e-8)
    assert pactran_score([[1.0], [2.0]], [5, 5]) == pytest.approx(0.0, abs=1e-12)  # no loss, no curvature
    with pytest.raises(ValueError, match="features must differ by at most"):
        pactran_score([[1e200], [-1e200]], [0, 1])


@pytest.mark.parametrize(("features", "labels", "match"), REJECTED)
def test_rejects(features, labels, match):
    with pytest.raises(ValueError, match=match):
        pactran_score(features, labels)


@pytest.mark.parametrize("option", [{"strength": 0.0}, {"variance": math.nan}, {"max_examples": 0}])
def test_rejects_options(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        pactran_score(FEATURES, LABELS, **option)


def test_is_a_measure():
    assert get_measure("pactran") is pactran_score
    assert measure_arguments("pactran") == ("features", "target_labels")
    failed, tried = doctest.testmod(importlib.import_module("leep.measures.pactran"))
    assert (failed, tried > 0) == (0, True)
