"""Many tasks of whole classes at once (Section 5.1) equal the plain measures on each task's rows."""

import sys
from types import ModuleType

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from leep import h_score, leep_score, measures
from leep.measures import MEASURES, score_class_tasks, score_task


def make_arrays(seed=0, n=900, n_classes=12, n_source_classes=9, n_features=16, dtype=np.float32):
    """A data set with labels that have gaps, unequal classes, a source class without mass and a dead feature."""
    rng = np.random.default_rng(seed)
    kinds = 3 * np.arange(n_classes) + 1
    codes = np.append(np.arange(n_classes), (n_classes * rng.random(n - n_classes) ** 1.5).astype(int))
    logits = 2 * rng.normal(size=(n, n_source_classes)) + 2 * np.eye(n_source_classes)[codes % n_source_classes]
    logits[:, 4] = -np.inf
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    features = rng.normal(size=(n, n_features)) + rng.normal(size=(n_classes, n_features))[codes] + 3
    features[:, 5] = 0.1
    order = rng.permutation(n)
    return {
        "source_probs": probs.astype(dtype)[order],
        "source_labels": probs.argmax(axis=1)[order],
        "features": features.astype(dtype)[order],
        "target_labels": kinds[codes][order],
    }


def draw_tasks(labels, seed=0, n_tasks=25):
    rng, classes = np.random.default_rng(seed), np.unique(labels)
    return [rng.choice(classes, rng.integers(1, len(classes) + 1), replace=False) for _ in range(n_tasks)]


def one_by_one(name, arrays, tasks):
    rows = [np.isin(arrays["target_labels"], task) for task in tasks]
    return np.array([score_task(name, {key: values[r] for key, values in arrays.items()}) for r in rows])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["leep", "nce", "h_score"])
@pytest.mark.parametrize("n", [60, 900])
def test_equals_the_plain_measure(name, n, dtype):
    arrays = make_arrays(n=n, dtype=dtype)
    tasks = draw_tasks(arrays["target_labels"])
    scores = score_class_tasks(name, arrays, tasks)
    assert scores.shape == (25,)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, one_by_one(name, arrays, tasks), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["leep", "nce", "h_score"])
def test_all_classes_and_one_class(name):
    arrays = make_arrays()
    scores = score_class_tasks(name, arrays, [np.unique(arrays["target_labels"]), np.array([4])])
    assert scores[0] == pytest.approx(score_task(name, arrays), rel=1e-9)
    assert scores[1] == 0.0


def test_leep_of_classes_larger_than_a_chunk(monkeypatch):
    monkeypatch.setattr(sys.modules["leep.measures.leep"], "ROWS_AT_ONCE", 7)
    arrays = make_arrays()
    tasks = draw_tasks(arrays["target_labels"])
    np.testing.assert_allclose(score_class_tasks("leep", arrays, tasks), one_by_one("leep", arrays, tasks), rtol=1e-12)


def test_leep_of_tasks_with_tiny_masses():
    arrays = {"source_probs": np.array([[1.0, 5e-324], [1.0, 0], [1.0, 1e-310]]), "target_labels": np.array([0, 1, 1])}
    scores = score_class_tasks("leep", arrays, [np.array([0, 1])])
    np.testing.assert_allclose(scores, leep_score(**arrays), rtol=1e-13)


def plain_calls(monkeypatch):
    """The numbers of rows of the tasks that the batched H score leaves to the plain one."""
    module, calls = sys.modules["leep.measures.h_score"], []
    monkeypatch.setattr(module, "h_score", lambda f, y, plain=h_score: calls.append(len(f)) or plain(f, y))
    return calls


