"""LEEP, NCE and H score: values by hand, invariances, the paper's properties, slow references, rejected inputs."""

import doctest
import importlib
import math
import subprocess
import sys
from types import ModuleType

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from threadpoolctl import threadpool_limits

from leep import h_score, leep_score, measures, nce_score
from leep.measures import MEASURES, get_measure, measure_arguments, score_task
from leep.measures._blas import _libraries, factor_in_place, one_thread
from leep.measures._classes import add_rows_by_class, encode
from leep.measures.h_score import _kept, feature_rank

quick = settings(deadline=None, max_examples=60)


def random_task(seed, n=60, n_source_classes=7, n_classes=4, n_features=5, dtype=np.float64):
    """Probabilities, dummy labels, features and labels that depend on each other."""
    rng = np.random.default_rng(seed)
    labels = np.append(np.arange(n_classes), rng.integers(0, n_classes, n - n_classes))
    logits = 2 * rng.normal(size=(n, n_source_classes)) + 3 * np.eye(n_source_classes)[labels % n_source_classes]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    features = rng.normal(size=(n, n_features)) + rng.normal(size=(n_classes, n_features))[labels]
    return probs.astype(dtype), probs.argmax(axis=1), features.astype(dtype), labels


@st.composite
def awkward_probs(draw):
    """Rows with exact zeros, one-hot rows, source classes without mass, labels with gaps, single classes."""
    n, z = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    weights = draw(hnp.arrays(np.int64, (n, z), elements=st.sampled_from([0, 0, 1, 5, 1000])))
    weights[:, 0] += weights.sum(axis=1) == 0
    labels = draw(hnp.arrays(np.int64, n, elements=st.sampled_from([0, 2, 3, 900])))
    return weights / weights.sum(axis=1, keepdims=True), labels


@st.composite
def awkward_features(draw):
    """Small integers: columns that are constant, repeated or depend on others; n below and above the dimension."""
    n, d = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    features = draw(hnp.arrays(np.int64, (n, d), elements=st.integers(-3, 3)))
    scales = draw(hnp.arrays(np.int64, d, elements=st.sampled_from([1, 1, 3, 1024])))
    return features * scales, draw(hnp.arrays(np.int64, n, elements=st.sampled_from([0, 2, 3])))


def slow_leep(probs, labels):
    n, n_source_classes = len(probs), len(probs[0])
    joint = {}
    for p, y in zip(probs.tolist(), labels.tolist()):
        for z in range(n_source_classes):
            joint[y, z] = joint.get((y, z), 0.0) + p[z] / n
    marginal = [sum(joint[y, z] for y in set(labels.tolist())) for z in range(n_source_classes)]
    score = 0.0
    for p, y in zip(probs.tolist(), labels.tolist()):
        score += math.log(sum(joint[y, z] / marginal[z] * p[z] for z in range(n_source_classes) if marginal[z])) / n
    return score


def slow_nce(source_labels, labels):
    pairs, score = list(zip(labels.tolist(), source_labels.tolist())), 0.0
    for y, z in pairs:
        score += math.log(pairs.count((y, z)) / source_labels.tolist().count(z)) / len(pairs)
    return score


def slow_h_score(features, labels):
    features = np.asarray(features, float)
    means = np.stack([features[labels == y].mean(axis=0) for y in labels])
    mean = features.mean(axis=0)
    covariance, between = ((x - mean).T @ (x - mean) / len(x) for x in (features, means))
    scale = np.sqrt(np.diag(covariance))
    scale[np.ptp(features, axis=0) == 0] = np.inf
    scaling = np.outer(1 / scale, 1 / scale)
    return np.trace(np.linalg.pinv(covariance * scaling, rcond=1e-12, hermitian=True) @ (between * scaling))


# By hand


