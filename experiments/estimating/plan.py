"""What a run would do and how long it would take, before anything is done: python run.py experiment=… plan=true."""

from __future__ import annotations

import time
from pathlib import Path

from omegaconf import DictConfig

from experiments.check import UserError, check_config, check_keys
from experiments.estimating.jobs import Job, job_of
from experiments.estimating.rates import Rates
from experiments.protocol import paper_protocol, scale_line
from experiments.work import NothingToRun, find_work
from leep.machine import cpu_model
from leep.results import ResultsError

_COLUMNS = "{:<60}{:>14}{:>17}{:>14}{:>10}"
_HEADER = _COLUMNS.format("Method, source → target", "Tasks to do", "Images to train", "To pass", "Time")


def print_plan(cfgs: list[DictConfig]) -> None:
    """Print what the configurations would do one after the other, and how long that takes.

    Raises
    ------
    UserError
        If a configuration is wrong, or something cannot be read, drawn or measured; all else is planned.
    """
    papers = []
    for cfg in cfgs:
        check_config(cfg)
        papers.append(paper_protocol(cfg))
        check_keys(cfg, papers[-1])
    first = cfgs[0]
    alone = first.engine.device == "cpu" and (first.engine.threads or 1) == 1
    clock = time.process_time if alone else time.perf_counter  # the first does not count what other programs take
    rates = Rates(Path(first.paths.cache).expanduser(), clock, first.plan == "remeasure")
    total, seen, errors = 0.0, set(), []
    for cfg, paper in zip(cfgs, papers):
        print("\n" + scale_line(cfg, paper))
        try:
            works = find_work(cfg, paper)
            print(_HEADER)
            for job in (job_of(work, method, seen) for work in works for method in work.methods):
                expected = seconds(job, rates)
                total += expected
                print(_line(job, expected), flush=True)
        except NothingToRun as lacking:
            print(lacking)
        except (UserError, ResultsError, OSError, ValueError, NotImplementedError) as error:
            errors.append(str(error))
    print(f"\nIn all {duration(total)} on {cpu_model()} if it does nothing else, and a few seconds a line to start.")
    print(f"The rates are kept in {rates.path}; plan=remeasure measures them anew.")
    if errors:
        raise UserError("\n".join(errors))


def seconds(job: Job, rates: Rates) -> float:
    """What a job takes."""
    return job.recorded + sum(p.units * rates.seconds(p.key, p.make) for p in job.pieces)


def _line(job: Job, expected: float) -> str:
    tasks, name = f"{job.tasks_missing:,} of {job.tasks_all:,}", f"{job.method}, {job.source} → {job.target}"
    return _COLUMNS.format(name, tasks, f"{job.images_to_train:,}", f"{job.images_to_pass:,}", duration(expected))


def duration(seconds: float) -> str:
    """`38 s`, `4.2 min`, `3.1 h` or `8.0 d`."""
    for unit, length, least in (("d", 86400, 48 * 3600), ("h", 3600, 5400), ("min", 60, 90)):
        if seconds >= least:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
