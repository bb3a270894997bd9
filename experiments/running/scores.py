"""Scores of target tasks by every measure, from the rows of the one pass."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.running.pair import SourceTarget
from leep.measures import is_batched, measure_arguments, score_class_tasks, score_task
from leep.progress import progress
from leep.results import Table
from leep.tasks import Task

TASKS_AT_ONCE = 100  # of the batched measures: a task's score must not depend on how many others are asked for


def missing_scores(pair: SourceTarget, done: set[tuple]) -> list[tuple[int, str]]:
    """Tasks and measures that are asked for and not done."""
    count = max(pair.config.n_tasks[method.name] for method in pair.methods)
    return [(i, m) for i in range(count) for m in pair.config.measures if (str(i), m) not in done]


def score_tasks(pair: SourceTarget, table: Table) -> None:
    """Append every score that `scores.csv` does not hold yet."""
    wanted = missing_scores(pair, table.done)
    if wanted:
        for row in progress(scores(pair, wanted), total=len(wanted), desc="scores", unit=" scores", leave=False):
            table.append(row)


def scores(pair: SourceTarget, wanted: list[tuple[int, str]]) -> Iterator[dict]:
    """The rows of `scores.csv` of tasks and measures; `ValueError` where a measure is undefined for a task."""
    outputs = pair.outputs()
    arrays = {
        "source_probs": outputs.train_probs,
        "source_labels": pair.source_labels,
        "features": outputs.train_features,
        "target_labels": pair.data.train_labels,
    }
    batched, index, task = {}, -1, None
    for i, measure in wanted:
        if i != index:
            index, task = i, pair.task(i)
        if task.whole_classes and is_batched(measure):
            block, position = divmod(i, TASKS_AT_ONCE)
            if (block, measure) not in batched:
                classes = [pair.task(k).classes for k in range(block * TASKS_AT_ONCE, (block + 1) * TASKS_AT_ONCE)]
                batched[block, measure] = score_class_tasks(measure, arrays, classes)
            score = batched[block, measure][position]
        else:
            score = score_task(measure, _rows_of(task, arrays, measure))
        yield {**describe(i, task), "measure": measure, "score": float(score)}


def _rows_of(task: Task, arrays: dict, measure: str) -> dict:
    """What a measure takes of a task."""
    rows = {name: arrays[name][task.train_rows] for name in measure_arguments(measure) if name != "target_labels"}
    return rows | {"target_labels": task.train_labels}


def describe(index: int, task: Task) -> dict:
    """The first columns of a row of `scores.csv` and of `transfers.csv`."""
    return {"task": index, "n_classes": len(task.classes), "n_examples": len(task.train_rows)}