def test_leep_by_hand():
    # n P(y=0, z) = (0.9, 0.1) + (0.6, 0.4) = (1.5, 0.5), n P(y=1, z) = (0.5, 1.5), n P(z) = (2, 2)
    # P(0|z) = (3/4, 1/4), P(1|z) = (1/4, 3/4)
    # p(0|x1) = .675 + .025 = 0.7, p(0|x2) = .45 + .1 = 0.55, p(1|x3) = .05 + .6 = 0.65, p(1|x4) = .075 + .525 = 0.6
    probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]])
    expected = (math.log(0.7) + math.log(0.55) + math.log(0.65) + math.log(0.6)) / 4
    assert leep_score(probs, [0, 0, 1, 1]) == pytest.approx(expected, abs=1e-14)


def test_nce_by_hand():
    # z = 0 has y = 0, 0, 1: log 2/3 twice, log 1/3 once; z = 1 has y = 1: log 1
    expected = (2 * math.log(2 / 3) + math.log(1 / 3)) / 4
    assert nce_score([0, 0, 0, 1], [0, 0, 1, 1]) == pytest.approx(expected, abs=1e-15)


def test_h_score_by_hand_in_one_dimension():
    # f = 0, 2 | 4, 6: mean 3, variance (9 + 1 + 1 + 9) / 4 = 5; class means 1 and 5, variance 4
    assert h_score([[0.0], [2.0], [4.0], [6.0]], [0, 0, 1, 1]) == pytest.approx(4 / 5, abs=1e-14)


