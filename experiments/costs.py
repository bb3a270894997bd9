"""What the tasks of a source, a target and a method cost: pieces that are measured on this machine, added up."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from functools import partial

from experiments.protocol import epochs
from experiments.transfer import TASKS_AT_ONCE
from experiments.work import Work
from leep.calibration import (
    Calibration,
    measure_adaptation,
    measure_forward,
    measure_rows,
    measure_tasks,
    measure_training,
)
from leep.execution.processes import n_cores
from leep.sources.forward import BLOCK_PIXELS
from leep.tasks import draw_task
from leep.transfer.training import curve_epochs

HEADS = ("retrain_head", "nearest_mean")  # methods that read the forward pass


@dataclass(frozen=True)
class Size:
    """What a task's cost depends on."""

    classes: int
    train: int
    test: int
    curve: int  # test examples of a convergence curve
    steps: int  # left, of `all_steps`
    all_steps: int


class Costs:
    """The calibrated costs of a source and a target, each measured when first asked for."""

    def __init__(self, work: Work, calibration: Calibration, seen: set):
        self.work, self.seen, self._cost = work, seen, calibration.cost
        self._shape = {"model": work.source.model, "size": work.source.size}
        self._where = {"engine": work.engine, "workers": work.workers}

    def forward(self) -> dict:
        """Costs of `measure_forward`."""
        work = self.work
        what = {**self._where, **self._shape, "image": list(work.data.train_images.shape[1:])}
        return self._cost(measure_forward, {**what, "n_classes": work.source.n_classes, "batch": work.batch})

    def training(self, method: str) -> dict:
        """Costs of `measure_training`."""
        options = self.work.cfg.method[method]
        sgd = {k: options[k] for k in ("momentum", "weight_decay", "freeze_extractor") if k in options}
        what = {**self._where, **self._shape, "image": list(self.work.data.train_images.shape[1:])}
        return self._cost(measure_training, {**what, "batch": options.batch_size, "sgd": sgd})

    def adaptation(self, size: Size) -> dict:
        """Costs of `measure_adaptation`."""
        if self.work.adaptation is None:
            raise ValueError("no adaptation networks, whose size is not known before")
        card, source = self.work.adaptation.card, self.work.source
        what = {"engine": self.work.engine, "model": source.model, "n_classes": source.n_classes}
        counts = {"context": size.train, "query": size.test, "ways": size.classes}
        return self._cost(measure_adaptation, {**what, "size": card["size"], "variant": card["variant"], **counts})

    def tasks(self) -> dict:
        """Costs of `measure_tasks`."""
        work, cfg = self.work, self.work.cfg
        labels = work.data.train_labels, work.data.test_labels
        draw = partial(_draw, cfg.experiment, work.target_name, cfg.seed, *labels, work.parameters)
        head = cfg.method.get("retrain_head") or {"batch_size": 10}
        if head.get("implementation") == "gluon":
            raise ValueError("method.retrain_head.implementation=gluon is the slow reference")
        what = {
            "experiment": cfg.experiment,
            "parameters": work.parameters,
            "data": work.data.sha256,
            "measures": list(cfg.measures),
            "n_features": int(self.forward()["n_features"]),
            "n_classes": work.source.n_classes,
            "batch": head["batch_size"],
            "workers": cfg.executor.workers or n_cores(),
            "count": TASKS_AT_ONCE,
        }
        return self._cost(measure_tasks, what, draw, (len(labels[0]), len(labels[1])))

    def row(self) -> float:
        """Seconds of a row of a CSV."""
        return self._cost(measure_rows, {}, self.work.cache)["row"]


def _draw(experiment: str, target: str, seed: int, train_labels, test_labels, parameters: dict, index: int):
    return draw_task(experiment, target, index, seed, train_labels, test_labels, **parameters)


def cost_of(costs: Costs, method: str, images: int, scores: list, sizes: list[Size]) -> tuple[float, float]:
    """Seconds, and bytes beyond those of this process."""
    work = costs.work
    parts = [_cost_of_pass(costs, images)] if images else []
    if scores or (sizes and method in HEADS):
        parts.append(_cost_of_reading(costs, method, scores, sizes if method in HEADS else []))
    if sizes and method == "cnaps":
        found = costs.adaptation(sizes[0])
        parts.append((found["start"] + len(sizes) * (found["task"] + costs.row()), found["memory"]))
    elif sizes and method not in HEADS:
        parts.append(_cost_of_networks(costs, method, sizes, work))
    return sum(seconds for seconds, _ in parts), max((most for _, most in parts), default=0)


def _cost_of_pass(costs: Costs, images: int) -> tuple[float, float]:
    work, found = costs.work, costs.forward()
    alone = images * work.source.size**2 <= 2 * BLOCK_PIXELS
    workers = 1 if alone else work.workers
    return found["start"] + images * found["image"] / workers, workers * found["memory"]


def _cost_of_reading(costs: Costs, method: str, scores: list, sizes: list[Size]) -> tuple[float, float]:
    """Scores, and heads on the features of the pass."""
    work, found = costs.work, costs.tasks()
    seconds = (len(scores) + len(sizes)) * costs.row() + (0 if "code" in costs.seen else found["start"])
    costs.seen.add("code")
    if work.cfg.experiment == "large_balanced":
        seconds += len({index // TASKS_AT_ONCE for index, _ in scores}) * found["scores"]
    else:
        seconds += len(scores) / len(work.cfg.measures) * found["scores"]
    count = epochs(work.cfg, method, work.target_name) or 0
    heads = [found["head"] + count * s.train * (found["example"] + -(-s.classes // 16) * found["block"]) for s in sizes]
    return seconds + _makespan(heads, work.cfg.executor.workers or n_cores()), found["memory"]


def _cost_of_networks(costs: Costs, method: str, sizes: list[Size], work: Work) -> tuple[float, float]:
    found, n_epochs = costs.training(method), epochs(work.cfg, method, work.target_name)
    every = work.cfg.eval_every.get(method)
    evaluations = len(curve_epochs(n_epochs, every)) if every else 0
    alike = len({s.classes for s in sizes}) == 1  # then a worker builds one network
    seconds = []
    for s in sizes:
        trained = n_epochs * s.train * s.steps / s.all_steps
        tested = s.test + evaluations * s.curve
        seconds.append(trained * found["image"] + tested * found["test"] + (0 if alike else found["setup"]))
    workers = min(work.workers, len(sizes))
    return found["start"] + alike * found["setup"] + _makespan(seconds, workers), workers * found["memory"]


def _makespan(seconds: list[float], workers: int) -> float:
    """When the last of `workers` ends that take one task after the other."""
    ends = [0.0] * workers
    for task in seconds:
        heapq.heappush(ends, heapq.heappop(ends) + task)
    return max(ends)
