"""Every measure on every row of Table 1 that has a run: python -m experiments.reporting.extended [RESULTS]."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from scipy import stats

from experiments.reporting.cli import results_arguments, run_main
from experiments.reporting.figures import STYLE, WIDTH, save
from experiments.reporting.predictors import label, ordered
from experiments.reporting.render import interval, markdown_lines, signed, starred
from experiments.reporting.rows import paper_rows, select_run, source_titles
from experiments.reporting.table1 import UNDEFINED, correlate, predictors
from leep import plots
from leep.files import write_atomically
from leep.results import read_not_scored
from leep.statistics import FEWEST_TASKS, weighted_kendall

COLUMNS = [
    *(
        "row",
        "section",
        "method",
        "source",
        "target",
        "title",
        "measure",
    ),  # names of the configuration, of what was run
    *("r", "r_low", "r_high", "p_value", "tau", "tau_low", "tau_high", "n_tasks"),
    *("partial_r", "partial_low", "partial_high"),  # given the logarithm of the number of classes, where it varies
    *("better_than_leep_by", "better_low", "better_high", "better_p"),  # this one's r less LEEP's
    *("missing", "run"),
]
NO_SCORES = "not computed: make measures computes it where the pass of the run is cached"
TITLE = "# Every measure on the rows of Table 1\n"
CAPTION = (
    "Pearson's r and weighted Kendall's τ of a measure's scores with what the transferred models reach, [95 % "
    "bootstrap interval over tasks]. *: p > 0.05; ∅: undefined, scores or accuracies are the same for all tasks; "
    "—: not computed."
)
FIGURE_CAPTION = (
    "Pearson's r of every measure (columns) on every row of Table 1 that was run. Dark: r near 1; white: 0 or less. "
    "Framed: the largest of a row. ∅: undefined, all scores are equal; —: not computed."
)
CONSTANT, ABSENT = "∅", "—"


def build(results: Path, runs: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """A line for every computed row of Table 1 and every measure that any of its runs holds.

    Parameters
    ----------
    results : Path
    runs : DataFrame
        What `leep.results.read_runs` read of it.
    seed : int
        Runs with other seeds are not looked at.

    Returns
    -------
    DataFrame with the columns `COLUMNS`
        Where `r` is absent, or of fewer tasks than the run has, `missing` says why.
    """
    selected = [(row, select_run(runs, row, seed)) for _, row in paper_rows().iterrows()]
    selected = [(row, run) for row, run in selected if len(run) and run.task.nunique() >= FEWEST_TASKS]
    held = {measure for _, run in selected for measure in run.measure.unique()}
    measures = [measure for measure in ordered(held) if measure in held]
    titles = source_titles(runs)
    lines = []
    for row, run in selected:
        tasks, first = predictors(run), run.iloc[0]
        reasons = read_not_scored((results / first.run).parent)
        common = {"row": row["row"], "section": row["section"], "method": first.method, "source": first.source}
        title = f"{row['row']}  {row['algorithm']}, {titles[first.source]} → {row['target_data']}"
        common |= {"target": first.target, "title": f"{title} ({row['section']})", "run": first.run}
        lines += [common | {"measure": m} | _line(tasks, m, reasons.get(m, "")) for m in measures]
    table = pd.DataFrame(lines, columns=COLUMNS).astype({"n_tasks": "Int64"})
    return table.astype({c: float for c in COLUMNS[COLUMNS.index("r") : COLUMNS.index("missing")] if c != "n_tasks"})


def _line(tasks: pd.DataFrame, measure: str, reason: str) -> dict:
    """What the columns say of a measure on the tasks of a run."""
    found = correlate(tasks, measure)
    if "r" not in found:
        absent = found["missing"] if "n_tasks" in found else NO_SCORES  # too few scores, or none
        return {"missing": f"not computed: {reason}" if reason else absent}
    scored = tasks.dropna(subset=measure)
    tau = weighted_kendall(scored[measure].to_numpy(float), scored.accuracy.to_numpy())
    line = {key: found[key] for key in ("r", "r_low", "r_high", "p_value", "n_tasks")}
    line |= {"tau": tau.r, "tau_low": tau.low, "tau_high": tau.high, "missing": found["missing"] or reason}
    if tasks.log_n_classes.nunique() > 1:
        line |= {key: found.get(key) for key in ("partial_r", "partial_low", "partial_high")}
    if found.get("leep_better_by") is not None:
        line |= {"better_than_leep_by": -found["leep_better_by"], "better_p": found["leep_better_p"]}
        line |= {"better_low": -found["leep_better_high"], "better_high": -found["leep_better_low"]}
    return line


def complete(table: pd.DataFrame) -> pd.DataFrame:
    """The lines of the rows for which every measure was computed, if only to be undefined."""
    return table[table.n_tasks.notna().groupby(table.row).transform("all")]


def ranks(table: pd.DataFrame) -> pd.DataFrame:
    """Average rank of each measure over the rows in which all were computed, the best first.

    Returns
    -------
    DataFrame with the columns
        `measure`; `rank`, 1 for the largest r of a row, where an undefined r counts as 0, because scores that are all
        equal say nothing of a task; `mean_r`, `mean_tau`, of the same rows; `better`, `worse`: in how many of all rows
        its r is larger or smaller than LEEP's with an interval of the difference that excludes 0; `rows`, how many
        rows the rank is of.
    """
    used = complete(table)
    wide = used.pivot(index="row", columns="measure", values="r").fillna(0)
    of_tau = used.pivot(index="row", columns="measure", values="tau").fillna(0)
    by_measure = table.groupby("measure")
    counts = {"better": by_measure.better_low.agg(lambda low: (low > 0).sum())}
    counts |= {"worse": by_measure.better_high.agg(lambda high: (high < 0).sum())}
    columns = {"rank": wide.round(12).rank(axis=1, ascending=False).mean(), "mean_r": wide.mean()}
    found = pd.DataFrame({**columns, "mean_tau": of_tau.mean(), **counts, "rows": len(wide)})
    return found.sort_values("rank", kind="stable").rename_axis("measure").reset_index()


def critical_difference(n_measures: int, n_rows: int) -> float:
    """Difference of average ranks below which two measures are not told apart, at the level 0.05: Nemenyi's test.

    Demšar (2006), Section 3.2.2.

    Examples
    --------
    His example has four classifiers on 14 data sets: q = 2.569, and 2.569 · sqrt(4 · 5 / (6 · 14)) = 1.25.

    >>> round(critical_difference(4, 14), 2)
    1.25
    """
    q = stats.studentized_range.ppf(0.95, n_measures, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(n_measures * (n_measures + 1) / (6 * n_rows)))


def rank_sentence(found: pd.DataFrame) -> str:
    """What average ranks tell apart, in one sentence; empty below two rows or two measures."""
    if len(found) < 2 or found.rows.iloc[0] < 2:
        return ""
    n_rows, first = int(found.rows.iloc[0]), found.iloc[0]
    least = critical_difference(len(found), n_rows)
    worse = found[found["rank"] > first["rank"] + least].measure
    behind = ", ".join(map(label, worse)) or "no other"
    return (
        f"Over the {n_rows} rows in which all {len(found)} measures were computed, {label(first.measure)} has the best "
        f"average rank, {first['rank']:.1f}; the critical difference (Nemenyi, 0.05) is {least:.1f}, "
        f"which puts {behind} behind it. "
        "The rows share data sets and source models, so that they count for less than as many independent ones."
    )


def ranks_layout(found: pd.DataFrame) -> list[list[str]]:
    """A header and a row a measure."""
    header = ["Measure", "Average rank", "Mean r", "Mean τ", "Rows better than LEEP", "Rows worse than LEEP"]
    rows = [
        [label(f.measure), f"{f.rank:.1f}", signed(f.mean_r, 2), signed(f.mean_tau, 2), str(f.better), str(f.worse)]
        for f in found.itertuples(index=False)
    ]
    return [header, *rows]


def layout(table: pd.DataFrame, value: str, low: str, high: str, p_value: str = "") -> list[list[str]]:
    """A header and a row a measure, a column a row of Table 1: a number and its interval."""
    has = table[value].notna()
    if value not in ("r", "tau"):  # what need not be there for any
        table = table[has.groupby(table.row).transform("any") & has.groupby(table.measure).transform("any")]
    columns, cells = table.row.unique(), {(line.measure, line.row): line for line in table.itertuples()}
    measures, options = dict.fromkeys(table.measure), (value, low, high, p_value)
    body = [[label(m), *(_cell(cells[m, row], *options) for row in columns)] for m in measures]
    return [["Measure", *(f"Row {row}" for row in columns)], *body]


def _cell(line, value: str, low: str, high: str, p_value: str) -> str:
    number = getattr(line, value)
    if pd.isna(number):
        return sign(line)
    text = starred(number, getattr(line, p_value)) if p_value else signed(number)
    spread = interval(getattr(line, low), getattr(line, high), 3 if value == "better_than_leep_by" else 2)
    return f"{text} {spread}"


def sign(line) -> str:
    """What stands in place of a number that a line of the table lacks."""
    return CONSTANT if pd.notna(line.n_tasks) else ABSENT


def sections(table: pd.DataFrame) -> list[tuple[str, str, list[list[str]]]]:
    """Title, caption, and header and rows of each part of the table."""
    found = ranks(table)
    rank_caption = rank_sentence(found) + (
        " An undefined r counts as 0. Better and worse: the 95 % interval of the paired difference excludes 0, over "
        "all rows that have both."
    )
    difference = "A measure's r less LEEP's of the same tasks, [95 % interval of a paired bootstrap]; *: p > 0.05."
    partial = "What is left of r given the logarithm of the number of classes, where that varies (Section 5.1)."
    return [
        ("Average ranks", rank_caption.strip(), ranks_layout(found)),
        ("Pearson's r", CAPTION, layout(table, "r", "r_low", "r_high", "p_value")),
        ("Weighted Kendall's τ", "Exchanges near the top weigh more.", layout(table, "tau", "tau_low", "tau_high")),
        ("Against LEEP", difference, layout(table, "better_than_leep_by", "better_low", "better_high", "better_p")),
        ("Given the number of classes", partial, layout(table, "partial_r", "partial_low", "partial_high")),
    ]


def not_computed(table: pd.DataFrame) -> list[str]:
    """A line for every reason why a measure lacks numbers, with the rows."""
    lines = table[(table.missing != "") & (table.missing != UNDEFINED)]
    return [
        f"{', '.join(map(label, dict.fromkeys(of.measure)))}, row{'s' * (of.row.nunique() > 1)} "
        f"{', '.join(map(str, of.row.unique()))}: {reason}"
        for reason, of in lines.groupby("missing", sort=False)
    ]


def to_markdown(table: pd.DataFrame) -> str:
    """The parts of the table, and what was not computed."""
    parts = [TITLE, *(f"- Row {title}" for title in table.title.unique())]
    for title, caption, lines in sections(table):
        if len(lines) > 1:
            parts += [f"\n## {title}\n", caption + "\n", *markdown_lines(lines)]
    if reasons := not_computed(table):
        parts += ["\n## Not computed\n", *(f"- {reason}" for reason in reasons)]
    return "\n".join(parts) + "\n"


def draw(table: pd.DataFrame) -> plt.Figure:
    """The picture: a cell a row and measure, the number in it, readable in grey."""
    if table.empty:
        fig, ax = plt.subplots(figsize=(WIDTH, 1))
        plots.message(ax, "not computed: make measures")
        return fig
    order = list(dict.fromkeys(table.measure))
    wide = table.pivot(index="title", columns="measure", values="r").reindex(table.title.unique())[order]
    signs = table.assign(sign=[sign(line) for line in table.itertuples()])
    texts = signs.pivot(index="title", columns="measure", values="sign").reindex(wide.index)[order]
    fig, ax = plt.subplots(figsize=(max(WIDTH, 2.9 + 0.42 * len(order)), 1.1 + 0.24 * len(wide)))
    plots.heat_map(ax, wide.rename(columns=label), texts.rename(columns=label))
    return fig


def write(results: Path, runs: pd.DataFrame, seed: int) -> None:
    """Write measures.csv, measures.md and the picture into the results folder."""
    table = build(results, runs, seed)
    write_atomically(results / "measures.csv", table.to_csv(index=False).encode())
    write_atomically(results / "measures.md", to_markdown(table).encode())
    folder = results / "figures"
    folder.mkdir(exist_ok=True)
    with plt.style.context(STYLE):
        save(draw(table), folder, "measures")
    print("\n".join([rank_sentence(ranks(table)), *not_computed(table)]))
    print(f"written: {results}/measures.csv, measures.md, figures/measures.pdf, .png (runs with seed {seed})")


def main() -> None:
    """The extended table of the results folder that is given."""
    write(*results_arguments(__doc__))


if __name__ == "__main__":
    run_main(main)