def test_h_score_by_hand_in_two_dimensions():
    # Columns ±1 are uncorrelated, variance 1 each. Class means, n = 4: (1, 0), (1, 0), (−1, 1), (−1, −1)
    # with the classes {1, 2}, {3}, {4}: between-class variances 1 and (0 + 0 + 1 + 1) / 4 = 1/2
    features = [[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]
    assert h_score(features, [0, 0, 1, 2]) == pytest.approx(1.5, abs=1e-14)


# Exactly where formulas divide by zero or take its logarithm


def test_source_class_without_mass_changes_nothing():
    probs, _, _, labels = random_task(0)
    padded = np.insert(probs, 3, 0.0, axis=1)
    assert leep_score(padded, labels) == pytest.approx(leep_score(probs, labels), abs=1e-14)


def test_tiny_masses_do_not_overflow():
    probs = np.array([[1.0, 5e-324], [1.0, 0.0], [1.0, 1e-310]])
    assert leep_score(probs, [0, 1, 1]) == pytest.approx((math.log(1 / 3) + 2 * math.log(2 / 3)) / 3, abs=1e-14)


def test_single_class_scores_zero():
    probs, dummies, features, _ = random_task(1, dtype=np.float32)
    labels = np.full(len(probs), 3)
    assert (leep_score(probs, labels), nce_score(dummies, labels), h_score(features, labels)) == (0.0, 0.0, 0.0)


def test_single_example_scores_zero():
    assert (leep_score([[0.5, 0.5]], [4]), nce_score([1], [4]), h_score([[2.0, 3.0]], [4])) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(("score", "which"), [(leep_score, 0), (nce_score, 1), (h_score, 2)])
def test_returns_a_float_from_float32_read_only_and_strided_arrays(score, which):
    arrays = random_task(2, dtype=np.float32)
    values, labels = arrays[which], arrays[3]
    expected = score(values, labels)
    strided, narrow = np.repeat(values, 2, axis=0)[::2], labels.astype(np.uint8)
    strided.flags.writeable = narrow.flags.writeable = False
    assert type(expected) is float
    assert score(strided, narrow) == expected
    assert score(np.asfortranarray(values), labels) == pytest.approx(expected, abs=1e-13)
    exact = values.astype(np.float64) if values.dtype == np.float32 else values
    assert score(exact, labels) == pytest.approx(expected, abs=1e-12)


def test_float32_is_accumulated_in_float64():
    probs, _, _, labels = random_task(3, n=20_000, dtype=np.float32)
    assert leep_score(probs, labels) == pytest.approx(leep_score(probs.astype(np.float64), labels), abs=1e-13)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_leep_in_parts_and_blocks_equals_leep_in_one(compiled, dtype, monkeypatch):
    from leep.measures import _joint

    probs, _, _, labels = random_task(4, n=1003, dtype=dtype)
    whole = leep_score(probs, labels)
    monkeypatch.setattr(_joint, "MIN_ENTRIES_FOR_PARTS", 1)
    monkeypatch.setattr(_joint, "BLOCK", 50)
    monkeypatch.setattr(_joint, "MIN_ENTRIES_TO_COMPILE", 1 if compiled else 10**9)
    assert leep_score(probs, labels) == pytest.approx(whole, abs=1e-13)
    probs.flags.writeable = labels.flags.writeable = False
    assert leep_score(probs, labels) == pytest.approx(whole, abs=1e-13)
    for row, wrong in [(3, 2.0), (500, -1e-4), (1002, np.nan)]:
        bad = probs.copy()
        bad[row:, 0] = wrong
        with pytest.raises(ValueError, match=rf"in row {row}\b"):
            leep_score(bad, labels)


def test_leep_compiles_where_no_cache_can_be_written(monkeypatch):
    from numba.core import caching

    from leep.measures import _compiled

    def refuse(self):
        raise OSError("read-only")

    monkeypatch.setattr(caching._CacheLocator, "ensure_cache_path", refuse)
    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(cache=True)(slow_leep)
    first_plus_one = _compiled.compiled(lambda probs, codes: probs[0] + codes[0])
    assert first_plus_one(np.array([2.0]), np.array([1])) == 3.0


def test_leep_of_more_source_classes_than_a_dot_product_takes(monkeypatch):
    from leep.measures import _joint

    probs, _, _, labels = random_task(4, n_source_classes=50)
    monkeypatch.setattr(_joint, "DOT", 7)
    assert leep_score(probs, labels) == pytest.approx(slow_leep(probs, labels), abs=1e-13)


@pytest.mark.parametrize(("n", "d"), [(250, 512), (40, 40), (41, 40), (250, 1280)])
def test_h_score_is_classes_minus_one_where_examples_are_few(n, d):
    _, _, features, labels = random_task(5, n=n, n_features=d, n_classes=5, dtype=np.float32)
    assert h_score(features, labels) == pytest.approx(4.0, abs=1e-8)
    assert feature_rank(features) == n - 1


@pytest.mark.parametrize("n", [60, 6])
def test_constant_column_does_not_count(n):
    _, _, features, labels = random_task(6, n=n, n_features=8, dtype=np.float32)
    constant = np.insert(features, 2, np.float32(0.1), axis=1)
    assert h_score(constant, labels) == pytest.approx(h_score(features, labels), abs=1e-12)
    assert feature_rank(constant) == feature_rank(features) == min(n - 1, 8)
    only = np.full((n, 3), np.float32(0.1))
    assert (h_score(only, labels), feature_rank(only)) == (0.0, 0)


@pytest.mark.parametrize("seed", range(20))
def test_dependent_columns_do_not_count(seed):
    _, _, features, labels = random_task(seed)
    dependent = np.hstack([features, features[:, :2] @ [[1.0, 2.0], [3.0, -1.0]], 1e6 * features[:, :1]])
    assert h_score(dependent, labels) == pytest.approx(h_score(features, labels), abs=1e-9)
    assert feature_rank(dependent) == 5


def test_rounding_to_float32_is_not_a_feature():
    # A Cholesky factor exists, and would count the rounding of the sum, 1e-8 of its size, as a direction of its own.
    _, _, features, labels = random_task(7, n=3000, dtype=np.float32)
    dependent = np.hstack([features, features[:, :1] + features[:, 1:2]])
    assert h_score(dependent, labels) == pytest.approx(h_score(features, labels), abs=1e-6)
    assert feature_rank(dependent) == 5


def test_rank_is_less_than_the_number_of_examples():
    assert _kept(np.array([1e-3, 1.0, 2.0]), n=3, d=3).tolist() == [False, True, True]
    assert _kept(np.array([1e-3, 1.0, 2.0]), n=4, d=3).tolist() == [True, True, True]


def test_h_score_of_the_largest_floats():
    assert h_score([[-1.7e308], [1.7e308], [1.7e308], [-1.7e308]], [0, 1, 1, 0]) == pytest.approx(1.0, abs=1e-14)


@pytest.mark.parametrize(("scale", "offset"), [(1e-200, 0.0), (1e200, 0.0), (1.7e308, 0.0), (1.0, 1e6)])
def test_h_score_at_extreme_scales(scale, offset):
    _, _, features, labels = random_task(8)
    features /= np.abs(features).max()
    moved = features.copy()
    moved[:, 1] = scale * features[:, 1] + offset
    assert h_score(moved, labels) == pytest.approx(h_score(features, labels), rel=1e-8)
    assert feature_rank(moved) == 5


def test_ill_conditioned_features_take_the_eigenvalues():
    # Two columns equal to 2e-5 of their size: reciprocal condition number ~1e-10, above the cut of the rank.
    _, _, features, labels = random_task(9, n=400)
    near = np.hstack([features, features[:, :1] + 2e-5 * np.random.default_rng(0).normal(size=(400, 1))])
    assert feature_rank(near) == 6
    assert h_score(near, labels) == pytest.approx(slow_h_score(near, labels), rel=1e-5)


# Invariances


@pytest.mark.parametrize("seed", range(3))
def test_invariances(seed):
    probs, dummies, features, labels = random_task(seed)
    rng = np.random.default_rng(seed)
    order, names, sources = rng.permutation(len(labels)), rng.permutation(20), rng.permutation(probs.shape[1])
    linear = rng.normal(size=(5, 5)) + 2 * np.eye(5)
    for score, values in [(leep_score, probs), (nce_score, dummies), (h_score, features)]:
        expected = score(values, labels)
        assert score(values[order], labels[order]) == pytest.approx(expected, abs=1e-12)
        assert score(values, names[labels]) == pytest.approx(expected, abs=1e-12)
        assert score(np.repeat(values, 2, axis=0), np.repeat(labels, 2)) == pytest.approx(expected, abs=1e-12)
    assert leep_score(probs[:, sources], labels) == pytest.approx(leep_score(probs, labels), abs=1e-12)
    assert nce_score(100 + sources[dummies], labels) == pytest.approx(nce_score(dummies, labels), abs=1e-12)
    assert h_score(features @ linear + rng.normal(size=5), labels) == pytest.approx(h_score(features, labels), rel=1e-9)


def test_inputs_are_not_changed():
    arrays = random_task(0)
    before = [array.copy() for array in arrays]
    for score, values in zip((leep_score, nce_score, h_score), arrays):
        score(values, arrays[3])
    assert all(np.array_equal(a, b) for a, b in zip(arrays, before))


def test_measures_are_not_symmetric():
    assert nce_score([0, 0, 1, 1], [0, 1, 2, 3]) == pytest.approx(-math.log(2))
    assert nce_score([0, 1, 2, 3], [0, 0, 1, 1]) == 0.0


# Theory


def entropy(labels):
    p = np.unique(labels, return_counts=True)[1] / len(labels)
    return -np.sum(p * np.log(p))


@quick
@given(hnp.arrays(np.int64, 20, elements=st.integers(0, 4)), hnp.arrays(np.int64, 20, elements=st.integers(0, 3)))
def test_one_hot_predictions_give_leep_equal_to_nce(dummies, labels):
    assert leep_score(np.eye(5)[dummies], labels) == pytest.approx(nce_score(dummies, labels), abs=1e-13)


@quick
@given(awkward_probs())
def test_leep_is_at_least_the_log_probability_of_dummy_labels_and_targets_given_them(task):
    # Property 2 as its proof has it, with P(y|z) of Eq. 1, up to the step that replaces this by the NCE's.
    probs, labels = task
    dummies = probs.argmax(axis=1)
    joint = np.stack([probs[labels == y].sum(axis=0) for y in labels])  # n P(y_i, z)
    given_dummies = (joint / probs.sum(axis=0).clip(1e-300))[np.arange(len(labels)), dummies]
    assert leep_score(probs, labels) >= np.log(given_dummies * probs.max(axis=1)).mean() - 1e-12


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [200, 1000])
def test_leep_is_at_least_nce_and_the_dummy_labels_log_probability(seed, n):
    probs, dummies, _, labels = random_task(seed, n=n)
    assert leep_score(probs, labels) >= nce_score(dummies, labels) + np.log(probs.max(axis=1)).mean()


