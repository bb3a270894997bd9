"""Draws target tasks: classes and examples, from labels and a generator (Sections 5.1 to 5.4 and 5.7)."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from leep.errors import not_among
from leep.plugins import is_outside, load_object


@dataclass(frozen=True, eq=False)
class Task:
    """A target task: rows of a data set.

    Attributes
    ----------
    classes : int64 array `(n_classes,)`
        The data set's classes in the task; class `classes[k]` has the label `k` in the task.
    train_rows : int64 array `(n,)`
        Rows of the target data set 𝒟 among the training examples (5.4: among the test examples), ascending.
    train_labels : int64 array `(n,)`
        Their labels in the task, 0 … n_classes − 1.
    test_rows, test_labels : int64 arrays `(m,)`
        All test examples of the task's classes.
    minority_class : int or None
        The label of the minority class of an imbalanced task.
    whole_classes : bool
        The task takes every training example of its classes, so that many tasks are scored at once (Section 5.1).
    """

    classes: np.ndarray
    train_rows: np.ndarray
    train_labels: np.ndarray
    test_rows: np.ndarray
    test_labels: np.ndarray
    minority_class: int | None = None
    whole_classes: bool = False


def subsample(task: Task, n: int) -> Task:
    """The task with about `n` of its training and `n` of its test examples, the first of each class."""
    per_class = -(-n // len(task.classes))
    train, test = first_of_each_class(task.train_labels, per_class), first_of_each_class(task.test_labels, per_class)
    return replace(
        task,
        train_rows=task.train_rows[train],
        train_labels=task.train_labels[train],
        test_rows=task.test_rows[test],
        test_labels=task.test_labels[test],
        whole_classes=False,
    )


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Positions of the first `count` examples of every class, ascending."""
    return np.sort(np.concatenate([np.flatnonzero(labels == k)[:count] for k in np.unique(labels)]))


def make_task(classes, counts, train_labels, test_labels, rng, **properties) -> Task:
    """The task with `counts[k]` random training examples of `classes[k]`, all if None, and all their test examples."""
    position = np.full(max(train_labels.max(), test_labels.max()) + 1, -1)
    position[classes] = np.arange(len(classes))
    if counts is None:
        train_rows = np.flatnonzero(position[train_labels] >= 0)
    else:
        train_rows = np.sort(np.concatenate([_draw_rows(train_labels, *pair, rng) for pair in zip(classes, counts)]))
    test_rows = np.flatnonzero(position[test_labels] >= 0)
    labels = position[train_labels[train_rows]], position[test_labels[test_rows]]
    return Task(classes, train_rows, labels[0], test_rows, labels[1], **properties)


def _draw_rows(labels: np.ndarray, label: int, count: int, rng) -> np.ndarray:
    members = np.flatnonzero(labels == label)
    if count > len(members):
        raise ValueError(f"class {label} must have at least {count} training examples, it has {len(members)}")
    return rng.choice(members, count, replace=False)


