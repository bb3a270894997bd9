"""Print how fast the core is, nothing asserted: python scripts/bench.py [measures] [heads] [forward] …"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import usual_measures
from omegaconf import OmegaConf
from threadpoolctl import threadpool_limits

from leep import h_score, leep_score, nce_score
from leep.data.dataset import DataSet
from leep.engines import check_engine, create_engine
from leep.execution.processes import Failed, n_cores, run_in_order, run_in_processes
from leep.measures import MEASURES, get_measure, measure_arguments, score_class_tasks
from leep.sources.forward import batch_size, forward_pass, make_predictor
from leep.sources.preprocess import Preprocessing
from leep.sources.weights import find_weights
from leep.tasks import TRAINING, draw_task, task_rng
from leep.transfer.retrain_head import train_head
from leep.transfer.training import train_network

CONF = Path(__file__).parent.parent / "conf" / "experiment"
BATCH, EPOCHS = 10, 12  # of the training that is timed
RESNET20, BATCHES = "cifar_resnet20_v1", (16, 64, 256, 1024)  # of the bare loop
SECTIONS = {"5.1": "large_balanced", "5.2": "small_balanced", "5.3": "small_imbalanced"}


def experiment(section: str) -> tuple[str, dict, int]:
    """Setting, task parameters and the head's epochs of a section at the paper's scale."""
    cfg = OmegaConf.load(CONF / f"{SECTIONS[section]}.yaml")
    return cfg.experiment, dict(cfg.task), cfg.epochs.retrain_head


def seconds(function: Callable, repeats: int = 3) -> float:
    """The shortest of a few runs, after one that compiles and warms up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def cifar_like(d: int = 64, n_source: int = 10) -> tuple[np.ndarray, ...]:
    """Features, probabilities, labels of 50,000 training examples, 500 a class; labels of 10,000 test examples."""
    rng = np.random.default_rng(0)
    labels, test_labels = (
        rng.permutation(np.repeat(np.arange(100), 500)),
        rng.permutation(np.repeat(np.arange(100), 100)),
    )
    centres = rng.standard_normal((100, d))
    features = np.maximum(centres[labels] + rng.standard_normal((50_000, d)), 0).astype(np.float32)
    probs = rng.dirichlet(np.full(n_source, 0.3), 50_000).astype(np.float32)
    return features, probs, labels, test_labels


def textbook_leep(probs: np.ndarray, labels: np.ndarray) -> float:
    """Equations 1 and 2 as written, in NumPy."""
    joint = np.stack([probs[labels == y].sum(0, dtype=np.float64) for y in np.unique(labels)]) / len(labels)
    conditional = joint / joint.sum(0)
    return float(np.log((conditional[labels] * probs).sum(1)).mean())


def keep_busy() -> None:
    """Keep a core busy until the benchmark ends, however that ends."""
    parent = os.getppid()
    while os.getppid() == parent:
        pass


FIRST_CALL = """
import sys, time
import numpy as np
n, n_source, n_classes = map(int, sys.argv[2:])
rng = np.random.default_rng(0)
probs = rng.random((n, n_source), dtype=np.float32)
probs /= probs.sum(1, keepdims=True)
dummies, labels = rng.integers(n_source, size=n), np.arange(n) % n_classes
start = time.perf_counter()
import leep
imported = time.perf_counter()
first = {"leep": (leep.leep_score, probs), "nce": (leep.nce_score, dummies), "h_score": (leep.h_score, probs[:, 1:])}
function, values = first[sys.argv[1]]
times = [time.perf_counter()]
for _ in range(4):
    function(values, labels)
    times.append(time.perf_counter())
print(f"import leep {imported - start:.3f} s, first call {times[1] - times[0]:.3f} s,", end=" ")
print(f"then {min(b - a for a, b in zip(times[1:], times[2:])):.5f} s")
"""


def bench_first_calls() -> None:
    """The first call in a fresh process that finds nothing compiled before."""
    for measure, *sizes in (
        ("leep", 500, 20, 5),
        ("nce", 500, 20, 5),
        ("h_score", 500, 20, 5),
        ("leep", 5000, 1000, 9),
    ):
        with tempfile.TemporaryDirectory() as empty:
            command = [sys.executable, "-c", FIRST_CALL, measure, *map(str, sizes)]
            environment = os.environ | {"NUMBA_CACHE_DIR": empty}
            said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()
        print(f"{measure} of {sizes[0]:,} × {sizes[1]:,} in a fresh process: {said}", flush=True)