def test_property_2_does_not_hold_for_all_data():
    # Its proof takes P(y|z) of Eq. 1, from probabilities, for the NCE's, from dummy labels. Here the dummy labels
    # z = 1, 0 determine y: NCE = 0, and the mean log-probability is log(5/6) / 2 = −0.091. But by Eq. 1
    # n P(y=0, z) = (1/6, 5/6), n P(y=1, z) = (1, 0): p(0|x1) = 1/6 · 1/7 + 5/6 = 6/7, p(1|x2) = 6/7, LEEP = −0.154.
    probs, labels = np.array([[1 / 6, 5 / 6], [1.0, 0.0]]), np.array([0, 1])
    assert leep_score(probs, labels) == pytest.approx(math.log(6 / 7), abs=1e-14)
    assert nce_score(probs.argmax(axis=1), labels) == 0.0
    assert leep_score(probs, labels) < np.log(probs.max(axis=1)).mean() - 0.06


@quick
@given(awkward_probs())
def test_leep_lies_between_minus_the_entropies_and_zero(task):
    # Jensen: log Σ_z θ_z P(y|z) ≥ Σ_z θ_z log P(y|z), whose mean is −H(Y|Z) ≥ −H(Y) under the joint law of Eq. 1
    probs, labels = task
    joint = np.stack([probs[labels == y].sum(axis=0) / len(labels) for y in np.unique(labels)])
    with np.errstate(divide="ignore", invalid="ignore"):
        soft_nce = np.nansum(joint * np.log(joint / joint.sum(axis=0)))
    assert -entropy(labels) - 1e-12 <= soft_nce <= leep_score(probs, labels) + 1e-12 <= 2e-12


