"""PARC: values by hand, the authors' numbers, a slow reference, ties, draws, undefined scores, rejected inputs."""

import doctest

import numpy as np
import pytest
from helpers.measures import REJECTED, labelled_features
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import spearmanr

from leep.measures import measure_arguments, parc
from leep.measures.parc import parc_score


def slow_parc(features, labels):
    """None where it is undefined."""
    x = np.asarray(features, float) - np.mean(features, axis=0)
    scale = x.std(axis=0)
    x = x / np.where(scale > 1e-12, scale, 1.0)
    pairs = [(i, j) for i in range(len(x)) for j in range(i)]
    differ = [labels[i] != labels[j] for i, j in pairs]
    if len(set(differ)) < 2 or np.ptp(x, axis=1).min() < 1e-12:
        return None
    distances = [round(1 - np.corrcoef(x[i], x[j])[0, 1], 9) for i, j in pairs]
    return spearmanr(distances, differ)[0] if len(set(distances)) > 1 else None


def test_by_hand():
    # In two columns each example is (+, −) or (−, +) once standardised: distance 0 within {1, 2} and {3, 4}, else 2.
    features = [[0.0, 1.0], [0.1, 2.0], [1.0, 0.0], [2.0, 0.1]]
    assert parc_score(features, [0, 0, 1, 1]) == pytest.approx(1.0, abs=1e-14)
    # Pairs 12, 34 near; with the classes {1, 3}, {2, 4} both are of two classes: distances (0, 2, 2, 2, 2, 0), labels'
    # (1, 0, 1, 1, 0, 1): means ⅔ and ⅔ of binary variables, joint ⅓ instead of 4/9: −1/9 over 2/9.
    assert parc_score(features, [0, 1, 0, 1]) == pytest.approx(-0.5, abs=1e-14)


@pytest.mark.parametrize(
    ("seed", "n", "d", "n_classes", "authors"),
    [
        (2, 60, 6, 2, 0.21443286755642926),
        (4, 60, 6, 4, 0.484349554249171),
        (8, 60, 6, 8, 0.3590815381739662),
        (0, 60, 5, 4, 0.4822253064682079),
    ],
)
def test_the_authors_numbers(seed, n, d, n_classes, authors):
    assert parc_score(*labelled_features(seed, n, d, n_classes)) == pytest.approx(authors, abs=1e-12)


@pytest.mark.parametrize(
    ("n_classes", "tied", "authors"),
    [(3, 0.40455785546565, 0.3700575858794625), (6, 0.3836560914430983, 0.30717767543484353)],
)
def test_the_authors_code_breaks_the_ties_of_labels(n_classes, tied, authors):
    """`tied` is their code with the distances of labels rounded: 1.5 and 1.5 + 2e-16 are not two ranks."""
    score = parc_score(*labelled_features(n_classes, 60, 6, n_classes))
    assert score == pytest.approx(tied, abs=1e-12)
    assert score > authors + 0.03


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(np.int64, (7, 4), elements=st.integers(-3, 3)),
    hnp.arrays(np.int64, 7, elements=st.sampled_from([0, 2, 900])),
)
def test_awkward_tasks_equal_the_slow_reference_or_are_undefined(features, labels):
    expected = slow_parc(features, labels)
    if expected is None:
        with pytest.raises(ValueError, match="for PARC"):
            parc_score(features, labels)
    else:
        assert parc_score(features, labels) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("n", "d"), [(30, 4), (20, 20), (12, 40)])
def test_random_tasks_equal_the_slow_reference(n, d):
    features, labels = labelled_features(5, n, d)
    assert parc_score(features, labels) == pytest.approx(slow_parc(features, labels), abs=1e-12)


def test_repeated_examples_are_ties():
    features, labels = labelled_features(6, 30, 3)
    features, labels = np.vstack([features, features, features]), np.concatenate([labels, labels, labels])
    assert parc_score(features, labels) == pytest.approx(slow_parc(features, labels), abs=1e-12)


