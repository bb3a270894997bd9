"""Section 5.7, source model selection, from the CSVs: python -m experiments.selection [RESULTS]."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from experiments.table1 import SCALES, rank, results_arguments
from experiments.table1_text import MEASURES, p_text
from leep.files import write_atomically
from leep.results import read_setting
from leep.statistics import Correlation, pearson

SETTING = "source_selection"
PREDICTORS = {**MEASURES, "imagenet_top1": "ImageNet top-1"}
NOTE = (
    "H scores of models with different feature dimensions stand side by side as in the paper, which does not correct "
    "for it: their range grows with the dimension."
)


def candidates(results: Path, runs: pd.DataFrame, target: str, method: str, seed: int = 0) -> pd.DataFrame:
    """A row a candidate: `source`, `title`, the predictors, `test_accuracy`, `scale`, `stand_in`, `run`.

    A predictor that a candidate lacks is absent. All share scale, epochs and engine: those that most have.
    """
    if runs.empty:
        return pd.DataFrame()
    match = runs.query("setting == @SETTING and target == @target and method == @method and seed == @seed")
    if match.empty:
        return pd.DataFrame()
    alike = ["scale", "epochs", "engine"]
    groups = [group for _, group in match.groupby(alike, dropna=False)]
    match = max(groups, key=lambda g: (g.source.nunique(), -SCALES.index(g.scale.iloc[0]), g.epochs.iloc[0]))
    rows = []
    for source, of_source in match.groupby("source"):
        run = min((g for _, g in of_source.groupby("run")), key=rank)
        first = run.iloc[0]
        notes = read_setting((results / first.run).parent)["notes"]["source"]
        trained_on = "" if notes["trained_on"] == "ImageNet" else f", {notes['trained_on']}"
        rows.append(
            {
                "source": source,
                "title": notes["title"] + trained_on,
                **run.set_index("measure").score,
                "imagenet_top1": notes["imagenet_top1"],
                **{k: first[k] for k in ("test_accuracy", "scale", "epochs", "engine", "stand_in", "run")},
            }
        )
    return pd.DataFrame(rows).sort_values("test_accuracy", ascending=False, ignore_index=True)


def correlate(table: pd.DataFrame) -> dict[str, Correlation | int]:
    """Each predictor's correlation with the test accuracy; how many candidates have it where those are under three."""
    found = {}
    for predictor in PREDICTORS:
        rows = table.dropna(subset=[predictor]) if predictor in table else table.iloc[:0]
        found[predictor] = len(rows)
        if len(rows) >= 3:
            found[predictor] = pearson(rows[predictor].to_numpy(float), rows.test_accuracy.to_numpy())
    return found


def correlations(table: pd.DataFrame) -> dict[str, str]:
    """`correlate`, as text."""
    return {predictor: _said(found) for predictor, found in correlate(table).items()}


def _said(found: Correlation | int) -> str:
    if isinstance(found, int):
        return f"not computed over {found} candidates"
    if found.r is None:
        return "undefined: constant"
    spread = f"[{found.low:+.2f}, {found.high:+.2f}]"
    return f"{found.r:+.3f} {spread}, {p_text(found.p_value)}, {found.n} candidates"


def to_markdown(results: Path, runs: pd.DataFrame, seed: int = 0) -> str:
    """A table of candidates for every target and method that was run, with the correlations; best candidate first."""
    selected = runs[(runs.setting == SETTING) & (runs.seed == seed)] if len(runs) else runs
    parts = ["# Source model selection (Section 5.7)\n", NOTE]
    for (target, method), _ in selected.groupby(["target", "method"]) if len(selected) else []:
        table = candidates(results, runs, target, method, seed)
        header = ["Candidate", "Test accuracy", *PREDICTORS.values(), "Scale", "Stand-in"]
        first = table.iloc[0]
        epochs = "" if pd.isna(first.epochs) else f", {int(first.epochs)} epochs"
        parts += [f"\n## {method} → {target}{epochs}, {first.engine}\n", _line(header), "|" + "---|" * len(header)]
        for row in table.to_dict("records"):
            numbers = [f"{row[p]:.3f}" if pd.notna(row.get(p)) else "—" for p in ("test_accuracy", *PREDICTORS)]
            parts.append(_line([row["title"], *numbers, row["scale"], row["stand_in"]]))
        said = correlations(table)
        parts += ["\nCorrelation with the test accuracy, [95 % bootstrap interval over candidates]:\n"]
        parts += [f"- {PREDICTORS[p]}: {text}" for p, text in said.items()]
    return "\n".join(parts) + "\n"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Write source_selection.md into the results folder and print it."""
    results, runs, seed = results_arguments(__doc__)
    text = to_markdown(results, runs, seed)
    write_atomically(results / "source_selection.md", text.encode())
    print(text)


if __name__ == "__main__":
    main()
