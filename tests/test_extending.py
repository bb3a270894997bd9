"""What docs/extending.md says: a measure, a method and an experiment from outside the package, each in one file."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from leep.measures import score_class_tasks, score_task
from leep.results import read_runs
from leep.tasks import find_experiment
from leep.transfer.method import create_method

MODULE = '''
from dataclasses import dataclass

import numpy as np

from leep.tasks import Experiment, draw_classes, make_task
from leep.transfer.metrics import evaluate
from leep.transfer.method import Method


def negative_spread(features, target_labels):
    """Less the mean squared distance to the class means."""
    means = {k: features[target_labels == k].mean(0) for k in np.unique(target_labels)}
    return -float(np.mean([((x - means[y]) ** 2).sum() for x, y in zip(features, target_labels)]))


@dataclass(frozen=True)
class Constant(Method):
    """Always the same class."""

    name = "constant"
    label = "Constant"
    takes_epochs = False
    label_given: int = 0

    def prepare(self, pair, budget, checkpoints):
        def transfer(index, report):
            task = pair.task(index)
            predicted = np.full(len(task.test_labels), self.label_given)
            return evaluate(predicted, task.test_labels, len(task.classes), task.minority_class), []

        return transfer


def draw_pairs(train_labels, test_labels, rng, *, per_class):
    classes = np.sort(draw_classes(train_labels, 2, rng))
    return make_task(classes, [per_class, per_class], train_labels, test_labels, rng)


def needs(per_class):
    return 2, per_class


PAIRS = Experiment("pairs", draw_pairs, needs)
'''
METHOD = """
constant:
  class: my_extension:Constant
  label_given: 1
"""
EXPERIMENT = """
# @package _global_
defaults:
  - override /source: [cifar10_resnet20]
  - override /target: [cifar100]
  - override /method: [constant, retrain_head]
experiment: my_extension:PAIRS
n_tasks: 4
task: {per_class: 10}
epochs: {retrain_head: 2}
"""


@pytest.fixture
def extension(tmp_path, monkeypatch):
    """A module and a folder of configurations outside the package."""
    (tmp_path / "my_extension.py").write_text(MODULE)
    for group, name, text in (("method", "constant", METHOD), ("experiment", "pairs", EXPERIMENT)):
        (tmp_path / "my_conf" / group).mkdir(parents=True)
        (tmp_path / "my_conf" / group / f"{name}.yaml").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("my_extension", None)


def test_all_three_run_and_stand_in_the_results(extension, data_root, random_weights, shared_cache):
    command = [
        *(sys.executable, "run.py", "--config-dir", str(extension / "my_conf"), "experiment=pairs"),
        "measures=[leep,my_extension:negative_spread]",
        f"source.cifar10_resnet20.weights={random_weights}",
        f"data.root={data_root}",
        f"paths.results={extension / 'results'}",
        f"paths.cache={shared_cache}",
    ]
    env = os.environ | {"PYTHONPATH": str(extension)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = read_runs(extension / "results")
    assert set(runs.method) == {"constant", "retrain_head"}
    assert set(runs.measure) == {"leep", "my_extension:negative_spread"}
    assert set(runs.experiment) == {"pairs"}
    assert (runs[runs.method == "constant"].test_accuracy == 0.5).all()  # ten test images of each class
    (tasks,) = (extension / "results" / "pairs").rglob("tasks.csv")
    assert pd.read_csv(tasks).classes.str.split().map(len).tolist() == [2] * 4


def test_a_measure_from_outside_by_hand(extension):
    arrays = {"features": np.array([[0.0], [2.0], [5.0]]), "target_labels": np.array([0, 0, 1])}
    expected = -(1 + 1 + 0) / 3
    assert score_task("my_extension:negative_spread", arrays) == pytest.approx(expected)
    assert score_class_tasks("my_extension:negative_spread", arrays, [[0, 1]]) == pytest.approx([expected])


@pytest.mark.parametrize(
    ("find", "message"),
    [
        (lambda: score_task("my_extension:no_such", {}), "my_extension:no_such must name an object"),
        (lambda: score_task("no_module:score", {}), "no_module:score must name an object"),
        (lambda: find_experiment("my_extension:needs"), "must be a leep.tasks.Experiment, got function"),
        (lambda: create_method("other", {"class": "my_extension:Constant"}), "a leep Method named 'other'"),
        (
            lambda: create_method("constant", {"class": "my_extension:Constant", "x": 1}),
            "method.constant.x; .*label_given",
        ),
        (lambda: create_method("constant", {}), "method must be among .*retrain_head"),
    ],
)
def test_what_cannot_be_loaded_is_named(extension, find, message):
    with pytest.raises(ValueError, match=message):
        find()
