"""What a configuration has left to do, in exact counts. No other file of the plan knows how an experiment is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np

from experiments.cnaps import adapt
from experiments.estimating.rates import Batches, recorded
from experiments.networks import CURVE_PER_CLASS, checkpoint_of, limited
from experiments.protocol import epochs, max_examples, n_tasks
from experiments.work import Work, method_folder, method_setting, results_folder, task_setting, tasks_folder
from leep.engines import create_engine
from leep.parallel import n_cores
from leep.results import read_done
from leep.sources.forward import images_to_pass, make_predictor
from leep.tasks import first_of_each_class
from leep.transfer.retrain_head import train_head
from leep.transfer.training import curve_epochs, steps_done, train_network

READ_OUTPUTS = ("retrain_head", "nearest_mean")  # methods that read the source's outputs, in threads
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


def job_of(work: Work, method: str, seen: set) -> Job:
    """The job of a method; `seen` holds the forward passes that jobs before make, and is added to."""
    cfg, count = work.cfg, n_tasks(work.cfg, method)
    settings = task_setting(work), method_setting(work, method)
    folder = tasks_folder(work, settings[0]) / method_folder(settings[1])
    done = read_done(folder / "transfers.csv", ["task"])
    scored = read_done(folder.parent / "scores.csv", ["task", "measure"])
    missing = [i for i in range(count) if (str(i),) not in done]
    unscored = any((str(i), measure) not in scored for i in range(count) for measure in cfg.measures)
    images = 0
    if (unscored or (missing and method in READ_OUTPUTS)) and work.pass_key not in seen:
        seen.add(work.pass_key)
        images = images_to_pass(work.cache, work.pass_key, work.data)
    trained, wide, tested = _count(work, method, missing, folder / "checkpoints")
    told = recorded(results_folder(cfg), *settings, work.workers) if missing and cfg.plan is True else None
    pieces = [_piece(work, images / work.workers, "forward pass", partial(_pass, work))]
    pieces += _pieces(work, method, missing, trained, wide, tested) if missing and told is None else []
    names = cfg.experiment, work.source_name, work.target_name, method
    counts = count, len(missing), trained, images + tested
    return Job(*names, *counts, [p for p in pieces if p.units], (told or 0.0) * len(missing))


def _count(work: Work, method: str, tasks: list[int], checkpoints: Path) -> tuple[int, float, int]:
    """Images to train on, how many of them take the time of the wide head, and images that the tasks pass."""
    cap, every = max_examples(work.cfg, method), work.cfg.eval_every.get(method)
    n_epochs, batch = epochs(work.cfg, method, work.target_name) or 0, work.cfg.method[method].get("batch_size", 1)
    trained, wide, tested = 0, 0.0, 0
    for index in tasks:
        task = limited(work.task(index), {"max_examples": cap} if cap else {})
        n = len(task.train_rows)
        epoch, step = divmod(steps_done(checkpoint_of(checkpoints, index), n, batch), -(-n // batch))
        left = (n_epochs - epoch) * n - step * batch
        trained, wide = trained + left, wide + left * (len(task.classes) - NARROW) / (WIDE - NARROW)
        if method not in READ_OUTPUTS:
            tested += len(task.test_rows) + (n if method == "cnaps" else 0)
        if every:
            curve = first_of_each_class(task.test_labels, CURVE_PER_CLASS)
            tested += len(curve) * len(curve_epochs(n_epochs, every))
    return trained, wide, tested


def _pieces(work: Work, method: str, tasks: list[int], trained: int, wide: float, tested: int) -> list[Piece]:
    """What the tasks take; next to nothing for nearest means."""
    options = {k: v for k, v in work.cfg.method[method].items() if k != "learning_rate"}
    workers = work.workers if method not in READ_OUTPUTS else work.cfg.executor.workers or n_cores()
    workers = 1 if options.get("implementation") == "gluon" else workers
    share = -(-len(tasks) // workers) / len(tasks)  # of the busiest worker, as if all tasks were alike
    if method == "nearest_mean":
        return []
    if method == "cnaps":
        what = {**work.parameters, **{k: work.adaptation.card[k] for k in ("size", "variant")}}
        return [_piece(work, len(tasks), "CNAPs", partial(_adapt, work, tasks), what)]
    if method == "retrain_head":
        counts = {NARROW: (trained - wide) * share, WIDE: wide * share}
        heads = {k: partial(_head, work, options, k) for k in counts}
        return [_piece(work, counts[k], f"head of {k} classes", heads[k], options) for k in counts]
    return [
        _piece(work, trained * share, "training", partial(_train, work, options), options),
        _piece(work, tested * share, "forward pass", partial(_pass, work)),
    ]


def _piece(work: Work, units: float, what: str, make: Callable[[], Batches], *more) -> Piece:
    shape = list(work.data.train_images.shape[1:])
    return Piece(units, [what, work.source.model, work.source.size, work.engine, shape, *more], make)


# What is measured, on random images: how long a network takes does not depend on what they show.


def _random_input(work: Work, count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *work.data.train_images.shape[1:]), np.uint8)


def _predictor(work: Work) -> Callable:
    predict = make_predictor(work.engine, work.source.model, work.source.n_classes, work.weights)
    return lambda images: predict(work.prepare(images))[0]


def _pass(work: Work) -> Batches:
    features, images = _predictor(work), _random_input(work, work.batch)
    return lambda n: sum(len(features(images)) for _ in range(n))


def _head(work: Work, options: dict, n_classes: int) -> Batches:
    if images_to_pass(work.cache, work.pass_key, work.data) == 0:
        features = work.passed.train_features[:WIDE]
    else:
        features = _predictor(work)(_random_input(work, WIDE))
    labels, rng = np.arange(len(features)) % n_classes, np.random.default_rng(0)

    def train(n: int) -> int:
        train_head(features, labels, n_classes, rng, **options, epochs=n, learning_rate=LEARNING_RATE)
        return n * len(features)

    return train


def _train(work: Work, options: dict) -> Batches:
    engine, images = create_engine(**work.engine), _random_input(work, 200)
    from leep.sources.zoo import build  # imports MXNet, after the engine has set its threads

    sgd = {k: v for k, v in options.items() if k != "batch_size"}
    trainer = engine.trainer(build(work.source.model, 10, np.random.SeedSequence(0)), **sgd)
    start, sizes = trainer.state(), {"batch_size": options["batch_size"], "learning_rate": LEARNING_RATE, "epochs": 1}

    def train(n: int) -> int:
        rows, rng = np.arange(n * options["batch_size"]) % len(images), np.random.default_rng(0)
        train_network(trainer, start, images, rows, rows % 10, rng, prepare=work.prepare, **sizes)
        return len(rows)

    return train


def _adapt(work: Work, tasks: list[int]) -> Batches:
    adapted = adapt(work, work.adaptation, cycle(tasks))
    return lambda n: len([next(adapted) for _ in range(n)])
