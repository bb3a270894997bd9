"""What a run would do and cost, before anything is done: python run.py experiment=… plan=true."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from experiments.check import UserError, check_config, check_keys
from experiments.cnaps import find_cnaps
from experiments.networks import CURVE_PER_CLASS, checkpoint_of, limited
from experiments.protocol import epochs, max_examples, n_tasks, paper_protocol, scale_line, task_parameters
from experiments.table1 import paper_rows
from experiments.transfer import (
    TASKS_AT_ONCE,
    Work,
    find_all,
    method_folder,
    method_setting,
    missing_scores,
    task_setting,
    tasks_folder,
)
from leep.calibration import (
    Calibration,
    cpu_model,
    measure_adaptation,
    measure_forward,
    measure_rows,
    measure_tasks,
    measure_training,
    memory,
)
from leep.parallel import WorkerError, n_cores
from leep.results import ResultsError, read_done
from leep.sources.forward import BLOCK_PIXELS, images_to_pass
from leep.sources.weights import WeightsError, WeightsMissing
from leep.tasks import draw_task, first_of_each_class
from leep.transfer import UNTRAINED
from leep.transfer.training import curve_epochs, steps_done

HEADS = ("retrain_head", "nearest_mean")  # methods that read the forward pass


@dataclass(frozen=True)
class Line:
    """A source, a target and a method.

    Attributes
    ----------
    experiment, source, target, method : str
    row : int or None
        Of Table 1.
    tasks, done : int or None
        None where the data are missing.
    images : int
        Of the forward pass that this line would be the first to need; 0 where it is in the cache.
    steps : int
        SGD steps of the tasks that are not done.
    seconds, memory : float or None
        To expect; None where that is not known.
    lacks : str
        What is missing, and how to get it; empty where the line can run.
    unknown : str
        Why it could not be calibrated.
    """

    experiment: str
    source: str
    target: str
    method: str
    row: int | None
    tasks: int | None = None
    done: int | None = None
    images: int = 0
    steps: int = 0
    seconds: float | None = None
    memory: float | None = None
    lacks: str = ""
    unknown: str = ""


@dataclass(frozen=True)
class Size:
    """What a task's cost depends on."""

    classes: int
    train: int
    test: int
    curve: int  # test examples of a convergence curve
    steps: int  # left, of `all_steps`
    all_steps: int


def print_plan(cfgs: list[DictConfig]) -> None:
    """Print what the configurations would do one after the other, and what that costs.

    Raises
    ------
    UserError
        If a configuration is wrong, or tasks cannot be drawn from its data; the others are planned.
    """
    papers = []
    for cfg in cfgs:
        check_config(cfg)
        papers.append(paper_protocol(cfg))
        check_keys(cfg, papers[-1])
    cache = Path(cfgs[0].paths.cache).expanduser()
    calibration = Calibration(cache, cfgs[0].plan == "remeasure")
    seen, lines, errors, start = set(), [], [], time.process_time()
    for cfg, paper in zip(cfgs, papers):
        begin = time.process_time()
        try:
            found = find_all(cfg)
            start += time.process_time() - begin
            planned = list(plan(cfg, paper, *found, seen, calibration))
        except (UserError, ResultsError, OSError) as error:
            errors.append(str(error))
            continue
        print("\n" + scale_line(cfg, paper))
        print("\n".join([_WIDTHS.format(*_HEADER), *map(_text, planned)]), flush=True)
        lines += planned
    print("\n" + _summary(lines, start, calibration))
    if errors:
        raise UserError("\n".join(errors))


def plan(cfg, paper, weights, data, lacks, seen: set, calibration: Calibration) -> Iterator[Line]:
    """A line for every source, target and method.

    Parameters
    ----------
    cfg, paper : DictConfig
    weights, data, lacks
        What `find_all` found.
    seen : set
        What a line before would do for this one too: forward passes, loading the compiled code; added to.
    calibration : Calibration
    """
    for source in cfg.source:
        for target in cfg.target:
            missing = [lacks[name] for name in (source, target) if name in lacks]
            if target not in data:
                for method in cfg.method:
                    row = _row_of_table_1(cfg, source, target, method)
                    yield Line(cfg.experiment, source, target, method, row, lacks="; ".join(missing))
                continue
            work = Work(cfg, paper, source, weights.get(source), target, data[target])
            if "cnaps" in cfg.method and work.weights:
                try:
                    work = replace(work, adaptation=find_cnaps(work))
                except (WeightsMissing, WeightsError) as error:
                    missing.append(str(error))
            yield from _plan_pair(work, "; ".join(missing), seen, calibration)


def _plan_pair(work: Work, lacks: str, seen: set, calibration: Calibration) -> Iterator[Line]:
    folder = tasks_folder(work, task_setting(work)) if work.weights else None
    scores = missing_scores(work, read_done(folder / "scores.csv", ["task", "measure"]) if folder else set())
    for method in work.cfg.method:
        known = folder and (method != "cnaps" or work.adaptation)
        inner = folder / method_folder(method_setting(work, method)) if known else None
        done = read_done(inner / "transfers.csv", ["task"]) if inner else set()
        count = n_tasks(work.cfg, method)
        missing = [i for i in range(count) if (str(i),) not in done]
        images = _images(work, seen) if scores or (missing and method in HEADS) else 0
        sizes = [_size(work, method, index, inner) for index in missing]
        names = work.source_name, work.target_name, method
        line = Line(work.cfg.experiment, *names, _row_of_table_1(work.cfg, *names), lacks=lacks)
        line = replace(line, tasks=count, done=count - len(missing), images=images, steps=sum(s.steps for s in sizes))
        try:
            seconds, most = _cost(Costs(work, calibration, seen), method, images, scores, sizes)
            yield replace(line, seconds=seconds, memory=memory() + most if seconds else None)
        except (WorkerError, ValueError, NotImplementedError) as error:
            yield replace(line, unknown=str(error))
        scores = []


