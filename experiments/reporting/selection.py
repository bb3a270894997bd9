"""Section 5.7, source model selection, from the CSVs: python -m experiments.reporting.selection [RESULTS]."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from experiments.reporting.cli import results_arguments, run_main
from experiments.reporting.predictors import label, ordered
from experiments.reporting.render import interval, markdown_lines, p_text, signed
from experiments.reporting.rows import SCALES, rank
from leep.files import write_atomically
from leep.results import read_runs
from leep.statistics import Correlation, pearson

EXPERIMENT = "source_selection"
MIN_CANDIDATES = 5  # a correlation over fewer says nothing
NOTE = (
    "H scores of models with different feature dimensions stand side by side as in the paper, which does not correct "
    "for it: their range grows with the dimension."
)


def candidates(runs: pd.DataFrame, target: str, method: str, seed: int = 0) -> pd.DataFrame:
    """Every candidate source model with its predictors and its accuracy.

    Returns
    -------
    DataFrame, a row a candidate, the most accurate first
        `source`, `title`, `trained_on`, a column a measure, `imagenet_top1` (percent), `test_accuracy`, `scale`,
        `epochs`, `engine`, `deviations`, `run`. A predictor that a candidate lacks is absent. All share scale, epochs,
        engine: those that most candidates have.
    """
    if runs.empty:
        return pd.DataFrame()
    match = runs.query("experiment == @EXPERIMENT and target == @target and method == @method and seed == @seed")
    if match.empty:
        return pd.DataFrame()
    groups = [group for _, group in match.groupby(["scale", "epochs", "engine"], dropna=False)]
    match = max(groups, key=lambda g: (g.source.nunique(), -SCALES.index(g.scale.iloc[0]), g.epochs.iloc[0]))
    rows = []
    for source, of_source in match.groupby("source"):
        run = min((group for _, group in of_source.groupby("run")), key=rank)
        first = run.iloc[0]
        title = (first.source_title or source) + (f", {first.trained_on}" if first.trained_on != "ImageNet" else "")
        shared = ("trained_on", "imagenet_top1", "test_accuracy", "scale", "epochs", "engine", "deviations", "run")
        scores = run.set_index("measure").score
        rows.append({"source": source, "title": title, **scores, **{key: first[key] for key in shared}})
    return pd.DataFrame(rows).sort_values("test_accuracy", ascending=False, ignore_index=True)


def predictors(runs: pd.DataFrame) -> list[str]:
    """What is held against the accuracies of candidates: the measures that were run, and the ImageNet accuracy."""
    measures = [] if runs.empty else runs.measure[runs.experiment == EXPERIMENT].unique()
    return [*ordered(measures), "imagenet_top1"]


def correlate(table: pd.DataFrame, predictor: str) -> Correlation:
    """A predictor's correlation with the test accuracy over the `n` candidates that have it; undefined below five."""
    rows = table.dropna(subset=predictor) if predictor in table else table.iloc[:0]
    if len(rows) < MIN_CANDIDATES:
        return Correlation(None, None, None, None, len(rows))
    return pearson(rows[predictor].to_numpy(float), rows.test_accuracy.to_numpy())


def describe(correlation: Correlation) -> str:
    """A correlation as text, or why there is none."""
    if correlation.r is not None:
        spread = interval(correlation.low, correlation.high)
        return f"{signed(correlation.r)} {spread}, {p_text(correlation.p_value)}, {correlation.n} candidates"
    return "undefined: constant" if correlation.n >= MIN_CANDIDATES else f"not computed over {correlation.n} candidates"


def to_markdown(runs: pd.DataFrame, seed: int = 0) -> str:
    """A table of candidates for every target and method that was run, with the correlations; best candidate first."""
    selected = runs[(runs.experiment == EXPERIMENT) & (runs.seed == seed)] if len(runs) else runs
    parts = ["# Source model selection (Section 5.7)\n", NOTE]
    for (target, method), _ in selected.groupby(["target", "method"]) if len(selected) else []:
        table, columns = candidates(runs, target, method, seed), predictors(runs)
        first = table.iloc[0]
        epochs = "" if pd.isna(first.epochs) else f", {int(first.epochs)} epochs"
        rows = [["Candidate", "Test accuracy", *map(label, columns), "Scale", "Deviations"]]
        for row in table.to_dict("records"):
            numbers = [f"{row[p]:.3f}" if pd.notna(row.get(p)) else "—" for p in ("test_accuracy", *columns)]
            rows.append([row["title"], *numbers, row["scale"], "; ".join(row["deviations"])])
        parts += [f"\n## {method} → {target}{epochs}, {first.engine}\n", *markdown_lines(rows)]
        parts += ["\nCorrelation with the test accuracy, [95 % bootstrap interval over candidates]:\n"]
        parts += [f"- {label(p)}: {describe(correlate(table, p))}" for p in columns]
    return "\n".join(parts) + "\n"


def write(results: Path, seed: int) -> str:
    """Write source_selection.md into a results folder; returns its text."""
    text, path = to_markdown(read_runs(results), seed), results / "source_selection.md"
    if not path.exists() or path.read_text("utf-8") != text:
        write_atomically(path, text.encode())
    return text


def main() -> None:
    """Write source_selection.md into the results folder and print it."""
    results, _, seed = results_arguments(__doc__)
    print(write(results, seed))


if __name__ == "__main__":
    run_main(main)
