"""Table 1 and two figures of results/reference in README.md: python -m experiments.readme, or make readme."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from experiments.table1 import build_table
from experiments.table1_text import MEASURES, best_of, markdown_lines, measure_parts, notes, row_notes, wins
from experiments.terminal import run_main
from leep.files import write_atomically
from leep.results import read_runs

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = Path("results/reference")
START, END = "<!-- made by: make readme -->\n", "<!-- end of what make readme makes -->"
FIGURES = {
    "figure1": "LEEP scores and test accuracies of the target tasks of Section 5.1",
    "figure7": "Average test F1 score by transferability level, Section 5.3",
}


def section(runs: pd.DataFrame) -> str:
    """The computed rows of Table 1 with seed 0 in short, LEEP's correlation with other seeds, and two figures."""
    table = build_table(runs)
    others = {
        seed: build_table(runs, seed).query("measure == 'leep'").set_index("row") for seed in sorted({*runs.seed} - {0})
    }
    letters, missing = notes(table), []
    rows = [["Row", "Method, source → target, tasks", *MEASURES.values(), "Tasks", "Notes", "LEEP, other seeds"]]
    for number, lines in table.groupby("row"):
        first, best = lines.iloc[0], best_of(lines)
        if pd.isna(first.n_tasks):
            missing.append(str(number))
            continue
        cells = [
            " ".join(p for p in (r, spread, f"(paper {paper})") if p)
            for r, spread, paper, _ in (measure_parts(m, best) for m in lines.itertuples() if m.measure in MEASURES)
        ]
        what = f"{first.algorithm}, {first.source_data} → {first.target_data}, {first.properties} ({first.section})"
        again = [f"{of.r[number]:+.3f}".replace("-", "−") for of in others.values() if pd.notna(of.r[number])]
        rows.append(
            [str(number), what, *cells, str(first.n_tasks), row_notes(first.stand_in, letters), ", ".join(again)]
        )
    noted = "; ".join(f"{letter}: {text}" for text, letter in letters.items())
    pictures = [f"![{title}]({REFERENCE}/figures/{name}.png)" for name, title in FIGURES.items()]
    parts = ["\n".join(markdown_lines(rows)), f"Notes: {noted}. Not computed: rows {', '.join(missing)}.", wins(table)]
    return "\n\n".join([*parts, *pictures])


def updated(text: str, new: str) -> str:
    """The README with the section between its markers made anew."""
    pattern = re.compile(re.escape(START) + ".*" + re.escape(END), re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"README.md must hold the lines {START.strip()} and {END}")
    return pattern.sub(lambda _: f"{START}\n{new}\n\n{END}", text)


def main() -> None:
    """Write README.md."""
    readme = ROOT / "README.md"
    text = updated(readme.read_text("utf-8"), section(read_runs(ROOT / REFERENCE)))
    write_atomically(readme, text.encode())
    print(f"written: {readme.name}, between its markers")


if __name__ == "__main__":
    run_main(main)