def _images(work: Work, seen: set) -> int:
    """Images to pass, for the first who asks."""
    key = work.pass_key if work.weights else (work.source_name, work.data.sha256)
    if key in seen:
        return 0
    seen.add(key)
    if work.weights:
        return images_to_pass(work.cache, key, work.data)
    return len(work.data.train_images) + len(work.data.test_images)


def _size(work: Work, method: str, index: int, folder: Path | None) -> Size:
    cap = max_examples(work.cfg, method)
    task = limited(work.task(index), {"max_examples": cap} if cap else {})
    n, every = len(task.train_rows), work.cfg.eval_every.get(method)
    curve = len(first_of_each_class(task.test_labels, CURVE_PER_CLASS)) if every else 0
    total = done = 0
    if method not in UNTRAINED:
        batch = work.cfg.method[method].batch_size
        total = epochs(work.cfg, method, work.target_name) * -(-n // batch)
        done = steps_done(checkpoint_of(folder / "checkpoints", index), n, batch) if folder else 0
    return Size(len(task.classes), n, len(task.test_rows), curve, total - done, total)


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
        parameters = task_parameters(cfg, work.target_name)
        labels = work.data.train_labels, work.data.test_labels
        draw = partial(_draw, cfg.experiment, cfg.seed, *labels, parameters)
        head = cfg.method.get("retrain_head") or {"batch_size": 10}
        if head.get("implementation") == "gluon":
            raise ValueError("method.retrain_head.implementation=gluon is the slow reference")
        what = {
            "experiment": cfg.experiment,
            "parameters": parameters,
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


def _draw(experiment: str, seed: int, train_labels, test_labels, parameters: dict, index: int):
    return draw_task(experiment, index, seed, train_labels, test_labels, **parameters)


def _cost(costs: Costs, method: str, images: int, scores: list, sizes: list[Size]) -> tuple[float, float]:
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


_HEADER = ("Row", "Method, source → target", "Tasks", "Done", "Images", "Steps", "Time", "Memory")
_WIDTHS = "{:>5}  {:<62}{:>6}{:>6}{:>10}{:>14}{:>10}{:>9}"


def _text(line: Line) -> str:
    name = f"{line.method}, {line.source} → {line.target}"
    row = f"{line.row or ''}{'*' if line.lacks else ' '}"
    if line.tasks is None:
        return _WIDTHS.format(row, name, *"––––––")
    counts = [f"{n:,}" for n in (line.tasks, line.done, line.images, line.steps)]
    most = "–" if line.memory is None else f"{line.memory / 1e9:.1f} GB"
    return _WIDTHS.format(row, name, *counts, duration(line.seconds), most)


def _row_of_table_1(cfg: DictConfig, source: str, target: str, method: str) -> int | None:
    """The row that would be filled: by any model of the same source data, for CNAPs by any model."""
    rows = paper_rows().query("setting == @cfg.experiment and target == @target and method == @method")
    if method != "cnaps":
        rows = rows[rows.source_data == cfg.source[source].trained_on]
    return None if rows.empty else int(rows.row.iloc[0])


def duration(seconds: float | None) -> str:
    """`38 s`, `4.2 min`, `3.1 h` or `8.0 d`; a question mark where it is not known."""
    if seconds is None:
        return "?"
    for unit, length, least in (("d", 86400, 48 * 3600), ("h", 3600, 5400), ("min", 60, 90)):
        if seconds >= least:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def _summary(lines: list[Line], start: float, calibration: Calibration) -> str:
    """What the lines add up to, what is missing, and what the numbers are."""
    able = [line for line in lines if not line.lacks]
    unable = [line for line in lines if line.lacks]
    most = max((line.memory or 0 for line in able), default=0)
    said = [f"In all {_sum(able, start)}, {start:.0f} s of it to start and read the data; {most / 1e9:.1f} GB at most."]
    if unable:
        said.append(f"* {_sum(unable)} more, once there is what is missing:")
        said += [f"  - {text}" for text in dict.fromkeys(line.lacks for line in unable)]
    if unknown := dict.fromkeys(line.unknown for line in lines if line.unknown):
        said += ["? Not calibrated:", *(f"  - {text}" for text in unknown)]
    said.append(f"Measured on {cpu_model()}; kept in {calibration.path}; plan=remeasure measures anew.")
    said.append("Time: of a machine that does nothing else, all workers at work.")
    said.append("Memory: the processes' own pages (RssAnon), without the images that workers map from one file.")
    return "\n".join(said)


def _sum(lines: list[Line], seconds: float = 0.0) -> str:
    open_end = any(line.seconds is None for line in lines)
    return ("at least " if open_end else "") + duration(seconds + sum(line.seconds or 0 for line in lines))
