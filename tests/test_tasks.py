"""Task sampling: what the paper says of the tasks, and that a task never depends on anything but its number."""

import numpy as np
import pytest

from leep.tasks import draw_task

RNG = np.random.default_rng(3)
TRAIN = RNG.permutation(np.repeat(np.arange(20), 400))
TEST = RNG.permutation(np.repeat(np.arange(20), 7))
PARAMETERS = {
    "large_balanced": {"min_classes": 2, "max_classes": 20},
    "small_balanced": {"n_classes": 5, "per_class": 50},
    "small_imbalanced": {"min_smaller": 30, "max_smaller": 60, "ratio": 5},
}


def draw(setting, index, seed=0, target="cifar100", **changes):
    return draw_task(setting, target, index, seed, TRAIN, TEST, **{**PARAMETERS[setting], **changes})


@pytest.mark.parametrize("setting", PARAMETERS)
@pytest.mark.parametrize("index", range(20))
def test_task_is_consistent(setting, index):
    task = draw(setting, index)
    assert len(np.unique(task.classes)) == len(task.classes)
    assert (np.diff(task.train_rows) > 0).all()
    np.testing.assert_array_equal(task.classes[task.train_labels], TRAIN[task.train_rows])
    np.testing.assert_array_equal(task.classes[task.test_labels], TEST[task.test_rows])
    np.testing.assert_array_equal(task.test_rows, np.flatnonzero(np.isin(TEST, task.classes)))


def test_large_balanced_takes_all_examples_of_its_classes():
    tasks = [draw("large_balanced", i) for i in range(400)]
    sizes = [len(t.classes) for t in tasks]
    assert set(sizes) == set(range(2, 21))
    assert abs(np.mean(sizes) - 11) < 1  # uniform over 2 … 20
    for task in tasks[:10]:
        assert len(task.train_rows) == 400 * len(task.classes) and task.whole_classes


def test_small_balanced_takes_fifty_a_class():
    task = draw("small_balanced", 0)
    np.testing.assert_array_equal(np.bincount(task.train_labels), [50] * 5)
    assert not task.whole_classes


def test_small_imbalanced_has_one_class_five_times_larger():
    tasks = [draw("small_imbalanced", i) for i in range(500)]
    smaller = [np.bincount(t.train_labels)[0] for t in tasks]
    assert set(smaller) == set(range(30, 61))
    assert all(np.bincount(t.train_labels)[1] == 5 * s for t, s in zip(tasks, smaller))
    assert all(t.minority_class == 0 for t in tasks)
    assert len({tuple(t.classes) for t in tasks}) > 200  # ordered pairs: either class may be the smaller one


@pytest.mark.parametrize("setting", PARAMETERS)
def test_task_depends_on_its_number_and_seed_alone(setting):
    alone = draw(setting, 5)
    for i in (9, 1, 5):
        again = draw(setting, i)
    np.testing.assert_array_equal(alone.train_rows, again.train_rows)
    np.testing.assert_array_equal(alone.classes, again.classes)
    assert not np.array_equal(alone.train_rows, draw(setting, 6).train_rows)
    assert not np.array_equal(alone.train_rows, draw(setting, 5, seed=1).train_rows)
    assert not np.array_equal(alone.train_rows, draw(setting, 5, target="fashion_mnist").train_rows)


def test_experiments_draw_independently():
    """Sections 5.2 and 5.4 both draw five classes: the tasks of one number must not share them beyond chance."""
    same = []
    for i in range(100):
        balanced = draw("small_balanced", i)
        labels = RNG.permutation(np.repeat(np.arange(20), 100))
        meta = draw_task("meta_transfer", "cifar100", i, 0, labels, labels, n_classes=5, per_class=50)
        same.append(np.array_equal(balanced.classes, meta.classes))
    assert sum(same) <= 1  # 15,504 sets of classes


def test_drawn_tasks_stay_what_they_are():
    """Pinned: a change of the sampling makes all published rows incomparable."""
    assert draw("small_balanced", 0).classes.tolist() == PINNED["balanced"]
    assert draw("small_imbalanced", 0).train_rows[:5].tolist() == PINNED["imbalanced"]
    assert len(draw("large_balanced", 0).classes) == PINNED["large"]


PINNED = {"balanced": [9, 11, 13, 17, 19], "imbalanced": [28, 30, 43, 67, 120], "large": 3}


def test_too_many_classes_or_examples():
    with pytest.raises(ValueError, match="at most as many classes as the data set, 20, got 21"):
        draw("small_balanced", 0, n_classes=21)
    with pytest.raises(ValueError, match="at least 401 training examples, it has 400"):
        draw("small_balanced", 0, per_class=401)


def test_classes_absent_from_the_training_data_are_never_drawn():
    labels = np.repeat([2, 5, 9], 10)
    task = draw_task("small_balanced", "cifar100", 0, 0, labels, labels, n_classes=3, per_class=4)
    assert task.classes.tolist() == [2, 5, 9]
