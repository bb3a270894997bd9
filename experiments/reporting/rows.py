"""The 21 rows of the paper's Table 1, and the run that stands for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

SCALES = ("paper", "quick", "smoke")  # in order of preference
PAPER_WEIGHTS = ("gluon", "GluonCV (re-saved)")  # origins of the weights that the paper's authors used
PAPER_TASKS = 200  # of every row


def paper_rows() -> pd.DataFrame:
    """The rows in the paper's words, its correlations in the columns `leep`, `nce`, `h_score`.

    `source` is the configuration's name of the paper's source model; `sources`, a tuple, begins with it and goes on
    with those that stand in for it, in order of preference.
    """
    rows = pd.read_csv(Path(__file__).with_name("paper_table1.csv"), encoding="utf-8")
    sources = [tuple(names.split()) for names in rows.sources]
    return rows.assign(sources=sources, source=[names[0] for names in sources])


def rank(run: pd.DataFrame, sources: Sequence[str] = ()) -> tuple:
    """What a run is sorted by: the smallest is the one to show.

    A finished run comes first; then the source that is preferred, the larger scale, the paper's weights, random streams
    of its own, fewer deviations from the paper, and more tasks.
    """
    first = run.iloc[0]
    return (
        not first.finished,
        sources.index(first.source) if first.source in sources else len(sources),
        SCALES.index(first.scale) if first.scale in SCALES else len(SCALES),
        first.weights not in PAPER_WEIGHTS,
        not first.stream,
        len(first.deviations),
        -run.task.nunique(),
        first.run,
    )


def select_run(runs: pd.DataFrame, row, seed: int = 0) -> pd.DataFrame:
    """The run of this seed that stands for a row, with a column `accuracy`: what scores are correlated with.

    If the paper's source model was not run, a run of another model that was trained on the same data is used, and its
    deviations name it. For CNAPs, which are meta-trained besides, any model is used.
    """
    if runs.empty:
        return runs
    wanted = {key: row[key] for key in ("method", "target", "experiment")} | {"seed": seed}
    if row["method"] != "cnaps":
        wanted["trained_on"] = row["source_data"]
    matching = runs[(runs[list(wanted)] == list(wanted.values())).all(axis=1)]
    if matching.empty:
        return matching
    run = min((group for _, group in matching.groupby("run")), key=lambda group: rank(group, row["sources"]))
    run = run.assign(accuracy=run[run.metric.iloc[0]])
    if (source := run.source.iloc[0]) == row["source"]:
        return run
    other = f"{source} for {row['source_model']} of {row['source_data']}"
    return run.assign(deviations=[(other, *deviations) for deviations in run.deviations])


def source_titles(runs: pd.DataFrame) -> dict[str, str]:
    """How readers call each source: the first title that a run recorded, or its name in the configuration."""
    titles = {} if runs.empty else runs.groupby("source").source_title.first()
    return {name: name if pd.isna(title) else title for name, title in dict(titles).items()}


def command(row, seed: int = 0, **values) -> str:
    """The command that computes a row: its `experiment`, `source`, `target`, `method`, and further `values`."""
    lists = [f"'{key}=[{row[key]}]'" for key in ("source", "target", "method")]
    values |= {"seed": seed} if seed else {}
    return " ".join([f"python run.py experiment={row['experiment']}", *lists, *(f"{k}={v}" for k, v in values.items())])


def needs(row) -> str:
    """What must be there before a row can be computed, whatever this machine has of it."""
    what = f"{row['target_data']}, and weights of {row['source_model']} trained on {row['source_data']} (make data)"
    return what + ("; CNAPs meta-trained for that model (scripts/train_cnaps.py)" if row["method"] == "cnaps" else "")
