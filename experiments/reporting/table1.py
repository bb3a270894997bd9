"""Table 1 from the CSVs under a results folder: python -m experiments.reporting.table1 [RESULTS]."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from experiments.reporting.cli import results_arguments, run_main
from experiments.reporting.predictors import PAPER_MEASURES, TRIVIAL, of_table1
from experiments.reporting.render import to_latex, to_markdown, to_terminal
from experiments.reporting.rows import PAPER_TASKS, command, needs, paper_rows, select_run, source_titles
from leep.files import write_atomically
from leep.statistics import (
    FEWEST_TASKS,
    compare_independent,
    paired_difference,
    partial_pearson,
    pearson,
    too_few,
)

OF_RUN = ("epochs", "engine", "scale", "weights", "data", "deviations", "run")
COLUMNS = [
    *("row", "section", "experiment", "method", "source", "target"),  # the configuration's names, of the paper's source
    *("algorithm", "source_data", "target_data", "source_model", "properties"),  # the paper's words
    *("run_model", "run_data"),  # the source that was run, and what it was trained on
    *("measure", "r", "r_low", "r_high", "p_value", "n_tasks"),
    *("r_low_sets", "r_high_sets", "n_class_sets"),  # resampling sets of classes with all their tasks
    *("paper_r", "paper_significant", "difference", "paper_inside", "fisher_z_p"),
    *("partial_r", "partial_low", "partial_high", "partial_p"),  # given the logarithm of the number of classes
    *("leep_better_by", "leep_better_low", "leep_better_high", "leep_better_p"),  # LEEP's r less this one's
    *(*OF_RUN, "missing", "command"),
]
_FLOATS = ("r", "p_value", "difference", "fisher_z_p")
UNDEFINED = "undefined: scores or accuracies are the same for all tasks"


def build_table(runs: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """A line for every row of the paper's table and every predictor: the paper's measures, those from outside
    the package, and `TRIVIAL`.

    Parameters
    ----------
    runs : DataFrame
        What `leep.results.read_runs` read.
    seed : int
        Runs with other seeds are not looked at.

    Returns
    -------
    DataFrame with the columns `COLUMNS`
        Where `r` is absent, `missing` says why, and `command` computes it. `deviations` holds tuples.
    """
    lines = []
    selected = [(row, select_run(runs, row, seed)) for _, row in paper_rows().iterrows()]
    titles = source_titles(runs)
    measures = of_table1(measure for _, run in selected if len(run) for measure in run.measure.unique())
    for row, run in selected:
        common = {key: row[key] for key in COLUMNS if key in row}
        tasks = None
        if run.empty:
            common |= {"deviations": (), "missing": needs(row), "command": command(row, seed)}
        else:
            first, tasks = run.iloc[0], predictors(run)
            common |= {key: first[key] for key in OF_RUN}
            common |= {"run_model": titles[first.source], "run_data": first.trained_on}
        for predictor in (*measures, *TRIVIAL):
            computed = {} if tasks is None else correlate(tasks, predictor)
            lines.append(common | {"measure": predictor} | computed | _paper_columns(row, predictor, computed))
    table = pd.DataFrame(lines, columns=COLUMNS).astype(dict.fromkeys(("n_tasks", "n_class_sets", "epochs"), "Int64"))
    floats = [c for c in COLUMNS if c in _FLOATS or c.startswith(("r_", "partial_", "leep_better_"))]
    return table.astype(dict.fromkeys(floats, float))


def predictors(run: pd.DataFrame) -> pd.DataFrame:
    """A line a task: the predictors, `accuracy`, `log_n_classes`, and where classes are recorded `class_set`, a number.

    A set has no order, so the two tasks that swap a minority and a majority class are of one set.
    """
    scores = run.pivot(index="task", columns="measure", values="score")
    tasks = run.drop_duplicates("task").set_index("task")
    log_n_classes = np.log(tasks.n_classes)
    columns = {"log_n_classes": log_n_classes, "minus_log_n_classes": -log_n_classes, "n_examples": tasks.n_examples}
    if tasks.classes.notna().all():
        columns["class_set"] = pd.factorize(tasks.classes.map(lambda classes: tuple(sorted(classes))))[0]
    return scores.assign(accuracy=tasks.accuracy, **columns).dropna(subset="accuracy")


def correlate(tasks: pd.DataFrame, predictor: str) -> dict:
    """A predictor's correlation, what is left of it given the number of classes, and how far LEEP is ahead."""
    if predictor not in tasks:
        return {"missing": f"{predictor} was not among the measures of this run"}
    tasks = tasks.dropna(subset=predictor)
    if tasks.empty:
        return {"missing": f"{predictor} was computed for no task of this run"}
    scores, accuracies = tasks[predictor].to_numpy(float), tasks.accuracy.to_numpy()
    if len(tasks) < FEWEST_TASKS:
        return {"n_tasks": len(tasks), "missing": too_few(scores, accuracies)}
    found = pearson(scores, accuracies)
    line = {"r": found.r, "r_low": found.low, "r_high": found.high, "p_value": found.p_value, "n_tasks": found.n}
    line["missing"] = "" if found.r is not None else UNDEFINED
    if "class_set" in tasks and tasks.class_set.nunique() > 1:
        by_sets = pearson(scores, accuracies, clusters=tasks.class_set.to_numpy())
        line |= {"r_low_sets": by_sets.low, "r_high_sets": by_sets.high, "n_class_sets": tasks.class_set.nunique()}
    if predictor not in TRIVIAL:
        partial = partial_pearson(scores, accuracies, tasks.log_n_classes.to_numpy())
        line |= {"partial_r": partial.r, "partial_low": partial.low, "partial_high": partial.high}
        line["partial_p"] = partial.p_value
    if predictor != "leep" and "leep" in tasks and tasks.leep.notna().all():
        ahead = paired_difference(tasks.leep.to_numpy(), scores, accuracies)
        line |= {"leep_better_by": ahead.difference, "leep_better_low": ahead.low, "leep_better_high": ahead.high}
        line["leep_better_p"] = ahead.p_value
    return line


def _paper_columns(row, predictor: str, computed: dict) -> dict:
    """The paper's value, ours less it, and whether the two agree; the paper's LEEP and NCE are all significant."""
    if predictor not in PAPER_MEASURES:
        return {}
    paper, r = row[predictor], computed.get("r")
    columns = {"paper_r": paper, "paper_significant": predictor != "h_score" or row["h_score_significant"] == "yes"}
    if r is None:
        return columns
    columns |= {"difference": r - paper, "paper_inside": computed["r_low"] <= paper <= computed["r_high"]}
    if abs(r) < 1:
        columns["fisher_z_p"] = compare_independent(r, computed["n_tasks"], paper, PAPER_TASKS)
    return columns


def to_csv(table: pd.DataFrame) -> str:
    """The table with the deviations as one text; twelve digits, because processors differ in the last ones."""
    return table.assign(deviations=table.deviations.map("; ".join)).to_csv(index=False, float_format="%.12g")


def write(results: Path, runs: pd.DataFrame, seed: int) -> None:
    """Write table1.csv, .md and .tex into the results folder and print the table."""
    table = build_table(runs, seed)
    for suffix, make in (("csv", to_csv), ("md", to_markdown), ("tex", to_latex)):
        write_atomically(results / f"table1.{suffix}", make(table).encode())
    print(to_terminal(table))
    print(f"\nwritten: {results}/table1.csv, table1.md, table1.tex (runs with seed {seed})")


def main() -> None:
    """Table 1 of the results folder that is given."""
    write(*results_arguments(__doc__))


if __name__ == "__main__":
    run_main(main)
