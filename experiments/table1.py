"""Table 1 from the CSVs under a results folder: python -m experiments.table1 [RESULTS]."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf

from leep.data import DataError, DataMissing, find_data
from leep.files import write_atomically
from leep.results import ResultsError, read_runs
from leep.sources.weights import WeightsError, WeightsMissing, find_weights
from leep.statistics import Correlation, metric_of, pearson

MEASURES = {"leep": "LEEP", "nce": "NCE", "h_score": "H score"}
COLUMNS = [
    "row",
    "method",
    "source",
    "target",
    "setting",
    "measure",
    "r",
    "r_low",
    "r_high",
    "p_value",
    "n_tasks",
    "scale",
    "stand_in",
    "paper_r",
    "needs",
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
    try:
        runs = read_runs(given.results)
    except ResultsError as error:
        parser.error(str(error))
    if given.seed is None:
        given.seed = 0 if runs.empty else int(runs.seed.min())
    return given.results, runs, given.seed


def paper_rows() -> pd.DataFrame:
    """The 21 rows of the paper's Table 1, its correlations in the columns `leep`, `nce`, `h_score`."""
    return pd.read_csv(Path(__file__).with_name("paper_table1.csv"))


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
    except (WeightsMissing, WeightsError):
        lacks.append(f"weights of {row['source_model']} trained on {row['source_data']} (make data)")
    try:
        find_data(row["target"])
    except (DataMissing, DataError):
        lacks.append(f"{row['target_data']} (make data)")
    if row["method"] == "cnaps":
        lacks.append(f"CNAPs meta-trained for {row['source']} (scripts/train_cnaps.py)")
    command = (
        f"python run.py experiment={row['setting']} 'source=[{row['source']}]' 'target=[{row['target']}]' "
        f"'method=[{row['method']}]'" + (f" seed={seed}" if seed else "")
    )
    return "; ".join([*lacks, command])


def build_table(runs: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """One line a row of the paper's table and measure, with the columns `COLUMNS`; r is absent where not computed."""
    lines = []
    for _, row in paper_rows().iterrows():
        run = select_run(runs, row, seed)
        for measure in MEASURES:
            line = {k: row[k] for k in ("row", "method", "source", "target", "setting")} | {"measure": measure}
            group = run[run.measure == measure] if len(run) else run
            lines.append(line | {"paper_r": row[measure]} | _correlate(group, row, seed))
    return pd.DataFrame(lines, columns=COLUMNS).astype({"n_tasks": "Int64"})


def _correlate(group: pd.DataFrame, row, seed: int) -> dict:
    if len(group) < 3:
        return {"needs": what_is_needed(row, seed), "scale": "", "stand_in": ""}
    found: Correlation = pearson(group.score.to_numpy(), group[metric_of(row["setting"])].to_numpy())
    return {
        "r": found.r,
        "r_low": found.low,
        "r_high": found.high,
        "p_value": found.p_value,
        "n_tasks": found.n,
        "scale": group.scale.iloc[0],
        "stand_in": group.stand_in.iloc[0],
        "needs": "" if found.r is not None else UNDEFINED,
    }


def _cell(line, best: bool, paper_star: str, missing: str) -> str:
    """r with interval and the paper's value; an asterisk where p > 0.05, bold for the best of a row, as the paper."""
    paper = f"(paper {line.paper_r:+.3f}{paper_star})"
    if pd.isna(line.n_tasks):
        return f"{missing} {paper}"
    if pd.isna(line.r):
        return f"undefined {paper}"
    r = f"{line.r:+.3f}" + ("*" if line.p_value > 0.05 else "")
    return f"{f'⟦{r}⟧' if best else r} [{line.r_low:+.2f}, {line.r_high:+.2f}] {paper}"


def layout(table: pd.DataFrame, missing: str = "—") -> list[list[str]]:
    """The table in the paper's layout as text, a header and 21 rows; ⟦ and ⟧ enclose what is bold."""
    header = ["Row", "Algorithm", "Source", "Target", "Source model", "Target data set", "Details", *MEASURES.values()]
    rows = [[*header, "Tasks", "Scale", "Stand-in"]]
    for (_, lines), (_, paper) in zip(table.groupby("row"), paper_rows().iterrows()):
        best = lines.r.round(3).max()
        # LEEP and NCE are significant everywhere
        stars = {"h_score": "" if paper.h_score_significant == "yes" else "*"}
        cells = [
            _cell(line, pd.notna(line.r) and round(line.r, 3) == best, stars.get(line.measure, ""), missing)
            for line in lines.itertuples()
        ]
        first = lines.iloc[0]
        names = [paper.row, paper.algorithm, paper.source_data, paper.target_data, paper.source_model, paper.properties]
        tasks = "" if pd.isna(first.n_tasks) else first.n_tasks
        rows.append([str(v) for v in (*names, f"Sec. {paper.section}", *cells, tasks, first.scale, first.stand_in)])
    return rows


def to_markdown(table: pd.DataFrame) -> str:
    """The table, what its signs mean, and what each row that is not computed needs."""
    rows = [[c.replace("⟦", "**").replace("⟧", "**") for c in r] for r in layout(table)]
    widths = [max(len(r[c]) for r in rows) for c in range(len(rows[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(r, widths)) + " |" for r in rows]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    needs = table[(table.measure == "leep") & table.n_tasks.isna()]
    parts = ["# Table 1\n", CAPTION + "\n", *lines]
    if len(needs):
        parts += [
            "\nRows not computed, and what each needs:\n",
            *(f"- row {n.row}: {n.needs}" for n in needs.itertuples()),
        ]
    return "\n".join(parts) + "\n"


CAPTION = (
    "Pearson correlation of each measure with the test accuracy (imbalanced: test F1 of the smaller class) of the "
    "transferred models, [95 % bootstrap interval over tasks], (the paper's value). Bold: best of the row; "
    "*: p > 0.05; —: not computed."
)


def to_latex(table: pd.DataFrame) -> str:
    """The table with booktabs, to be input into a document; needs the packages booktabs and graphicx."""
    rows = [[_escape(c).replace("⟦", r"\textbf{").replace("⟧", "}") for c in r] for r in layout(table, missing="--")]
    lines = [" & ".join(r) + r" \\" for r in rows]
    return (
        "\n".join(
            [
                r"\begin{table}\centering",
                r"\caption{" + _escape(CAPTION).replace("—", "--") + "}",
                r"\resizebox{\textwidth}{!}{\begin{tabular}{r" + "l" * 9 + "rll}",
                r"\toprule",
                lines[0],
                r"\midrule",
                *lines[1:],
                r"\bottomrule",
                r"\end{tabular}}",
                r"\end{table}",
            ]
        )
        + "\n"
    )


def _escape(text: str) -> str:
    for character in "&%_#":
        text = text.replace(character, "\\" + character)
    return text


def main() -> None:
    """Write table1.csv, .md and .tex into the results folder and print the table."""
    results, runs, seed = results_arguments(__doc__)
    table = build_table(runs, seed)
    for suffix, text in (("csv", table.to_csv(index=False)), ("md", to_markdown(table)), ("tex", to_latex(table))):
        write_atomically(results / f"table1.{suffix}", lambda f, text=text: f.write(text.encode()))
    print(to_markdown(table))
    print(f"written: {results}/table1.csv, table1.md, table1.tex (runs with seed {seed})")


if __name__ == "__main__":
    main()
