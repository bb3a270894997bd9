"""The paper's figures from the CSVs under a results folder: python -m experiments.reporting.figures [RESULTS]."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import pandas as pd

from experiments.reporting import selection
from experiments.reporting.cli import results_arguments, run_main
from experiments.reporting.predictors import label
from experiments.reporting.render import signed
from experiments.reporting.rows import paper_rows, rank, select_run
from leep import plots
from leep.results import read_curves
from leep.statistics import levels
from leep.transfer.method import find_methods

STYLE = Path(__file__).with_name("figures.mplstyle")


@dataclass(frozen=True)
class Figure:
    """A figure of the paper: a panel for each source → target of each experiment of Table 1."""

    experiments: list[str]
    plot: Callable
    y_label: str  # {metric} stands for what an experiment is measured by
    n_levels: int = 5
    source: str | None = None  # all of the experiment if None
    target: str | None = None
    is_convergence: bool = False  # of the fine-tuned models of the experiment, against reference models


def _convergence(target: str, n_levels: int) -> Figure:
    plot = partial(plots.convergence, n_levels=n_levels)
    return Figure(["small_balanced"], plot, "Accuracy difference", n_levels, target=target, is_convergence=True)


AVERAGE = "Average test {metric}"
FIGURES = {
    "figure1": Figure(["large_balanced"], plots.scatter, "Test {metric}"),
    "figure2": Figure(
        ["small_balanced", "small_imbalanced"],
        plots.level_bars,
        AVERAGE,
        source="imagenet_resnet18",
        target="cifar100",
    ),
    "figure3": Figure(["meta_transfer"], plots.level_bars, AVERAGE),
    "figure4": _convergence("cifar100", 5),
    "figure6": Figure(["small_balanced"], plots.level_bars, AVERAGE),
    "figure7": Figure(["small_imbalanced"], plots.level_bars, AVERAGE),
    "figure8": _convergence("fashion_mnist", 2),
}
SELECTION = {"figure5": ["retrain_head"], "figure9": ["retrain_head", "fine_tune"]}  # a row of panels a method
NAMES = sorted([*FIGURES, *SELECTION])
WIDTH = 6.75  # inches: both columns of the paper, so that the fonts are as large there as in the style file
METRICS = {"test_accuracy": "accuracy", "test_f1": "F1 score"}


def figure_panels(figure: Figure) -> list[pd.DataFrame]:
    """The rows of Table 1 behind each panel, in the paper's order: ImageNet first."""
    order = ["experiment", "target", "source"]
    rows = paper_rows().query("experiment in @figure.experiments").sort_values(order, ascending=[True, True, False])
    for column in ("source", "target"):
        if wanted := getattr(figure, column):
            rows = rows[rows[column] == wanted]
    return [panel for _, panel in rows.groupby(order, sort=False)]