def draw_classes(train_labels: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `size` different classes of those that occur."""
    present = present_labels(train_labels)
    if size > len(present):
        raise ValueError(f"the task must have at most as many classes as the data set, {len(present)}, got {size}")
    return rng.choice(present, size, replace=False)


def present_labels(labels: np.ndarray) -> np.ndarray:
    """The labels that occur, ascending."""
    return np.flatnonzero(np.bincount(labels))


def draw_large_balanced(
    train_labels: np.ndarray, test_labels: np.ndarray, rng: np.random.Generator, *, min_classes: int, max_classes: int
) -> Task:
    """Section 5.1: from `min_classes` to `max_classes` random classes (uniform), all their training examples."""
    size = int(rng.integers(min_classes, max_classes + 1))
    classes = np.sort(draw_classes(train_labels, size, rng))
    return make_task(classes, None, train_labels, test_labels, rng, whole_classes=True)


def draw_small_balanced(
    train_labels: np.ndarray, test_labels: np.ndarray, rng: np.random.Generator, *, n_classes: int, per_class: int
) -> Task:
    """Section 5.2: `n_classes` random classes, `per_class` random training examples of each."""
    classes = np.sort(draw_classes(train_labels, n_classes, rng))
    return make_task(classes, [per_class] * n_classes, train_labels, test_labels, rng)


def draw_small_imbalanced(
    train_labels: np.ndarray,
    test_labels: np.ndarray,
    rng: np.random.Generator,
    *,
    min_smaller: int,
    max_smaller: int,
    ratio: int,
) -> Task:
    """Section 5.3: two classes, `min_smaller` to `max_smaller` examples of one, `ratio` times more of the other."""
    classes = draw_classes(train_labels, 2, rng)  # the first one drawn is the smaller: they are not sorted
    smaller = int(rng.integers(min_smaller, max_smaller + 1))
    return make_task(classes, [smaller, ratio * smaller], train_labels, test_labels, rng, minority_class=0)


def draw_source_selection(train_labels: np.ndarray, test_labels: np.ndarray, rng: np.random.Generator) -> Task:
    """Section 5.7: the whole data set."""
    classes = present_labels(train_labels)
    return make_task(classes, None, train_labels, test_labels, rng)


def draw_meta_transfer(
    train_labels: np.ndarray, test_labels: np.ndarray, rng: np.random.Generator, *, n_classes: int, per_class: int
) -> Task:
    """Section 5.4: `n_classes` random classes of one set of examples, `per_class` of each, and all others as test set.

    Both labels are those of the same examples: the target's test set.
    """
    if not np.array_equal(train_labels, test_labels):
        raise ValueError("train_labels and test_labels must be those of the same examples")
    classes = np.sort(draw_classes(train_labels, n_classes, rng))
    task = make_task(classes, [per_class] * n_classes, train_labels, test_labels, rng)
    rest = ~np.isin(task.test_rows, task.train_rows)
    return replace(task, test_rows=task.test_rows[rest], test_labels=task.test_labels[rest])


@dataclass(frozen=True)
class Experiment:
    """A kind of target task.

    Attributes
    ----------
    name : str
        Names the results and the random streams.
    draw : callable
        `draw(train_labels, test_labels, rng, *, …)` → `Task`; its keyword arguments are the parameters of the tasks.
    needs : callable
        The same parameters → the most classes, and the most training examples of a class, that a task takes.
    metric : {"test_accuracy", "test_f1"}
        The column of `transfers.csv` that the scores are correlated with.
    from_test_split : bool
        The tasks are drawn from the target's test set alone (Section 5.4).
    whole_data_set : bool
        There is one task, the whole data set; what is compared are source models (Section 5.7).
    """

    name: str
    draw: Callable[..., Task]
    needs: Callable[..., tuple[int, int]]
    metric: str = "test_accuracy"
    from_test_split: bool = False
    whole_data_set: bool = False

    @property
    def parameters(self) -> list[str]:
        """Names of the parameters of the tasks."""
        return [p.name for p in inspect.signature(self.draw).parameters.values() if p.kind is p.KEYWORD_ONLY]

    def check(self, train_labels: np.ndarray, **parameters) -> None:
        """Raise `ValueError` if a data set has too few classes, or examples of a class, for some task."""
        counts = np.bincount(train_labels)
        counts = counts[counts > 0]
        n_classes, per_class = self.needs(**parameters)
        if len(counts) < n_classes:
            raise ValueError(f"its tasks have up to {n_classes} classes, the data set has {len(counts)}")
        if counts.min() < per_class:
            raise ValueError(
                f"its tasks take up to {per_class} training examples of a class, one class has {counts.min()}"
            )


def _needs_large(min_classes: int, max_classes: int) -> tuple[int, int]:
    return max_classes, 1


def _needs_balanced(n_classes: int, per_class: int) -> tuple[int, int]:
    return n_classes, per_class


def _needs_imbalanced(min_smaller: int, max_smaller: int, ratio: int) -> tuple[int, int]:
    return 2, max(ratio, 1) * max_smaller


def _needs_meta_transfer(n_classes: int, per_class: int) -> tuple[int, int]:
    return n_classes, per_class + 1


def _needs_two_classes() -> tuple[int, int]:
    return 2, 1


EXPERIMENTS = {
    e.name: e
    for e in (
        Experiment("large_balanced", draw_large_balanced, _needs_large),
        Experiment("small_balanced", draw_small_balanced, _needs_balanced),
        Experiment("small_imbalanced", draw_small_imbalanced, _needs_imbalanced, metric="test_f1"),
        Experiment("meta_transfer", draw_meta_transfer, _needs_meta_transfer, from_test_split=True),
        Experiment("source_selection", draw_source_selection, _needs_two_classes, whole_data_set=True),
    )
}


def find_experiment(name: str) -> Experiment:
    """The experiment of that name, or one from outside the package as `module:name`.

    Raises
    ------
    ValueError
        If there is none; names the choices.
    """
    if name in EXPERIMENTS:
        return EXPERIMENTS[name]
    if is_outside(name):
        found = load_object(name)
        if not isinstance(found, Experiment):
            raise ValueError(f"experiment {name} must be a leep.tasks.Experiment, got {type(found).__name__}")
        return found
    raise ValueError(not_among("experiment", EXPERIMENTS, name, " or module:name"))


def task_rng(seed: int, experiment: str, target: str, index: int, purpose: int) -> np.random.Generator:
    """The generator of one task: a stream of its own for each seed, experiment, target data set, index and purpose.

    Source models and transfer methods do not enter, so that they share the tasks of a target, as the paper's do.
    """
    digest = hashlib.sha256(f"{experiment}/{target}".encode()).digest()
    names = np.frombuffer(digest, "<u4", count=2)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, *map(int, names), index)))


SAMPLING, TRAINING = 0, 1  # purposes


def draw_task(
    experiment: Experiment | str,
    target: str,
    index: int,
    seed: int,
    train_labels: np.ndarray,
    test_labels: np.ndarray,
    **parameters,
) -> Task:
    """Draw target task number `index` of an experiment on a target data set.

    Parameters
    ----------
    experiment : Experiment or str
        Or its name, for example `"small_balanced"`.
    target : str
        Name of the target data set: it is part of what names the random stream.
    index, seed : int
    train_labels, test_labels : int arrays
        Labels of the whole data set.
    **parameters
        Of the experiment's `draw` function.

    Raises
    ------
    ValueError
        If the data set has too few classes or examples.

    Examples
    --------
    >>> labels = np.repeat(np.arange(10), 20)
    >>> task = draw_task("small_balanced", "mine", 0, 0, labels, labels, n_classes=3, per_class=5)
    >>> np.bincount(task.train_labels)
    array([5, 5, 5])
    """
    experiment = find_experiment(experiment) if isinstance(experiment, str) else experiment
    rng = task_rng(seed, experiment.name, target, index, SAMPLING)
    return experiment.draw(train_labels, test_labels, rng, **parameters)
