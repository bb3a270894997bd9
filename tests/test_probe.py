"""The probe: values by hand, the optimum against scikit-learn, folds, invariances, awkward and rejected input."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from threadpoolctl import threadpool_limits

from leep.probe import (
    DEFAULT_STRENGTH,
    SELECTION,
    STRENGTHS,
    TOLERANCE,
    Probe,
    _choose_strengths,
    _heads,
    _rotate,
    _standardise,
    deal_folds,
    probe,
    probe_on_part,
    solve,
)

quick = settings(deadline=None, max_examples=40)


def blobs(n=120, n_classes=3, n_features=6, distance=1.0, seed=0):
    """Classes of normal features around random centres, `distance` apart, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % n_classes)
    centres = distance * rng.normal(size=(n_classes, n_features))
    return rng.normal(size=(n, n_features)) + centres[labels], labels


def solved(x, codes, penalty, tolerance=TOLERANCE):
    """Weights of the standardised features, bias and minimum."""
    x, _ = _standardise(x, x)
    z, _, variances = _rotate(x, x)
    weights, bias, minimum = solve(z, variances, codes, penalty, tolerance)
    return np.linalg.lstsq(x, z, rcond=None)[0] @ weights, bias, minimum


def objective(x, codes, weights, bias, penalty):
    logits = x @ weights + bias
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return -log_probs[np.arange(len(x)), codes].sum() + penalty / 2 * (weights**2).sum()


def test_a_head_without_features_predicts_the_shares_of_the_training_images():
    labels = np.repeat([3, 7], [10, 5])  # each fold trains on 8 and 4 images, and tests 2 and 1
    found = probe(np.ones((15, 2)), labels)
    assert found.accuracy == pytest.approx(10 / 15)
    np.testing.assert_allclose(
        found.log_probability, np.where(labels == 3, math.log(2 / 3), math.log(1 / 3)), atol=1e-6
    )
    assert found.confusion.tolist() == [[10, 0], [5, 0]]
    assert found.accuracy_by_class.tolist() == [1.0, 0.0]
    assert found.classes.tolist() == [3, 7]
    assert found.standard_error == pytest.approx(math.sqrt(2 / 3 * 1 / 3 / 15))
    assert found.standard_error_over_folds == pytest.approx(0.0)
    assert found.strengths.tolist() == [DEFAULT_STRENGTH] * 5 or set(found.strengths) <= set(STRENGTHS)


def test_wilsons_interval_by_hand():
    right = Probe(*map(np.array, ([0, 1], [0, 1] * 5, [0, 1, 2, 3, 4] * 2, [0, 1] * 5, [-0.1] * 10, [0.1] * 5)))
    assert right.interval == (pytest.approx(10 / (10 + 1.959964**2), abs=1e-6), 1.0)  # p = 1: n / (n + z²)


@pytest.mark.parametrize(("n", "d", "n_classes"), [(150, 6, 3), (60, 90, 4), (200, 5, 2)])
@pytest.mark.parametrize("penalty", [0.05, 2.0, 300.0])
def test_the_minimum_is_that_of_scikit_learn(n, d, n_classes, penalty):
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, labels = blobs(n, n_classes, d, seed=n)
    weights, bias, minimum = solved(features, labels, penalty)
    x, _ = _standardise(features, features)
    assert minimum == pytest.approx(objective(x, labels, weights, bias, penalty), rel=1e-9)
    # Of two classes scikit-learn fits one vector, whose halves with both signs are ours: half the penalty.
    reference = linear_model.LogisticRegression(C=(1 if n_classes > 2 else 2) / penalty, tol=1e-8, max_iter=100_000)
    reference.fit(x, labels)
    w, b = reference.coef_.T, reference.intercept_
    if n_classes == 2:
        w, b = np.hstack([-w / 2, w / 2]), np.append(-b / 2, b / 2)
    theirs = objective(x, labels, w, b, penalty)
    assert minimum / n == pytest.approx(theirs / n, abs=1e-6)


