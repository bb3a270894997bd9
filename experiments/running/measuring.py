"""Scores every measure on the tasks of runs whose pass is cached: python -m experiments.running.measuring RESULTS.

Nothing is passed or trained. Missing scores are appended to the runs' scores.csv; `not_scored.csv` beside it says of
every measure that is left out why. The extended table is written after that.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir

from experiments.config.resolve import resolve
from experiments.config.values import Engine, Source
from experiments.reporting import extended
from experiments.running.pair import SourceTarget, describe
from experiments.running.runner import SCORES
from experiments.running.scores import scores, undefined_text
from experiments.terminal import print_in_any_locale
from leep.data import load_data
from leep.data.dataset import only_test
from leep.errors import Invalid, LeepError
from leep.execution.processes import Failed, run_in_processes
from leep.measures import MEASURES, is_batched
from leep.plugins import is_outside
from leep.results import Table, read_done, read_runs, read_setting, record_not_scored
from leep.sources.forward import images_to_pass
from leep.sources.weights import Weights, find_weights
from leep.tasks import EXPERIMENTS, SAMPLING, Task

CONF = Path(__file__).resolve().parents[2] / "conf"
LIMIT = 120.0  # seconds that a measure may take for the tasks of a run


def find_folders(results: Path, seed: int) -> list[Path]:
    """The folders of tasks of the experiments of Table 1, of one seed."""
    wanted = {name for name, experiment in EXPERIMENTS.items() if not experiment.whole_data_set}
    folders = {path.parent for path in results.glob("*/*/*/*/scores.csv")}
    settings = {folder: read_setting(folder)["setting"] for folder in sorted(folders)}
    return [folder for folder, s in settings.items() if s["experiment"] in wanted and s["seed"] == seed]


def overrides_of(setting: dict) -> list[str]:
    """What of the configuration a run was made with, from its `setting.json`."""
    source, target = setting["source"]["name"], setting["target"]["name"]
    own = [] if (CONF / "target" / f"{target}.yaml").is_file() else [f"target.folder.name='{target}'"]  # of a folder
    key = "folder" if own else target
    task = ", ".join(f"{key}: {value}" for key, value in setting["task"].items())
    return [
        *(f"experiment={setting['experiment']}", f"seed={setting['seed']}", "scale=paper"),
        *(f"source=[{source}]", f"target=[{key}]", "method=[retrain_head]"),  # no method is run
        f"++task_of.{key}={{{task}}}",
        *own,
    ]


@dataclass(frozen=True)
class EarlierTasks(SourceTarget):
    """The tasks of runs without `stream` in their setting: seed and number alone named a task's generator."""

    def task(self, index: int) -> Task:
        rng = np.random.default_rng(np.random.SeedSequence(self.config.seed, spawn_key=(SAMPLING, index)))
        labels = self.data.train_labels, self.data.test_labels
        return self.config.experiment.draw(*labels, rng, **self.target.task)

    def identity(self) -> dict:
        return {key: value for key, value in super().identity().items() if key != "stream"}


def find_weights_of(source: Source, sha256: str) -> Weights:
    """Those weights of a source that have a checksum; if there are none, those that the configuration finds."""
    for place in source.weights:
        with contextlib.suppress(LeepError):
            found = find_weights(source.name, source.model, place)
            if found.sha256 == sha256:
                return found
    return find_weights(source.name, source.model, source.weights)


def tasks_of(folder: Path) -> list[int]:
    """The numbers of the tasks of a run."""
    return sorted({int(task) for task, _ in read_done(folder / "scores.csv", ["task", "measure"])})


