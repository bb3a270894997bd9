"""Scores of target tasks by every measure, from the rows of the one pass."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments.running.pair import SourceTarget
from leep.measures import is_batched, measure_arguments, score_class_tasks, score_task
from leep.progress import progress
from leep.results import Table, record_not_scored
from leep.tasks import Task

TASKS_AT_ONCE = 100  # of the batched measures: a task's score must not depend on how many others are asked for


def missing_scores(pair: SourceTarget, done: set[tuple]) -> list[tuple[int, str]]:
    """Tasks and measures that are asked for and not done."""
    count = max(pair.config.n_tasks[method.name] for method in pair.methods)
    return [(i, m) for i in range(count) for m in pair.config.measures if (str(i), m) not in done]


def score_tasks(pair: SourceTarget, folder: Path, table: Table) -> None:
    """Append every score that `scores.csv` does not hold yet, and say where a measure is undefined."""
    wanted = missing_scores(pair, table.done)
    undefined: dict[str, list[str]] = {}
    rows = scores(pair, wanted, undefined)
    for row in progress(rows, total=len(wanted), desc="scores", unit=" scores", leave=False) if wanted else ():
        table.append(row)
    count = len({i for i, _ in wanted} | {int(i) for i, _ in table.done})
    reasons = {measure: undefined_text(errors, count) for measure, errors in undefined.items()}
    for measure, reason in reasons.items():
        print(f"  {measure}: {reason}")
    record_not_scored(folder, pair.config.measures, reasons)


def undefined_text(errors: list[str], count: int) -> str:
    """Why a measure has fewer than `count` scores."""
    return f"undefined for {len(errors)} of {count} tasks: {errors[0]}"


def scores(pair: SourceTarget, wanted: list[tuple[int, str]], undefined: dict[str, list[str]]) -> Iterator[dict]:
    """The rows of `scores.csv` of tasks and measures.

    A measure that is undefined for a task has no row; what it says is added to `undefined`, by the measure's name.
    """
    outputs = pair.outputs()
    arrays = {
        "source_probs": outputs.train_probs,
        "source_labels": pair.source_labels,
        "features": outputs.train_features,
        "target_labels": pair.data.train_labels,
    }
    batched: dict[tuple[int, str], np.ndarray | None] = {}
    index, task = -1, None
    for i, measure in wanted:
        if i != index:
            index, task = i, pair.task(i)
        block, position = divmod(i, TASKS_AT_ONCE)
        if task.whole_classes and (block, measure) not in batched:
            batched[block, measure] = _score_block(pair, measure, arrays, block)
        of_block = batched.get((block, measure))
        try:
            score = of_block[position] if of_block is not None else score_task(measure, _rows_of(task, arrays, measure))
        except ValueError as error:
            undefined.setdefault(measure, []).append(str(error))
            continue
        yield {**describe(i, task), "measure": measure, "score": float(score)}


def _score_block(pair: SourceTarget, measure: str, arrays: dict, block: int) -> np.ndarray | None:
    """The scores of a block of tasks at once; None where they are to be scored one by one."""
    if not is_batched(measure):
        return None
    classes = [pair.task(k).classes for k in range(block * TASKS_AT_ONCE, (block + 1) * TASKS_AT_ONCE)]
    try:
        return score_class_tasks(measure, arrays, classes)
    except ValueError:  # undefined for a task
        return None


def _rows_of(task: Task, arrays: dict, measure: str) -> dict:
    """What a measure takes of a task."""
    rows = {name: arrays[name][task.train_rows] for name in measure_arguments(measure) if name != "target_labels"}
    return rows | {"target_labels": task.train_labels}


def describe(index: int, task: Task) -> dict:
    """The first columns of a row of `scores.csv` and of `transfers.csv`."""
    return {"task": index, "n_classes": len(task.classes), "n_examples": len(task.train_rows)}
