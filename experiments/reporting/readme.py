"""Table 1 of results/reference in README.md and docs/results.md: make readme."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from experiments.reporting.claims import Evidence, judge, read_claims
from experiments.reporting.cli import run_main
from experiments.reporting.predictors import PAPER_MEASURES, label
from experiments.reporting.render import (
    markdown_cell,
    markdown_lines,
    measures_of,
    needed,
    notes,
    signed,
    summary,
    table_rows,
)
from experiments.reporting.table1 import build_table
from leep.files import write_atomically
from leep.results import read_runs

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = Path("results/reference")
START, END = "<!-- made by: make readme -->\n", "<!-- end of what make readme makes -->"
CLAIMS = """### The paper's claims

Each claim is judged by a rule. `make report RESULTS=results/reference` shows the rule and its numbers."""
SECOND = """### The same rows again

Runs that another one stands before in the table above: with other weights, of another network, or of fewer tasks."""
FIGURES = {
    "figure1": "LEEP scores and test accuracies of the target tasks of Section 5.1",
    "figure7": "Average test F1 score by transferability level, Section 5.3",
}


def section(runs: pd.DataFrame, table: pd.DataFrame) -> str:
    """The computed rows of Table 1 with seed 0, LEEP's correlation with other seeds, the claims, and two figures."""
    seeds = sorted({*runs.seed} - {0})
    leep = runs[runs.measure == "leep"]
    others = [build_table(leep, seed).query("measure == 'leep'").set_index("row").r for seed in seeds]
    header, *lines = long_lines(table)
    again = [", ".join(signed(r[int(line[0])]) for r in others if pd.notna(r[int(line[0])])) for line in lines]
    lines = [[*header, "LEEP, other seeds"], *([*line, cell] for line, cell in zip(lines, again))]
    missing = ", ".join(str(row) for row, *_ in needed(table))
    absent = f" Not computed: rows {missing}." if missing else ""
    claims = claim_lines(Evidence(ROOT / REFERENCE, runs, 0, table))
    second = build_table(runs[~runs.run.isin(table.run)])
    return "\n\n".join(
        [
            "\n".join(markdown_lines(lines)),
            f"{noted(table)}{absent}",
            *summary(table),
            CLAIMS,
            "\n".join(markdown_lines(claims)),
            *(f"![{title}](../{REFERENCE}/figures/{name}.png)" for name, title in FIGURES.items()),
            SECOND,
            "\n".join(markdown_lines(long_lines(second))),
            noted(second),
        ]
    )


def long_lines(table: pd.DataFrame) -> list[list[str]]:
    """A header, and the computed rows of a table with intervals and notes."""
    header = ["Row", "Method, source → target, tasks", "Paper's source", *map(label, measures_of(table))]
    lines = [[*header, "Tasks", "Notes"]]
    for row in table_rows(table):
        if row.is_computed:
            what = f"{row.first.algorithm}, {row.source} → {row.first.target_data}, {row.first.properties}"
            cells = [markdown_cell(cell, with_difference=False) for cell in row.cells]
            label_and_source = [str(row.first.row), f"{what} ({row.first.section})", row.paper_source]
            lines.append([*label_and_source, *cells, str(row.first.n_tasks), row.notes])
    return lines


def noted(table: pd.DataFrame) -> str:
    """What the letters of the notes mean."""
    return "Notes: " + "; ".join(f"{letter}: {deviation}" for deviation, letter in notes(table).items()) + "."


def claim_lines(evidence: Evidence) -> list[list[str]]:
    """A header and the paper's claims, each with its verdict and on how much of its evidence the verdict rests."""
    lines = [["Section", "The paper", "Here", "Measured"]]
    for claim in read_claims():
        found = judge(claim, evidence)
        lines.append([claim["section"], claim["sentence"], found.verdict, f"{found.measured} of {found.total}"])
    return lines


def short_section(table: pd.DataFrame) -> str:
    """The computed rows of Table 1: what was run, and each measure's correlation beside the paper's."""
    lines = [["Row", "Method", "Source → target", "Setting", *map(label, PAPER_MEASURES), "Tasks"]]
    for row in table_rows(table):
        if not row.is_computed:
            continue
        first = row.first
        cells = [f"{cell.r} / {cell.paper}" for cell in row.cells if cell.measure in map(label, PAPER_MEASURES)]
        what = [str(first.row), first.algorithm, f"{row.source} → {first.target_data}"]
        less = [d for d in first.deviations if d.endswith((" epochs", "examples of a task"))]
        tasks = ", ".join([str(first.n_tasks), *less])
        lines.append([*what, f"{first.properties} ({first.section})", *cells, tasks])
    missing = ", ".join(str(row) for row, *_ in needed(table))
    rest = f" Not yet: rows {missing}." if missing else ""
    return "\n".join([f"{len(lines) - 1} of {table.row.nunique()} rows are computed.{rest}\n", *markdown_lines(lines)])


def updated(text: str, new: str) -> str:
    """A page with the section between its markers made anew."""
    pattern = re.compile(re.escape(START) + ".*" + re.escape(END), re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"the page must hold the lines {START.strip()} and {END}")
    return pattern.sub(lambda _: f"{START}\n{new}\n\n{END}", text)


def pages(runs: pd.DataFrame) -> dict[Path, str]:
    """The pages that hold a table, and the text that each should have."""
    table = build_table(runs)
    made = {ROOT / "README.md": short_section(table), ROOT / "docs" / "results.md": section(runs, table)}
    return {path: updated(path.read_text("utf-8"), new) for path, new in made.items()}


def main() -> None:
    """Write README.md and docs/results.md."""
    for path, text in pages(read_runs(ROOT / REFERENCE)).items():
        write_atomically(path, text.encode())
        print(f"written: {path.relative_to(ROOT)}, between its markers")


if __name__ == "__main__":
    run_main(main)