def small_tasks(functions: dict[str, Callable], n_tasks: int, n_source: int, d: int) -> dict[str, float]:
    """Milliseconds a task of each measure on small tasks (Section 5.2): 250 examples of 5 classes."""
    times = dict.fromkeys(functions, 0.0)
    for task in range(-1, n_tasks):  # the first one warms up
        rng = np.random.default_rng(task + 1)
        labels, features = rng.permutation(np.arange(250) % 5), rng.normal(size=(250, d)).astype(np.float32)
        probs = rng.dirichlet(np.full(n_source, 0.3), 250).astype(np.float32)
        values = {"leep": probs, "nce": probs.argmax(1), "h_score": features}
        for measure, function in functions.items():
            start = time.perf_counter()
            function(values[measure], labels)
            times[measure] += (time.perf_counter() - start) * (task >= 0)
    return {measure: 1000 * took / n_tasks for measure, took in times.items()}


def bench_small_tasks() -> None:
    """All three measures of 200 small tasks, and TLlib's operations on 20, alone and beside a busy process."""
    ours = {"leep": leep_score, "nce": nce_score, "h_score": h_score}
    theirs = {name: getattr(usual_measures, name) for name in ours}
    for n_source, d in ((10, 64), (1_000, 512)):
        for busy in (False, True):
            other = get_context("spawn").Process(target=keep_busy, daemon=True) if busy else None
            if other:
                other.start()
            our_times, their_times = small_tasks(ours, 200, n_source, d), small_tasks(theirs, 20, n_source, d)
            if other:
                other.kill()
                other.join()
            us, them = sum(our_times.values()), sum(their_times.values())
            each = ", ".join(f"{m} {our_times[m]:.3f} ms ({their_times[m]:.3f})" for m in ours)
            print(
                f"a small task, {n_source:,} source classes, {d} features{', beside a busy process' * busy}: "
                f"{us:.2f} ms, by TLlib's operations {them:.2f} ms, {them / us:.1f} ×: {each}",
                flush=True,
            )


