"""Fine-tuning and training from scratch, task by task in worker processes; only the parent writes rows."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from leep.data.shared import load_shared, share
from leep.engines import create_engine
from leep.parallel import Failed, run_in_processes
from leep.progress import advance, progress
from leep.sources.weights import check_weights
from leep.tasks import Task, first_of_each_class, limit

CURVE_PER_CLASS = 100  # test examples of a class that a curve is measured on: all that CIFAR100 has


def train_networks(work, method: str, setting: dict, tasks: list[int], folder: Path) -> Iterator[tuple]:
    """Train a network for each task, in worker processes.

    A long training keeps its state in `folder`, from which a second attempt, or the next run with the same
    configuration, goes on.

    Parameters
    ----------
    work : experiments.work.Work
    method : {"fine_tune", "from_scratch"}
    setting : dict
        `epochs`, `eval_every` and the method's options.
    tasks : list of int
    folder : Path

    Yields
    ------
    task, (metrics, curve)
        In the order in which they end; `Failed` in place of the second after two attempts.

    Raises
    ------
    WorkerError
        If a worker cannot start.
    """
    if not tasks:
        return
    light, shared = share(work.data, work.cache / "images")
    args = replace(work, paper=None, data=light, run=None, adaptation=None), shared, method, setting, folder.absolute()
    total = sum(setting["epochs"] * len(limited(work.task(i), setting).train_rows) for i in tasks)
    with progress(total=total, desc=f"  {method}", unit=" images", unit_scale=True, smoothing=0) as bar:

        def count(images: int) -> None:
            advance(bar, images)

        def retry(task: int, reason: str) -> None:
            bar.write(f"  {method}: task {task} failed and is tried once more: {reason}")

        bar.set_postfix_str(f"0/{len(tasks)} tasks", refresh=False)
        runs = (work.run or run_in_processes)(_make, args, tasks, work.workers, work.threads, count, retry)
        with closing(runs):  # ends the workers
            for done, (task, result) in enumerate(runs, start=1):
                bar.set_postfix_str(f"{done}/{len(tasks)} tasks", refresh=False)
                yield task, result
                if not (isinstance(result, Failed) and result.died):
                    checkpoint_of(folder, task).unlink(missing_ok=True)
    if folder.exists() and not any(folder.iterdir()):
        folder.rmdir()


def checkpoint_of(folder: Path, task: int) -> Path:
    """Where the state of an unfinished training is kept."""
    return folder / f"task{task}.npz"


def _make(work, shared: Path, method: str, setting: dict, checkpoints: Path) -> Callable:
    """What a worker process does with a task: `(index, report)` → metrics, curve."""
    work = replace(work, data=load_shared(work.data, shared))
    engine = create_engine(**work.engine)
    from leep.engines.graph import get_weights  # imports MXNet, after the engine has set its threads
    from leep.sources.zoo import build, load
    from leep.transfer.fine_tune import fine_tune
    from leep.transfer.from_scratch import train_from_scratch
    from leep.transfer.metrics import evaluate
    from leep.transfer.training import predict_classes

    model, images = work.source.model, work.data.test_images
    options = {k: setting[k] for k in ("epochs", "batch_size", "learning_rate")}
    sgd = {k: setting[k] for k in ("momentum", "weight_decay", "freeze_extractor") if k in setting}
    if method == "fine_tune":
        train, origin = fine_tune, get_weights(load(model, work.source.n_classes, check_weights(work.weights)))
    else:
        train, origin = train_from_scratch, model
    trainers = {}  # the last one, by number of classes: its compiled graph serves all tasks of that size

    def transfer(index: int, report: Callable) -> tuple[dict, list]:
        task = limited(work.task(index), setting)
        n_classes = len(task.classes)
        if n_classes not in trainers:
            trainers.clear()
            trainers[n_classes] = engine.trainer(build(model, n_classes, np.random.SeedSequence(0)), **sgd)
        trainer = trainers[n_classes]
        gc.collect()  # MXNet's arrays hang in cycles
        some = first_of_each_class(task.test_labels, CURVE_PER_CLASS)

        def accuracy() -> float:
            predicted = predict_classes(trainer, images, task.test_rows[some], work.prepare)
            return float(np.mean(predicted == task.test_labels[some]))

        every = {"evaluate": accuracy, "eval_every": setting["eval_every"]} if setting["eval_every"] else {}
        data = work.data.train_images, task.train_rows, task.train_labels
        files = {"prepare": work.prepare, "report": report, "checkpoint": checkpoint_of(checkpoints, index)}
        rng = work.training_rng(index)
        curve = train(trainer, origin, *data, rng, **options, **every, **files)
        predicted = predict_classes(trainer, images, task.test_rows, work.prepare)
        return evaluate(predicted, task.test_labels, n_classes, task.smaller_class), curve

    gc.collect()
    gc.freeze()  # what is there now is not gone through again for every task
    return transfer


def limited(task: Task, setting: dict) -> Task:
    """The examples of a task that a setting trains and tests on."""
    return limit(task, setting["max_examples"]) if "max_examples" in setting else task
