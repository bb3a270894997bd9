"""What a configuration has left to do, in exact counts. No other file of the plan knows how an experiment is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from experiments.estimating.rates import Batches, recorded
from experiments.executor import n_workers
from experiments.running.pair import SourceTarget
from leep.engines import create_engine
from leep.results import read_done
from leep.sources.forward import batch_size, images_to_pass, make_predictor
from leep.tasks import first_of_each_class
from leep.transfer.method import HERE, Method
from leep.transfer.network import CURVE_PER_CLASS, checkpoint_of, used_part
from leep.transfer.retrain_head import train_head
from leep.transfer.training import curve_epochs, steps_done, train_network

NARROW, WIDE = 2, 100  # classes of the heads that are measured; the time of others lies on a line
LEARNING_RATE = 1e-9  # of what is measured, because random weights diverge at a larger one


@dataclass(frozen=True)
class Piece:
    """Units of work of the busiest worker, what determines their rate, and what does some of them to measure it."""

    units: float
    key: list
    make: Callable[[], Batches]


@dataclass(frozen=True)
class Job:
    """What a source, a target and a method have left to do."""

    experiment: str
    source: str
    target: str
    method: str
    tasks_all: int
    tasks_missing: int
    images_to_train: int  # examples × epochs
    images_to_pass: int  # the source's pass where no job before makes it, the tests of networks, the tasks of CNAPs
    pieces: list[Piece]
    recorded: float  # seconds of the tasks, where earlier runs tell them


def job_of(pair: SourceTarget, method: Method, seen: set) -> Job:
    """The job of a method; `seen` holds the forward passes that jobs before make, and is added to."""
    config, count = pair.config, pair.config.n_tasks[method.name]
    folder = pair.method_folder(method)
    done = read_done(folder / "transfers.csv", ["task"])
    scored = read_done(folder.parent / "scores.csv", ["task", "measure"])
    missing = [i for i in range(count) if (str(i),) not in done]
    unscored = any((str(i), measure) not in scored for i in range(count) for measure in config.measures)
    images = 0
    if (unscored or (missing and method.reads_features)) and pair.outputs_key not in seen:
        seen.add(pair.outputs_key)
        images = images_to_pass(config.cache, pair.outputs_key, pair.passed)
    images_of_tasks = _count(pair, method, missing, folder / "checkpoints")
    identities, workers = (pair.identity(), pair.method_identity(method)), n_workers(config)
    told = recorded(config.results, *identities, workers) if missing and config.plan is True else None
    pieces = [_piece(pair, images / workers, "forward pass", partial(_pass, pair))]
    pieces += _pieces(pair, method, missing, images_of_tasks) if missing and told is None else []
    names = config.experiment.name, pair.source.name, pair.target.name, method.name
    counts = count, len(missing), images_of_tasks[0], images + images_of_tasks[2]
    return Job(*names, *counts, [p for p in pieces if p.units], (told or 0.0) * len(missing))


def _count(pair: SourceTarget, method: Method, tasks: list[int], checkpoints: Path) -> tuple[int, float, int]:
    """Images to train on, how many of them take the time of the wide head, and images that the tasks pass."""
    budget, batch = pair.budget(method), getattr(method, "batch_size", 1)
    n_epochs, every = budget.epochs or 0, budget.eval_every
    trained, wide, tested = 0, 0.0, 0
    for index in tasks:
        task = pair.task(index) if method.reads_features else used_part(pair.task(index), budget)
        n = len(task.train_rows)
        epoch, step = divmod(steps_done(checkpoint_of(checkpoints, index), n, batch), -(-n // batch))
        left = (n_epochs - epoch) * n - step * batch
        trained, wide = trained + left, wide + left * (len(task.classes) - NARROW) / (WIDE - NARROW)
        if not method.reads_features:
            tested += len(task.test_rows) + (0 if method.takes_epochs else n)
        if every:
            curve = first_of_each_class(task.test_labels, CURVE_PER_CLASS)
            tested += len(curve) * len(curve_epochs(n_epochs, every))
    return trained, wide, tested


def _pieces(pair: SourceTarget, method: Method, tasks: list[int], counts: tuple[int, float, int]) -> list[Piece]:
    """What the tasks take; next to nothing for a method that reads features and takes no gradient steps."""
    trained, wide, tested = counts
    options = {k: v for k, v in asdict(method).items() if k != "learning_rate"}
    workers = pair.config.threads_for_heads if method.reads_features else n_workers(pair.config)
    workers = 1 if method.place == HERE else workers
    share = -(-len(tasks) // workers) / len(tasks)  # of the busiest worker, as if all tasks were alike
    if not method.takes_epochs:
        what = method.identity(pair, pair.budget(method)), pair.target.task
        adapt = partial(_adapt, pair, method, tasks)
        return [] if method.reads_features else [_piece(pair, len(tasks), method.name, adapt, *what)]
    if method.reads_features:
        units = {NARROW: (trained - wide) * share, WIDE: wide * share}
        heads = {k: partial(_head, pair, options, k) for k in units}
        return [_piece(pair, units[k], f"head of {k} classes", heads[k], options) for k in units]
    return [
        _piece(pair, trained * share, "training", partial(_train, pair, method), options),
        _piece(pair, tested * share, "forward pass", partial(_pass, pair)),
    ]


def _piece(pair: SourceTarget, units: float, what: str, make: Callable[[], Batches], *more) -> Piece:
    shape = [] if what.startswith("head") else [list(pair.data.train_images.shape[1:])]  # heads see features alone
    return Piece(units, [what, pair.source.model, pair.source.size, pair.engine, *shape, *more], make)


# What is measured, on random images: how long a network takes does not depend on what they show.


def _random_input(pair: SourceTarget, count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *pair.data.train_images.shape[1:]), np.uint8)


def _predictor(pair: SourceTarget) -> Callable:
    predict = make_predictor(pair.engine, pair.source.model, pair.source.n_classes, pair.weights)
    return lambda images: predict(pair.preprocessing(images))[0]


def _pass(pair: SourceTarget) -> Batches:
    batch = batch_size(pair.source.size, pair.config.engine.device)
    features, images = _predictor(pair), _random_input(pair, batch)
    return lambda n: sum(len(features(images)) for _ in range(n))


def _head(pair: SourceTarget, options: dict, n_classes: int) -> Batches:
    if images_to_pass(pair.config.cache, pair.outputs_key, pair.passed) == 0:
        features = pair.outputs().train_features[:WIDE]
    else:
        features = _predictor(pair)(_random_input(pair, WIDE))
    labels, rng = np.arange(len(features)) % n_classes, np.random.default_rng(0)

    def train(n: int) -> int:
        train_head(features, labels, n_classes, rng, **options, epochs=n, learning_rate=LEARNING_RATE)
        return n * len(features)

    return train


def _train(pair: SourceTarget, method: Method) -> Batches:
    engine, images = create_engine(**pair.engine), _random_input(pair, 200)
    from leep.sources.zoo import build  # imports MXNet, after the engine has set its threads

    net = build(pair.source.model, 10, np.random.SeedSequence(0))
    trainer = engine.trainer(net, **method.trainer_options())
    start, sizes = trainer.state(), {"batch_size": method.batch_size, "learning_rate": LEARNING_RATE, "epochs": 1}

    def train(n: int) -> int:
        rows, rng = np.arange(n * method.batch_size) % len(images), np.random.default_rng(0)
        train_network(trainer, start, images, rows, rows % 10, rng, prepare=pair.preprocessing, **sizes)
        return len(rows)

    return train


def _adapt(pair: SourceTarget, method: Method, tasks: list[int]) -> Batches:
    transfer, report = method.prepare(pair, pair.budget(method), Path()), int
    return lambda n: len([transfer(tasks[i % len(tasks)], report) for i in range(n)])
