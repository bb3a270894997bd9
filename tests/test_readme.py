"""README.md and the tables in results/reference show what the CSVs there hold."""

import re

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from experiments.reporting.readme import FIGURES, REFERENCE, section, updated
from experiments.reporting.table1 import build_table
from leep.results import read_runs

RESULTS = ROOT / REFERENCE


@pytest.fixture(scope="module")
def runs():
    return read_runs(RESULTS)


def test_readme_is_up_to_date(runs):
    text = (ROOT / "README.md").read_text()
    assert updated(text, section(runs)) == text, "make readme"
    assert updated(updated(text, "something else"), section(runs)) == text
    with pytest.raises(ValueError, match="must hold the lines"):
        updated("no markers", "")


def test_readme_shows_the_figures_of_the_reference_runs():
    shown = re.findall(r"!\[.*?\]\((.*?)\)", (ROOT / "README.md").read_text())
    assert shown == [f"{REFERENCE}/figures/{name}.png" for name in FIGURES]
    assert all((ROOT / path).read_bytes().startswith(b"\x89PNG") for path in shown)


def test_committed_table_is_that_of_the_runs(runs):
    committed, made = pd.read_csv(RESULTS / "table1.csv"), build_table(runs)
    numbers = made.select_dtypes("number").columns
    np.testing.assert_allclose(committed[numbers].astype(float), made[numbers].astype(float), rtol=1e-9, atol=1e-12)
