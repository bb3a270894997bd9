"""What the pieces of an experiment cost on this machine: measured in seconds, once, and kept.

Random images, weights and features serve: how long a step takes does not depend on them. All workers are measured at
once, as they run, so that a cost is that of one worker beside the others. What counts is time on the processor, where
that is less than the time that passed: another program that takes turns with this one does not make the machine slower.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from leep.engines import create_engine
from leep.files import write_atomically
from leep.machine import cpu_model, memory, versions
from leep.measures import score_class_tasks, score_task
from leep.parallel import Failed, WorkerError, n_cores, run_in_order, run_in_processes
from leep.results import Table
from leep.sources.preprocess import Preprocessing
from leep.tasks import Task

BUDGET = 1.5  # seconds that a piece is repeated for
TEST_BATCH = 100  # images that a trained network is tested on at once
_SCALING = (0.5,) * 3, (0.25,) * 3  # mean, deviation
_PACKAGES = ("leep", "mxnet", "numpy", "numba", "scikit-learn", "torch")


def _machine() -> str:
    """What a calibration holds for: processor, cores, versions."""
    return json.dumps({"cpu": cpu_model(), "cores": n_cores(), **versions(_PACKAGES)})


class Calibration:
    """Costs by what was measured, kept in `calibration.json` of a folder, a section a machine.

    Parameters
    ----------
    folder : Path
    again : bool
        Measure all that is asked for anew, once.
    """

    def __init__(self, folder: Path, again: bool = False):
        self.path, self._machine = Path(folder) / "calibration.json", _machine()
        self._again, self._new = again, set()

    def cost(self, measure: Callable[..., dict], what: Mapping, *more) -> dict:
        """`measure(*more, **what)`, or what it gave before with the same JSON-able `what`.

        Raises
        ------
        WorkerError
            If it cannot be measured.
        """
        key = json.dumps({"measure": measure.__name__, **what}, sort_keys=True)
        kept = self._read()
        costs = kept.setdefault(self._machine, {})
        if key not in costs or (self._again and key not in self._new):
            name = measure.__name__.removeprefix("measure_")
            print(f"calibrating: {name} {what.get('model', what.get('experiment', ''))}", file=sys.stderr)
            costs[key] = measure(*more, **what)
            self._new.add(key)
            write_atomically(self.path, json.dumps(kept, indent=1).encode())
        return costs[key]

    def _read(self) -> dict:
        try:
            kept = json.loads(self.path.read_text())
            return kept if isinstance(kept, dict) else {}
        except (OSError, ValueError):
            return {}


def measure_forward(
    *, engine: dict, workers: int, model: str, n_classes: int, size: int, image: list[int], batch: int
) -> dict:
    """Forward pass: `start` of a worker, `image`, both seconds; its `memory` in bytes; the model's `n_features`."""
    return _in_workers(_make_forward, (engine, model, n_classes, size, image, batch), workers, engine["threads"])


def measure_training(
    *, engine: dict, workers: int, model: str, size: int, image: list[int], batch: int, sgd: dict
) -> dict:
    """Training: `start`, `setup` of a network, an `image` of a step, an image of the `test`, seconds; `memory`."""
    return _in_workers(_make_training, (engine, model, size, image, batch, sgd), workers, engine["threads"])


def measure_adaptation(
    *, engine: dict, model: str, n_classes: int, size: int, variant: str, context: int, query: int, ways: int
) -> dict:
    """CNAPs: `start`, a `task` of so many context and query images, seconds; `memory`."""
    args = engine, model, n_classes, size, variant, context, query, ways
    return _in_workers(_make_adaptation, args, 1, engine["threads"])


def measure_tasks(
    draw: Callable[[int], Task],
    counts: tuple[int, int],
    *,
    count: int,
    measures: list[str],
    n_features: int,
    n_classes: int,
    batch: int,
    workers: int,
    **_,
) -> dict:
    """Scores and heads of tasks that `draw` gives: seconds, and `memory` in bytes.

    `start`, to load the compiled code; `scores` of a task, or of all `count` where they are of whole classes; `head`,
    all of a head but its training; an `example` in an epoch, and more for each `block` of 16 classes.
    `counts` are those of training and test examples.
    """
    args = draw, counts, count, measures, n_features, n_classes, batch, workers
    return _in_workers(_make_tasks, args, 1, int(os.environ.get("OMP_NUM_THREADS", n_cores())))