def panel_data(
    figure: Figure, rows: pd.DataFrame, results: Path, runs: pd.DataFrame, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What a panel draws, and the runs that it comes from."""
    if figure.is_convergence:
        return convergence_data(results, runs, rows, seed, figure.n_levels)
    data = accuracy_data(runs, rows, seed)
    return data, data


def accuracy_data(runs: pd.DataFrame, rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """LEEP scores and accuracies of a panel's runs, a row a task and method, with the transferability level.

    All are of one source model with the same weights, because a level is a range of that model's scores. Methods from
    outside the package are shown beside the paper's.
    """
    if runs.empty:
        return runs
    others = sorted({*runs.method} - {*find_methods()})
    wanted = [row for _, row in rows.iterrows()] + [{**rows.iloc[0], "method": method} for method in others]
    by_model = []
    for _, group in runs.groupby(["source", "weights"], dropna=False):
        if found := [run for row in wanted if len(run := select_run(group, row, seed))]:
            finished, source, scale, *rest = rank(found[0], rows.sources.iloc[0])
            by_model.append(((finished, source, scale, -len(found), *rest), found))
    if not by_model:
        return pd.DataFrame()
    _, found = min(by_model, key=lambda model: model[0])
    data = pd.concat(run[run.measure == "leep"] for run in found)
    return data.assign(level=levels(data.score))  # of all methods' tasks: a level is the same range of scores for each


def convergence_data(
    results: Path, runs: pd.DataFrame, rows: pd.DataFrame, seed: int, n_levels: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Section 5.5: a row a task and epoch with `level` and `difference`, and the runs that they come from.

    `difference` is the fine-tuned model's test accuracy less the reference model's final one. A curve is measured on
    some of the test examples; it is shifted so that it ends at the fine-tuned model's accuracy on all of them.
    """
    row = rows[rows.method == "fine_tune"].iloc[0]
    tuned = select_run(_with_reference(runs), row, seed)
    if tuned.empty:
        return pd.DataFrame(), select_run(runs, row, seed)
    first = tuned.iloc[0]
    same = runs[(runs.run.map(os.path.dirname) == os.path.dirname(first.run)) & (runs.scale == first.scale)]
    reference = select_run(same, {**row, "method": "from_scratch"}, seed)
    tuned, reference = (run[run.measure == "leep"] for run in (tuned, reference))
    curves = read_curves(results / first.run)
    tasks = tuned[["task", "score", "test_accuracy"]].merge(
        reference[["task", "test_accuracy"]], on="task", suffixes=("_tuned", "_reference")
    )
    if tasks.empty or curves.empty:
        return pd.DataFrame(), tuned
    tasks = tasks.assign(level=levels(tasks.score, n_levels))
    last = curves.sort_values("epoch").groupby("task").test_accuracy.last().rename("last")
    data = curves.merge(last, on="task").merge(tasks, on="task")
    shift = data.test_accuracy_tuned - data["last"]
    used = pd.concat([tuned, reference])
    return data.assign(difference=data.test_accuracy + shift - data.test_accuracy_reference), used[
        used.task.isin(tasks.task)
    ]


def _with_reference(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs beside reference models of the same tasks and scale, `finished` where those are too."""
    if runs.empty:
        return runs
    place = runs.run.map(os.path.dirname) + " " + runs.scale
    reference = runs.method == "from_scratch"
    finished = runs.finished & place.isin(place[reference & runs.finished])
    return runs.assign(finished=finished)[place.isin(place[reference])]


def draw(name: str, results: Path, runs: pd.DataFrame, seed: int = 0) -> plt.Figure:
    """One figure of the paper; a panel without data says what to run, one with data how many tasks it shows."""
    if name in SELECTION:
        return _draw_selection(SELECTION[name], runs, seed)
    figure = FIGURES[name]
    panels = figure_panels(figure)
    n_columns, n_rows = min(len(panels), 2), -(-len(panels) // 2)
    fig, axes = plt.subplots(n_rows, n_columns, figsize=(WIDTH / 2 * n_columns, 2.75 * n_rows), squeeze=False)
    for letter, ax, rows in zip("abcd", axes.flat, panels):
        data, used = panel_data(figure, rows, results, runs, seed)
        first = rows.iloc[0]
        properties = f"{first.properties.capitalize()}: " if len(figure.experiments) > 1 else ""
        source = first.source_data if data.empty else used.trained_on.iloc[0]  # another may stand in for the paper's
        number = f"({letter}) " if len(panels) > 1 else ""
        ax.set_title(f"{number}{properties}{source} → {first.target_data}")
        if data.empty:
            experiment = "convergence" if figure.is_convergence else first.experiment
            scale = "" if used.empty else used.scale.iloc[0]
            plots.message(ax, _what_to_run(experiment, seed, scale, source=first.source, target=first.target))
            continue
        figure.plot(ax, data, y_label=figure.y_label.format(metric=METRICS[used.metric.iloc[0]]))
        plots.note(ax, ". ".join(_notes(used)))
    return fig


def _what_to_run(experiment: str, seed: int, scale: str = "", **names: str) -> str:
    lines = ["not computed: python run.py", f"experiment={experiment}"]
    lines += [f"'{key}=[{name}]'" for key, name in names.items()]
    lines += [f"scale={scale}"] if scale else []
    return "\n".join(lines + ([f"seed={seed}"] if seed else []))


def _draw_selection(methods: list[str], runs: pd.DataFrame, seed: int) -> plt.Figure:
    """Section 5.7: a row of panels a method and target, a panel a predictor, a marker a candidate."""
    targets = [] if runs.empty else runs[runs.experiment == selection.EXPERIMENT].target.unique()
    rows = [(m, t) for m in methods for t in ["cifar100", *sorted({*targets} - {"cifar100"})]]
    tables = [selection.candidates(runs, target, method, seed) for method, target in rows]
    heights = [1.1 if len(table) < 2 else 2.4 + 0.14 * -(-len(table) // 4) for table in tables]
    fig = plt.figure(figsize=(WIDTH, sum(heights)))
    parts = fig.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    predictors = selection.predictors(runs)
    for letter, part, (method, target), table in zip("abcdefgh", parts, rows, tables):
        line = part.subplots(1, len(predictors), sharey=True)
        title = f"({letter}) {plots.method_style(method)['label']} → {paper_name(target)}"
        if len(table) < 2:
            part.suptitle(title)
            for ax in line:
                ax.set_axis_off()
            plots.message(line[0], _what_to_run(selection.EXPERIMENT, seed, target=target, method=method), part)
            continue
        for ax, predictor in zip(line, predictors):
            plots.candidates(ax, table, predictor, label(predictor), "Test accuracy" if ax is line[0] else "")
            found = selection.correlate(table, predictor)
            ax.set_title(selection.describe(found) if found.r is None else f"r = {signed(found.r)}")
        deviations = "; deviations: see source_selection.md" if table.deviations.map(len).any() else ""
        part.suptitle(f"{title}: {len(table)} candidates, scale={table.scale.iloc[0]}{deviations}")
        shown = max((ax.get_legend_handles_labels() for ax in line), key=lambda found: len(found[1]))
        part.legend(*shown, loc="outside lower center", ncols=3)
    return fig


def paper_name(target: str) -> str:
    """A target data set as the paper writes it."""
    named = paper_rows().query("target == @target").target_data
    return target if named.empty else named.iloc[0]


def _notes(used: pd.DataFrame) -> list[str]:
    """How many tasks, at what scale, and what differs from the paper; by method where they differ."""
    counts, deviations = {}, {}
    for method, run in used.groupby("method", sort=False):
        name = plots.method_style(method)["label"]
        counts[name] = (f"{run.task.nunique()} tasks, scale={run.scale.iloc[0]}",)
        deviations[name] = run.deviations.iloc[0]
    return [note for note in _by_method(counts) + _by_method(deviations) if note]


def _by_method(parts: dict[str, tuple[str, ...]]) -> list[str]:
    """What all methods have in common, then what each has of its own, under its name."""
    common = [p for p in next(iter(parts.values())) if all(p in of_method for of_method in parts.values())]
    own = {name: "; ".join(p for p in of_method if p not in common) for name, of_method in parts.items()}
    return ["; ".join(common)] + [f"{name}: {text}" for name, text in own.items() if text]


def main() -> None:
    """Draw every figure as PDF and PNG into the results folder."""
    results, runs, seed = results_arguments(__doc__)
    plt.style.use(STYLE)
    folder = results / "figures"
    folder.mkdir(exist_ok=True)
    for name in NAMES:
        fig = draw(name, results, runs, seed)
        for suffix, metadata in (("pdf", {"CreationDate": None}), ("png", {})):
            fig.savefig(folder / f"{name}.{suffix}", metadata=metadata)
        plt.close(fig)
        print(f"{name}: {folder / name}.pdf, .png")


if __name__ == "__main__":
    run_main(main)