def random_task(measure: str, n: int, d: int, n_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """What a measure takes of a task: d features, probabilities of d source classes or the most probable; labels."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % n_classes)
    (name,) = set(measure_arguments(measure)) - {"target_labels"}
    if name == "features":
        values = rng.standard_normal((n, d), np.float32)
        for y, centre in enumerate(rng.standard_normal((n_classes, d), np.float32) / 4):
            values[labels == y] += centre
        return np.maximum(values, 0, out=values), labels
    values = rng.standard_exponential((n, d), np.float32)
    values *= values
    values /= values.sum(axis=1, keepdims=True)
    return (values if name == "source_probs" else values.argmax(1)), labels


def processor_seconds(function: Callable, tasks: list[tuple], repeats: int = 1) -> float:
    """Of a function on all tasks, after one of them that warms up; the least of a few times."""
    function(*tasks[0])
    times = []
    for _ in range(repeats):
        start = time.process_time()
        for task in tasks:
            function(*task)
        times.append(time.process_time() - start)
    return min(times)


def bench_against_public_code() -> None:
    """Every measure of 200 small tasks, and the operations of public code on five of them, on one thread."""
    print("| measure | 200 × (250 × 512, 5 classes) | operations of public code | ratio |\n| --- | --- | --- | --- |")
    total = 0.0
    for measure in MEASURES:
        tasks = [random_task(measure, 250, 512, 5, seed) for seed in range(200)]
        exact = [(x.astype(np.float64) if x.dtype == np.float32 else x, labels) for x, labels in tasks[:5]]
        with threadpool_limits(1):
            ours = processor_seconds(get_measure(measure), tasks)
            theirs = 40 * processor_seconds(getattr(usual_measures, measure), exact)
        total += ours
        print(f"| `{measure}` | {ours:.2f} s | {theirs:.1f} s | {theirs / ours:.1f} × |", flush=True)
    print(f"all measures of 200 small tasks: {total:.1f} s")


def peak_memory(reset: bool = False) -> float:
    """The most memory, in GB, that this process has held since the last reset (Linux)."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e6


def cost_of_large_task(measure: str, d: int) -> tuple[float, float]:
    """In a process of its own: seconds of the processor, and GB beside the arrays, of 50,000 examples."""
    get_measure(measure)(*random_task(measure, 20_000, 64, 100))  # compiles
    task = random_task(measure, 50_000, d, 100)
    before, start = peak_memory(reset=True), time.process_time()
    get_measure(measure)(*task)
    return time.process_time() - start, peak_memory() - before


def bench_large_tasks() -> None:
    """Every measure of 50,000 examples of 100 classes, and how the cost of a middling task grows."""
    sizes, base = (64, 512, 1280), {"n": 4_000, "d": 128, "n_classes": 10}
    print("| measure | " + " | ".join(f"d = {d:,}" for d in sizes) + " | 2 n | 2 d | 2 classes |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for measure in MEASURES:
        cells = []
        for d in sizes:
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                took, memory = pool.submit(cost_of_large_task, measure, d).result()
            cells.append(f"{took:.2f} s, {memory:.2f} GB")
        score = get_measure(measure)
        first, *doubled = (
            processor_seconds(score, [random_task(measure, **base | change)], 3)
            for change in ({}, *({key: 2 * size} for key, size in base.items()))
        )
        cells += [f"{took / first:.1f} ×" for took in doubled]
        print(f"| `{measure}` | " + " | ".join(cells) + " |", flush=True)


def bench_measures() -> None:
    """Every measure; first calls; small tasks by TLlib's operations too; LEEP of 50,000 × 1,000; 200 large tasks."""
    bench_against_public_code()
    bench_large_tasks()
    bench_first_calls()
    bench_small_tasks()
    rng = np.random.default_rng(0)
    probs = rng.random((50_000, 1_000), dtype=np.float32) ** 8
    probs /= probs.sum(1, keepdims=True)
    labels = rng.permutation(np.repeat(np.arange(100), 500))
    read, ours = seconds(lambda: (probs.sum(), probs.sum())), seconds(lambda: leep_score(probs, labels))
    book = seconds(lambda: textbook_leep(probs, labels), 1)
    print(f"LEEP, n=50,000, 1,000 source and 100 target classes: {ours:.3f} s")
    print(
        f"  {ours / read:.2f} × reading the array twice ({read:.3f} s); textbook {book:.3f} s, {book / ours:.1f} × ours"
    )
    features, probs, labels, test_labels = cifar_like()
    setting, parameters, _ = experiment("5.1")
    tasks = [draw_task(setting, "cifar100", i, 0, labels, test_labels, **parameters).classes for i in range(200)]
    arrays = {"source_probs": probs, "source_labels": probs.argmax(1), "features": features, "target_labels": labels}
    for name in ("leep", "nce", "h_score"):
        print(f"{name} of 200 large tasks: {seconds(lambda: score_class_tasks(name, arrays, tasks)):.3f} s")  # noqa: B023
    whole = {
        "leep": lambda: leep_score(probs, labels),
        "nce": lambda: nce_score(probs.argmax(1), labels),
        "h_score": lambda: h_score(features, labels),
    }
    print("  of the full set once: " + ", ".join(f"{k} {seconds(f):.3f} s" for k, f in whole.items()))


def bench_heads() -> None:
    """The heads of 200 tasks of each section on all cores; some steps of the first ones by the Gluon loop."""
    features, _, labels, test_labels = cifar_like()
    for section in SECTIONS:
        setting, parameters, epochs = experiment(section)

        def train(i, implementation="compiled", epochs=epochs, setting=setting, parameters=parameters):
            task = draw_task(setting, "cifar100", i, 0, labels, test_labels, **parameters)
            x, rng = features[task.train_rows], task_rng(0, setting, "cifar100", i, TRAINING)
            options = {"epochs": epochs, "implementation": implementation}
            start = time.perf_counter()
            train_head(x, task.train_labels, len(task.classes), rng, **options)
            return time.perf_counter() - start

        train(0, epochs=1)  # compiles
        train(0, "gluon", 0)  # imports MXNet
        start = time.perf_counter()
        list(run_in_order(train, range(200), None))
        print(f"Section {section}: 200 heads, {epochs} epochs each, on all cores: {time.perf_counter() - start:.1f} s")
        some = 1 if setting == "large_balanced" else epochs  # a large task takes Gluon minutes an epoch
        gluon, ours = train(0, "gluon", some), min(train(0, epochs=some) for _ in range(3))
        print(
            f"  {some} epochs of one head by the Gluon loop {gluon:.2f} s, compiled {ours:.4f} s: {gluon / ours:.0f} ×"
        )


def make_forward(model: str, size: int, engine: str, precision: str) -> Callable:
    """In a worker process: a function that passes images for a few seconds and returns what it took."""
    engine = create_engine(engine, precision, threads=1)
    from leep.sources.zoo import build

    predict = engine.predictor(build(model, 1000, np.random.SeedSequence(0)))
    prepare = Preprocessing(size, (0.5,) * 3, (0.25,) * 3)
    batch = batch_size(size)
    images = np.random.default_rng(0).integers(0, 256, (batch, 32, 32, 3), np.uint8)
    predict(prepare(images))

    def run(item: int, report: Callable) -> tuple[float, int]:
        start, count = time.monotonic(), 0
        while time.monotonic() - start < 4:
            predict(prepare(images))
            count += batch
        return count / (time.monotonic() - start), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    return run


def bench_forward() -> None:
    """Images a second, resized from 32 pixels, and memory of each source model in each engine that is installed."""
    sources = [cfg for path in sorted((CONF.parent / "source").glob("*.yaml")) for cfg in OmegaConf.load(path).values()]
    for engine, precision in (("gluon", "float32"), ("torch", "float32"), ("torch", "bfloat16")):
        try:
            check_engine(engine, precision, "cpu")
        except ValueError as error:
            print(f"forward pass, {engine} {precision}: {error}")
            continue
        for model, size in dict.fromkeys((s.model, s.size) for s in sources):
            said = []
            for workers in (1, 2):
                args = model, size, engine, precision
                runs = [result for _, result in run_in_processes(make_forward, args, range(workers), workers)]
                failed = [r.reason for r in runs if isinstance(r, Failed)]
                if failed:
                    raise RuntimeError(f"a worker failed: {failed[0]}")
                said.append(f"{sum(speed for speed, _ in runs):,.1f}")
            memory = max(peak for _, peak in runs) / 1e6
            print(
                f"forward pass, {engine} {precision}: {model} at {size} pixels: one worker {said[0]} images/s, "
                f"two {said[1]}; {memory:.2f} GB each",
                flush=True,
            )


def plain_gluon(net, images: np.ndarray, labels: np.ndarray) -> Callable[[], None]:
    """An epoch of fine-tuning written directly against Gluon, the images prepared before."""
    import mxnet as mx

    net.hybridize()
    loss_of = mx.gluon.loss.SoftmaxCrossEntropyLoss()
    trainer = mx.gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.01})

    def epoch() -> None:
        for begin in range(0, len(labels), BATCH):
            x, y = mx.nd.array(images[begin : begin + BATCH]), mx.nd.array(labels[begin : begin + BATCH])
            with mx.autograd.record():
                loss = loss_of(net(x), y)
            loss.backward()
            trainer.step(len(y))
        mx.nd.waitall()

    return epoch


