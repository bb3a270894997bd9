"""The site: every page is gathered and in the navigation, and every link of it leads somewhere."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT

from scripts import site


@pytest.fixture(scope="module")
def gathered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    site.gather(folder)
    return folder


def test_links_are_those_of_the_site(tmp_path, monkeypatch):
    monkeypatch.setattr(site, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    page, other = tmp_path / "docs" / "page.md", tmp_path / "README.md"
    page.write_text("[a](../README.md#top) [b](../run.py) [c](https://x.org/d) ![e [f]](../results/g.png) [h](#i)")
    there = {page: "page.md", other: "index.md", tmp_path / "results" / "g.png": "results/g.png"}
    expected = "[a](index.md#top) b [c](https://x.org/d) ![e [f]](results/g.png) [h](#i)"
    assert site.relinked(page, there) == expected
    deep = tmp_path / "results" / "reference" / "table1.md"
    deep.parent.mkdir(parents=True)
    deep.write_text("[back](../../docs/page.md)")
    assert site.relinked(deep, there) == "[back](../../page.md)"


def test_every_link_of_a_gathered_page_leads_to_a_file(gathered):
    pages = list(gathered.rglob("*.md"))
    assert len(pages) >= 12
    for page in pages:
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8")):
            assert link.startswith(("http", "mailto:")) or (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_page_of_docs_and_every_notebook_is_in_the_navigation(gathered):
    shown = set(re.findall(r"[\w/]+\.(?:md|ipynb)", (ROOT / "mkdocs.yml").read_text("utf-8").partition("nav:")[2]))
    written = {path.relative_to(gathered).as_posix() for path in [*gathered.glob("*.md"), *gathered.rglob("*.ipynb")]}
    assert shown == written


@pytest.mark.slow
def test_the_site_builds(tmp_path):
    pytest.importorskip("mkdocs_jupyter")  # the extra docs
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True)
    notebook = (tmp_path / "notebooks" / "02_one_task_by_hand" / "index.html").read_text("utf-8")
    assert "jp-OutputArea-output" in notebook and "leep_score" in (tmp_path / "api" / "index.html").read_text("utf-8")
