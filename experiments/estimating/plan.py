"""What a run would do and how long it would take, before anything is done: python run.py experiment=… plan=true."""

from __future__ import annotations

import math
import time

from experiments.config.values import RunConfig
from experiments.estimating.jobs import Job, job_of
from experiments.estimating.rates import Rates
from experiments.running.pair import find_pairs
from leep.errors import Invalid, LeepError, Missing
from leep.machine import cpu_model

PATIENCE = 5.0  # seconds after which no further rate is measured
_COLUMNS = "{:<60}{:>14}{:>17}{:>14}{:>10}"
_HEADER = _COLUMNS.format("Method, source → target", "Tasks to do", "Images to train", "To pass", "Time")


def print_plan(configs: list[RunConfig]) -> None:
    """Print what the configurations would do one after the other, and how long that takes.

    Raises
    ------
    Invalid
        If something cannot be read, drawn or measured; all else is planned.
    """
    first = configs[0]
    alone = first.engine.device == "cpu" and first.engine.threads == 1
    clock = time.process_time if alone else time.perf_counter  # the first does not count what other programs take
    again = first.plan == "remeasure"
    rates = Rates(first.cache, clock, again, math.inf if again else PATIENCE)
    total, seen, errors, loaded = 0.0, set(), [], {}
    for config in configs:
        print("\n" + config.summary)
        try:
            pairs = find_pairs(config, loaded)
            print(_HEADER)
            for job in (job_of(pair, method, seen) for pair in pairs for method in pair.methods):
                before = rates.left_out
                expected = seconds(job, rates)
                total += expected
                print(_line(job, _at_least(expected, rates.left_out > before)), flush=True)
        except Missing as lacking:
            print(lacking)
        except (LeepError, OSError, ValueError, NotImplementedError) as error:
            errors.append(str(error))
    in_all = _at_least(total, rates.left_out > 0)
    print(f"\nIn all {in_all} on {cpu_model()} if it does nothing else, and a few seconds a line to start.")
    if rates.left_out:
        print("≥: not all rates were measured, because a plan must be quick; the same command measures more of them.")
    print(f"The rates are kept in {rates.path}; plan=remeasure measures all of them anew.")
    if errors:
        raise Invalid("\n".join(errors))


def seconds(job: Job, rates: Rates) -> float:
    """What a job takes, at least where a rate is not known."""
    return job.recorded + sum(p.units * (rates.seconds(p.key, p.make, p.units) or 0) for p in job.pieces)


def _at_least(seconds: float, is_least: bool) -> str:
    return f"{'≥ ' * is_least}{duration(seconds)}"


def _line(job: Job, expected: str) -> str:
    tasks, name = f"{job.tasks_missing:,} of {job.tasks_all:,}", f"{job.method}, {job.source} → {job.target}"
    return _COLUMNS.format(name, tasks, f"{job.images_to_train:,}", f"{job.images_to_pass:,}", expected)


def duration(seconds: float) -> str:
    """`38 s`, `4.2 min`, `3.1 h` or `8.0 d`."""
    for unit, length, least in (("d", 86400, 48 * 3600), ("h", 3600, 5400), ("min", 60, 90)):
        if seconds >= least:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
