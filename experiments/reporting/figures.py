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
from experiments.reporting.rows import paper_rows, rank, select_run, source_titles
from leep import plots
from leep.files import write_atomically
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


@dataclass(frozen=True)
class Picture:
    """A figure as drawn, or None where no panel has data."""

    figure: plt.Figure | None
    details: list[str]  # of each panel: its tasks, and what differs from the paper
    missing: list[str]  # the panels that are not computed, and the command for each


def _convergence(target: str, n_levels: int) -> Figure:
    plot = partial(plots.convergence, n_levels=n_levels)
    return Figure(["small_balanced"], plot, "Accuracy difference", n_levels, target=target, is_convergence=True)


AVERAGE = "Average test {metric}"
FIGURES = {
    "figure1": Figure(["large_balanced"], plots.scatter, "Test {metric}"),
    "figure2": Figure(
        ["small_balanced", "small_imbalanced"],
        plots.level_means,
        AVERAGE,
        source="imagenet_resnet18",
        target="cifar100",
    ),
    "figure3": Figure(["meta_transfer"], plots.level_means, AVERAGE),
    "figure4": _convergence("cifar100", 5),
    "figure6": Figure(["small_balanced"], plots.level_means, AVERAGE),
    "figure7": Figure(["small_imbalanced"], plots.level_means, AVERAGE),
    "figure8": _convergence("fashion_mnist", 2),
}
SELECTION = {"figure5": ["retrain_head"], "figure9": ["retrain_head", "fine_tune"]}  # a row of panels a method
NAMES = sorted([*FIGURES, *SELECTION])
CAPTIONS = {  # the paper's, shortened
    "figure1": "LEEP scores vs. test accuracies of the transferred models of 200 random tasks constructed from "
    "CIFAR100 data, with best-fit lines (Section 5.1).",
    "figure2": "Performance of transferred models on small target data sets in five transferability levels predicted "
    "from LEEP scores: (a) balanced, (b) imbalanced. The higher the level, the easier the transfer (Sections 5.2, "
    "5.3).",
    "figure3": "Average test accuracy of CNAPs on tasks in five transferability levels predicted from LEEP scores "
    "(Section 5.4).",
    "figure4": "Convergence of accuracy of fine-tuned models to the accuracy of reference models trained from scratch "
    "using only the target data set, CIFAR100. Each curve is the average over tasks within the same transferability "
    "level. At the zero line the fine-tuned models match the reference models (Section 5.5).",
    "figure5": "Test accuracy vs. transferability predicted from LEEP, NCE, H score and ImageNet top-1 accuracy for "
    "candidate source models. The transferred models are obtained by re-training the head classifier (Section 5.7).",
    "figure6": "Average test accuracy of transferred models on small, balanced target data sets in five "
    "transferability levels obtained from LEEP scores (Section 5.2, Appendix B).",
    "figure7": "Average test F1 score of transferred models on small, imbalanced target data sets in five "
    "transferability levels obtained from LEEP scores (Section 5.3, Appendix B).",
    "figure8": "Convergence of accuracy of fine-tuned models to the accuracy of reference models trained from scratch "
    "using only the target data set, FashionMNIST, in two transferability levels (Section 5.5, Appendix B).",
    "figure9": "Test accuracy vs. transferability according to LEEP, NCE, H score and ImageNet top-1 accuracy for "
    "candidate source models: re-trained heads and fine-tuned models (Section 5.7, Appendix B).",
}
WIDTH = 6.75  # inches: both columns of the paper, so that the fonts are as large there as in the style file
METADATA = {"pdf": {"CreationDate": None}, "png": {}}  # of the files of a figure, by their suffix
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
    same = runs[(_pairs(runs) == os.path.dirname(first.run)) & (runs.scale == first.scale)]
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


def _pairs(runs: pd.DataFrame) -> pd.Series:
    """The folder of each line's source and target, which holds those of its methods."""
    return runs.run.map({run: os.path.dirname(run) for run in runs.run.unique()})


