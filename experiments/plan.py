"""What a run would do and cost, before anything is done: python run.py experiment=… plan=true."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig

from experiments.check import UserError, check_config, check_keys
from experiments.cnaps import find_cnaps
from experiments.costs import HEADS, Costs, Size, cost_of
from experiments.networks import CURVE_PER_CLASS, checkpoint_of, limited
from experiments.protocol import epochs, max_examples, n_tasks, paper_protocol, scale_line
from experiments.reporting.rows import paper_rows
from experiments.transfer import missing_scores
from experiments.work import Work, find_all, method_folder, method_setting, task_setting, tasks_folder
from leep.calibration import Calibration
from leep.machine import cpu_model, memory
from leep.parallel import WorkerError
from leep.results import ResultsError, read_done
from leep.sources.forward import images_to_pass
from leep.sources.weights import WeightsError, WeightsMissing
from leep.tasks import first_of_each_class
from leep.transfer import UNTRAINED
from leep.transfer.training import steps_done


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
            without = dict.fromkeys(cfg.method, missing)
            if "cnaps" in cfg.method and work.weights:
                try:
                    work = replace(work, adaptation=find_cnaps(work))
                except (WeightsMissing, WeightsError) as error:
                    without["cnaps"] = [*missing, str(error)]
            yield from _plan_pair(work, without, seen, calibration)


def _plan_pair(work: Work, lacks: dict[str, list], seen: set, calibration: Calibration) -> Iterator[Line]:
    folder = tasks_folder(work, task_setting(work)) if work.weights else None
    scores = missing_scores(work, read_done(folder / "scores.csv", ["task", "measure"]) if folder else set())
    for method in work.cfg.method:
        known = folder and (method != "cnaps" or work.adaptation)
        inner = folder / method_folder(method_setting(work, method)) if known else None
        done = read_done(inner / "transfers.csv", ["task"]) if inner else set()
        count = n_tasks(work.cfg, method)
        missing = [i for i in range(count) if (str(i),) not in done]
        wanted = scores if method in work.methods or not work.methods else []
        images = _images(work, seen) if wanted or (missing and method in HEADS) else 0
        sizes = _sizes(work, method, missing, inner)
        names = work.source_name, work.target_name, method
        line = Line(work.cfg.experiment, *names, _row_of_table_1(work.cfg, *names), lacks="; ".join(lacks[method]))
        line = replace(line, tasks=count, done=count - len(missing), images=images, steps=sum(s.steps for s in sizes))
        try:
            seconds, most = cost_of(Costs(work, calibration, seen), method, images, wanted, sizes)
            yield replace(line, seconds=seconds, memory=memory() + most if seconds else None)
        except (WorkerError, ValueError, NotImplementedError) as error:
            yield replace(line, unknown=str(error))
        scores = [] if wanted else scores


def _images(work: Work, seen: set) -> int:
    """Images to pass, for the first who asks."""
    key = work.pass_key if work.weights else (work.source_name, work.data.sha256)
    if key in seen:
        return 0
    seen.add(key)
    if work.weights:
        return images_to_pass(work.cache, key, work.data)
    return len(work.data.train_images) + len(work.data.test_images)


def _sizes(work: Work, method: str, tasks: list[int], folder: Path | None) -> list[Size]:
    cap, every = max_examples(work.cfg, method), work.cfg.eval_every.get(method)
    n_epochs, sizes = epochs(work.cfg, method, work.target_name), []
    for index in tasks:
        task = limited(work.task(index), {"max_examples": cap} if cap else {})
        n = len(task.train_rows)
        curve = len(first_of_each_class(task.test_labels, CURVE_PER_CLASS)) if every else 0
        total = done = 0
        if method not in UNTRAINED:
            batch = work.cfg.method[method].batch_size
            total = n_epochs * -(-n // batch)
            done = steps_done(checkpoint_of(folder / "checkpoints", index), n, batch) if folder else 0
        sizes.append(Size(len(task.classes), n, len(task.test_rows), curve, total - done, total))
    return sizes


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
    rows = paper_rows().query("experiment == @cfg.experiment and target == @target and method == @method")
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
