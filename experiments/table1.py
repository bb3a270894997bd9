"""Table 1 from the CSVs under a results folder: python -m experiments.table1 [RESULTS]."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from experiments.table1_text import MEASURES, TRIVIAL, WORDING, to_latex, to_markdown, to_terminal
from experiments.terminal import run_main
from leep.data import find_data
from leep.errors import Invalid, Missing
from leep.files import write_atomically
from leep.results import read_runs
from leep.sources.weights import find_weights
from leep.statistics import metric_of, paired_difference, partial_pearson, pearson

COLUMNS = [
    *("row", "section", "setting", "method", "source", "target", *WORDING),
    *("measure", "r", "r_low", "r_high", "p_value", "paper_r", "paper_significant", "difference"),
    *("partial_r", "partial_low", "partial_high", "partial_p"),  # given the logarithm of the number of classes
    *("leep_better_by", "leep_better_low", "leep_better_high", "leep_better_p"),  # LEEP's r less this one's
    *("n_tasks", "epochs", "engine", "scale", "weights", "data", "stand_in", "run", "needs"),
]
_ROOT = Path(__file__).resolve().parent.parent
SCALES = ["paper", "quick", "smoke"]  # the first that is there is shown
UNDEFINED = "undefined: scores or accuracies are the same for all tasks"


def results_arguments(description: str) -> tuple[Path, pd.DataFrame, int]:
    """The results folder given on the command line, its runs, and the seed; the smallest that is there by default."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "results", type=Path, nargs="?", default=Path("results"), help="results folder (default: results)"
    )
    parser.add_argument(
        "--seed", type=int, help="seed of the runs to show; seeds are never mixed (default: the smallest)"
    )
    given = parser.parse_args()
    if not given.results.is_dir():
        parser.error(f"{given.results} is not a folder; run an experiment first: python run.py")
    runs = read_runs(given.results)
    if given.seed is None:
        given.seed = 0 if runs.empty else int(runs.seed.min())
    return given.results, runs, given.seed


def paper_rows() -> pd.DataFrame:
    """The 21 rows of the paper's Table 1, its correlations in the columns `leep`, `nce`, `h_score`."""
    return pd.read_csv(Path(__file__).with_name("paper_table1.csv"), encoding="utf-8")


def rank(group: pd.DataFrame) -> tuple:
    """The smallest is the run to show: finished, largest scale, fewest stand-ins, most tasks."""
    stand_ins = group.stand_in.iloc[0].count(";") + bool(group.stand_in.iloc[0])
    first = group.iloc[0]
    return not first.finished, SCALES.index(first.scale), stand_ins, -group.task.nunique(), first.run


def select_run(runs: pd.DataFrame, row, seed: int = 0) -> pd.DataFrame:
    """The run that stands for a row, of this seed.

    Where there is none of the row's source model, one of another model trained on the same data stands in, and says so;
    for CNAPs, which are meta-trained besides, of any model.
    """
    if runs.empty:
        return runs
    wanted = {k: row[k] for k in ("method", "target", "setting")} | {"seed": seed}
    if row["method"] != "cnaps":
        wanted["trained_on"] = row["source_data"]
    match = runs[(runs[list(wanted)] == list(wanted.values())).all(axis=1)]
    if (match.source == row["source"]).any():
        match = match[match.source == row["source"]]
    else:
        others = match.source + f" for {row['source_model']} of {row['source_data']}"
        match = match.assign(stand_in=others.str.cat(match.stand_in.where(match.stand_in != ""), sep="; ", na_rep=""))
        match = match.assign(stand_in=match.stand_in.str.removesuffix("; "))
    if match.empty:
        return match
    return min((g for _, g in match.groupby("run")), key=rank)


def what_is_needed(row, seed: int = 0) -> str:
    """What a row that is not computed needs: data, weights, and the command."""
    lacks = []
    source = OmegaConf.load(_ROOT / "conf" / "source" / f"{row['source']}.yaml")[row["source"]]
    try:
        find_weights(row["source"], source.model, source.weights)
    except (Missing, Invalid):
        lacks.append(f"weights of {row['source_model']} trained on {row['source_data']} (make data)")
    try:
        find_data(row["target"])
    except (Missing, Invalid):
        lacks.append(f"{row['target_data']} (make data)")
    if row["method"] == "cnaps":
        lacks.append(f"CNAPs meta-trained for {row['source']} (scripts/train_cnaps.py)")
    return "; ".join([*lacks, command(row["setting"], row["source"], row["target"], row["method"], seed)])


