"""Weights of the user's own in the experiments: they inherit nothing, and wrong ones are found before any work."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("hydra", reason="the experiments need the extra `experiments`")

from conftest import resolved

from experiments.running.pair import describe
from leep.sources.weights import Weights

CHANGED = frozenset({"weights"})
OWN = Weights(Path("mine.params"), "0" * 64, "mine.params", known=False)


@pytest.fixture
def resnet18(arguments):
    """GluonCV's ResNet18 as `conf/source` describes it."""
    return resolved("experiment=small_balanced", "source=[imagenet_resnet18]").sources[0]


def test_own_weights_inherit_nothing(resnet18):
    source = describe(resnet18, OWN, CHANGED)
    assert (source.title, source.trained_on, source.imagenet_top1) == ("ResNet18 (mine.params)", "unknown data", None)
    assert replace(source, title=resnet18.title, trained_on="ImageNet", imagenet_top1=70.93) == resnet18


@pytest.mark.parametrize(
    ("weights", "changed"),
    [
        (replace(OWN, known=True), CHANGED),  # a checksum says what they are
        (OWN, frozenset()),  # a file of `conf/source` of the user's own names them
        (OWN, CHANGED | {"imagenet_top1"}),
        (OWN, CHANGED | {"title"}),
        (OWN, CHANGED | {"trained_on"}),
    ],
)
def test_a_description_that_is_of_the_weights_stays(resnet18, weights, changed):
    assert describe(resnet18, weights, changed) is resnet18


def test_what_the_user_changed_is_known():
    change = "source.imagenet_resnet18.weights=mine.params", "source.imagenet_resnet18.imagenet_top1=69.8"
    config = resolved("experiment=small_balanced", "source=[imagenet_resnet18,cifar10_resnet20]", *change)
    assert config.changed == {"imagenet_resnet18": {"weights", "imagenet_top1"}, "cifar10_resnet20": set()}


def test_results_say_what_ran(run_here, tmp_path, capsys):
    assert run_here("small_balanced", "source.cifar10_resnet20.title=ResNet20") is None  # as in `conf/source`
    (path,) = (tmp_path / "results").glob("*/*/*/*/setting.json")
    content = json.loads(path.read_text())
    assert content["notes"]["source"] == {
        "title": "ResNet20 (random.params)",
        "trained_on": "unknown data",
        "imagenet_top1": None,
    }
    assert content["setting"]["source"]["trained_on"] == "unknown data"
    said = capsys.readouterr().out
    assert "random.params" in said and "source.cifar10_resnet20.title" in said


def test_wrong_weights_are_found_before_work(run_here, tmp_path):
    said = run_here("small_balanced", "source.cifar10_resnet20.n_classes=12")
    assert "source cifar10_resnet20" in said and "give n_classes=10" in said
    said = run_here("small_balanced", "source.cifar10_resnet20.model=cifar_resnet56_v1")
    assert "give model=cifar_resnet20_v1 n_classes=10" in said
    (tmp_path / "list.params").write_bytes(b"\x12\x01" + bytes(14))
    said = run_here("small_balanced", f"source.cifar10_resnet20.weights={tmp_path}/list.params")
    assert "list.params" in said and "\n" not in said
    assert not (tmp_path / "results").exists()