@pytest.mark.parametrize("seed", range(5))
def test_leep_is_at_most_the_log_likelihood_of_the_best_head(seed):
    # Property 1: heads p(y|x) = Σ_z A[z, y] θ(x)_z contain the EEP, the first step of EM from uniform A.
    probs, _, _, labels = random_task(seed, n=80)
    head, likelihoods = np.full((7, 4), 1 / 4), []
    for _ in range(60):
        weights = (probs * head[:, labels].T) / (probs * head[:, labels].T).sum(axis=1, keepdims=True)
        head = weights.T @ np.eye(4)[labels]
        head /= head.sum(axis=1, keepdims=True)
        likelihoods.append(np.log((probs * head[:, labels].T).sum(axis=1)).mean())
    assert likelihoods[0] == pytest.approx(leep_score(probs, labels), abs=1e-12)
    assert (np.diff(likelihoods) >= -1e-12).all()
    assert likelihoods[-1] > leep_score(probs, labels) + 1e-3


@quick
@given(hnp.arrays(np.int64, 15, elements=st.integers(0, 4)), hnp.arrays(np.int64, 15, elements=st.integers(0, 3)))
def test_nce_is_mutual_information_less_entropy(dummies, labels):
    pairs = 10 * labels + dummies
    information = entropy(labels) + entropy(dummies) - entropy(pairs)
    assert nce_score(dummies, labels) == pytest.approx(information - entropy(labels), abs=1e-13)
    assert -entropy(labels) - 1e-13 <= nce_score(dummies, labels) <= 0


# Slow references


@quick
@given(awkward_probs())
def test_leep_equals_the_slow_one(task):
    assert leep_score(*task) == pytest.approx(slow_leep(*task), abs=1e-12)


@quick
@given(
    hnp.arrays(np.int64, 15, elements=st.sampled_from([0, 1, 7, 10**9])),
    hnp.arrays(np.int64, 15, elements=st.integers(0, 3)),
)
def test_nce_equals_the_slow_one(dummies, labels):
    assert nce_score(dummies, labels) == pytest.approx(slow_nce(dummies, labels), abs=1e-13)


