"""Meta-training of CNAPs: episodes within bounds, resumed exactly, the best state kept; and its use in Section 5.4."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from helpers.adaptation import CARD, find, weights_of
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from experiments.reporting.table1 import build_table
from leep.data import load_data
from leep.engines import create_engine
from leep.errors import Invalid, Missing
from leep.results import read_runs
from leep.sources.preprocess import Preprocessing
from leep.sources.weights import find_weights
from leep.tasks import EXPERIMENTS, Task, draw_meta_transfer
from leep.transfer.cnaps import CnapsMethod
from leep.transfer.cnaps.adaptation import find_adaptation, save_adaptation
from leep.transfer.cnaps.episodes import draw_episode, draw_shots
from leep.transfer.cnaps.meta_training import (
    Pool,
    meta_train,
    one_hot,
    pool_features,
    validate,
    whitening,
)
from leep.transfer.method import Budget
from scripts.train_cnaps import load_pool

PREPARE = Preprocessing(32, (0.5,) * 3, (0.5,) * 3)


def draw(seed=0):
    return np.random.default_rng(seed)


# Episodes


@st.composite
def labelled_sets(draw):
    """Labels with gaps, in random order."""
    counts = draw(st.lists(st.integers(2, 300), min_size=5, max_size=60))
    labels = np.repeat(3 * np.arange(len(counts)) + 1, counts)
    return np.random.default_rng(draw(st.integers(0, 99))).permutation(labels)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(labelled_sets(), st.integers(40, 400), st.integers(5, 40), st.integers(0, 2**32))
def test_episodes_stay_within_their_bounds(labels, max_support, max_ways, seed):
    episode, n_classes = draw_episode(labels, draw(seed), max_support, max_ways), len(np.unique(labels))
    assert 5 <= episode.ways <= min(max_ways, n_classes)
    shots, queries = (np.bincount(k, minlength=episode.ways) for k in (episode.support_labels, episode.query_labels))
    assert len(shots) == len(queries) == episode.ways
    classes = []
    for k in range(episode.ways):
        rows = np.concatenate(
            [episode.support_rows[episode.support_labels == k], episode.query_rows[episode.query_labels == k]]
        )
        assert len(np.unique(rows)) == len(rows)  # support and query are disjoint
        assert len(np.unique(labels[rows])) == 1
        classes.append(labels[rows[0]])
    assert len(set(classes)) == episode.ways
    counts = np.array([(labels == c).sum() for c in classes])
    assert (queries == min(10, counts.min() // 2)).all()
    remaining = counts - queries
    assert (shots >= 1).all() and (shots <= remaining).all()
    assert shots.sum() <= min(max_support, np.minimum(100, remaining).sum())


def test_default_support_is_at_most_400():
    labels = np.repeat(np.arange(40), 300)
    totals = [len(draw_episode(labels, draw(seed)).support_rows) for seed in range(50)]
    assert max(totals) <= 400 and max(totals) > 350 and min(totals) < 300


@pytest.mark.parametrize(("n_classes", "expected"), [(5, [5]), (8, [5, 6, 7, 8]), (60, list(range(5, 41)))])
def test_ways_are_uniform(n_classes, expected):
    labels, rng = np.repeat(np.arange(n_classes), 4), draw()
    ways = [draw_episode(labels, rng).ways for _ in range(60 * len(expected))]
    found, counts = np.unique(ways, return_counts=True)
    assert found.tolist() == expected
    assert (np.abs(counts - 60) < 4 * np.sqrt(60)).all()


def test_every_class_and_example_has_its_turn():
    labels, rng = np.repeat(np.arange(9), 6), draw()
    episodes = [draw_episode(labels, rng) for _ in range(60)]
    for rows in ("support_rows", "query_rows"):
        assert set(np.concatenate([getattr(e, rows) for e in episodes])) == set(range(54))
    assert len({tuple(labels[e.support_rows[e.support_labels == 0]][:1]) for e in episodes}) == 9  # in any order


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([9] * 4, r"at least 5 classes of at least 2 examples, got 4 classes of \[9, 9, 9, 9\]"),
        ([9] * 5 + [1], r"at least 5 classes of at least 2 examples, got 6 classes of \[1, 9, 9, 9, 9\]"),
        ([], "got 0 classes"),
    ],
)
def test_too_few_classes_or_examples_are_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        draw_episode(np.repeat(np.arange(len(counts)), counts), draw())


class Given:
    """A generator whose β and u are given; u is drawn from another where it is not."""

    def __init__(self, beta, u=None):
        self.beta, self.u, self.rng = beta, u, draw(1)

    def random(self):
        return 1 - self.beta

    def uniform(self, low, high, size):
        assert (low, high) == (pytest.approx(-np.log(2)), pytest.approx(np.log(2)))
        return self.rng.uniform(low, high, size) if self.u is None else np.array(self.u)


@pytest.mark.parametrize(
    ("remaining", "beta", "u", "max_support", "expected"),
    [
        # total ⌈50⌉ + ⌈10⌉ + ⌈50⌉ = 110, 107 of them spare, divided 100 : 20 : 300
        ([100, 20, 300], 0.5, [0, 0, 0], 400, [26, 6, 77]),
        # total 60, 57 of them spare
        ([100, 20, 300], 0.5, [0, 0, 0], 60, [14, 3, 41]),
        # 107 divided 200 : 20 : 150
        ([100, 20, 300], 0.5, [np.log(2), 0, -np.log(2)], 400, [58, 6, 44]),
        # β above 0, no more than ⌈β · 100⌉ = 1 of each
        ([100, 20, 300], 1e-9, [0, 0, 0], 400, [1, 1, 1]),
        # all there are
        ([2, 100], 1.0, [0, 0], 400, [2, 99]),
        # never more than there are
        ([10, 10], 1.0, [np.log(2), -np.log(2)], 400, [10, 4]),
    ],
)
def test_shots_by_hand(remaining, beta, u, max_support, expected):
    assert draw_shots(np.array(remaining), 0, Given(beta, u), max_support).tolist() == expected


def test_shots_are_in_proportion_to_the_class_size_and_a_random_factor():
    """n_c e^u, u uniform within ± ln 2: ten times the shots for ten times the examples, give or take a factor 4."""
    remaining, rng = np.repeat([300, 30], 20), Given(1.0)
    shots = np.array([draw_shots(remaining, 0, rng, 2000) for _ in range(200)])
    assert (np.abs(shots.sum(1) - 2000) <= 40).all()
    large, small = shots[:, :20] - 0.5, shots[:, 20:] - 0.5  # less the one each, and half of one lost to rounding
    assert large.mean() / small.mean() == pytest.approx(10, rel=0.03)
    ratio = large[:, :1] / large[:, 1:]
    assert 0.24 < ratio.min() < 0.35 and 2.9 < ratio.max() < 4.2
    assert np.log(large / large.mean(1, keepdims=True)).std() == pytest.approx(np.log(2) / np.sqrt(3), rel=0.05)


# Pools


@pytest.mark.parametrize("channels", [1, 3])
def test_quarter_turns_are_classes_of_their_own(channels):
    images = draw().integers(0, 256, (5, 4, 4, channels), dtype=np.uint8)
    pool, before = Pool("p", images, np.array([0, 2, 1, 2, 0]), turned=True), images.copy()
    assert pool.all_labels.tolist() == [0, 2, 1, 2, 0, 3, 5, 4, 5, 3, 6, 8, 7, 8, 6, 9, 11, 10, 11, 9]
    rows = draw(1).permutation(20)
    expected = [np.rot90(images[row % 5], row // 5) for row in rows]
    np.testing.assert_array_equal(pool.take(rows), expected)
    np.testing.assert_array_equal(images, before)


def test_a_quarter_turn_by_hand():
    pool = Pool("p", np.array([[[[1], [2]], [[3], [4]]]], np.uint8), np.array([0]), turned=True)
    assert pool.take(np.array([1, 0, 3, 2]))[..., 0].tolist() == [
        [[2, 4], [1, 3]],
        [[1, 2], [3, 4]],
        [[3, 1], [4, 2]],
        [[4, 3], [2, 1]],
    ]


def test_a_pool_that_is_not_turned_is_as_it_is():
    images, labels = draw().integers(0, 256, (6, 3, 3, 3), dtype=np.uint8), np.array([0, 1, 2, 0, 1, 2])
    pool = Pool("p", images, labels)
    assert pool.all_labels.tolist() == labels.tolist()
    np.testing.assert_array_equal(pool.take(np.array([4, 1])), images[[4, 1]])


def test_whitened_features_have_a_spherical_covariance_within_classes():
    rng = np.random.default_rng(0)
    labels, skew = np.repeat([3, 7, 8], 500), rng.standard_normal((4, 4))
    features = 5 * labels[:, None] + rng.standard_normal((1500, 4)) @ skew
    found = whitening(features, labels, shrinkage=0.0)
    white = features @ found["whiten.weight"].T + found["whiten.bias"]
    centred = white - np.stack([white[labels == c].mean(0) for c in labels])
    np.testing.assert_allclose(centred.T @ centred / 1500, np.eye(4), atol=1e-4)
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-4)


def test_whitening_by_hand():
    """Two classes of two examples: within them the first feature deviates by ±1, the second by ±2; shrunk by a half."""
    features = np.array([[-1.0, 0], [1, 0], [10, 3], [10, 7]])
    found = whitening(features, np.array([0, 0, 1, 1]), shrinkage=0.5)
    # S = diag(1/2, 2), tr(S)/2 = 1.25; half of each: diag(0.875, 1.625)
    np.testing.assert_allclose(found["whiten.weight"], np.diag([0.875**-0.5, 1.625**-0.5]), atol=1e-6)
    np.testing.assert_allclose(found["whiten.bias"], [-5 * 0.875**-0.5, -2.5 * 1.625**-0.5], atol=1e-5)


def test_features_of_pools_are_of_every_class_and_turn():
    images = np.arange(2 * 2 * 2 * 1, dtype=np.uint8).reshape(2, 2, 2, 1).repeat(3, 0)
    pools = Pool("a", images, np.repeat([0, 1], 3), turned=True), Pool("b", images[:3], np.zeros(3, int))
    prepare = lambda taken: taken.reshape(len(taken), -1).astype(np.float32)  # noqa: E731
    features, labels = pool_features(lambda x: (x, None), pools, prepare, per_class=2, batch=3)
    assert np.bincount(labels).tolist() == [2] * 9
    np.testing.assert_array_equal(features[labels == 2][0], [1, 3, 0, 2])  # class 0, turned once, as NumPy turns
    np.testing.assert_array_equal(features[labels == 8][0], [0, 1, 2, 3])


def test_one_hot_by_hand():
    found = one_hot(np.array([2, 0]), 3)
    assert found.dtype == np.float32 and found.tolist() == [[0, 0, 1], [1, 0, 0]]


# Meta-training


class Pupil:
    """Learns nothing; right in a validation or not as `right` has it, by step."""

    def __init__(self, right=(), loss=None):
        self.right, self.loss = right, loss or (lambda step: step)
        self.steps, self.rates, self.tasks, self.validated = 0, [], [], []

    def learn(self, tasks, weight):
        assert weight == 1 / len(tasks)
        self.tasks.append(tasks)
        return [(self.loss(self.steps + 1), 0.25)] * len(tasks)

    def step(self, rate):
        self.steps += 1
        self.rates.append(rate)

    def predict(self, context, classes, query):
        self.validated.append((self.steps, context, query))
        ways = classes.shape[1]
        found = np.repeat(np.arange(ways), len(query) // ways)
        return one_hot((found + (self.steps not in self.right)) % ways, ways)

    def state(self):
        return {"w": np.array(self.steps), "steps": np.array(self.steps)}

    def load_state(self, state):
        self.steps = int(state["steps"])


def make_pool(name="p", n_classes=6, per_class=5, channels=3, turned=False, seed=0):
    rng = draw(seed)
    labels = rng.permutation(np.repeat(np.arange(n_classes), per_class))
    colours = rng.integers(40, 216, (n_classes, 1, 1, channels))
    pixels = colours[labels] + rng.normal(0, 30, (len(labels), 32, 32, channels))
    return Pool(name, pixels.clip(0, 255).astype(np.uint8), labels, turned)


POOLS, HELD_OUT = (
    [make_pool("colour", seed=1), make_pool("grey", 2, 4, 1, turned=True, seed=2)],
    [make_pool("other", 5, seed=3)],
)


def train(learner, steps=4, **options):
    defaults = {"prepare": PREPARE, "seed": 0, "tasks_per_step": 2, "max_support": 20}
    defaults |= {"validate_every": 2, "validation_tasks": 2}
    return meta_train(learner, POOLS, HELD_OUT, steps=steps, **(defaults | options))


def test_the_best_state_is_that_of_the_first_best_validation():
    rows = []
    pupil = Pupil(right=(4, 5, 6))
    state, log = train(pupil, 9, learning_rate=0.125, report=rows.append)
    assert [row["step"] for row in log] == [2, 4, 6, 8, 9]
    assert [row["validation_accuracy"] for row in log] == [0, 1, 1, 0, 0]
    assert state["w"] == 4 and pupil.rates == [0.125] * 9
    assert [row["loss"] for row in log] == [1.5, 3.5, 5.5, 7.5, 9] and log[0]["accuracy"] == 0.25
    assert [row["step"] for row in rows] == list(range(1, 10))
    assert [row["step"] for row in rows if "validation_accuracy" in row] == [2, 4, 6, 8, 9]


def test_one_best_state_even_where_nothing_is_right():
    state, log = train(Pupil(), 3)
    assert state["w"] == 2 and [row["validation_accuracy"] for row in log] == [0, 0]


def test_the_learning_rate_falls_to_zero_over_the_last_steps():
    pupil = Pupil()
    train(pupil, 6, learning_rate=0.5, anneal=4)
    assert pupil.rates == [0.5, 0.5, 0.5, 0.375, 0.25, 0.125]


def test_episodes_do_not_depend_on_when_one_validates():
    often, seldom = Pupil(), Pupil()
    train(often, 4, validate_every=1)
    train(seldom, 4, validate_every=4)
    tasks = [task for batch in often.tasks for task in batch]
    assert len(tasks) == 8
    for ours, theirs in zip(tasks, (task for batch in seldom.tasks for task in batch)):
        for a, b in zip(ours, theirs):
            np.testing.assert_array_equal(a, b)
    assert len({task[0].tobytes() for task in tasks}) == 8  # and every one is another
    assert [step for step, *_ in often.validated] == [1, 1, 2, 2, 3, 3, 4, 4]
    for k in (0, 1):  # the same episodes at every validation, none of them of meta-training
        assert len({(c.tobytes(), q.tobytes()) for _, c, q in often.validated[k::2]}) == 1
    contexts = {c.tobytes() for _, c, _ in often.validated}
    assert len(contexts) == 2 and not contexts & {task[0].tobytes() for task in tasks}


def test_tasks_are_images_in_one_range_of_all_pools():
    pupil = Pupil()
    train(pupil, 8, max_support=13, max_ways=6)
    grey = []
    for context, classes, query, labels in (task for batch in pupil.tasks for task in batch):
        ways = classes.shape[1]
        assert context.shape[1:] == query.shape[1:] == (3, 32, 32) and context.dtype == query.dtype == np.float32
        assert classes.shape == (len(context), ways) and (classes.sum(1) == 1).all() and (classes.sum(0) >= 1).all()
        assert len(context) <= 13 and ways <= 6 and len(labels) == len(query) and set(labels) == set(range(ways))
        assert -1 <= context.min() < -0.5 and 0.5 < context.max() <= 1
        grey.append((context[:, 0] == context[:, 2]).all())
    assert 2 < sum(grey) < 14  # of 16: either pool as often


def test_validation_is_repeatable_and_of_its_seed():
    pupil = Pupil()
    for seed in (0, 0, 1):
        assert validate(pupil, HELD_OUT, PREPARE, seed, 2, 20) == [0, 0]
    first, again, other = ([c.tobytes() for _, c, _ in pupil.validated[k : k + 2]] for k in (0, 2, 4))
    assert first == again and not set(first) & set(other)


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_ends_it(loss):
    pupil = Pupil(loss=lambda step: loss if step == 3 else 1.0)
    with pytest.raises(FloatingPointError, match=r"diverged at step 2: lower learning_rate \(0.5\)"):
        train(pupil, 5, learning_rate=0.5)
    assert pupil.steps == 2


class Killed(Exception):
    """In the midst of meta-training."""


def killed_at(step):
    def report(row):
        if row["step"] == step:
            raise Killed

    return report


def test_the_best_state_outlives_an_interruption(tmp_path):
    checkpoint = tmp_path / "checkpoint.npz"
    with pytest.raises(Killed):
        train(Pupil(right=(2, 8)), 8, checkpoint=checkpoint, report=killed_at(5))
    pupil = Pupil(right=(2, 8))
    state, log = train(pupil, 8, checkpoint=checkpoint)
    assert len(pupil.tasks) == 4 and state["w"] == 2  # from step 4 on, the first of equals
    assert [row["step"] for row in log] == [2, 4, 6, 8] and [row["loss"] for row in log] == [1.5, 3.5, 5.5, 7.5]
    assert all(set(row) == {"step", "loss", "accuracy", "validation_accuracy"} for row in log)
    finished = Pupil()
    state, again = train(finished, 8, checkpoint=checkpoint)
    assert not finished.tasks and again == log and state["w"] == 2


@pytest.mark.parametrize("step", [2, 3])
def test_a_resumed_meta_training_equals_an_uninterrupted_one(random_weights, tmp_path, step, uninterrupted):
    checkpoint = tmp_path / "checkpoint.npz"
    with pytest.raises(Killed):
        train(make_learner(random_weights), checkpoint=checkpoint, report=killed_at(step))
    learner = make_learner(random_weights, seed=7)  # whose weights are those of the checkpoint
    state, log = train(learner, checkpoint=checkpoint)
    expected_state, expected_log, expected_last = uninterrupted
    assert log == expected_log
    for found, expected in ((state, expected_state), (learner.state(), expected_last)):
        assert set(found) == set(expected)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert learner.state()["steps"] == 4


def make_learner(weights, seed=3):
    engine = create_engine("gluon", threads=1)
    from leep.transfer.cnaps.adaptation import build_cnaps

    net = build_cnaps("cifar_resnet20_v1", 10, weights, (0.5,) * 3, (0.25,) * 3, "film", np.random.SeedSequence(seed))
    return engine.meta_learner(net)


@pytest.fixture(scope="module")
def uninterrupted(random_weights):
    """The best state, the log, and the last state."""
    learner = make_learner(random_weights)
    return *train(learner), learner.state()


# Its data


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    """A data root that holds a CIFAR-10 of 6 images a class and file, whose first pixel is the class."""
    root, rng = tmp_path_factory.mktemp("data"), draw()
    (root / "cifar10").mkdir()
    colours = rng.integers(40, 216, (10, 3, 1))
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        labels = rng.permutation(np.repeat(np.arange(10), 6)).astype(np.uint8)
        pixels = (colours[labels] + rng.normal(0, 30, (60, 3, 1024))).clip(0, 255).astype(np.uint8)
        pixels[:, :, 0] = labels[:, None]
        np.concatenate([labels[:, None], pixels.reshape(60, -1)], 1).tofile(root / "cifar10" / f"{name}.bin")
    names = [f"thing_{k}" for k in range(10)]
    (root / "cifar10" / "batches.meta.txt").write_text("\n".join(names) + "\n")
    return root


@pytest.mark.parametrize(("split", "per_class"), [("test", 6), ("train", 30)])
def test_classes_of_validation_are_not_those_of_training(cifar10, split, per_class):
    conf = OmegaConf.create({"reader": "cifar10", "split": split, "held_out": [2, 7], "turned": True})
    pool, held_out, names = load_pool(conf, cifar10, 32)
    assert pool.name.startswith(f"cifar10 ({split}, other data (") and pool.turned and held_out.turned
    assert names == [f"thing_{k}" for k in range(10)]
    for part, classes in ((pool, [0, 1, 3, 4, 5, 6, 8, 9]), (held_out, [2, 7])):
        np.testing.assert_array_equal(part.images[:, 0, 0, 0], np.array(classes)[part.labels])
        assert np.bincount(part.labels).tolist() == [per_class] * len(classes)
    together = np.concatenate([pool.images, held_out.images])
    data = load_data("cifar10", root=cifar10)
    everything = {"test": data.test_images, "train": data.train_images}[split]
    assert sorted(i.tobytes() for i in together) == sorted(i.tobytes() for i in everything)


# Tasks of Section 5.4


@pytest.mark.parametrize("seed", range(5))
def test_tasks_divide_the_examples_of_five_classes(seed):
    labels = draw(seed).permutation(np.repeat(np.arange(0, 16, 2), 100))
    task = draw_meta_transfer(labels, labels, draw(seed), n_classes=5, per_class=50)
    assert len(set(task.classes)) == 5 and set(task.classes) <= set(labels)
    assert np.bincount(task.train_labels).tolist() == np.bincount(task.test_labels).tolist() == [50] * 5
    for rows, of_task in ((task.train_rows, task.train_labels), (task.test_rows, task.test_labels)):
        np.testing.assert_array_equal(labels[rows], task.classes[of_task])
        assert (np.diff(rows) > 0).all()
    assert not set(task.train_rows) & set(task.test_rows)
    together = np.sort(np.concatenate([task.train_rows, task.test_rows]))
    np.testing.assert_array_equal(together, np.flatnonzero(np.isin(labels, task.classes)))


def test_tasks_are_random_and_unequal_classes_keep_the_rest():
    labels = np.repeat(np.arange(6), [60, 70, 80, 90, 100, 110])
    tasks = [draw_meta_transfer(labels, labels, draw(s), n_classes=5, per_class=50) for s in range(10)]
    assert len({tuple(t.classes) for t in tasks}) > 2
    assert len({t.train_rows.tobytes() for t in tasks}) == 10
    for task in tasks:
        assert np.bincount(task.test_labels).tolist() == [10 + 10 * c for c in task.classes]


def test_tasks_of_different_examples_are_refused():
    labels = np.repeat(np.arange(6), 100)
    for other in (labels[::-1], labels[:-1]):
        with pytest.raises(ValueError, match="must be those of the same examples"):
            draw_meta_transfer(labels, other, draw(), n_classes=5, per_class=50)


def test_tasks_that_the_data_cannot_give_are_refused():
    labels, sizes = np.repeat(np.arange(6), 51), {"n_classes": 5, "per_class": 50}
    EXPERIMENTS["meta_transfer"].check(labels, **sizes)
    with pytest.raises(ValueError, match="take up to 51 training examples of a class, one class has 50"):
        EXPERIMENTS["meta_transfer"].check(labels[:-1], **sizes)  # one at least is for the test
    with pytest.raises(ValueError, match="up to 5 classes, the data set has 4"):
        EXPERIMENTS["meta_transfer"].check(labels[: 4 * 51], **sizes)
    with pytest.raises(ValueError, match=r"class \d must have at least 52 training examples, it has 51"):
        draw_meta_transfer(labels, labels, draw(), n_classes=5, per_class=52)


# Adaptation networks


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "adaptation.npz"
    values = draw().standard_normal((20, 20)).astype(np.float32)
    arrays = {"stages.0.shared.weight": values, "r": np.zeros((3, 1, 2), np.float32)}
    save_adaptation(path, arrays, CARD)
    return path, arrays


def test_what_was_saved_is_found(saved):
    path, arrays = saved
    found = find(path)
    assert found.card == CARD and len(found.sha256) == 64 and set(found.arrays) == set(arrays)
    for name, value in arrays.items():
        np.testing.assert_array_equal(found.arrays[name], value)
        assert found.arrays[name].dtype == np.float32


@pytest.mark.parametrize("place", ["bundled", "~/nowhere/x.npz"])
def test_missing_networks_name_the_command(place):
    with pytest.raises(Missing, match=r"python scripts/train_cnaps.py 'source=\[my_source\]', then method.cnaps"):
        find_adaptation("my_source", weights_of(), place)


def test_networks_for_other_weights_are_refused(saved):
    with pytest.raises(Invalid, match="meta-trained for cifar10_resnet20 with other weights"):
        find(saved[0], "cd" * 32)


def write(path, card=CARD, **arrays):
    save_adaptation(path, arrays, card)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no archive"),
        lambda path: path.write_bytes(path.read_bytes()[:-50]),
        lambda path: path.write_bytes(path.read_bytes()[:300]),
        lambda path: path.write_bytes(path.read_bytes().replace(b"r.npy", b"s.npy", 1)),
        lambda path: np.save(path.open("wb"), np.zeros(3)),
        lambda path: np.savez(path, weights=np.zeros(3)),
        lambda path: np.savez(path, card="no JSON"),
        lambda path: np.savez(path, card=json.dumps(["a", "list"])),
        lambda path: np.savez(path, card=json.dumps({k: v for k, v in CARD.items() if k != "variant"})),
        lambda path: np.savez(path, card=json.dumps(CARD), r=np.array([{}], dtype=object)),
        lambda path: np.savez(path, card=np.array(json.dumps(CARD), dtype=object)),
    ],
)
def test_damaged_and_foreign_files_are_refused(saved, damage):
    path, _ = saved
    damage(path)
    with pytest.raises(
        Invalid, match=r"adaptation\.npz (is no file of adaptation networks|has a card without variant)"
    ):
        find(path)


class Unpickled(Exception):
    """A file had its way."""


class Payload:
    """Runs code where it is unpickled."""

    def __reduce__(self):
        return _raise, ()


def _raise():
    raise Unpickled


def test_nothing_is_unpickled(saved):
    path, _ = saved
    np.savez(path, card=json.dumps(CARD), r=np.array([Payload()], dtype=object))
    with pytest.raises(Unpickled), np.load(path, allow_pickle=True) as archive:
        archive["r"]
    with pytest.raises(Invalid, match="allow_pickle=False"):
        find(path)


def test_no_damaged_byte_is_more_than_a_weights_error(saved):
    path, arrays = saved
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        try:
            found = find(path)
        except Invalid:
            continue
        assert found.card == CARD and all((v == arrays[n]).all() for n, v in found.arrays.items() if n in arrays)


def make_pair(class_names, path=None):
    """What method `cnaps` needs of a source and a target."""
    source = {"model": "cifar_resnet20_v1", "n_classes": 10, "mean": [0.5] * 3, "std": [0.25] * 3}
    labels, colours = np.repeat([0, 1, 2, 3, 4] * 2, [2] * 5 + [4, 3, 2, 1, 0]), draw(3).integers(0, 256, (5, 1, 1, 3))
    images = (0.7 * colours[labels] + draw().integers(0, 70, (20, 32, 32, 3))).astype(np.uint8)
    data = SimpleNamespace(name="cifar100", class_names=class_names, train_images=images, test_images=images)
    task = Task(np.arange(5), np.arange(10), labels[:10], np.arange(10, 20), labels[10:])
    return SimpleNamespace(
        weights=weights_of(path=path),
        data=data,
        source=SimpleNamespace(name="cifar10_resnet20", **source),
        engine={"name": "gluon", "threads": 1},
        task=lambda index: task,
    )


@pytest.mark.parametrize(
    ("names", "shared"),
    [
        (("apple", "coat"), "coat"),
        (("apple", "COAT"), "coat"),
        (("Aquarium Fish", "bee", "coat"), "aquarium fish, coat"),
        (("aquarium_fish", "bee"), "aquarium fish"),
    ],
)
def test_a_target_that_shares_classes_with_meta_training_is_refused(saved, names, shared):
    message = f"cifar100 shares classes with the meta-training of CNAPs for cifar10_resnet20: {shared};"
    with pytest.raises(Invalid, match=message):
        CnapsMethod(str(saved[0])).bind(make_pair(names, path=saved[0]))


def test_a_target_of_other_classes_is_accepted(saved):
    pair = make_pair(("apple", "bee", "fish", "coats"), path=saved[0])
    assert CnapsMethod(str(saved[0])).bind(pair).adaptation.card == CARD


def adapted(random_weights, change=lambda arrays: None, **card):
    """Metrics of method `cnaps`, with networks that `change` has changed."""
    learner = make_learner(random_weights)
    arrays = {k: v for k, v in learner.state().items() if ":" not in k and k != "steps"}
    change(arrays)
    method = CnapsMethod()
    object.__setattr__(method, "adaptation", SimpleNamespace(arrays=arrays, card={**CARD, **card}))
    transfer = method.prepare(make_pair((), path=random_weights), Budget(), None)
    return [transfer(index, None)[0] for index in (0, 3)]


def test_adapting_gives_the_accuracy_of_the_learners_predictions(random_weights):
    """With networks that spoil what would be right."""
    name, pair, learner = "classifier.weight.4.weight", make_pair((), path=random_weights), make_learner(random_weights)

    def spoil(arrays):
        arrays[name] = -100 * arrays[name]

    task, images = pair.task(0), PREPARE(pair.data.train_images)
    accuracies = []
    for change in (lambda arrays: None, spoil):
        state = learner.state()
        change(state)
        learner.load_state(state)
        logits = learner.predict(images[:10], one_hot(task.train_labels, 5), images[10:])
        accuracies.append(np.mean(logits.argmax(1) == task.test_labels))
    assert accuracies[0] != accuracies[1]
    found = adapted(random_weights, spoil)
    assert [metrics["test_accuracy"] for metrics in found] == pytest.approx([accuracies[1]] * 2)


def test_networks_that_lack_weights_are_refused(random_weights):
    with pytest.raises((Invalid, ValueError), match=r"shared\.weight"):
        adapted(random_weights, lambda arrays: arrays.pop("stages.1.shared.weight"))


def test_networks_of_another_variant_are_refused(random_weights):
    with pytest.raises((Invalid, ValueError), match=r"shared\.weight"):
        adapted(random_weights, variant="film_ar")


# All of it


@pytest.fixture(scope="module")
def meta_trained(cifar10, random_weights, tmp_path_factory):
    """`adaptation.npz` of two steps for the tiny source."""
    out = tmp_path_factory.mktemp("cnaps")
    pools = "pools=[{reader: cifar10, split: test, held_out: [2, 7], turned: true}]"
    options = ["steps=2", "tasks_per_step=2", "max_support=20", "validate_every=1", "validation_tasks=2"]
    places = [f"data.root={cifar10}", f"out={out}", f"source.cifar10_resnet20.weights={random_weights}"]
    command = [sys.executable, "scripts/train_cnaps.py", "engine.threads=1", pools, *options, *places]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done.stdout


def test_meta_training_from_the_command_line(meta_trained, random_weights):
    out, printed = meta_trained
    weights = find_weights("cifar10_resnet20", "cifar_resnet20_v1", str(random_weights))
    found = find_adaptation("cifar10_resnet20", weights, str(out / "adaptation.npz"))
    expected = {"variant": "film", "source": "cifar10_resnet20", "source_sha256": weights.sha256, "size": 32}
    expected |= {
        "data": "cifar10 (test, other data (300 + 60 images))",
        "classes": [f"thing_{k}" for k in range(10)],
        "seed": 0,
    }
    expected |= {"engine": "gluon float32", "steps": 2, "tasks_per_step": 2, "max_support": 20, "max_ways": 40}
    assert expected.items() <= found.card.items()
    learned = make_learner(random_weights).state()
    assert set(found.arrays) == {n for n in learned if ":" not in n and n != "steps"}
    assert (found.arrays["stages.0.generators.r"] != 0).all()
    log = pd.read_csv(out / "log.csv")
    assert log.step.tolist() == [1, 2] and log.validation_accuracy.between(0, 1).all()
    assert "before: accuracy on held-out classes 0." in printed
    assert f"best held-out accuracy {log.validation_accuracy.max():.4f}" in printed


def test_meta_transfer_end_to_end(meta_trained, run_experiment, tmp_path):
    options = "method=[cnaps]", f"method.cnaps.weights={meta_trained[0] / 'adaptation.npz'}", "task.per_class=5"
    run_experiment("meta_transfer", *options)
    (path,) = (tmp_path / "results").glob("meta_transfer/*/cifar100/*/cnaps-smoke-*/transfers.csv")
    rows, before = pd.read_csv(path), path.read_bytes()
    assert rows.task.tolist() == [0, 1, 2, 3] and (rows.n_classes == 5).all() and (rows.n_examples == 25).all()
    assert (rows.method == "cnaps").all() and rows.test_accuracy.between(0, 1).all()
    again = run_experiment("meta_transfer", *options)
    assert "cnaps: 4 tasks were done before" in again.stdout
    assert path.read_bytes() == before
    table = build_table(read_runs(tmp_path / "results"))
    lines = table[table.row == 21]
    assert lines.measure.tolist()[:3] == ["leep", "nce", "h_score"] and (lines.n_tasks == 4).all()
    for deviations in lines.deviations:
        assert deviations[0] == "cifar10_resnet20 for ResNet18 of ImageNet"
        made_of = "cifar10 (test, other data (300 + 60 images))"
        assert f"meta-trained on {made_of}, 32 pixels" in deviations and "per_class=5 for 50" in deviations
    assert table[table.row != 21].n_tasks.isna().all()