@pytest.mark.parametrize("penalty", [1e-3, 1.0])
def test_no_step_lowers_the_minimum(penalty):
    features, labels = blobs(80, 3, 4)
    weights, bias, minimum = solved(features, labels, penalty, 1e-6)
    x, _ = _standardise(features, features)
    rng = np.random.default_rng(1)
    for size in (1e-3, 1e-1):
        for _ in range(20):
            step, shift = size * rng.normal(size=weights.shape), size * rng.normal(size=bias.shape)
            assert objective(x, labels, weights + step, bias + shift, penalty) > minimum


def test_more_features_than_images_is_the_same_problem():
    """Each feature twelve times doubles nothing: kernel and penalty grow alike, from d < n to d > n."""
    features, labels = blobs(90, 3, 8)
    once, often = probe(features, labels), probe(np.tile(features, 12), labels)
    assert features.shape[1] < 50 < 12 * features.shape[1]
    np.testing.assert_array_equal(once.strengths, often.strengths)
    np.testing.assert_allclose(once.log_probability, often.log_probability, atol=2e-3)
    np.testing.assert_array_equal(once.predicted, often.predicted)


def test_units_order_of_features_and_names_of_classes_do_not_matter():
    features, labels = blobs(100, 3, 5)
    found = probe(features, labels)
    changed = probe((features * [1, 10, 0.1, 1e6, 1e-6] + [0, 5, -3, 1e6, 1])[:, ::-1], labels)
    np.testing.assert_allclose(found.log_probability, changed.log_probability, atol=2e-3)
    renamed = probe(features, np.array([50, 2, 7])[labels])
    np.testing.assert_array_equal(found.folds, renamed.folds)
    np.testing.assert_allclose(found.log_probability, renamed.log_probability, atol=2e-3)
    assert found.accuracy == renamed.accuracy == changed.accuracy


def test_random_labels_are_guessed_by_chance_although_every_training_image_can_be_learned():
    features, labels = blobs(400, 4, 500, distance=0.0)
    found = probe(features, labels)
    assert abs(found.accuracy - 1 / 4) < 4 * math.sqrt(1 / 4 * 3 / 4 / 400)


def test_the_result_does_not_depend_on_the_number_of_threads():
    features, labels = blobs(400, 3, 300)
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads, "blas"):
            found.append(probe(features, labels))
    np.testing.assert_array_equal(found[0].log_probability, found[1].log_probability)
    np.testing.assert_array_equal(found[0].strengths, found[1].strengths)


def test_the_seed_deals_the_folds():
    features, labels = blobs(60)
    assert (probe(features, labels).folds == probe(features, labels).folds).all()
    assert (probe(features, labels).folds != probe(features, labels, seed=1).folds).any()


@quick
@given(st.lists(st.integers(0, 5), min_size=2, max_size=60), st.integers(0, 3))
def test_folds_are_stratified(labels, seed):
    labels = np.array(labels)
    folds = deal_folds(labels, seed)
    counts = np.bincount(labels)
    np.testing.assert_array_equal(folds < 0, counts[labels] == 1)
    for rows in [np.flatnonzero(folds >= 0), *(np.flatnonzero(labels == y) for y in np.flatnonzero(counts > 1))]:
        of_fold = np.bincount(folds[rows], minlength=5)
        assert np.ptp(of_fold) <= 1


def test_an_image_alone_in_its_class_trains_and_is_not_tested():
    features, labels = blobs(40, 2, 3, distance=3.0)
    alone = probe(np.vstack([features, [50.0, 0, 0]]), np.append(labels, 9))
    assert (alone.folds[-1], alone.predicted[-1]) == (-1, -1)
    assert np.isnan(alone.log_probability[-1])
    assert len(alone.tested) == len(alone.correct) == 40
    assert np.isnan(alone.accuracy_by_class[2])
    assert alone.confusion.sum() == 40
    near = np.vstack([features, features[labels == 0].mean(axis=0)])  # its class does draw predictions
    assert probe(near, np.append(labels, 9)).log_probability[:40].sum() < probe(features, labels).log_probability.sum()