@pytest.mark.parametrize("n_columns", [1, 2])
def test_h_score_of_a_column_or_two(n_columns):
    arrays = make_arrays() | {"features": make_arrays()["features"][:, :n_columns]}
    tasks = draw_tasks(arrays["target_labels"])
    scores = score_class_tasks("h_score", arrays, tasks)
    np.testing.assert_allclose(scores, one_by_one("h_score", arrays, tasks), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("matrices", [1, 5, 12, 40, 1000])
def test_h_score_in_blocks_of_tasks_and_of_classes(matrices, monkeypatch):
    calls = plain_calls(monkeypatch)
    module = sys.modules["leep.measures.h_score"]
    monkeypatch.setattr(module, "STRIPE", 7)  # of the 15 features that vary: 7 · 15 + 7 · 8 + 1 · 1 entries
    monkeypatch.setattr(module, "GRAM_BLOCK", 50)
    monkeypatch.setattr(module, "MAX_GRAM_ENTRIES", matrices * 162)
    arrays = make_arrays()
    tasks = [task for task in draw_tasks(arrays["target_labels"]) if len(task) > 2]
    scores = score_class_tasks("h_score", arrays, tasks)
    assert calls == []
    np.testing.assert_allclose(scores, one_by_one("h_score", arrays, tasks), rtol=1e-9)


def test_h_score_is_the_same_on_any_number_of_threads():
    import scipy.linalg  # noqa: F401  SciPy's BLAS is there before the limits

    arrays = make_arrays(n=3000, n_features=200)
    tasks, scores = draw_tasks(arrays["target_labels"]), []
    for threads in (1, 2, 5):
        with threadpool_limits(threads, "blas"):
            found = [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
            assert max(found) == threads  # one may be built for less
            scores.append(score_class_tasks("h_score", arrays, tasks))
    assert scores[0].tobytes() == scores[1].tobytes() == scores[2].tobytes()


def test_an_error_in_a_thread_is_raised(monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(sys.modules["leep.measures.h_score"], "_factor", fail)
    arrays = make_arrays()
    with pytest.raises(MemoryError):
        score_class_tasks("h_score", arrays, draw_tasks(arrays["target_labels"]))


def test_h_score_of_tasks_with_few_examples(monkeypatch):
    calls = plain_calls(monkeypatch)
    arrays = make_arrays(n=60, n_features=40)
    tasks = draw_tasks(arrays["target_labels"])
    scores = score_class_tasks("h_score", arrays, tasks)
    assert calls
    np.testing.assert_allclose(scores, one_by_one("h_score", arrays, tasks), rtol=1e-8, atol=1e-8)


def all_constant(features, labels):
    features[:] = 0.1


def too_large_for_sums(features, labels):
    features *= 1.7e308 / np.abs(features).max()


def rank_deficient(features, labels):
    features[:, 0] = features[:, 1] + features[:, 2]


def dead_in_some_tasks(features, labels):
    features[labels < 20, 0] = 0.1


def nearly_dead_in_some_tasks(features, labels):
    features[labels < 20, 0] *= 1e-7


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "spoil", [all_constant, too_large_for_sums, rank_deficient, dead_in_some_tasks, nearly_dead_in_some_tasks]
)
def test_h_score_of_ill_conditioned_tasks_is_left_to_the_plain_one(spoil, monkeypatch):
    calls = plain_calls(monkeypatch)
    arrays = make_arrays(dtype=np.float64)
    spoil(arrays["features"], arrays["target_labels"])
    tasks = [np.array([1, 4, 7, 10, 13]), np.array([1, 4, 7, 22, 25])]
    scores = score_class_tasks("h_score", arrays, tasks)
    assert calls
    np.testing.assert_allclose(scores, one_by_one("h_score", arrays, tasks), rtol=1e-9)


def test_measure_without_a_batched_form_is_looped_over(monkeypatch):
    toy = ModuleType("leep.measures.toy")
    toy.score = lambda source_labels: float(source_labels.sum())  # takes no target_labels
    monkeypatch.setitem(sys.modules, toy.__name__, toy)
    monkeypatch.setattr(measures, "MEASURES", (*MEASURES, "toy"))
    arrays = make_arrays()
    tasks = draw_tasks(arrays["target_labels"])
    expected = [arrays["source_labels"][np.isin(arrays["target_labels"], task)].sum() for task in tasks]
    assert score_class_tasks("toy", arrays, tasks).tolist() == expected
    with pytest.raises(ValueError, match=r"tasks\[0\] must not repeat a class, got \[1, 1\]"):
        score_class_tasks("toy", arrays, [np.array([1, 1])])


@pytest.mark.parametrize("name", ["leep", "nce", "h_score"])
@pytest.mark.parametrize(
    ("task", "match"),
    [
        (np.array([1, 2]), r"tasks\[1\] must take classes that occur in target_labels, got \[2\]"),
        (np.array([1, 4, 1]), r"tasks\[1\] must not repeat a class, got \[1, 4, 1\]"),
        (np.array([], int), r"tasks\[1\] must hold at least one label"),
        (np.array([1.0, 4.5]), r"tasks\[1\] must be integers, got 4.5 in row 1"),
        (np.array([[1, 4]]), r"tasks\[1\] must have shape \(n,\), got \(1, 2\)"),
    ],
)
def test_tasks_rejected(name, task, match):
    with pytest.raises(ValueError, match=match):
        score_class_tasks(name, make_arrays(), [np.array([1, 4]), task])


@pytest.mark.parametrize("name", ["leep", "nce", "h_score"])
def test_arrays_rejected_and_no_tasks(name):
    arrays = make_arrays()
    assert score_class_tasks(name, arrays, []).shape == (0,)
    with pytest.raises(ValueError, match="target_labels must be integers"):
        score_class_tasks(name, {**arrays, "target_labels": arrays["target_labels"] + 0.5}, [np.array([1])])
    with pytest.raises(ValueError, match=f"measure {name} needs .*, got target_labels"):
        score_class_tasks(name, {"target_labels": arrays["target_labels"]}, [np.array([1])])


def test_bad_probabilities_and_features_rejected():
    arrays = make_arrays()
    arrays["source_probs"][3, 1] = arrays["features"][3, 1] = np.nan
    with pytest.raises(ValueError, match="source_probs must be finite, got nan in row 3"):
        score_class_tasks("leep", arrays, [np.array([1, 4])])
    with pytest.raises(ValueError, match="features must be finite, got nan in row 3, column 1"):
        score_class_tasks("h_score", arrays, [np.array([1, 4])])
