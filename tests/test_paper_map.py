"""docs/paper_map.md: every file that it names exists, and holds what is to be looked for in it."""

import re

from conftest import ROOT

TEXT = (ROOT / "docs" / "paper_map.md").read_text("utf-8")
ROWS = [line for line in TEXT.splitlines() if line.startswith("|") and "`" in line]


def test_files_and_names_exist():
    looked_up = 0
    for row in ROWS:
        content = None
        for name in re.findall(r"`([^`]+)`", row.split("|")[2]):
            if "/" in name:
                assert (ROOT / name).is_file(), name
                content = (ROOT / name).read_text("utf-8")
            else:
                assert content is not None and name in content, f"{row}: {name}"
                looked_up += 1
    assert looked_up > 50


def test_every_section_row_and_figure_is_there():
    for section in (
        "5.1",
        "5.2",
        "5.3",
        "5.4",
        "5.5",
        "5.6",
        "5.7",
        "Eq. 1",
        "Eq. 2",
        "Eq. 3",
        "Property 1",
        "Property 2",
    ):
        assert f"| {section}:" in TEXT or f"{section}:" in TEXT, section
    named = {int(n) for text in re.findall(r"Figures? ([\d, ]+)", TEXT) for n in re.findall(r"\d+", text)}
    assert named == set(range(1, 10))