def command(experiment: str, source: str, target: str, method: str, seed: int, **values) -> str:
    """The command that computes a row; `values` are further ones that differ from the configuration's."""
    values |= {"seed": seed} if seed else {}
    lists = f"'source=[{source}]' 'target=[{target}]' 'method=[{method}]'"
    return " ".join([f"python run.py experiment={experiment} {lists}", *(f"{k}={v}" for k, v in values.items())])


def build_table(runs: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """One line a row of the paper's table and predictor, with the columns `COLUMNS`; r is absent where not computed."""
    lines = []
    for _, row in paper_rows().iterrows():
        run = select_run(runs, row, seed)
        common = {k: row[k] for k in COLUMNS if k in row} | {"stand_in": "", "scale": ""}
        if run.empty or run.task.nunique() < 3:
            common["needs"] = what_is_needed(row, seed)
        else:
            common |= {k: run[k].iloc[0] for k in ("epochs", "engine", "scale", "weights", "data", "stand_in", "run")}
        for predictor in (*MEASURES, *TRIVIAL):
            computed = {} if "needs" in common else _correlate(predictors(run, row["setting"]), predictor)
            lines.append(common | {"measure": predictor} | _papers(row, predictor, computed.get("r")) | computed)
    table = pd.DataFrame(lines, columns=COLUMNS).astype({"n_tasks": "Int64", "epochs": "Int64"})
    return table.astype({c: float for c in COLUMNS if c.startswith(("r_", "partial", "leep_")) or c == "r"})


def predictors(run: pd.DataFrame, setting: str) -> pd.DataFrame:
    """A row a task of a run that has all measures: `accuracy`, what is correlated with it, and `log_n_classes`."""
    scores = run.pivot(index="task", columns="measure", values="score")
    tasks = run.drop_duplicates("task").set_index("task")
    log_n_classes = np.log(tasks.n_classes)
    columns = {"minus_log_n_classes": -log_n_classes, "log_n_classes": log_n_classes, "n_examples": tasks.n_examples}
    return scores.assign(accuracy=tasks[metric_of(setting)], **columns).dropna()


def _correlate(tasks: pd.DataFrame, predictor: str) -> dict:
    """A predictor's correlation, what is left of it given the number of classes, and how far LEEP is ahead."""
    if predictor not in tasks:
        return {"needs": f"run with {predictor} among the measures"}
    scores, accuracies = tasks[predictor].to_numpy(float), tasks.accuracy.to_numpy()
    found = pearson(scores, accuracies)
    line = {"r": found.r, "r_low": found.low, "r_high": found.high, "p_value": found.p_value, "n_tasks": found.n}
    line["needs"] = "" if found.r is not None else UNDEFINED
    if predictor in MEASURES and len(tasks) > 3:
        given = partial_pearson(scores, accuracies, tasks.log_n_classes.to_numpy())
        line |= {"partial_r": given.r, "partial_low": given.low, "partial_high": given.high, "partial_p": given.p_value}
    if predictor != "leep" and "leep" in tasks:
        ahead = paired_difference(tasks.leep.to_numpy(), scores, accuracies)
        line |= {"leep_better_by": ahead.difference, "leep_better_low": ahead.low, "leep_better_high": ahead.high}
        line["leep_better_p"] = ahead.p_value
    return line


def _papers(row, predictor: str, r: float | None) -> dict:
    """The paper's value and ours less it; for LEEP and NCE all of the paper's are significant."""
    if predictor not in MEASURES:
        return {}
    significant = predictor != "h_score" or row["h_score_significant"] == "yes"
    difference = None if r is None else r - row[predictor]
    return {"paper_r": row[predictor], "paper_significant": significant, "difference": difference}


def write(results: Path, runs: pd.DataFrame, seed: int) -> None:
    """Write table1.csv, .md and .tex into the results folder and print the table."""
    table = build_table(runs, seed)
    for suffix, text in (("csv", table.to_csv(index=False)), ("md", to_markdown(table)), ("tex", to_latex(table))):
        write_atomically(results / f"table1.{suffix}", text.encode())
    print(to_terminal(table))
    print(f"\nwritten: {results}/table1.csv, table1.md, table1.tex (runs with seed {seed})")


def main() -> None:
    """Table 1 of the results folder that is given."""
    write(*results_arguments(__doc__))


if __name__ == "__main__":
    run_main(main)