def open_pair(folder: Path, overrides: Sequence[str]) -> SourceTarget:
    """The source and target of a run as the configuration, with `overrides`, has them today.

    Raises
    ------
    LeepError
        If weights or data are missing, or are not those of the run, or their pass is not cached.
    """
    setting = read_setting(folder)["setting"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = resolve(compose("config", [*overrides_of(setting), *overrides]))
    config = replace(
        config,
        engine=Engine(**{"device": "cpu", **setting["engine"]}, threads=1),  # need not be installed
        n_tasks=dict.fromkeys(config.n_tasks, max(tasks_of(folder), default=0) + 1),
    )
    (source,), (target,) = config.sources, config.targets
    weights = find_weights_of(source, setting["source"]["weights_sha256"])
    given = {"path": target.path, "size": target.size, "on_damaged": target.on_damaged}
    data = load_data(target.reader, root=config.data_root, **given)
    data = only_test(data) if config.experiment.from_test_split else data
    source = describe(source, weights, config.changed[source.name])
    pair_class = SourceTarget if "stream" in setting else EarlierTasks
    pair = pair_class(config, source, weights, target, data)
    identity = json.loads(json.dumps(pair.identity()))  # its tuples as lists
    if differing := [key for key, value in identity.items() if value != setting.get(key)]:
        raise Invalid(f"{', '.join(differing)} of the configuration differ from those of the run")
    if images_to_pass(config.cache, pair.outputs_key, pair.passed):
        raise Invalid(f"its forward pass is not in {config.cache}")
    return pair


def score_folder(folder: Path, measures: Sequence[str], overrides: Sequence[str], limit: float = LIMIT) -> dict:
    """Append the missing scores of a run's tasks.

    Parameters
    ----------
    folder : Path
        That of the tasks: its scores.csv says which they are.
    measures : sequence of str
    overrides : sequence of str
        Of the configuration, for example `data.root=…`.
    limit : float
        Seconds. A measure that would take longer for the tasks of the run, by the time that one of middle size takes,
        is left out.

    Returns
    -------
    dict of str to str
        Why a measure, by its name, has no score for some tasks; written to not_scored.csv too.
    """
    done = read_done(folder / "scores.csv", ["task", "measure"])
    tasks = sorted({int(task) for task, _ in done})
    reasons: dict[str, str] = {}
    missing = {m: [i for i in tasks if (str(i), m) not in done] for m in measures}
    if not any(missing.values()):
        return reasons
    pair = open_pair(folder, [*overrides, f"measures=[{','.join(measures)}]"])
    with Table(folder / "scores.csv", SCORES, ["task", "measure"]) as table:
        for measure, indices in missing.items():
            slow = _too_slow(pair, measure, indices, limit) if indices else ""
            undefined: dict[str, list[str]] = {}
            for row in scores(pair, [(i, measure) for i in indices if not slow], undefined):
                table.append(row)
            if slow or undefined:
                reasons[measure] = slow or undefined_text(undefined[measure], len(tasks))
    record_not_scored(folder, measures, reasons)
    return reasons


def _too_slow(pair: SourceTarget, measure: str, indices: list[int], limit: float) -> str:
    """Why a measure is not computed; empty if it is."""
    if pair.task(indices[0]).whole_classes and is_batched(measure):
        return ""
    needed = _seconds_of_a_middle_task(pair, measure, indices) * len(indices)
    return f"too slow: {len(indices)} tasks would take about {needed / 60:.0f} minutes" if needed > limit else ""


def _seconds_of_a_middle_task(pair: SourceTarget, measure: str, indices: list[int]) -> float:
    """The processor's time of a second call, for the first one compiles.

    Not the clock's, because a busy machine must not be taken for a slow measure.
    """
    sizes = {i: len(pair.task(i).train_rows) for i in indices}
    middle = sorted(indices, key=sizes.__getitem__)[len(indices) // 2]
    for _ in range(2):
        start = time.process_time()
        list(scores(pair, [(middle, measure)], {}))
        took = time.process_time() - start
    return took


def recorded(folder: Path) -> list[str]:
    """The measures from outside the package that a run holds."""
    return sorted({m for _, m in read_done(folder / "scores.csv", ["task", "measure"]) if is_outside(m)})


def make_scorer(measures: Sequence[str], overrides: Sequence[str], limit: float) -> Callable:
    """In a worker process: a function that scores the tasks of a folder and says what it left out."""

    def score(folder: Path, report: Callable) -> str:
        asked = measures or [*MEASURES, *recorded(folder)]
        try:
            reasons = score_folder(folder, asked, overrides, limit)
        except (LeepError, ValueError) as error:
            return f"left out: {error}"
        return "; ".join(f"{m}: {reason}" for m, reason in reasons.items()) or "all measures"

    return score


def main() -> None:
    """Score the runs of a results folder and say what was left out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument(
        "overrides", nargs="*", help="further values, e.g. paths.cache=DIR data.root=DIR 'measures=[leep,logme]'"
    )
    parser.add_argument("--seed", type=int, help="of the runs (default: the smallest)")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds of a measure for a run (default: 120)")
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")
    given = parser.parse_intermixed_args()
    named = [o for o in given.overrides if o.startswith("measures=")]
    measures = [m.strip() for o in named for m in o.partition("=")[2].strip("[] ").split(",")]
    overrides = [o for o in given.overrides if o not in named]
    if not given.results.is_dir():
        parser.error(f"{given.results} is not a folder; run an experiment first: python run.py")
    runs = read_runs(given.results)
    seed = given.seed if given.seed is not None else 0 if runs.empty else int(runs.seed.min())
    folders = find_folders(given.results, seed)
    args = measures, overrides, given.limit
    with contextlib.closing(run_in_processes(make_scorer, args, folders, given.workers)) as ended:
        for folder, said in ended:
            text = f"failed: {said.reason}" if isinstance(said, Failed) else said
            print(f"{folder.relative_to(given.results)}: {text}", flush=True)
    extended.write(given.results, read_runs(given.results), seed)


if __name__ == "__main__":
    print_in_any_locale()
    try:
        main()
    except (LeepError, OSError) as error:
        sys.exit(f"measuring: {error}")
