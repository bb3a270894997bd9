"""One HTML page with Table 1, figures, claims and protocol: python -m experiments.reporting.report [RESULTS]."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup
from matplotlib import pyplot as plt

from experiments.reporting import extended
from experiments.reporting import render as text
from experiments.reporting.claims import Evidence, judge, read_claims
from experiments.reporting.cli import results_arguments, run_main
from experiments.reporting.figures import CAPTIONS, NAMES, STYLE, draw
from experiments.reporting.predictors import label
from experiments.reporting.rows import PAPER_TASKS, command
from experiments.reporting.table1 import build_table
from leep.files import write_atomically
from leep.results import read_setting, read_times

HERE = Path(__file__).parent


def read_choices() -> list[dict]:
    """What the paper leaves open, what is done `here`, and where it is `set_by`."""
    with open(HERE / "choices.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def runs_behind(table: pd.DataFrame, results: Path, seed: int) -> list[dict]:
    """Of every computed row its command, checksums, and what the run recorded of itself."""
    rows = []
    for line in table[table.run.notna()].drop_duplicates("row").itertuples():
        folder = results / line.run
        tasks, training = read_setting(folder.parent), read_setting(folder)
        source, target = tasks["setting"]["source"], tasks["setting"]["target"]
        rows.append(
            {
                "row": line.row,
                "command": run_command(tasks["setting"], training, line.method, seed),
                "checksums": {"weights": source.get("weights_sha256"), target["name"]: target.get("sha256")},
                "recorded": training["provenance"],
                "times": read_times(folder),
            }
        )
    return rows


def run_command(tasks: dict, training: dict, method: str, seed: int) -> str:
    """The command that computes a run again."""
    names = {"experiment": tasks["experiment"], "method": method}
    names |= {"source": tasks["source"]["name"], "target": tasks["target"]["name"]}
    setting, notes = training["setting"], training["notes"]
    values = {"scale": setting["scale"]}
    if setting["scale"] == "paper":
        if notes["n_tasks"] != PAPER_TASKS:
            values["n_tasks"] = notes["n_tasks"]
        if any(deviation.endswith(" epochs") for deviation in notes.get("deviations", [])):
            values[f"scale.max_epochs.{method}"] = setting["epochs"]
        if setting.get("max_examples"):
            values[f"scale.max_examples.{method}"] = setting["max_examples"]
    if tasks["engine"]["name"] != "gluon":
        values |= {"engine": tasks["engine"]["name"], "engine.precision": tasks["engine"]["precision"]}
    if tasks["engine"].get("device", "cpu") != "cpu":
        values["engine.device"] = tasks["engine"]["device"]
    return command(names, seed, **values)


def settings(results: Path) -> list[dict]:
    """All that determines every run: the settings and the provenance of its two folders."""
    folders = sorted(path.parent for path in results.glob("*/*/*/*/*/transfers.csv"))
    return [
        {"run": f.relative_to(results), "tasks": read_setting(f.parent), "transfer": read_setting(f)} for f in folders
    ]


def sources(runs: list[dict]) -> list[dict]:
    """Every source model that ran, its weights, and what was done to the images, from the `settings` of the runs."""
    found = {}
    for run in runs:
        setting = run["tasks"]["setting"]
        source, engine = setting["source"], setting["engine"]
        how = {"engine": f"{engine['name']} {engine['precision']}", **source["preprocessing"]}
        line = {key: source.get(key) for key in ("name", "model", "weights")} | how
        found.setdefault(tuple(map(str, line.values())), line)
    return sorted(found.values(), key=lambda line: (line["name"], line["weights"], line["engine"]))


def svg(fig: plt.Figure, name: str, title: str) -> Markup:
    """A figure as an element of a page, without addresses of the network."""
    buffer = io.StringIO()
    with plt.rc_context({"svg.hashsalt": name}):  # ids are those of one figure on the page
        fig.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(fig)
    content = buffer.getvalue()
    content = re.sub(r"<metadata>.*?</metadata>", "", content[content.index("<svg") :], flags=re.DOTALL)
    content = re.sub(r' xmlns(:\w+)?="[^"]*"', "", content)
    return Markup(content.replace("<svg", f'<svg role="img" aria-label="{title}"', 1))


def render(results: Path, runs: pd.DataFrame, seed: int = 0) -> str:
    """The page as text."""
    table, ran = build_table(runs, seed), settings(results)
    evidence = Evidence(results, runs, seed, table)
    measured = extended.build(results, runs, seed)
    with plt.style.context(STYLE):
        picture = svg(extended.draw(measured), "measures", extended.FIGURE_CAPTION)
        figures = {name: draw(name, results, runs, seed) for name in NAMES}
        drawn = {name: svg(f.figure, name, CAPTIONS[name]) for name, f in figures.items() if f.figure}
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string((HERE / "report.html").read_text("utf-8")).render(
        seed=seed,
        rows=text.table_rows(table),
        measures=[label(measure) for measure in text.measures_of(table)],
        notes=text.notes(table),
        summary=text.summary(table),
        needs=text.needed(table),
        caption=text.CAPTION,
        tables=[
            ("How much of it the number of classes does", text.CONTROLS, text.controls(table)),
            ("Intervals over sets of classes", text.CLASS_SETS, text.class_sets(table)),
            ("Rows of few tasks", text.FEW_TASKS, text.few_tasks(table)),
        ],
        measured=extended.sections(measured),
        not_computed=extended.not_computed(measured),
        picture=picture,
        picture_caption=extended.FIGURE_CAPTION,
        figures=figures,
        drawn=drawn,
        captions=CAPTIONS,
        claims=[(claim, judge(claim, evidence)) for claim in read_claims()],
        choices=read_choices(),
        behind=runs_behind(table, results, seed),
        settings=ran,
        sources=sources(ran),
    )


def main() -> None:
    """Write report.html into the results folder."""
    results, runs, seed = results_arguments(__doc__)
    write_atomically(results / "report.html", render(results, runs, seed).encode())
    print(f"written: {results / 'report.html'}")


if __name__ == "__main__":
    run_main(main)
