"""The options of measures are no arrays."""

import sys
from types import ModuleType

from leep import measures


def test_only_parameters_without_a_default_are_arrays(monkeypatch):
    toy = ModuleType("leep.measures.toy")
    toy.score = lambda features, target_labels, *, strength=2.0: strength * len(features)
    monkeypatch.setitem(sys.modules, toy.__name__, toy)
    monkeypatch.setattr(measures, "MEASURES", ("toy",))
    assert measures.measure_arguments("toy") == ("features", "target_labels")
    assert measures.score_task("toy", {"features": [1, 2, 3], "target_labels": [0], "strength": 5.0}) == 6.0
