import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leep.transfer.metrics import evaluate


def test_hand_computed_values():
    labels = np.array([0, 0, 0, 0, 1, 1])
    predicted = np.array([0, 0, 1, 1, 1, 0])
    # class 0: 2 right of 3 predicted and 4 true, F1 = 4/7; class 1: 1 right of 3 and 2, F1 = 2/5
    metrics = evaluate(predicted, labels, 2, minority_class=1)
    assert metrics == pytest.approx({"test_accuracy": 1 / 2, "test_f1": 2 / 5, "test_f1_macro": (4 / 7 + 2 / 5) / 2})


def test_f1_is_that_of_the_class_asked_for():
    labels, predicted = np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1])
    assert evaluate(predicted, labels, 2, minority_class=0)["test_f1"] == pytest.approx(4 / 5)
    assert evaluate(predicted, labels, 2, minority_class=1)["test_f1"] == pytest.approx(2 / 3)


def test_f1_is_absent_without_a_minority_class():
    metrics = evaluate(np.array([0, 1, 2]), np.array([0, 1, 1]), 3)
    assert set(metrics) == {"test_accuracy", "test_f1_macro"}


def test_class_never_predicted_has_f1_zero():
    metrics = evaluate(np.array([0, 0, 0]), np.array([0, 0, 1]), 2, minority_class=1)
    assert metrics["test_f1"] == 0
    assert metrics["test_f1_macro"] == pytest.approx(0.4)  # F1 of class 0: 2·2 / (3 + 2) = 4/5


def test_class_that_does_not_occur_is_no_part_of_the_mean():
    assert evaluate(np.array([0, 2]), np.array([0, 2]), 5)["test_f1_macro"] == 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1), st.permutations(range(4)))
def test_renaming_the_classes_changes_nothing(pairs, renamed):
    predicted, labels = np.array(pairs).T
    names = np.array(renamed)
    before = evaluate(predicted, labels, 4, minority_class=2)
    after = evaluate(names[predicted], names[labels], 4, minority_class=renamed[2])
    assert after == pytest.approx(before)
    assert all(0 <= value <= 1 for value in before.values())


@pytest.mark.parametrize(
    ("predicted", "labels", "minority_class", "message"),
    [
        ([], [], None, r"predicted must have shape \(n,\) with n at least 1, got \(0,\)"),
        ([[0, 1]], [0, 1], None, r"predicted must have shape \(n,\) with n at least 1, got \(1, 2\)"),
        ([0, 1], [0.0, 1.0], None, "labels must be integers, got float64"),
        ([0, 3], [0, 1], None, r"predicted must lie in 0\.\.2, got 0\.\.3"),
        ([0, 1], [-1, 1], None, r"labels must lie in 0\.\.2, got -1\.\.1"),
        ([0, 1], [0], None, "must have the same length, got 2 and 1"),
        ([0, 1], [0, 1], 3, r"minority_class must lie in 0\.\.2, got 3"),
    ],
)
def test_rejects(predicted, labels, minority_class, message):
    predicted, labels = np.array(predicted, dtype=None if predicted else int), np.array(labels)
    with pytest.raises(ValueError, match=message):
        evaluate(predicted, labels, 3, minority_class)