def test_the_strength_is_that_of_the_best_log_likelihood_on_the_neighbouring_folds():
    features, labels = blobs(100, 3, 30, distance=0.4)
    folds = deal_folds(labels, 0)
    chosen = _choose_strengths(features, labels, folds, 0)
    for fold in range(5):
        likelihood = np.zeros(len(STRENGTHS))
        for other in (fold - 1) % 5, (fold + 1) % 5:
            train, test = np.flatnonzero((folds != fold) & (folds != other)), np.flatnonzero(folds == other)
            for s, strength in enumerate(STRENGTHS):
                (log_probs,) = _heads(features, labels[train], train, test, [strength], 1e-5)
                likelihood[s] += log_probs[np.arange(len(test)), labels[test]].sum()
        assert chosen[fold] == STRENGTHS[likelihood.argmax()]


def test_noise_is_shrunk_more_than_signal():
    noise, signal = probe(*blobs(150, 3, 100, distance=0.05)), probe(*blobs(150, 3, 100, distance=2.0))
    assert noise.strengths.min() > signal.strengths.max()


def test_the_choice_of_the_strength_reads_a_part_of_many_images(monkeypatch):
    features, labels = blobs(200, 2, 3)
    before = probe(features, labels).accuracy
    monkeypatch.setattr("leep.probe.SELECTION", 50)
    seen = []

    def heads(features, codes, train, *rest):
        seen.append(len(train))
        return _heads(features, codes, train, *rest)

    monkeypatch.setattr("leep.probe._heads", heads)
    assert probe(features, labels).accuracy == pytest.approx(before, abs=0.05)
    assert sorted(seen)[5:] == [160] * 5
    assert 150 - 20 < sum(sorted(seen)[:5]) < 150 + 20  # three fifths of 50 images each
    assert SELECTION >= 1000


def test_heads_on_a_part_of_the_images():
    features, labels = blobs(300, 3, 40, distance=0.5)
    done = probe(features, labels)
    np.testing.assert_array_equal(probe_on_part(features, done, 1.0, 0), done.correct)
    quarter = probe_on_part(features, done, 0.25, 0)
    assert quarter.mean() < done.accuracy
    assert (quarter != probe_on_part(features, done, 0.25, 1)).any()
    assert probe_on_part(features, done, 0.001, 0).shape == (300,)  # an image a class


@st.composite
def awkward(draw):
    """Constant, repeated and dependent columns, d above and below n, huge and tiny values, classes of one and two."""
    n, d = draw(st.integers(3, 14)), draw(st.integers(1, 16))
    features = draw(hnp.arrays(np.int64, (n, d), elements=st.integers(-2, 2))).astype(float)
    features *= draw(hnp.arrays(np.float64, d, elements=st.sampled_from([0.0, 1.0, 1e-300, 1e300])))
    labels = draw(hnp.arrays(np.int64, n, elements=st.sampled_from([0, 2, 9])))
    labels[:3] = 0, 0, 2
    return features, labels


@quick
@given(awkward())
def test_awkward_input(case):
    features, labels = case
    found = probe(features, labels)
    tested = found.tested
    assert (found.log_probability[tested] <= 0).all()
    assert np.isin(found.predicted[tested], np.arange(len(found.classes))).all()
    assert 0 <= found.interval[0] <= found.accuracy <= found.interval[1] <= 1
    assert found.confusion.sum() == len(tested)


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (np.ones(4), [0, 0, 1, 1], r"features must have shape \(n, n_features\), got \(4,\)"),
        (np.ones((4, 2)), [0, 0, 1], "as many rows as each other"),
        (np.full((4, 2), np.nan), [0, 0, 1, 1], "features must be finite"),
        (np.ones((4, 2)), [0.0, 0.0, 1.0, 1.5], "must be integers"),
        (np.ones((4, 2)), [1, 1, 1, 1], "at least two classes, got only 1"),
        (np.ones((4, 2)), [0, 1, 2, 3], "a class of two images or more, got 4 classes of one"),
    ],
)
def test_rejected_input(features, labels, message):
    with pytest.raises(ValueError, match=message):
        probe(features, np.array(labels))
