"""The paper's figures 1, 6 and 7 from the CSVs under a results folder: python -m experiments.figures [RESULTS]."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import pandas as pd

from experiments.table1 import paper_rows, results_arguments, select_run
from leep import plots
from leep.statistics import levels, metric_of

STYLE = Path(__file__).with_name("figures.mplstyle")
FIGURES = {  # name: setting, label of the vertical axis
    "figure1": ("large_balanced", "Test accuracy"),
    "figure6": ("small_balanced", "Average test accuracy"),
    "figure7": ("small_imbalanced", "Average test F1 score"),
}


def panel_data(runs: pd.DataFrame, rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """LEEP scores and accuracies of a panel's runs, a row a task and method, with the transferability level."""
    frames = []
    for _, row in rows.iterrows():
        run = select_run(runs, row, seed)
        if len(run):
            run = run[run.measure == "leep"]
            frames.append(run.assign(accuracy=run[metric_of(row["setting"])], level=levels(run.score)))
    return pd.concat(frames) if frames else pd.DataFrame()


def draw(name: str, runs: pd.DataFrame, seed: int = 0) -> plt.Figure:
    """One figure of the paper: a panel for each source → target of its setting, captions with the number of tasks."""
    setting, y_label = FIGURES[name]
    rows = paper_rows().query("setting == @setting").sort_values(["target", "source"], ascending=[True, False])
    panels = list(rows.groupby(["target", "source"], sort=False))
    fig, axes = plt.subplots(1, len(panels), figsize=(3.2 * len(panels), 2.9), squeeze=False)
    for letter, ax, ((target, source), panel) in zip("abcd", axes[0], panels):
        data = panel_data(runs, panel, seed)
        first = panel.iloc[0]
        title = f"({letter}) {first.source_data} → {first.target_data}"
        if data.empty:
            plots.message(
                ax, f"not computed: python run.py\nexperiment={setting}\n'source=[{source}]'\n'target=[{target}]'"
            )
        else:
            _panel(setting)(ax, data, y_label=y_label)
            notes = [f"{data.task.nunique()} tasks, scale={data.scale.iloc[0]}", data.stand_in.iloc[0]]
            title += "".join(f"\n{n}" for n in notes if n)
        ax.set_title(title)
    return fig


def _panel(setting: str) -> Callable:
    return plots.scatter if setting == "large_balanced" else plots.level_bars


def main() -> None:
    """Draw every figure as PDF and PNG into the results folder."""
    results, runs, seed = results_arguments(__doc__)
    plt.style.use(STYLE)
    folder = results / "figures"
    folder.mkdir(exist_ok=True)
    for name in FIGURES:
        fig = draw(name, runs, seed)
        for suffix in ("pdf", "png"):
            fig.savefig(folder / f"{name}.{suffix}")
        plt.close(fig)
        print(f"{name}: {folder / name}.pdf, .png")


if __name__ == "__main__":
    main()