@quick
@given(awkward_features())
def test_h_score_equals_the_pseudo_inverse(task):
    features, labels = task
    score = h_score(features, labels)
    assert score == pytest.approx(slow_h_score(features, labels), abs=1e-8)
    assert -1e-9 <= score <= min(len(np.unique(labels)) - 1, feature_rank(features)) + 1e-9
    assert feature_rank(features) == np.linalg.matrix_rank(features - features.mean(axis=0, keepdims=True), tol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(4))
def test_random_tasks_equal_the_slow_ones(seed, dtype):
    n = [30, 100, 250, 400][seed]
    probs, dummies, features, labels = random_task(seed, n=n, n_source_classes=30, n_features=20, dtype=dtype)
    assert leep_score(probs, labels) == pytest.approx(slow_leep(probs, labels), abs=1e-12)
    assert nce_score(dummies, labels) == pytest.approx(slow_nce(dummies, labels), abs=1e-13)
    assert h_score(features, labels) == pytest.approx(slow_h_score(features, labels), rel=1e-9)


# Rejected inputs


def changed(values, index, value):
    values = values.copy()
    values[index] = value
    return values


PROBS, DUMMIES, FEATURES, LABELS = random_task(0, n=10)


@pytest.mark.parametrize(
    ("probs", "match"),
    [
        (changed(PROBS, (3, 2), np.nan), "source_probs must be finite, got nan in row 3"),
        (changed(PROBS, (3, 2), np.inf), "source_probs must be finite, got inf in row 3"),
        (changed(PROBS, (3, 2), -np.inf), "source_probs must be finite, got -inf in row 3"),
        (changed(PROBS, (4, slice(2)), [-0.25, 1.0]), "source_probs must be non-negative, got -0.25 in row 4"),
        (np.full((10, 7), 0.5), "source_probs must sum to 1 in each row, to 0.001, got 3.5 in row 0"),
        (PROBS * 1.002, "source_probs must sum to 1 in each row, to 0.001, got 1.00"),
        (np.zeros((10, 7)), "source_probs must sum to 1 .* got 0.0 in row 0"),
        (PROBS[0], r"source_probs must have shape \(n, n_source_classes\), got \(7,\)"),
        (PROBS[:9], r"source_probs and target_labels must have as many rows as each other, got \[9, 10\]"),
        (PROBS[:0], r"source_probs must hold at least one example and one column, got shape \(0, 7\)"),
        (PROBS[:, :0], r"source_probs must hold at least one example and one column, got shape \(10, 0\)"),
        (PROBS.astype(complex), "source_probs must be real numbers, got dtype complex128"),
    ],
)
def test_leep_rejects(probs, match):
    for dtype in (np.float32, np.float64) if probs.dtype.kind == "f" else (complex,):
        with pytest.raises(ValueError, match=match):
            leep_score(probs.astype(dtype), LABELS)


def test_leep_takes_the_rounding_of_float16():
    assert leep_score(PROBS.astype(np.float16), LABELS) == pytest.approx(leep_score(PROBS, LABELS), abs=2e-3)


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (np.eye(10), r"must have shape \(n,\), got \(10, 10\).*argmax"),
        (LABELS + 0.5, r"must be integers, got \d\.5 in row 0; .*argmax"),
        (np.where(LABELS == 0, np.nan, LABELS), "must be integers, got nan in row"),
        (LABELS + 2.0**53, "must be integers, got 9007199254740992"),
        (LABELS - 2.0, "must be non-negative, got -2"),
        (LABELS.astype(bool), "must be integers, got dtype bool"),
        (LABELS.astype(str), "must be integers, got dtype <U"),
        (LABELS - 2, "must be non-negative, got -2"),
        (np.full(10, 2**63, np.uint64), "must fit int64, got 9223372036854775808"),
        (LABELS[:0], "must hold at least one label"),
        (LABELS[:9], r"must have as many rows as each other, got \[10, 9\]"),
    ],
)
@pytest.mark.parametrize(("score", "values"), [(leep_score, PROBS), (nce_score, DUMMIES), (h_score, FEATURES)])
def test_labels_rejected(score, values, labels, match):
    with pytest.raises(ValueError, match="target_labels.* " + match):
        score(values, labels)