def plain_torch(net, images: np.ndarray, labels: np.ndarray) -> Callable[[], None]:
    """An epoch written directly against PyTorch: contiguous images, `torch.optim.SGD`."""
    import torch

    from leep.engines.graph import get_weights, trace
    from leep.engines.torch_graph import GraphModule

    graph = trace(net)
    tensors = {k: torch.from_numpy(v.copy()) for k, v in get_weights(net).items()}
    module = GraphModule(graph.nodes(), graph.outputs(), tensors)
    weights = [tensors[k].requires_grad_() for k, p in graph.parameters.items() if p.grad_req != "null"]
    optimiser = torch.optim.SGD(weights, 0.01, foreach=False)

    def epoch() -> None:
        for begin in range(0, len(labels), BATCH):
            x, y = torch.from_numpy(images[begin : begin + BATCH]), torch.from_numpy(labels[begin : begin + BATCH])
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(module({"data": x}, tensors, True)[1], y).backward()
            optimiser.step()

    return epoch


def our_loop(trainer, images: np.ndarray, labels: np.ndarray) -> Callable[[], None]:
    """An epoch of the transfer methods, from uint8 images."""
    start, rows, rng = trainer.state(), np.arange(len(labels)), np.random.default_rng(0)
    prepare = Preprocessing(32, (0.5,) * 3, (0.25,) * 3)
    return lambda: train_network(trainer, start, images, rows, labels, rng, prepare=prepare, epochs=1)


