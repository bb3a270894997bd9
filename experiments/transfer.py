"""Runs Sections 5.1 to 5.5 and 5.7: draws target tasks, scores them, trains the transferred models, writes CSVs."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from experiments.check import UserError, check_config, check_keys
from experiments.cnaps import adapt
from experiments.executor import open_executor, packages
from experiments.networks import train_networks
from experiments.protocol import (
    method_stand_ins,
    n_tasks,
    paper_protocol,
    scale_line,
    task_stand_ins,
)
from experiments.reporting.selection import EXPERIMENT, to_markdown
from experiments.work import (
    Work,
    find_work,
    method_folder,
    method_setting,
    results_folder,
    task_setting,
    tasks_folder,
)
from leep.data import DataError
from leep.machine import cpu_model, versions
from leep.measures import score_class_tasks, score_task
from leep.parallel import Failed, WorkerError, run_in_order
from leep.progress import progress
from leep.results import ResultsError, Table, open_folder, read_rows, read_runs
from leep.sources.weights import WeightsError
from leep.statistics import metric_of, pearson
from leep.tasks import Task

TASKS = ["task", "classes"]
SCORES = ["task", "n_classes", "n_examples", "measure", "score"]
TRANSFERS = ["task", "n_classes", "n_examples", "method", "test_accuracy", "test_f1", "test_f1_macro"]
CURVES = ["task", "epoch", "test_accuracy"]
TASKS_AT_ONCE = 100  # of the batched measures: a task's score must not depend on how many others are asked for


def run(cfg: DictConfig, executor: Callable | None = None) -> None:
    """Run one experiment: every source × target whose data and weights are there, every method.

    Parameters
    ----------
    cfg : DictConfig
    executor : callable, optional
        What `open_executor` gave, where several experiments share a cluster.
    """
    check_config(cfg)
    paper = paper_protocol(cfg)
    check_keys(cfg, paper)
    print(scale_line(cfg, paper))
    failed: list[str] = []
    error = None
    try:
        with open_executor(cfg) if executor is None else nullcontext(executor) as execute:
            for work in find_work(cfg, paper):
                try:
                    _run_pair(replace(work, run=execute), failed)
                except UserError as found:
                    failed.append(f"\n  - {work.source_name} → {work.target_name}: {found}")
        if cfg.experiment == EXPERIMENT:
            results = results_folder(cfg)
            print("\n" + to_markdown(read_runs(results), cfg.seed))
    except (DataError, WeightsError, ResultsError, WorkerError) as found:
        error = found
    except OSError as found:
        places = f"{results_folder(cfg)} and {cfg.paths.cache}"
        error = UserError(f"{found}; is there room in {places}, may they be written? The same command goes on")
    if failed:
        said = "what failed is left out; where a process died, the same command tries again:" + "".join(failed)
        raise UserError(f"{error}\n{said}" if error else said) from error
    if error:
        raise UserError(str(error)) from error


def _run_pair(work: Work, failed: list[str]) -> None:
    """Scores, then every method; adds what failed to `failed`, a line a task."""
    cfg, data = work.cfg, work.data
    setting = task_setting(work)
    folder = tasks_folder(work, setting)
    stand_in = [] if data.variant == "full" else [f"{data.variant} of {cfg.target[work.target_name].title}"]
    if work.weights.origin != "gluon":
        stand_in.append(f"{work.weights.origin} weights of {work.source_name}")
    stand_in += task_stand_ins(cfg, work.paper, work.source_name, work.target_name)
    source = {k: work.source[k] for k in ("title", "trained_on", "imagenet_top1")}
    open_folder(folder, setting, {"stand_in": stand_in, "source": source}, _provenance(cfg))
    print(f"{work.source_name} ({work.weights.origin} weights) → {work.target_name} ({data.variant}): {folder}")
    _record_tasks(work, folder)
    with Table(folder / "scores.csv", SCORES, ["task", "measure"]) as scores:
        _score(work, scores)
        for method in work.methods:
            _transfer(work, method, folder, failed)


def _record_tasks(work: Work, folder: Path) -> None:
    """Write the classes of every task into tasks.csv: by the data set's numbers, in the order of the task's labels."""
    count = max(n_tasks(work.cfg, method) for method in work.methods)
    with Table(folder / "tasks.csv", TASKS, ["task"]) as table:
        missing = [i for i in range(count) if (str(i),) not in table.done]
        table.append(*({"task": i, "classes": " ".join(map(str, work.task(i).classes))} for i in missing))


def _provenance(cfg: DictConfig) -> dict:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "packages": versions(packages(cfg)),
    }


def _score(work: Work, table: Table) -> None:
    """Every measure of every task that `scores.csv` does not hold yet, from the same rows of the same pass."""
    wanted = missing_scores(work, table.done)
    if not wanted:
        return
    probs, features = work.passed.train_probs, work.passed.train_features
    arrays = {"source_probs": probs, "source_labels": probs.argmax(1), "features": features}
    arrays["target_labels"] = work.data.train_labels
    batched: dict[tuple, np.ndarray] = {}
    index, task, rows = -1, None, {}
    for i, measure in progress(wanted, desc="scores", unit=" scores", leave=False):
        if i != index:
            index, task = i, work.task(i)
            rows = {} if task.whole_classes else _rows(arrays, task)
        if task.whole_classes:
            block, position = divmod(i, TASKS_AT_ONCE)
            if (block, measure) not in batched:
                classes = [work.task(k).classes for k in range(block * TASKS_AT_ONCE, (block + 1) * TASKS_AT_ONCE)]
                batched[block, measure] = score_class_tasks(measure, arrays, classes)
            score = batched[block, measure][position]
        else:
            score = score_task(measure, rows)
        table.append(_row(i, task, measure=measure, score=float(score)))


def missing_scores(work: Work, done: set[tuple]) -> list[tuple[int, str]]:
    """Tasks and measures that are asked for and not done."""
    count = max(n_tasks(work.cfg, method) for method in work.methods or work.cfg.method)
    return [(i, m) for i in range(count) for m in work.cfg.measures if (str(i), m) not in done]


def _rows(arrays: dict, task: Task) -> dict:
    return {name: a[task.train_rows] for name, a in arrays.items()} | {"target_labels": task.train_labels}


def _row(index: int, task: Task, **values) -> dict:
    return {"task": index, "n_classes": len(task.classes), "n_examples": len(task.train_rows), **values}


def _transfer(work: Work, method: str, folder: Path, failed: list[str]) -> None:
    """Transfer to every task that `transfers.csv` does not hold yet."""
    cfg, count = work.cfg, n_tasks(work.cfg, method)
    setting = method_setting(work, method)
    inner = folder / method_folder(setting)
    stand_in = method_stand_ins(cfg, work.paper, method, work.target_name)
    if method == "cnaps":
        card = work.adaptation.card
        stand_in.append(f"meta-trained on {card['data']}, {card['size']} pixels")
    notes = {"stand_in": stand_in, "n_tasks": count}
    open_folder(inner, setting, notes, _provenance(cfg))
    started = time.monotonic()
    with Table(inner / "transfers.csv", TRANSFERS, ["task"]) as table:
        missing = [i for i in range(count) if (str(i),) not in table.done]
        if method in ("retrain_head", "nearest_mean"):
            _classify_features(work, setting, missing, table, failed)
        elif method == "cnaps":
            for index, metrics in adapt(work, work.adaptation, missing):
                table.append(_row(index, work.task(index), method=method, test_f1=None) | metrics)
        else:
            _train_networks(work, setting, missing, table, inner, failed)
        done = sum((str(i),) in table.done for i in range(count))
    if missing:
        _record_time(inner, len(missing), time.monotonic() - started, work)
    print(f"  {method}: {done} tasks{'' if missing else ' were done before'}: {inner / 'transfers.csv'}")
    if cfg.experiment != EXPERIMENT:
        _say_correlations(folder / "scores.csv", inner / "transfers.csv", cfg, count)


def _record_time(folder: Path, tasks: int, seconds: float, work: Work) -> None:
    """Add a line to times.jsonl: what this call did, how long it took, and on what."""
    done = {"tasks": tasks, "seconds": round(seconds, 1), "workers": work.workers, "device": work.cfg.engine.device}
    with open(folder / "times.jsonl", "ab+") as file:
        torn = file.seek(0, 2) and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n"  # by a kill
        file.write(b"\n" * torn + json.dumps({**done, "cpu": cpu_model()}).encode() + b"\n")


def _classify_features(work: Work, setting: dict, missing: list[int], table: Table, failed: list[str]) -> None:
    """Methods that keep the extractor: they read the one pass."""
    if not missing:
        return
    work.passed  # noqa: B018  made once, before the workers start
    workers = 1 if setting.get("implementation") == "gluon" else work.cfg.executor.workers
    results = run_in_order(partial(_classify, work, setting), missing, workers)
    bar = progress(results, total=len(missing), desc=f"  {setting['method']}", unit=" tasks")
    for row, index in zip(bar, missing):
        if isinstance(row, Failed):
            failed.append(_failure(work, setting["method"], index, row))
        else:
            table.append(row)


def _failure(work: Work, method: str, index: int, result: Failed) -> str:
    return f"\n  - {work.source_name} → {work.target_name}, {method}, task {index}: {result.reason}"


def _classify(work: Work, setting: dict, index: int) -> dict | Failed:
    """One row of `transfers.csv`; `Failed` where the training diverges."""
    from leep.transfer.metrics import evaluate
    from leep.transfer.nearest_mean import predict_nearest_mean
    from leep.transfer.retrain_head import train_head

    task, passed = work.task(index), work.passed
    features, test_features = passed.train_features[task.train_rows], passed.test_features[task.test_rows]
    examples = features, task.train_labels, len(task.classes)
    if setting["method"] == "nearest_mean":
        predicted = predict_nearest_mean(*examples, test_features)
    else:
        options = {k: v for k, v in setting.items() if k not in ("method", "scale")}
        try:
            head = train_head(*examples, work.training_rng(index), **options)
        except FloatingPointError as error:
            return Failed(str(error))
        predicted = head.predict(test_features)
    metrics = evaluate(predicted, task.test_labels, len(task.classes), task.smaller_class)
    return _row(index, task, method=setting["method"], test_f1=None) | metrics


def _train_networks(
    work: Work, setting: dict, missing: list[int], table: Table, folder: Path, failed: list[str]
) -> None:
    method = setting["method"]
    with Table(folder / "curves.csv", CURVES, ["task", "epoch"]) if setting["eval_every"] else nullcontext() as curves:
        with closing(train_networks(work, method, setting, missing, folder / "checkpoints")) as ended:
            for index, result in ended:
                if isinstance(result, Failed):
                    failed.append(_failure(work, method, index, result))
                    continue
                metrics, curve = result
                if curves:  # first: a task is done when it stands in the other table
                    points = [{"task": index, "epoch": e, "test_accuracy": a} for e, a in curve]
                    curves.append(*(p for p in points if (str(index), str(p["epoch"])) not in curves.done))
                table.append(_row(index, work.task(index), method=method, test_f1=None) | metrics)
        for written in (curves, table):
            if written:
                written.sort()


def _say_correlations(scores: Path, transfers: Path, cfg: DictConfig, count: int) -> None:
    """One line a measure: its correlation with what the models reach, over the tasks of this run."""
    metric = metric_of(cfg.experiment)
    shared = ["task", "n_classes", "n_examples"]
    reached = read_rows(transfers, ["task"], [*shared, metric])
    joined = reached.merge(read_rows(scores, ["task", "measure"], [*shared, "score"]), on=shared)
    for measure in cfg.measures:
        rows = joined[(joined.measure == measure) & (joined.task < count)]
        if len(rows) < 3:
            print(f"    {measure}: no correlation over {len(rows)} tasks")
            continue
        found = pearson(rows.score.to_numpy(), rows[metric].to_numpy())
        r = "undefined: constant" if found.r is None else f"{found.r:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
        print(f"    {measure}: r with {metric} {r} over {found.n} tasks")
