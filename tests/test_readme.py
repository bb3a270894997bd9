"""README.md and the tables in results/reference show what the CSVs there hold."""

import re

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from experiments.reporting import extended
from experiments.reporting.readme import FIGURES, REFERENCE, pages, section, updated
from experiments.reporting.table1 import build_table
from leep.results import read_runs

RESULTS = ROOT / REFERENCE


@pytest.fixture(scope="module")
def runs():
    return read_runs(RESULTS)


def test_pages_are_up_to_date(runs):
    for path, text in pages(runs).items():
        assert path.read_text("utf-8") == text, "make readme"
    text = (ROOT / "docs" / "results.md").read_text("utf-8")
    assert updated(updated(text, "something else"), section(runs, build_table(runs))) == text
    with pytest.raises(ValueError, match="must hold the lines"):
        updated("no markers", "")


def test_the_table_of_measures_is_up_to_date(runs):
    table = extended.build(RESULTS, runs)
    assert (RESULTS / "measures.md").read_text("utf-8") == extended.to_markdown(table), "make readme"
    assert pd.read_csv(RESULTS / "measures.csv").measure.tolist() == table.measure.tolist()


def test_pages_show_the_figures_of_the_reference_runs():
    shown = {
        path: re.findall(r"!\[.*?\]\((.*?)\)", path.read_text("utf-8"))
        for path in (ROOT / "README.md", ROOT / "docs" / "results.md")
    }
    pictures = [*FIGURES, "figure9"]  # the last one below the made section
    assert shown[ROOT / "docs" / "results.md"] == [f"../{REFERENCE}/figures/{name}.png" for name in pictures]
    for page, pictures in shown.items():
        assert pictures
        assert all((page.parent / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)


def test_links_of_the_pages_exist():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))):
        for link in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page.name}: {link}"


def test_committed_table_is_that_of_the_runs(runs):
    committed, made = pd.read_csv(RESULTS / "table1.csv"), build_table(runs)
    numbers = made.select_dtypes("number").columns
    np.testing.assert_allclose(committed[numbers].astype(float), made[numbers].astype(float), rtol=1e-9, atol=1e-12)