def make_training(loop: str, engine: str, precision: str) -> Callable:
    """In a worker process: a function that trains some epochs and returns when they began and ended."""
    plain = {"gluon": plain_gluon, "torch": plain_torch}[engine] if loop == "plain" else None
    if plain is not plain_gluon:  # which runs in MXNet as it comes
        engine = create_engine(engine, precision, threads=1)
    from leep.sources.zoo import build

    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (250, 32, 32, 3), np.uint8), rng.integers(0, 5, 250)
    net = build(RESNET20, 5, np.random.SeedSequence(0))
    if plain:
        epoch = plain(net, rng.standard_normal((250, 3, 32, 32)).astype(np.float32), labels)
    else:
        epoch = our_loop(engine.trainer(net), images, labels)
    epoch()

    def train(item: int, report: Callable) -> tuple[float, float]:
        begin = time.monotonic()
        for _ in range(EPOCHS):
            epoch()
        return begin, time.monotonic()

    return train


def images_a_second(loop: str, engine: str, precision: str, workers: int) -> float:
    """Throughput of worker processes of one thread; the best of three goes."""
    best = 0.0
    for _ in range(3):
        spans = [
            span for _, span in run_in_processes(make_training, (loop, engine, precision), range(workers), workers)
        ]
        for span in spans:
            if isinstance(span, Failed):
                raise RuntimeError(f"a worker failed: {span.reason}")
        best = max(best, workers * EPOCHS * 250 / (max(e for _, e in spans) - min(b for b, _ in spans)))
    return best


def bench_training() -> None:
    """Images a second of fine-tuning ResNet20 at 32 pixels, batches of 10: plain loops, our loop, two workers."""
    for engine, precision in (("gluon", "float32"), ("torch", "float32"), ("torch", "bfloat16")):
        try:
            check_engine(engine, precision, "cpu")
        except ValueError as error:
            print(f"training, {engine} {precision}: {error}")
            continue
        one, two = (images_a_second("ours", engine, precision, n) for n in (1, 2))
        line = f"training, {engine} {precision}: one worker {one:.0f} images/s, two {two:.0f} ({two / one:.2f} ×)"
        if precision == "float32":
            plain = images_a_second("plain", engine, precision, 1)
            line += f"; plain loop {plain:.0f} (ours {one / plain:.2f} × as fast)"
        print(line)