def measure_rows(folder: Path) -> dict:
    """Seconds of a `row` that is written to disk."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place, Table(Path(place) / "rows.csv", ["row"], ["row"]) as table:
        return {"row": _seconds(lambda: table.append({"row": 1}), _clock(waits=True), 0.3)[1]}


def _in_workers(make: Callable, args: tuple, workers: int, threads: int) -> dict:
    """The costs that `workers` processes find at the same time: the means of seconds, the most memory."""
    runs = run_in_processes(make, args, range(workers), workers, threads)
    found = [result for _, result in runs]
    if failed := [f.reason for f in found if isinstance(f, Failed)]:
        raise WorkerError(failed[0])
    return {k: max(f[k] for f in found) if k == "memory" else sum(f[k] for f in found) / workers for k in found[0]}


def _clock(threads: int = 1, waits: bool = False) -> Callable[[], float]:
    """Seconds that passed, or, unless it `waits` for something else, that each of `threads` was on the processor."""
    wall, processor = time.monotonic(), time.process_time()

    def read() -> float:
        passed = time.monotonic() - wall
        return passed if waits else min(passed, (time.process_time() - processor) / threads)

    return read


def _seconds(
    function: Callable, read: Callable[[], float], budget: float = BUDGET, wait: Callable = lambda: None
) -> tuple[float, float]:
    """The first call, and a later one: the mean over the budget, or the first where that alone exceeds it."""
    begin = read()
    function()
    wait()
    first = read() - begin
    if first > budget:
        return first, first
    begin, count = read(), 0
    while read() - begin < budget:
        function()
        count += 1
    wait()
    return first, (read() - begin) / count


def _started(engine: dict) -> Callable[[], float]:
    """A clock of a worker process that reads what the process has taken so far."""
    read, before = _clock(waits=engine["device"] != "cpu"), time.process_time()
    return lambda: before + read()


def _images(count: int, shape: list[int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)


def _make_forward(engine, model, n_classes, size, image, batch) -> Callable:
    read = _started(engine)
    engine = create_engine(**engine)
    from leep.sources.zoo import build

    predict = engine.predictor(build(model, n_classes, np.random.SeedSequence(0)))
    prepare = Preprocessing(size, *_SCALING)
    images = _images(batch, image)

    def run(item: int, report: Callable) -> dict:
        start = read()
        first, later = _seconds(lambda: predict(prepare(images)), read)
        n_features = predict(prepare(images[:1]))[0].shape[1]
        return {"start": start + first - later, "image": later / batch, "memory": memory(), "n_features": n_features}

    return run


def _make_training(engine, model, size, image, batch, sgd) -> Callable:
    read = _started(engine)
    engine = create_engine(**engine)
    from leep.sources.zoo import build

    prepare, images, labels = Preprocessing(size, *_SCALING), _images(TEST_BATCH, image), np.arange(batch) % 10
    rows = np.random.default_rng(0).integers(0, TEST_BATCH, batch)

    def run(item: int, report: Callable) -> dict:
        start = read()
        trainer = engine.trainer(build(model, 10, np.random.SeedSequence(0)), **sgd)
        trainer.load_state(trainer.state())
        built = read() - start

        def step() -> None:
            trainer.seed(0, 0, 0)
            trainer.step(prepare(images[rows]), labels, 0.01)

        first, later = _seconds(step, read, wait=trainer.take_loss)
        first_test, test = _seconds(lambda: trainer.predict(prepare(images)), read)
        setup = built + first - later + first_test - test
        costs = {"start": start, "setup": setup, "image": later / batch, "test": test / TEST_BATCH}
        return costs | {"memory": memory()}

    return run


def _make_adaptation(engine, model, n_classes, size, variant, context, query, ways) -> Callable:
    read = _started(engine)
    engine = create_engine(**engine)
    from leep.sources.zoo import build, initialize
    from leep.transfer.cnaps.meta_training import one_hot
    from leep.transfer.cnaps.network import Cnaps

    net = Cnaps(build(model, n_classes, np.random.SeedSequence(0)), *_SCALING, variant)
    learned = [p for name, p in net._collect_params_with_prefix().items() if not name.startswith("source.")]
    initialize(learned, np.random.SeedSequence(0))
    learner, prepare = engine.meta_learner(net), Preprocessing(size, *_SCALING)
    images, classes = _images(max(context, query), [32, 32, 3]), one_hot(np.arange(context) % ways, ways)

    def run(item: int, report: Callable) -> dict:
        start = read()
        first, later = _seconds(
            lambda: learner.predict(prepare(images[:context]), classes, prepare(images[:query])), read
        )
        return {"start": start + first - later, "task": later, "memory": memory()}

    return run


def _make_tasks(draw, counts, count, measures, n_features, n_classes, batch, workers) -> Callable:
    from leep.transfer.metrics import evaluate
    from leep.transfer.retrain_head import train_head

    rng = np.random.default_rng(0)
    probs = rng.random((counts[0], n_classes), np.float32) + np.float32(0.01)
    probs /= probs.sum(1, keepdims=True)
    features, test_features = (rng.random((n, n_features), np.float32) for n in counts)
    arrays = {"source_probs": probs, "source_labels": probs.argmax(1), "features": features}

    def load() -> None:
        some = {name: a[:20] for name, a in arrays.items()} | {"target_labels": np.arange(20) % 2}
        for measure in measures:
            score_task(measure, some)
            score_class_tasks(measure, some, [np.arange(2)] * 2)
        train_head(some["features"], some["target_labels"], 2, rng, epochs=1)
        evaluate(some["target_labels"], some["target_labels"], 2)

    def score(index: int) -> None:
        task = draw(index % count)
        rows = {name: a[task.train_rows] for name, a in arrays.items()} | {"target_labels": task.train_labels}
        for measure in measures:
            score_task(measure, rows)

    def score_classes(labels: np.ndarray) -> None:
        for measure in measures:
            classes = [draw(index).classes for index in range(count)]
            score_class_tasks(measure, arrays | {"target_labels": labels}, classes)

    def head(index: int) -> int:
        task = draw(index % count)
        n = len(task.classes)
        trained = train_head(
            features[task.train_rows], task.train_labels, n, np.random.default_rng(0), epochs=1, batch_size=batch
        )
        evaluate(trained.predict(test_features[task.test_rows]), task.test_labels, n, task.smaller_class)
        return len(task.train_rows) * -(-n // 16), len(task.train_rows)

    def example(n: int) -> float:
        """Seconds of an example in an epoch of a head of n classes, with all workers training one."""
        some = min(counts[0], 2000)
        x, y = features[:some], np.arange(some) % n
        epochs = 20

        def train(_):
            train_head(x, y, n, np.random.default_rng(0), epochs=epochs, batch_size=batch)

        together = _clock(workers)
        return _seconds(lambda: list(run_in_order(train, range(workers), workers)), together, 0.5)[1] / some / epochs

    def run(item: int, report: Callable) -> dict:
        read = _clock()
        load()
        start = read()
        ready = memory("VmRSS")
        first = draw(0)
        if first.whole_classes:
            labels = np.zeros(counts[0], np.int64)
            for index in range(count):
                task = draw(index)
                labels[task.train_rows] = task.classes[task.train_labels]
            scores = _seconds(lambda: score_classes(labels), read)[1]
        else:
            indices = iter(range(10**9))
            scores = _seconds(lambda: score(next(indices)), read)[1]
        narrow, wide = example(2), example(100)
        block = max(wide - narrow, 0) / 6  # 7 blocks of 16 classes, and one
        list(run_in_order(head, range(workers), workers))
        together = _clock(workers)
        done = list(run_in_order(head, range(4 * workers), workers))
        trained = sum(block * blocks + max(narrow - block, 0) * examples for blocks, examples in done)
        rest = max(0.0, together() * workers - trained) / len(done)
        more = max(0, memory("VmHWM") - ready)
        costs = {"example": max(narrow - block, 0), "block": block, "memory": more}
        return costs | {"start": start, "scores": scores, "head": rest}

    return run