def _with_reference(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs beside reference models of the same tasks and scale, `finished` where those are too."""
    if runs.empty:
        return runs
    place = _pairs(runs) + " " + runs.scale
    reference = runs.method == "from_scratch"
    finished = runs.finished & place.isin(place[reference & runs.finished])
    return runs.assign(finished=finished)[place.isin(place[reference])]


def draw(name: str, results: Path, runs: pd.DataFrame, seed: int = 0) -> Picture:
    """A figure of the paper. Panels without data are left out and listed."""
    if name in SELECTION:
        return _draw_selection(SELECTION[name], runs, seed)
    figure, panels, missing = FIGURES[name], [], []
    titles = source_titles(runs)
    of_figure = figure_panels(figure)
    for letter, rows in zip("abcd", of_figure):
        data, used = panel_data(figure, rows, results, runs, seed)
        first = rows.iloc[0]
        number = f"({letter}) " if len(of_figure) > 1 else ""
        properties = f"{first.properties.capitalize()}\n" if len(figure.experiments) > 1 else ""
        if not data.empty:  # another source may stand in for the paper's
            source = f"{titles[used.source.iloc[0]]} ({used.trained_on.iloc[0]})"
            panels.append((f"{number}{properties}{source} → {first.target_data}", data, used))
            continue
        experiment = "convergence" if figure.is_convergence else first.experiment
        scale = "" if used.empty else used.scale.iloc[0]
        run = _what_to_run(experiment, seed, scale, source=first.source, target=first.target)
        missing.append(_one_line(f"{number}{properties}{first.source_data} → {first.target_data}: {run}"))
    if not panels:
        return Picture(None, [], missing)
    n_columns, n_rows = min(len(panels), 2), -(-len(panels) // 2)
    size = (WIDTH / 2 * n_columns, 2.75 * n_rows)
    fig, axes = plt.subplots(n_rows, n_columns, figsize=size, squeeze=False)
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    for ax, (title, data, used) in zip(axes.flat, panels):
        ax.set_title(title)
        figure.plot(ax, data, y_label=figure.y_label.format(metric=METRICS[used.metric.iloc[0]]))
        plots.note(ax, "; ".join(_notes(used, short=True)))
    return Picture(fig, [_one_line(f"{title}: {'. '.join(_notes(used))}") for title, _, used in panels], missing)


def _one_line(text: str) -> str:
    return text.replace("\n", ": ")


def _what_to_run(experiment: str, seed: int, scale: str = "", **names: str) -> str:
    parts = ["python run.py", f"experiment={experiment}", *(f"'{key}=[{name}]'" for key, name in names.items())]
    parts += [f"scale={scale}"] if scale else []
    return " ".join(parts + ([f"seed={seed}"] if seed else []))


def _draw_selection(methods: list[str], runs: pd.DataFrame, seed: int) -> Picture:
    """Section 5.7: for each method and target a line of panels for each group of candidates, a panel a predictor.

    A group is trained on the same data. Models of ImageNet and of CIFAR-10 are far apart, so that one axis for both
    would show two spots.
    """
    targets = [] if runs.empty else runs[runs.experiment == selection.EXPERIMENT].target.unique()
    wanted = [(m, t) for m in methods for t in ["cifar100", *sorted({*targets} - {"cifar100"})]]
    parts, details, missing = [], [], []
    for letter, (method, target) in zip("abcdefgh", wanted):
        table = selection.candidates(runs, target, method, seed)
        title = f"({letter}) {plots.method_style(method)['label']} → {paper_name(target)}"
        if len(table) < 2:
            missing.append(f"{title}: {_what_to_run(selection.EXPERIMENT, seed, target=target, method=method)}")
            continue
        groups = [  # a title need not name the data that the axis names
            group.assign(title=group.title.str.removesuffix(f", {trained_on}"))
            for trained_on, group in table.groupby("trained_on", sort=False)
        ]
        parts.append((title, table, groups))
        deviations = dict.fromkeys(d for of_candidate in table.deviations for d in of_candidate)
        details.append("; ".join([f"{title}: {len(table)} candidates, scale={table.scale.iloc[0]}", *deviations]))
    if not parts:
        return Picture(None, details, missing)
    predictors = selection.predictors(runs)
    heights = [0.5 + 1.75 * len(groups) for _, _, groups in parts]
    fig = plt.figure(figsize=(WIDTH, sum(heights)))
    places = fig.subfigures(len(parts), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, (title, table, groups) in zip(places, parts):
        lines = part.subplots(len(groups), len(predictors), sharey="row", squeeze=False)
        for line, group in zip(lines, groups):
            y_label = "Test accuracy" + (f"\n({group.trained_on.iloc[0]})" if len(groups) > 1 else "")
            for ax, predictor in zip(line, predictors):
                plots.candidates(ax, group, predictor, label(predictor), y_label if ax is line[0] else "")
                if (r := selection.correlate(group, predictor).r) is not None:
                    ax.set_title(f"r = {signed(r)}")
            plots.candidate_names(line[-1], group)
        found = {p: selection.correlate(table, p).r for p in predictors} if len(groups) > 1 else {}
        over_all = ", ".join(f"{label(p)} {signed(r)}" for p, r in found.items() if r is not None)
        part.suptitle(f"{title}: {len(table)} candidates" + (f"\nr over all: {over_all}" if over_all else ""))
    return Picture(fig, details, missing)


def paper_name(target: str) -> str:
    """A target data set as the paper writes it."""
    named = paper_rows().query("target == @target").target_data
    return target if named.empty else named.iloc[0]


def _notes(used: pd.DataFrame, short: bool = False) -> list[str]:
    """How many tasks, at what scale, and what differs from the paper; by method where they differ.

    `short` leaves out what the title of a panel says, and scale=paper.
    """
    counts, deviations = {}, {}
    for method, run in used.groupby("method", sort=False):
        name, scale = plots.method_style(method)["label"], run.scale.iloc[0]
        counts[name] = (f"{run.task.nunique()} tasks" + ("" if short and scale == "paper" else f", scale={scale}"),)
        deviations[name] = run.deviations.iloc[0]
        if short:
            source = run.source.iloc[0]
            kept = (d.removesuffix(f" of {source}") for d in deviations[name] if not d.startswith(f"{source} for "))
            deviations[name] = tuple(kept)
    return [note for note in _by_method(counts) + _by_method(deviations) if note]


def _by_method(parts: dict[str, tuple[str, ...]]) -> list[str]:
    """What all methods have in common, then what each has of its own, under its name."""
    common = [p for p in next(iter(parts.values())) if all(p in of_method for of_method in parts.values())]
    own = {name: "; ".join(p for p in of_method if p not in common) for name, of_method in parts.items()}
    return ["; ".join(common)] + [f"{name}: {text}" for name, text in own.items() if text]


def to_markdown(pictures: dict[str, Picture]) -> str:
    """What each figure shows, what differs from the paper there, and what is not computed."""
    parts = ["# Figures\n", "Of every panel: the tasks behind it, and what differs from the paper."]
    for name, picture in pictures.items():
        parts.append(f"\n## {name.replace('figure', 'Figure ')}\n\n{CAPTIONS[name]}\n")
        parts += [f"- {line}" for line in picture.details]
        parts += [f"- not computed: {title}: `{run}`" for title, run in (m.rsplit(": ", 1) for m in picture.missing)]
    return "\n".join(parts) + "\n"


def save(fig: plt.Figure, folder: Path, name: str) -> None:
    """Write a figure as PDF and PNG, without the date, and close it."""
    for suffix, metadata in METADATA.items():
        fig.savefig(folder / f"{name}.{suffix}", metadata=metadata)
    plt.close(fig)


def main() -> None:
    """Draw every figure as PDF and PNG into the results folder, and figures.md, which tells of each panel."""
    results, runs, seed = results_arguments(__doc__)
    plt.style.use(STYLE)
    folder = results / "figures"
    folder.mkdir(exist_ok=True)
    pictures = {name: draw(name, results, runs, seed) for name in NAMES}
    for name, picture in pictures.items():
        if picture.figure is None:
            for suffix in METADATA:
                (folder / f"{name}.{suffix}").unlink(missing_ok=True)  # of other results, before
        else:
            save(picture.figure, folder, name)
            print(f"{name}: {folder / name}.pdf, .png")
        for line in picture.missing:
            print(f"{name}: not computed: {line}")
    write_atomically(folder / "figures.md", to_markdown(pictures).encode())


if __name__ == "__main__":
    run_main(main)