def bench_pass() -> None:
    """The forward pass of ResNet20 over 60,000 images of 32 pixels from a cold cache, and Gluon's own loop."""
    rng, weights = np.random.default_rng(0), find_weights("cifar10_resnet20", RESNET20, "bundled")
    images = rng.integers(0, 256, (60_000, 32, 32, 3), np.uint8)
    prepare = Preprocessing(32, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    bare = {batch: bare_loop(weights.path, prepare(images[:10_000]), batch) for batch in BATCHES}
    best = max(bare, key=bare.get)
    print(
        "bare loop in Gluon, images prepared before, images/s by batch: "
        + ", ".join(f"{k}: {v:,.0f}" for k, v in bare.items())
    )
    labels = np.zeros(60_000, np.int64)
    data = DataSet("random", images[:50_000], labels[:50_000], images[50_000:], labels[50_000:], ("thing",))
    engine = {"name": "gluon", "precision": "float32", "device": "cpu", "threads": 1}
    predictor = partial(make_predictor, engine, RESNET20, 10, weights)
    with tempfile.TemporaryDirectory() as cache:
        start = time.perf_counter()
        forward_pass(Path(cache), "key", predictor, prepare, data, n_cores())
        took = time.perf_counter() - start
    print(
        f"forward pass from a cold cache, with reading, preparing and writing: {took:.1f} s, {60_000 / took:,.0f} "
        f"images/s: {60_000 / took / bare[best]:.2f} × the bare loop at its best batch ({best})"
    )


def bare_loop(weights: Path, images: np.ndarray, batch: int) -> float:
    """Images a second of a hybridized network, MXNet's threads on all cores."""
    create_engine("gluon", threads=n_cores())
    import mxnet as mx

    from leep.sources.zoo import load

    net = load(RESNET20, 10, weights)
    net.hybridize(static_alloc=True, static_shape=True)

    def run() -> None:
        for start in range(0, len(images) - batch + 1, batch):
            mx.nd.softmax(net(mx.nd.array(images[start : start + batch]))).asnumpy()

    run()
    return len(images) // batch * batch / seconds(run)


def tasks_of(n_tasks: int, n_classes: int) -> list[np.ndarray]:
    """Tasks of 20 % to 100 % of the classes."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(n_classes // 5, n_classes + 1, n_tasks)
    return [rng.permutation(n_classes)[:size] for size in sizes]


def measure_all(name: str, d: int, n_tasks: int = 200, n: int = 50_000, n_classes: int = 100) -> float:
    """Seconds of a measure for large tasks (Section 5.1)."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(n) % n_classes)
    features = rng.standard_normal((n, d), np.float32) + rng.standard_normal((n_classes, d), np.float32)[labels]
    probs = rng.dirichlet(np.full(10, 0.3), n).astype(np.float32)
    arrays = {"source_probs": probs, "source_labels": probs.argmax(1), "features": features, "target_labels": labels}
    tasks = tasks_of(n_tasks, n_classes)
    score_class_tasks(name, arrays, tasks[:2])  # compiles
    return seconds(lambda: score_class_tasks(name, arrays, tasks), 1 if d > 64 else 3)


def heads(n_tasks: int = 40, n: int = 2_000, n_classes: int = 10, d: int = 64) -> float:
    """Seconds of re-training heads for 20 epochs on all cores."""
    rng = np.random.default_rng(0)
    features, labels = rng.standard_normal((n, d)).astype(np.float32), np.arange(n) % n_classes

    def train(i: int) -> None:
        train_head(features, labels, n_classes, np.random.default_rng(i), epochs=20)

    train(0)
    return seconds(lambda: list(run_in_order(train, range(n_tasks), None)))


def bench_growth() -> None:
    """Cost at a base, and its ratio when one size is doubled."""
    base = {"n_tasks": 200, "n": 50_000, "n_classes": 100}
    rows = [(f"{m}, d = 64", partial(measure_all, m, 64), base) for m in ("leep", "nce", "h_score")]
    rows += [("h_score, d = 1,280", partial(measure_all, "h_score", 1280), base)]
    rows += [("re-trained heads", heads, {"n_tasks": 40, "n": 2_000, "n_classes": 10})]
    print("| | base | twice the tasks | twice the examples | twice the classes |\n| --- | --- | --- | --- | --- |")
    for name, cost, sizes in rows:
        first = cost(**sizes)
        ratios = [cost(**sizes | {key: 2 * sizes[key]}) / first for key in sizes]
        print(f"| {name} | {first:.3f} s | " + " | ".join(f"{r:.2f} ×" for r in ratios) + " |", flush=True)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


BENCHES = {"measures": bench_measures, "heads": bench_heads, "forward": bench_forward, "pass": bench_pass}
BENCHES |= {"training": bench_training, "growth": bench_growth}


def main() -> None:
    """Run the benchmarks named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", metavar="what", help=f"among {', '.join(BENCHES)} (default: all)")
    chosen = parser.parse_args().what or list(BENCHES)
    unknown = [c for c in chosen if c not in BENCHES]
    if unknown:
        parser.error(f"what must be among {', '.join(BENCHES)}, got {unknown[0]!r}")
    for name in chosen:
        BENCHES[name]()


if __name__ == "__main__":
    main()
