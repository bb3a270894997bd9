"""Runs Sections 5.1 to 5.5 and 5.7: every source × target whose data and weights are there, every method."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from experiments.config.values import RunConfig
from experiments.executor import n_workers, open_executor, packages
from experiments.running.folders import rank_folders
from experiments.running.pair import SourceTarget, find_pairs
from experiments.running.scores import describe, score_tasks
from leep.data.shared import load_shared, share
from leep.errors import Invalid, LeepError
from leep.execution.processes import Failed, ItemRunner, n_cores, run_in_order, run_in_processes
from leep.machine import cpu_model, versions
from leep.progress import advance, progress
from leep.results import Table, open_folder, read_rows
from leep.statistics import FEWEST_TASKS, pearson, too_few
from leep.transfer.method import PROCESSES, THREADS, Budget, Method, Transfer
from leep.transfer.network import checkpoint_of, used_part

TASKS = ["task", "classes"]
SCORES = ["task", "n_classes", "n_examples", "measure", "score"]
TRANSFERS = ["task", "n_classes", "n_examples", "method", "test_accuracy", "test_f1", "test_f1_macro"]
CURVES = ["task", "epoch", "test_accuracy"]


def run(config: RunConfig, map_items: ItemRunner | None = None) -> None:
    """Run one experiment. A pair, or a task, that fails does not stop the others; all that failed is raised at the end.

    Parameters
    ----------
    config : RunConfig
    map_items : ItemRunner, optional
        What `open_executor` gave, where several experiments share a cluster.

    Raises
    ------
    Missing
        If the data or weights of everything are missing.
    LeepError
        If something failed.
    """
    print(config.summary)
    failures: list[str] = []
    try:
        with open_executor(config) if map_items is None else nullcontext(map_items) as mapper:
            done = []
            for found in find_pairs(config):
                pair = replace(found, map_items=mapper)
                try:
                    _run_pair(pair, failures)
                    done.append(pair)
                except Invalid as error:
                    failures.append(f"{pair.source.name} → {pair.target.name}: {error}")
            if config.experiment.whole_data_set:
                for text in rank_folders(done):
                    print(f"\n{text}")
    except LeepError as error:
        _raise_failures(failures, error)
        raise
    except OSError as error:
        places = f"{config.results} and {config.cache}"
        full = Invalid(f"{error}; is there room in {places}, may they be written? The same command goes on")
        _raise_failures(failures, full)
        raise full from error
    _raise_failures(failures)


def _raise_failures(failures: list[str], error: Exception | None = None) -> None:
    if failures:
        lines = "".join(f"\n  - {failure}" for failure in failures)
        text = f"what failed is left out; where a process died, the same command tries again:{lines}"
        raise Invalid(f"{error}\n{text}" if error else text) from error


def _run_pair(pair: SourceTarget, failures: list[str]) -> None:
    """Record the tasks and their scores, then run every method."""
    config, folder = pair.config, pair.folder()
    source = {"title": pair.source.title, "trained_on": pair.source.trained_on}
    source["imagenet_top1"] = pair.source.imagenet_top1
    notes = {"deviations": pair.deviations(), "source": source, "metric": config.experiment.metric}
    if pair.data.notes:
        notes["data"] = list(pair.data.notes)
    open_folder(folder, pair.identity(), notes, _provenance(config))
    weights, variant = pair.weights.origin, pair.data.variant
    print(f"{pair.source.name} ({weights} weights) → {pair.target.name} ({variant}): {folder}")
    _record_tasks(pair, folder)
    with Table(folder / "scores.csv", SCORES, ["task", "measure"]) as scores:
        started, before = time.monotonic(), len(scores.done)
        score_tasks(pair, folder, scores)
        if new := len(scores.done) - before:
            _record_time(folder, config, started, scores=new)
        for method in pair.methods:
            _run_method(pair, method, failures)


def _record_tasks(pair: SourceTarget, folder: Path) -> None:
    """Write the classes of every task: by the data set's numbers, in the order of the task's labels."""
    count = max(pair.config.n_tasks[method.name] for method in pair.methods)
    with Table(folder / "tasks.csv", TASKS, ["task"]) as table:
        missing = [i for i in range(count) if (str(i),) not in table.done]
        table.append(*({"task": i, "classes": " ".join(map(str, pair.task(i).classes))} for i in missing))


def _provenance(config: RunConfig) -> dict:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "cores": n_cores(),
        "packages": versions(packages(config)),
    }


def _run_method(pair: SourceTarget, method: Method, failures: list[str]) -> None:
    """Transfer to every task that `transfers.csv` does not hold yet."""
    config, count, budget = pair.config, pair.config.n_tasks[method.name], pair.budget(method)
    folder = pair.method_folder(method)
    notes = {"deviations": pair.method_deviations(method), "n_tasks": count}
    open_folder(folder, pair.method_identity(method), notes, _provenance(config))
    started = time.monotonic()
    curves_file = Table(folder / "curves.csv", CURVES, ["task", "epoch"]) if budget.eval_every else nullcontext()
    with Table(folder / "transfers.csv", TRANSFERS, ["task"]) as table, curves_file as curves:
        missing = [i for i in range(count) if (str(i),) not in table.done]
        with closing(run_tasks(pair, method, missing, folder / "checkpoints")) as ended:
            for index, result in ended:
                if isinstance(result, Failed):
                    place = f"{pair.source.name} → {pair.target.name}, {method.name}, task {index}"
                    failures.append(f"{place}: {result.reason}")
                    continue
                metrics, curve = result
                if curves:  # first: a task is done when it stands in the other table
                    points = [{"task": index, "epoch": e, "test_accuracy": a} for e, a in curve]
                    curves.append(*(p for p in points if (str(index), str(p["epoch"])) not in curves.done))
                row = {**describe(index, pair.task(index)), "method": method.name, "test_f1": None}
                table.append(row | metrics)
        done = sum((str(i),) in table.done for i in range(count))
        for written in (curves, table):
            if written:
                written.sort()
    if missing:
        _record_time(folder, config, started, tasks=len(missing))
    print(f"  {method.name}: {done} tasks{'' if missing else ' were done before'}: {folder / 'transfers.csv'}")
    if not config.experiment.whole_data_set:
        _print_correlations(pair, method)


def run_tasks(pair: SourceTarget, method: Method, tasks: list[int], checkpoints: Path) -> Iterator[tuple]:
    """Transfer to tasks: in threads, in worker processes, or in this process, as the method asks.

    A long training keeps its state in `checkpoints`, from which a second attempt, or the next run with the same
    configuration, goes on.

    Yields
    ------
    task, (metrics, curve)
        In the order in which they end; `Failed` in place of the second where there is none.
    """
    if not tasks:
        return
    budget = pair.budget(method)
    if method.place == PROCESSES:
        yield from _in_processes(pair, method, tasks, checkpoints)
        return
    transfer = method.prepare(pair, budget, checkpoints)
    workers = pair.config.threads_for_heads if method.place == THREADS else 1
    results = run_in_order(partial(_attempt, transfer), tasks, workers)
    yield from zip(tasks, progress(results, total=len(tasks), desc=f"  {method.name}", unit=" tasks"))


def _attempt(transfer: Transfer, index: int) -> tuple | Failed:
    try:
        return transfer(index, lambda images: None)
    except FloatingPointError as error:
        return Failed(str(error))


def _in_processes(pair: SourceTarget, method: Method, tasks: list[int], checkpoints: Path) -> Iterator[tuple]:
    config, budget = pair.config, pair.budget(method)
    metadata, arrays = share(pair.data, config.cache / "images")
    light = replace(pair, data=metadata, methods=(), map_items=None)
    args = light, arrays, method, budget, checkpoints.absolute()
    total = sum((budget.epochs or 1) * len(used_part(pair.task(i), budget).train_rows) for i in tasks)
    with progress(total=total, desc=f"  {method.name}", unit=" images", unit_scale=True, smoothing=0) as bar:

        def count(images: int) -> None:
            advance(bar, images)

        def retry(task: int, reason: str) -> None:
            bar.write(f"  {method.name}: task {task} failed and is tried once more: {reason}")

        bar.set_postfix_str(f"0/{len(tasks)} tasks", refresh=False)
        map_items, workers = pair.map_items or run_in_processes, n_workers(config)
        runs = map_items(_start_worker, args, tasks, workers, config.engine.threads, count, retry)
        with closing(runs):  # ends the workers
            for done, (task, result) in enumerate(runs, start=1):
                bar.set_postfix_str(f"{done}/{len(tasks)} tasks", refresh=False)
                yield task, result
                if not (isinstance(result, Failed) and result.died):
                    checkpoint_of(checkpoints, task).unlink(missing_ok=True)
    if checkpoints.exists() and not any(checkpoints.iterdir()):
        checkpoints.rmdir()


def _start_worker(pair: SourceTarget, arrays: Path, method: Method, budget: Budget, checkpoints: Path) -> Transfer:
    """Build, in a worker process, what it does with a task."""
    return method.prepare(replace(pair, data=load_shared(pair.data, arrays)), budget, checkpoints)


def _record_time(folder: Path, config: RunConfig, started: float, **done: int) -> None:
    """Add a line to times.jsonl: what this call did, how long it took, and on what."""
    seconds, workers = round(time.monotonic() - started, 1), n_workers(config)
    call = {**done, "seconds": seconds, "workers": workers, "device": config.engine.device, **_provenance(config)}
    with open(folder / "times.jsonl", "ab+") as file:
        torn = file.seek(0, 2) and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n"  # by a kill
        file.write(b"\n" * torn + json.dumps(call).encode() + b"\n")


def _print_correlations(pair: SourceTarget, method: Method) -> None:
    """One line a measure: its correlation with what the models reach, over the tasks of this run."""
    metric, count = pair.config.experiment.metric, pair.config.n_tasks[method.name]
    shared = ["task", "n_classes", "n_examples"]
    reached = read_rows(pair.method_folder(method) / "transfers.csv", ["task"], [*shared, metric])
    scores = read_rows(pair.folder() / "scores.csv", ["task", "measure"], [*shared, "score"])
    joined = reached.merge(scores, on=shared)
    for measure in pair.config.measures:
        rows = joined[(joined.measure == measure) & (joined.task < count)]
        if len(rows) < FEWEST_TASKS:
            print(f"    {measure}: {too_few(rows.score, rows[metric])}")
            continue
        correlation = pearson(rows.score.to_numpy(), rows[metric].to_numpy())
        interval = (
            f"{correlation.r:+.3f} [{correlation.low:+.3f}, {correlation.high:+.3f}]"
            if correlation.r is not None
            else ""
        )
        print(f"    {measure}: r with {metric} {interval or 'undefined: constant'} over {correlation.n} tasks")