def test_nce_rejects_bad_source_labels():
    with pytest.raises(ValueError, match="source_labels must be non-negative, got -1"):
        nce_score(DUMMIES - DUMMIES.min() - 1, LABELS)
    with pytest.raises(ValueError, match=r"source_labels must have shape \(n,\), got \(10, 7\)"):
        nce_score(PROBS, LABELS)


@pytest.mark.parametrize(
    ("features", "match"),
    [
        (changed(FEATURES, (3, 2), np.nan), "features must be finite, got nan in row 3, column 2"),
        (changed(FEATURES, (3, 2), -np.inf), "features must be finite, got -inf in row 3, column 2"),
        (FEATURES[:, 0], r"features must have shape \(n, n_features\), got \(10,\)"),
        (FEATURES.reshape(10, 5, 1), r"features must have shape \(n, n_features\), got \(10, 5, 1\)"),
        (FEATURES[:0], "features must hold at least one example and one column"),
    ],
)
def test_h_score_rejects(features, match):
    with pytest.raises(ValueError, match=match):
        h_score(features, LABELS)
    if "shape" in match or "finite" in match:
        with pytest.raises(ValueError, match=match):
            feature_rank(features)


# The registry


def test_measures_are_found_by_their_files():
    assert set(MEASURES) >= {"leep", "nce", "h_score"}
    assert not [name for name in MEASURES if name.startswith("_")]
    assert (get_measure("leep"), get_measure("nce"), get_measure("h_score")) == (leep_score, nce_score, h_score)
    assert measure_arguments("nce") == ("source_labels", "target_labels")


def test_score_task_picks_the_arrays():
    arrays = {"source_probs": PROBS, "source_labels": DUMMIES, "features": FEATURES, "target_labels": LABELS}
    assert score_task("leep", arrays) == leep_score(PROBS, LABELS)
    assert score_task("nce", arrays) == nce_score(DUMMIES, LABELS)
    assert score_task("h_score", arrays) == h_score(FEATURES, LABELS)


def test_registry_rejects():
    with pytest.raises(ValueError, match=r"h_score.*leep.*nce.*, got 'leap'"):
        get_measure("leap")
    with pytest.raises(ValueError, match=r"h_score.*got '_check'"):
        get_measure("_check")
    with pytest.raises(ValueError, match="measure nce needs source_labels, got source_probs, target_labels"):
        score_task("nce", {"source_probs": PROBS, "target_labels": LABELS})


def test_argument_outside_the_vocabulary_is_rejected(monkeypatch):
    toy = ModuleType("leep.measures.toy")
    toy.score = lambda logits, target_labels: 0.0
    monkeypatch.setitem(sys.modules, toy.__name__, toy)
    monkeypatch.setattr(measures, "MEASURES", ("toy",))
    with pytest.raises(ValueError, match=r"measure toy must take arguments among .*, got logits"):
        score_task("toy", {})


def test_parameter_with_a_default_is_an_option(monkeypatch):
    toy = ModuleType("leep.measures.toy")
    toy.score = lambda features, target_labels, *, weight=2.0: weight
    monkeypatch.setitem(sys.modules, toy.__name__, toy)
    monkeypatch.setattr(measures, "MEASURES", ("toy",))
    assert measure_arguments("toy") == ("features", "target_labels")
    assert score_task("toy", {"features": FEATURES, "target_labels": LABELS}) == 2.0


