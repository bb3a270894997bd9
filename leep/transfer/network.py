"""What fine-tuning and the reference models share: a network is trained on the images of each task."""

from __future__ import annotations

import gc
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from leep.tasks import Task, first_of_each_class, subsample
from leep.transfer.method import PROCESSES, SGD, Budget, Pair, Transfer

CURVE_PER_CLASS = 100  # test examples of a class that a curve is measured on: all that CIFAR100 has


@dataclass(frozen=True)
class NetworkMethod(SGD):
    """A method that trains a whole network, image by image, in a worker process."""

    reads_features: ClassVar[bool] = False
    place: ClassVar[str] = PROCESSES

    @abstractmethod
    def start_weights(self, pair: Pair) -> Callable:
        """Read, once in a worker, what the start of every task is made of: `(graph, rng)` → weights by name."""

    def trainer_options(self) -> dict:
        """Arguments of the engine's `trainer`."""
        return {"momentum": self.momentum, "weight_decay": self.weight_decay}

    def identity(self, pair: Pair, budget: Budget) -> dict:
        """Beside options and epochs: what is evaluated, how many examples are used, and more threads than one."""
        identity = {"epochs": budget.epochs, **asdict(self), "eval_every": budget.eval_every}
        if budget.max_examples:
            identity["max_examples"] = budget.max_examples
        if pair.engine["threads"] > 1:
            identity["threads"] = pair.engine["threads"]  # the order of sums, so the last digits
        return identity

    def prepare(self, pair: Pair, budget: Budget, checkpoints: Path) -> Transfer:
        """Train a network for each task. A long training keeps its state in `checkpoints`, from which it goes on."""
        from leep.engines import create_engine

        engine = create_engine(**pair.engine)
        from leep.sources.forward import batch_size
        from leep.sources.zoo import build  # imports MXNet, after the engine has set its threads
        from leep.transfer.metrics import evaluate
        from leep.transfer.training import predict_classes, train_network

        start_of = self.start_weights(pair)
        images, prepare = pair.data.test_images, pair.preprocessing
        batch = batch_size(prepare.size, pair.engine.get("device", "cpu"))
        trainers = {}  # the last one, by number of classes: its compiled graph serves all tasks of that size

        def transfer(index, report):
            task = used_part(pair.task(index), budget)
            n_classes = len(task.classes)
            if n_classes not in trainers:
                trainers.clear()
                net = build(pair.source.model, n_classes, np.random.SeedSequence(0))
                trainers[n_classes] = engine.trainer(net, **self.trainer_options())
            trainer = trainers[n_classes]
            gc.collect()  # MXNet's arrays hang in cycles
            some = first_of_each_class(task.test_labels, CURVE_PER_CLASS)

            def accuracy() -> float:
                predicted = predict_classes(trainer, images, task.test_rows[some], prepare, batch)
                return float(np.mean(predicted == task.test_labels[some]))

            rng = pair.training_rng(index)
            curve = train_network(
                trainer,
                start_of(trainer.graph, rng),
                pair.data.train_images,
                task.train_rows,
                task.train_labels,
                rng,
                prepare=prepare,
                epochs=budget.epochs,
                batch_size=self.batch_size,
                learning_rate=self.learning_rate,
                evaluate=accuracy if budget.eval_every else None,
                eval_every=budget.eval_every or 1,
                report=report,
                checkpoint=checkpoint_of(checkpoints, index),
            )
            predicted = predict_classes(trainer, images, task.test_rows, prepare, batch)
            return evaluate(predicted, task.test_labels, n_classes, task.minority_class), curve

        gc.collect()
        gc.freeze()  # what is there now is not gone through again for every task
        return transfer


def checkpoint_of(folder: Path, task: int) -> Path:
    """Where the state of an unfinished training is kept."""
    return folder / f"task{task}.npz"


def used_part(task: Task, budget: Budget) -> Task:
    """The examples of a task that a budget allows for training and test."""
    return subsample(task, budget.max_examples) if budget.max_examples else task
