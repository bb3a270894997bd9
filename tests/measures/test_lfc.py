"""LFC: values by hand, public numbers, a slow reference, invariances, undefined correlations, rejected inputs."""

import doctest
import math

import numpy as np
import pytest
from helpers.measures import REJECTED, awkward_features, labelled_features
from hypothesis import given, settings

from leep.measures import lfc, measure_arguments
from leep.measures.lfc import lfc_score


def slow_lfc(features, labels, centred=False):
    f = np.asarray(features, float)
    f = f - f.mean(axis=0) if centred else f
    equal = np.where(np.equal.outer(labels, labels), 1.0, -1.0)
    return np.corrcoef((f @ f.T).ravel(), equal.ravel())[0, 1]


def test_by_hand():
    # Products (1, 0, 0, 4) of (x₁, x₁), (x₁, x₂), (x₂, x₁), (x₂, x₂), labels' (1, −1, −1, 1): covariance
    # ¼ · 5 = 5/4, variances 17/4 − 25/16 = 43/16 and 1.
    assert lfc_score([[1.0, 0.0], [0.0, 2.0]], [0, 1]) == pytest.approx(1.25 / math.sqrt(43 / 16), abs=1e-14)


def test_centred_by_hand():
    # Centred: (½, −1), (−½, 1): products ±5/4, as the labels'.
    assert lfc_score([[1.0, 0.0], [0.0, 2.0]], [0, 1], centred=True) == pytest.approx(1.0, abs=1e-14)


@pytest.mark.parametrize(
    ("seed", "n", "d", "n_classes", "frobenius", "spectral", "centred"),
    [
        (0, 60, 5, 4, 0.48078223902576167, 0.9060992639174148, 0.49262998976935746),
        (1, 200, 20, 7, 0.5447419557663074, 2.028885238470583, 0.5700981377120906),
        (2, 40, 60, 3, 0.8294394820048584, 1.5166938945843926, 0.8947503804420439),
    ],
)
def test_public_numbers(seed, n, d, n_classes, frobenius, spectral, centred):
    """Public code has the spectral norms: no correlation is 2.03. With Frobenius norms it agrees."""
    features, labels = labelled_features(seed, n, d, n_classes)
    assert lfc_score(features, labels) == pytest.approx(frobenius, abs=1e-12)
    assert lfc_score(features, labels, centred=True) == pytest.approx(centred, abs=1e-12)
    assert lfc_score(features, labels) < spectral


@settings(deadline=None, max_examples=80)
@given(awkward_features())
def test_awkward_tasks_equal_the_slow_reference_or_are_undefined(task):
    features, labels = task
    for centred in (False, True):
        f = features - features.mean(axis=0) if centred else features
        if len(np.unique(labels)) == 1 or np.ptp(f @ f.T) < 1e-9:
            with pytest.raises(ValueError, match="for LFC"):
                lfc_score(features, labels, centred=centred)
        else:
            score = lfc_score(features, labels, centred=centred)
            assert score == pytest.approx(slow_lfc(features, labels, centred), abs=1e-9)
            assert abs(score) <= 1 + 1e-12


def test_every_example_its_own_class():
    features, _ = labelled_features(1, 9, 4)
    assert lfc_score(features, np.arange(9)) == pytest.approx(slow_lfc(features, np.arange(9)), abs=1e-13)


@pytest.mark.parametrize(
    ("features", "labels"),
    [([[1.0], [2.0]], [3, 3]), ([[2.0]], [0]), ([[0.1, 0.3]] * 6, [0, 1, 0, 1, 0, 1]), (np.zeros((2, 2)), [0, 1])],
)
def test_undefined_correlations_are_said(features, labels):
    with pytest.raises(ValueError, match="for LFC"):
        lfc_score(features, labels)


def test_a_large_mean_does_not_drown_the_products():
    features, labels = labelled_features(2, 50, 4)
    moved = np.round(features * 2**10) / 2**10 + 2.0**20
    exact = np.round(features * 2**10) / 2**10
    assert lfc_score(moved, labels, centred=True) == pytest.approx(lfc_score(exact, labels, centred=True), abs=1e-9)


@pytest.mark.parametrize(("n", "d"), [(60, 5), (20, 40)])
def test_invariances(n, d):
    features, labels = labelled_features(3, n, d)
    rng = np.random.default_rng(3)
    rotation, order = np.linalg.qr(rng.normal(size=(d, d)))[0], rng.permutation(n)
    for centred in (False, True):
        expected = lfc_score(features, labels, centred=centred)
        for same in (features @ rotation, 1e200 * features, 1e-200 * features, np.insert(features, 1, 0, axis=1)):
            assert lfc_score(same, labels, centred=centred) == pytest.approx(expected, abs=1e-12)
        assert lfc_score(features[order], labels[order], centred=centred) == pytest.approx(expected, abs=1e-13)
        assert lfc_score(features, 3 * (9 - labels), centred=centred) == pytest.approx(expected, abs=1e-13)
    shifted = features + 1
    assert lfc_score(shifted, labels, centred=True) == pytest.approx(lfc_score(features, labels, centred=True))
    assert lfc_score(shifted, labels) != pytest.approx(lfc_score(features, labels), abs=1e-3)
    single = features.astype(np.float32)
    assert lfc_score(single, labels) == lfc_score(single.astype(np.float64), labels)


@pytest.mark.parametrize(("features", "labels", "match"), REJECTED)
def test_rejected_inputs(features, labels, match):
    with pytest.raises(ValueError, match=match):
        lfc_score(features, labels)


def test_found_by_its_name():
    assert measure_arguments("lfc") == ("features", "target_labels")
    assert doctest.testmod(lfc) == (0, 1)
