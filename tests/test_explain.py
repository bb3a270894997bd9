"""`leep.explain`: values by hand, identities, invariances, rejected input."""

import json
import math

import numpy as np
import pytest

import leep
from leep.explanation import aligned, name_classes

PROBS = np.array([[0.75, 0.25, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
LABELS = ["cat", "cat", "dog"]


def random_task(seed=0, n=80, n_source_classes=12, n_classes=4):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(n_source_classes, 0.3), n), rng.permutation(np.arange(n) % n_classes)


def test_by_hand():
    found = leep.explain(PROBS, LABELS, source_names=["tabby", "wolf", "car"])
    # n · P(y, z): cat 1.75 and 0.25, dog 0 and 1. P(cat|wolf) = 0.2.
    likelihood = [math.log(0.75 + 0.25 * 0.2), 0.0, math.log(0.8)]
    assert found.leep == pytest.approx(sum(likelihood) / 3)
    assert found.table["class"].tolist() == ["dog", "cat"]  # the worst first
    assert found.table.n_images.tolist() == [1, 2]
    assert found.table.mean_log_probability.tolist() == pytest.approx([likelihood[2], likelihood[0] / 2])
    assert found.sources[["class", "source"]].values.tolist() == [["dog", "wolf"], ["cat", "tabby"], ["cat", "wolf"]]
    assert found.sources.p_source_given_class.tolist() == pytest.approx([1, 0.875, 0.125])
    assert found.sources.p_class_given_source.tolist() == pytest.approx([0.8, 1, 0.2])
    assert found.hardest[["class", "row"]].values.tolist() == [["dog", 2], ["cat", 0], ["cat", 1]]
    assert found.hardest.log_probability.tolist() == pytest.approx([likelihood[2], likelihood[0], 0])


def test_the_classes_add_up_to_leep():
    probs, labels = random_task()
    found = leep.explain(probs.astype(np.float32), labels)
    score = leep.leep_score(probs.astype(np.float32), labels)
    shares = found.table.n_images / found.table.n_images.sum()
    assert (shares * found.table.mean_log_probability).sum() == pytest.approx(score, abs=1e-12)
    assert found.leep == pytest.approx(score, abs=1e-12)


def test_five_sources_and_five_images_a_class_at_most():
    probs, labels = random_task()
    found = leep.explain(probs, labels)
    assert found.sources.groupby("class").size().tolist() == [5] * 4
    assert found.hardest.groupby("class").size().tolist() == [5] * 4
    for _, rows in found.sources.groupby("class"):
        assert rows.p_source_given_class.is_monotonic_decreasing
    for _, rows in found.hardest.groupby("class"):
        assert rows.log_probability.is_monotonic_increasing


def test_order_of_images_and_names_of_classes_do_not_matter():
    probs, labels = random_task()
    found, order = leep.explain(probs, labels), np.random.default_rng(1).permutation(len(labels))
    moved = leep.explain(probs[order], labels[order])
    assert found.table["class"].tolist() == moved.table["class"].tolist()
    np.testing.assert_allclose(found.table.mean_log_probability, moved.table.mean_log_probability)
    np.testing.assert_array_equal(found.hardest.row, order[moved.hardest.row])
    named = leep.explain(probs, labels, class_names=["d", "c", "b", "a"])
    texts = leep.explain(probs, np.array(["d", "c", "b", "a"])[labels])
    assert named.table["class"].tolist() == texts.table["class"].tolist() == ["dcba"[k] for k in found.table["class"]]
    np.testing.assert_allclose(texts.table.mean_log_probability, found.table.mean_log_probability)


def test_one_class_is_seen_perfectly():
    found = leep.explain(PROBS, ["cat"] * 3)
    assert found.leep == 0
    assert found.table.mean_log_probability.tolist() == [0]


def test_text_and_plain_dictionary():
    found = leep.explain(PROBS, LABELS, source_names=["tabby", "wolf", "car"])
    text = str(found)
    assert text.startswith(f"LEEP {found.leep:.4f}\n\n")
    assert [line.split()[0] for line in text.splitlines()[2:]] == ["class", "dog", "cat"]
    assert "tabby 0.88, wolf 0.12" in text
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["leep"] == found.leep
    assert plain["classes"][0]["class"] == "dog"
    assert plain["hardest"][0]["row"] == 2


def test_aligned():
    assert aligned(["name", "n"], [["a", "10"], ["long name", "5"]]) == "name        n\na          10\nlong name   5"


def test_classes_by_name():
    assert name_classes("labels", ["b", "a", "b"])[0] == ["a", "b"]
    assert name_classes("labels", ["b", "a", "b"])[1].tolist() == [1, 0, 1]
    assert name_classes("labels", np.array(["b", "a"], object))[1].tolist() == [1, 0]
    assert name_classes("labels", [7, 2, 7])[0] == [2, 7]


@pytest.mark.parametrize(
    ("probs", "labels", "names", "message"),
    [
        (PROBS * 2, LABELS, {}, "must sum to 1"),
        (PROBS - [[0, 1, -1]], LABELS, {}, "must be non-negative"),
        (PROBS * np.nan, LABELS, {}, "must be finite"),
        (PROBS[0], LABELS, {}, r"probs must have shape \(n, n_source_classes\)"),
        (PROBS, LABELS[:2], {}, "probs and labels must have as many rows"),
        (PROBS, [0.5, 1.0, 2.0], {}, "labels must be integers"),
        (PROBS, np.array(["a", 1, "b"], object), {}, "all strings or all integers, got 1"),
        (PROBS, LABELS, {"class_names": ["a", "b"]}, "class_names must not be given"),
        (PROBS, [0, 1, 2], {"class_names": ["a", "b"]}, "a name for class 2, got 2"),
        (PROBS, LABELS, {"source_names": ["a"]}, "source_names must hold 3 names, got 1"),
    ],
)
def test_rejected_input(probs, labels, names, message):
    with pytest.raises(ValueError, match=message):
        leep.explain(probs, labels, **names)