def test_importing_leep_imports_nothing_slow():
    code = "import sys, leep; print([m for m in ('numba', 'scipy', 'pandas', 'mxnet', 'torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_measures_compile_nothing():
    code = """
import sys
from leep import h_score, leep_score, nce_score
scores = leep_score([[0.5, 0.5], [0.5, 0.5]], [0, 1]), nce_score([0, 0], [0, 1]), h_score([[0], [1]], [0, 1])
print([round(score, 6) for score in scores])
print([m for m in ('numba', 'llvmlite', 'cffi') if m in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "[-0.693147, -0.693147, 1.0]\n[]\n"


@pytest.mark.parametrize("name", ["", ".leep", ".nce", ".h_score"])
def test_examples_of_the_docstrings(name):
    failed, tried = doctest.testmod(importlib.import_module("leep.measures" + name))
    assert failed == 0
    assert tried > 0


@pytest.mark.parametrize("labels", [[3, 900, 0, 3], [10**15, 0, 10**15]])
def test_encode(labels):
    classes, codes = encode(np.array(labels))
    assert classes.tolist() == sorted(set(labels))
    assert classes[codes].tolist() == labels


def test_rows_are_added_by_class():
    sums = np.array([[1.0, 0.0], [0.0, 0.0]])
    add_rows_by_class(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([1, 0, 1]), sums)
    assert sums.tolist() == [[4.0, 4.0], [6.0, 8.0]]


def blas_threads():
    """Of NumPy's and SciPy's BLAS; MXNet has one of its own, which may be loaded later."""
    return [library.num_threads for library in _libraries()]


def test_blas_has_one_thread_within_overlapping_calls_and_its_own_after_them():
    blas_threads()  # loads SciPy's BLAS
    with threadpool_limits(2, "blas"):
        before = blas_threads()
        first, second = one_thread(), one_thread()
        assert first.__enter__() == max(before)
        assert second.__enter__() == max(before)
        first.__exit__(None, None, None)
        assert set(blas_threads()) == {1}
        second.__exit__(None, None, None)
        assert blas_threads() == before
        with pytest.raises(MemoryError), one_thread():
            raise MemoryError
        assert blas_threads() == before


def test_cholesky_factor_in_place():
    # [[4, 2], [2, 10]] = L Lᵀ with L = [[2, 0], [1, 3]]; the upper triangle is left as it is
    matrix = np.array([[4.0, -1.0], [2.0, 10.0]], order="F")
    assert factor_in_place(matrix)
    assert matrix.tolist() == [[2.0, -1.0], [1.0, 3.0]]
    assert not factor_in_place(np.array([[1.0, 0.0], [2.0, 1.0]], order="F"))
    for wrong in (np.eye(2, dtype=np.float32, order="F"), np.ones((4, 4))[::2, ::2]):
        with pytest.raises(ValueError, match="float64 in Fortran's order"):
            factor_in_place(wrong)


@pytest.mark.parametrize(("n", "d"), [(250, 100), (100, 250), (3000, 700)])
def test_h_score_is_the_same_on_any_number_of_threads(n, d):
    _, _, features, labels = random_task(0, n=n, n_features=d)
    features[:, 0] = features[:, 1]  # the eigenvalues too
    scores = []
    for threads in (1, 2, 3):
        with threadpool_limits(threads, "blas"):
            scores.append((h_score(features, labels), h_score(features[:, 1:], labels)))
    assert scores[0] == scores[1] == scores[2]


@pytest.mark.parametrize(("n", "d"), [(3, 3), (40, 60), (60, 60)])
def test_h_score_of_no_more_examples_than_features_is_exact(n, d):
    """In general position the class means are told apart fully: n_classes − 1."""
    rng = np.random.default_rng(0)
    assert h_score(rng.normal(size=(n, d)), np.arange(n) % 3) == 2.0


def test_h_score_of_no_more_examples_than_features_with_two_the_same():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 40)), np.arange(30) % 4
    x[7] = x[8]
    assert 0 < h_score(x, y) < 3.0
    z = x - x.mean(0)
    means = np.stack([z[y == k].mean(0) for k in range(4)])
    weights = np.bincount(y) / len(y)
    expected = np.trace(np.linalg.pinv(z.T @ z / len(z), rcond=1e-10) @ (means.T * weights) @ means)
    np.testing.assert_allclose(h_score(x, y), expected, rtol=1e-9)


def test_rows_are_added_by_class_without_scipys_private_function_too(monkeypatch):
    values, codes = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([1, 0, 1])
    for hidden in (False, True):
        if hidden:
            monkeypatch.setitem(sys.modules, "scipy.sparse._sparsetools", None)
        sums = np.ones((2, 2))
        add_rows_by_class(values, codes, sums)
        assert sums.tolist() == [[4, 5], [7, 9]]
