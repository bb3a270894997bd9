"""Scores of target tasks by every measure, from the rows of the one pass."""

from __future__ import annotations

from experiments.running.pair import SourceTarget
from leep.measures import score_class_tasks, score_task
from leep.progress import progress
from leep.results import Table
from leep.tasks import Task

TASKS_AT_ONCE = 100  # of the batched measures: a task's score must not depend on how many others are asked for


def missing_scores(pair: SourceTarget, done: set[tuple]) -> list[tuple[int, str]]:
    """Tasks and measures that are asked for and not done."""
    count = max(pair.config.n_tasks[method.name] for method in pair.methods)
    return [(i, m) for i in range(count) for m in pair.config.measures if (str(i), m) not in done]


def score_tasks(pair: SourceTarget, table: Table) -> list[str]:
    """Append every score that `scores.csv` does not hold yet; return a line for every measure that is undefined."""
    wanted = missing_scores(pair, table.done)
    if not wanted:
        return []
    outputs = pair.outputs()
    arrays = {
        "source_probs": outputs.train_probs,
        "source_labels": outputs.train_probs.argmax(1),
        "features": outputs.train_features,
        "target_labels": pair.data.train_labels,
    }
    batched, index, task, rows = {}, -1, None, {}
    undefined: dict[str, list[tuple[int, str]]] = {}
    for i, measure in progress(wanted, desc="scores", unit=" scores", leave=False):
        if i != index:
            index, task = i, pair.task(i)
            rows = {} if task.whole_classes else _rows_of(task, arrays)
        try:
            if task.whole_classes:
                block, position = divmod(i, TASKS_AT_ONCE)
                if (block, measure) not in batched:
                    classes = [pair.task(k).classes for k in range(block * TASKS_AT_ONCE, (block + 1) * TASKS_AT_ONCE)]
                    batched[block, measure] = score_class_tasks(measure, arrays, classes)
                score = batched[block, measure][position]
            else:
                score = score_task(measure, rows)
        except ValueError as error:
            undefined.setdefault(measure, []).append((i, str(error)))
            continue
        table.append({**describe(i, task), "measure": measure, "score": float(score)})
    return [
        f"{measure} has no score of {len(tasks)} tasks, the first is task {tasks[0][0]}: {tasks[0][1]}"
        for measure, tasks in undefined.items()
    ]


def _rows_of(task: Task, arrays: dict) -> dict:
    return {name: a[task.train_rows] for name, a in arrays.items()} | {"target_labels": task.train_labels}


def describe(index: int, task: Task) -> dict:
    """The first columns of a row of `scores.csv` and of `transfers.csv`."""
    return {"task": index, "n_classes": len(task.classes), "n_examples": len(task.train_rows)}
