"""N-LEEP: values by hand, a slow reference, invariances, spread, degenerate and rejected inputs."""

import doctest
import importlib
import math

import numpy as np
import pytest
from feature_tasks import FEATURES, LABELS, REJECTED, awkward, check_arrays, check_invariances, task
from hypothesis import given, settings
from scipy.stats import multivariate_normal

from leep import leep_score
from leep.measures import get_measure, measure_arguments
from leep.measures.nleep import FLOOR, TOLERANCE, cluster, mixture_probs, nleep_score, principal_components


def slow_mixture(x, n_gaussians, rng):
    """EM by the textbook, from the same clusters."""
    probs = np.eye(n_gaussians)[cluster(x, n_gaussians, rng)]
    probs, last = probs[:, probs.any(axis=0)], -np.inf
    for _ in range(100):
        joint = []
        for p in probs.T:
            mean = p @ x / p.sum()
            covariance = ((x - mean).T * p) @ (x - mean) / p.sum() + FLOOR * np.eye(x.shape[1])
            joint.append(math.log(p.mean()) + multivariate_normal(mean, covariance).logpdf(x))
        likelihood = np.logaddexp.reduce(joint)
        probs = np.exp(np.array(joint) - likelihood).T
        if abs(likelihood.mean() - last) < TOLERANCE:
            break
        last = likelihood.mean()
    return probs


def test_by_hand():
    # Three examples far from three others: the two Gaussians are certain, z = 0, 0, 0, 1, 1, 1.
    features = np.array([[0.0, 0.0], [0.1, 0.0], [0.0, 0.1], [9.0, 9.0], [9.1, 9.0], [9.0, 9.1]])
    expected = (4 * math.log(2 / 3) + 2 * math.log(1 / 3)) / 6
    assert nleep_score(features, [0, 0, 1, 1, 1, 0], gaussians_per_class=1) == pytest.approx(expected, abs=1e-9)
    assert nleep_score(features, [0, 0, 0, 1, 1, 1], gaussians_per_class=1) == pytest.approx(0.0, abs=1e-9)
    # With as many Gaussians as examples, in the one component that is kept: the second and third are the same there.
    expected = 4 * math.log(1 / 2) / 6
    assert nleep_score(features, [0, 1, 0, 1, 0, 1]) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_mixture_equals_the_slow_one(seed):
    features, labels = task(seed, 200, 3, 4)
    z = principal_components(features - features.mean(axis=0), 1.0)
    fast = mixture_probs(z, 6, np.random.default_rng(seed))
    slow = slow_mixture(z, 6, np.random.default_rng(seed))
    assert leep_score(fast, labels) == pytest.approx(leep_score(slow, labels), abs=1e-7)
    np.testing.assert_allclose(fast, slow, atol=1e-6)


def test_principal_components():
    # Squared norms 50 and 8: 86 % of the variance is the first one's.
    x = np.array([[5.0, 0.0], [-5.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
    one = principal_components(x, 0.86)
    assert np.abs(one[:, 0]) == pytest.approx(np.abs(x[:, 0]) * math.sqrt(4 / 50))
    assert principal_components(x, 50 / 58).shape == (4, 1)
    assert principal_components(x, 0.87).shape == (4, 2)
    assert principal_components(np.zeros((3, 2)), 0.8).tolist() == [[0.0]] * 3


def test_clusters_of_points_far_apart():
    rng = np.random.default_rng(0)
    centres = 100 * np.eye(4)[rng.permutation(np.arange(40) % 4)]
    found = cluster(centres + rng.normal(size=(40, 4)), 4, rng)
    pairs = set(zip(centres.argmax(axis=1).tolist(), found.tolist()))
    assert len(pairs) == 4
    assert cluster(np.ones((5, 2)), 3, rng).tolist() == [0] * 5


def test_same_seed_same_score_and_little_spread():
    features, labels = task(3, 250, 20, 5, 1.0)
    scores = [nleep_score(features, labels, seed=seed) for seed in range(8)]
    assert nleep_score(features, labels) == scores[0]
    assert 0 < np.std(scores) < 0.15
    first = nleep_score(features, labels, max_examples=100)
    assert first == nleep_score(features, labels, max_examples=100)


def test_blocks_of_examples_and_gaussians(monkeypatch):
    features, labels = task(1, 200, 12, 4)
    whole = nleep_score(features, labels)
    monkeypatch.setattr(importlib.import_module("leep.measures.nleep"), "AT_ONCE", 300)
    assert nleep_score(features, labels) == pytest.approx(whole, abs=1e-12)


def test_arrays():
    check_arrays(nleep_score, 1e-4)


@pytest.mark.parametrize("d", [6, 60])
@pytest.mark.parametrize("seed", range(3))
def test_invariances(seed, d):
    check_invariances(nleep_score, seed, d, 1e-6)
    features, labels = task(seed, 40, d, 4)
    assert nleep_score(1e-3 * features, labels) == pytest.approx(nleep_score(features, labels), abs=1e-6)
    assert nleep_score(1e200 * features, labels) == pytest.approx(nleep_score(features, labels), abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(awkward())
def test_awkward_features(example):
    features, labels = example
    p = np.unique(labels, return_counts=True)[1] / len(labels)
    assert (p * np.log(p)).sum() - 1e-9 <= nleep_score(features, labels) <= 1e-9


def test_degenerate_tasks():
    assert nleep_score([[1.0], [2.0]], [3, 3]) == 0.0
    assert nleep_score(np.full((4, 3), 0.1), [0, 0, 1, 1]) == pytest.approx(-math.log(2))
    assert nleep_score(np.eye(5), np.arange(5)) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(("features", "labels", "match"), REJECTED)
def test_rejects(features, labels, match):
    with pytest.raises(ValueError, match=match):
        nleep_score(features, labels)


@pytest.mark.parametrize("option", [{"gaussians_per_class": 0}, {"kept_variance": 1.1}, {"max_examples": 0}])
def test_rejects_options(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        nleep_score(FEATURES, LABELS, **option)


def test_is_a_measure():
    assert get_measure("nleep") is nleep_score
    assert measure_arguments("nleep") == ("features", "target_labels")
    failed, tried = doctest.testmod(importlib.import_module("leep.measures.nleep"), extraglobs={"np": np})
    assert (failed, tried > 0) == (0, True)
