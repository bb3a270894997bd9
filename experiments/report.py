"""One self-contained HTML page with Table 1, the figures and what made them: python -m experiments.report [RESULTS]."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup, escape
from matplotlib import pyplot as plt

from experiments.figures import NAMES, STYLE, draw
from experiments.table1 import build_table, results_arguments
from experiments.table1_text import CAPTION, layout
from leep.files import write_atomically
from leep.results import read_setting


def figure_uri(fig: plt.Figure) -> str:
    """A figure as an inline PNG."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png")
    plt.close(fig)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _html(cell: str) -> Markup:
    return Markup(str(escape(cell)).replace("⟦", "<b>").replace("⟧", "</b>"))


def settings(results: Path) -> list[dict]:
    """What stands behind every run: the settings and the provenance of its two folders."""
    folders = sorted(p.parent for p in results.glob("*/*/*/*/*/transfers.csv"))
    return [
        {"run": f.relative_to(results), "tasks": read_setting(f.parent), "transfer": read_setting(f)} for f in folders
    ]


def render(results: Path, runs: pd.DataFrame, seed: int = 0) -> str:
    """The page as text."""
    table = build_table(runs, seed)
    header, *rows = ([_html(cell) for cell in row] for row in layout(table))
    needs = table[(table.measure == "leep") & table.n_tasks.isna()][["row", "needs"]].itertuples(index=False)
    template = jinja2.Environment(autoescape=True).from_string(Path(__file__).with_name("report.html").read_text())
    with plt.style.context(STYLE):
        figures = {name: figure_uri(draw(name, results, runs, seed)) for name in NAMES}
    return template.render(
        caption=CAPTION, header=header, rows=rows, needs=list(needs), figures=figures, settings=settings(results)
    )


def main() -> None:
    """Write report.html into the results folder."""
    results, runs, seed = results_arguments(__doc__)
    page = render(results, runs, seed)
    write_atomically(results / "report.html", lambda f: f.write(page.encode()))
    print(f"written: {results / 'report.html'}")


if __name__ == "__main__":
    main()
