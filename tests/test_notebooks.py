"""Every notebook runs from top to bottom, and is committed without outputs."""

import json

import matplotlib
import pytest
from conftest import ROOT

matplotlib.use("agg")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    assert cells
    assert all(c["outputs"] == [] and c["execution_count"] is None for c in cells)
    names: dict = {}
    for cell in cells:
        exec("".join(cell["source"]), names)
    assert len(names["tasks"]) == 200 and len(names["figure"].axes) == 2
