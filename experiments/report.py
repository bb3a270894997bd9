"""One self-contained HTML page: Table 1, figures, claims, protocol: python -m experiments.report [RESULTS]."""

from __future__ import annotations

import io
import re
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup
from matplotlib import pyplot as plt
from omegaconf import OmegaConf

from experiments.choices import choices
from experiments.claims import CLAIMS, Evidence
from experiments.figures import FIGURES, NAMES, STYLE, draw, figure_panels, panel_data
from experiments.table1 import build_table, command, results_arguments
from experiments.table1_text import (
    CAPTION,
    CONTROLS,
    MEASURES,
    WORDING,
    best_of,
    controls,
    measure_parts,
    needed,
    notes,
    p_text,
    row_notes,
    wins,
)
from experiments.terminal import run_main
from leep.files import write_atomically
from leep.plots import METHOD_STYLE
from leep.results import read_setting, read_times

CONF = Path(__file__).resolve().parent.parent / "conf"
CAPTIONS = {
    "figure1": "LEEP scores vs. test accuracies, with best-fit lines (Section 5.1).",
    "figure2": "Small target data sets by transferability level: the typical case of Sections 5.2 and 5.3.",
    "figure3": "Average test accuracy of CNAPs by transferability level (Section 5.4).",
    "figure4": "Convergence of fine-tuned models to reference models, CIFAR100 (Section 5.5).",
    "figure5": "Test accuracy vs. four predictors for candidate source models, re-trained heads (Section 5.7).",
    "figure6": "Average test accuracy by transferability level, small and balanced (Section 5.2, Appendix B).",
    "figure7": "Average test F1 score by transferability level, small and imbalanced (Section 5.3, Appendix B).",
    "figure8": "Convergence of fine-tuned models to reference models, FashionMNIST (Section 5.5, Appendix B).",
    "figure9": "Test accuracy vs. four predictors for candidate source models, both methods (Section 5.7, Appendix B).",
}


def table_rows(table: pd.DataFrame) -> list[dict]:
    """The 21 rows: the paper's wording, a cell a measure with what it is sorted by, what stands behind it."""
    letters, rows = notes(table), []
    for number, lines in table.groupby("row"):
        first, best = lines.iloc[0], best_of(lines)
        cells = []
        for line in lines[lines.measure.isin(list(MEASURES))].itertuples():
            r, spread, paper, difference = measure_parts(line, best)
            names = {"r": r.strip("⟦⟧"), "interval": spread, "paper": paper, "difference": difference}
            p_value = "" if pd.isna(line.p_value) else p_text(line.p_value)
            cells.append(names | {"best": r.startswith("⟦"), "p": p_value, "sort": "" if pd.isna(line.r) else line.r})
        what = {k: "" if pd.isna(first[k]) else first[k] for k in ("n_tasks", "epochs", "engine", "weights", "data")}
        named = {k: first[k] for k in (*WORDING, "section", "scale")} | what
        rows.append({"row": number, "cells": cells, "notes": row_notes(first.stand_in, letters), **named})
    return rows


def behind_rows(table: pd.DataFrame, results: Path, seed: int) -> list[dict]:
    """Of every computed row its command, checksums, and what the run recorded of itself."""
    rows = []
    for line in table[(table.measure == "leep") & table.n_tasks.notna()].itertuples():
        folder = results / line.run
        tasks, training = read_setting(folder.parent), read_setting(folder)
        source, target = tasks["setting"]["source"], tasks["setting"]["target"]
        rows.append(
            {
                "row": line.row,
                "run": line.run,
                "command": run_command(tasks["setting"], training, line.method, seed),
                "checksums": {"weights": source.get("weights_sha256"), target["name"]: target.get("sha256")},
                "recorded": training["provenance"],
                "times": read_times(folder),
            }
        )
    return rows


def run_command(tasks: dict, training: dict, method: str, seed: int) -> str:
    """The command that computes a run again."""
    names = tasks["experiment"], tasks["source"]["name"], tasks["target"]["name"], method
    experiment = OmegaConf.load(CONF / "experiment" / f"{tasks['experiment']}.yaml")
    values = {"scale": training["setting"]["scale"]}
    if values["scale"] == "paper" and training["notes"]["n_tasks"] != experiment.n_tasks:
        values["n_tasks"] = training["notes"]["n_tasks"]
    if tasks["engine"]["name"] != "gluon":
        values |= {"engine": tasks["engine"]["name"], "engine.precision": tasks["engine"]["precision"]}
    if tasks["engine"].get("device", "cpu") != "cpu":
        values["engine.device"] = tasks["engine"]["device"]
    return command(*names, seed, **values)


def settings(results: Path) -> list[dict]:
    """All that determines every run: the settings and the provenance of its two folders."""
    folders = sorted(p.parent for p in results.glob("*/*/*/*/*/transfers.csv"))
    return [
        {"run": f.relative_to(results), "tasks": read_setting(f.parent), "transfer": read_setting(f)} for f in folders
    ]


def svg(fig: plt.Figure, name: str, label: str) -> Markup:
    """A figure as an element of a page, without addresses of the network."""
    buffer = io.StringIO()
    with plt.rc_context({"svg.hashsalt": name}):  # ids are those of one figure on the page
        fig.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(fig)
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))


def mark_points(fig: plt.Figure, results: Path, runs: pd.DataFrame, seed: int) -> dict[str, list[str]]:
    """Name Figure 1's groups of points in the SVG; what to say of each point, by group, in the points' order."""
    said = {}
    for number, (ax, rows) in enumerate(zip(fig.axes, figure_panels(FIGURES["figure1"]))):
        data, _ = panel_data(FIGURES["figure1"], rows, results, runs, seed)
        groups = data.groupby("method", sort=False) if len(data) else ()
        for points, (method, group) in zip(ax.collections, groups):
            points.set_gid(f"points-{number}-{method}")
            label = METHOD_STYLE[method]["label"]
            said[points.get_gid()] = [
                f"{label}, task {task.task}: LEEP {task.score:.3f}, test accuracy {task.accuracy:.3f}, "
                f"{task.n_classes} classes, {task.n_examples} examples"
                for task in group.itertuples()
            ]
    return said


def render(results: Path, runs: pd.DataFrame, seed: int = 0) -> str:
    """The page as text."""
    table = build_table(runs, seed)
    evidence = Evidence(results, runs, seed, table)
    figures, points = {}, {}
    with plt.style.context(STYLE):
        for name in NAMES:
            fig = draw(name, results, runs, seed)
            points |= mark_points(fig, results, runs, seed) if name == "figure1" else {}
            figures[name] = svg(fig, name, CAPTIONS[name])
    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        Path(__file__).with_name("report.html").read_text("utf-8")
    )
    return template.render(
        seed=seed,
        wins=wins(table),
        rows=table_rows(table),
        measures=list(MEASURES.values()),
        notes=notes(table),
        needs=needed(table),
        caption=CAPTION,
        controls=controls(table),
        controls_caption=CONTROLS,
        figures=figures,
        captions=CAPTIONS,
        points=points,
        claims=[(claim, claim.judge(evidence)) for claim in CLAIMS],
        choices=choices(),
        behind=behind_rows(table, results, seed),
        settings=settings(results),
    )


def main() -> None:
    """Write report.html into the results folder."""
    results, runs, seed = results_arguments(__doc__)
    page = render(results, runs, seed)
    write_atomically(results / "report.html", page.encode())
    print(f"written: {results / 'report.html'}")


if __name__ == "__main__":
    run_main(main)
