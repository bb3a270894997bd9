"""Every notebook runs from top to bottom, and is committed without outputs."""

import json

import matplotlib
import pytest
from conftest import ROOT
from matplotlib import pyplot as plt

matplotlib.use("agg")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


# What the notebook has at its end
EXPECTED = {
    "01_table_and_figures": lambda names: len(names["tasks"]) == 200 and len(names["figures"]["figure1"].axes) == 2,
    "02_one_task_by_hand": lambda names: names["accuracy"] > 0.5 and -1.387 < names["leep"] < 0,
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    assert cells
    assert all(c["outputs"] == [] and c["execution_count"] is None for c in cells)
    names: dict = {}
    for cell in cells:
        exec("".join(cell["source"]), names)
    assert EXPECTED[path.stem](names)
    plt.close("all")