def test_principal_components():
    features, labels = labelled_features(5, 30, 8)
    x = features - features.mean(axis=0)
    weights = np.linalg.svd(x)[2][:3].T
    weights *= np.sign(weights[np.abs(weights).argmax(axis=0), range(3)])
    expected = slow_parc(x @ weights, labels)
    assert parc_score(features, labels, n_components=3) == pytest.approx(expected, abs=1e-12)
    assert parc_score(features, labels, n_components=3) != pytest.approx(parc_score(features, labels), abs=1e-3)
    wide = np.hstack([features, np.zeros((30, 40))])  # the dual form
    assert parc_score(wide, labels, n_components=3) == pytest.approx(expected, abs=1e-12)


def test_draws():
    features, labels = labelled_features(7, 400, 6)
    some = parc_score(features, labels, max_examples=100)
    assert some == parc_score(features, labels, max_examples=100, seed=0)
    draws = [parc_score(features, labels, max_examples=100, seed=seed) for seed in range(20)]
    assert 0.001 < np.std(draws) < 0.1
    assert np.mean(draws) == pytest.approx(parc_score(features, labels), abs=0.03)
    chosen = np.sort(np.random.default_rng(5).choice(400, 100, replace=False))
    assert draws[5] == parc_score(features[chosen], labels[chosen])
    assert parc_score(features, labels, max_examples=400, seed=1) == parc_score(features, labels)


@pytest.mark.parametrize(("n", "d"), [(60, 5), (20, 40)])
def test_invariances(n, d):
    features, labels = labelled_features(3, n, d)
    rng = np.random.default_rng(3)
    order, expected = rng.permutation(n), parc_score(features, labels)
    scaled = features * rng.uniform(0.5, 2, d) + rng.normal(size=d)
    for same in (scaled, 1e200 * features, 1e-200 * features):
        assert parc_score(same, labels) == pytest.approx(expected, abs=1e-9)
    assert parc_score(features[:, ::-1], labels) == pytest.approx(expected, abs=1e-12)
    assert parc_score(features[order], labels[order]) == pytest.approx(expected, abs=1e-12)
    assert parc_score(features, 9 - labels) == pytest.approx(expected, abs=1e-14)
    single = features.astype(np.float32)
    assert parc_score(single, labels) == parc_score(single.astype(np.float64), labels)


@pytest.mark.parametrize(
    ("features", "labels", "match"),
    [
        (np.eye(4), [3] * 4, "target_labels must have two classes"),
        (np.eye(4), range(4), "target_labels must have two classes"),
        ([[1.0, 2.0]], [0], "target_labels must have two classes"),
        ([[1.0], [2.0], [4.0]], [0, 0, 1], "features must have two columns"),
        (np.full((3, 4), 0.1), [0, 0, 1], "features must vary within each example"),
        (np.eye(4), [0, 0, 1, 1], "features must have different distances"),
    ],
)
def test_undefined_correlations_are_said(features, labels, match):
    with pytest.raises(ValueError, match=match):
        parc_score(np.asarray(features), np.asarray(labels))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_examples": 2}, "max_examples must be an integer of at least 3, got 2"),
        ({"max_examples": 10.5}, "max_examples must be an integer of at least 3, got 10.5"),
        ({"n_components": 0}, "n_components must be a positive integer or None, got 0"),
    ],
)
def test_rejected_options(options, match):
    with pytest.raises(ValueError, match=match):
        parc_score(*labelled_features(0), **options)


@pytest.mark.parametrize(("features", "labels", "match"), REJECTED)
def test_rejected_inputs(features, labels, match):
    with pytest.raises(ValueError, match=match):
        parc_score(features, labels)


def test_found_by_its_name():
    assert measure_arguments("parc") == ("features", "target_labels")
    assert doctest.testmod(parc) == (0, 1)
