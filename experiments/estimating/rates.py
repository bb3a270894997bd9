"""How fast this machine is: measured once and kept, or told by earlier runs."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median

from leep.errors import Invalid
from leep.files import write_atomically
from leep.machine import cpu_model, versions
from leep.results import read_setting, read_times

LONG_ENOUGH = 0.15  # seconds of a measurement: all of it takes at most about four times as long
SLOW = 5.0  # seconds of a first call that is not repeated
TASKS_ENOUGH = 10  # tasks of an earlier run, to tell how long one takes

Batches = Callable[[int], int]  # does n batches of work, and returns how many units they hold


class Rates:
    """Seconds a unit of work, kept in `rates.json` of a folder; with `again`, all are measured anew, once.

    `clock` returns seconds. Nothing more is measured `patience` seconds after the first measurement began; `left_out`
    counts what is not known then.
    """

    def __init__(self, folder: Path, clock: Callable[[], float], again: bool = False, patience: float = math.inf):
        self.left_out, self._patience, self._begin = 0, patience, None
        self.path, self._clock, self._kept = Path(folder) / "rates.json", clock, {}
        with suppress(OSError, ValueError, TypeError):
            self._kept = dict(json.loads(self.path.read_text()))
        self._known = {} if again else dict(self._kept)

    def seconds(self, key: list, make: Callable[[], Batches], units: float) -> float | None:
        """Seconds a unit, as kept for a JSON-able key, or else as measured of what `make` gives; None: not known.

        No more than `units` are done to measure it: the plan must not cost more than what it plans.
        """
        name = json.dumps([*key, cpu_model(), versions(("mxnet", "torch"))])
        if name in self._known:
            return self._known[name]
        self._begin = self._begin or time.monotonic()
        if time.monotonic() - self._begin >= self._patience:
            self.left_out += 1
            return None
        print("measuring:", *key[:3], file=sys.stderr)
        rate, steady = measure(make(), self._clock, units)
        if steady:
            self._known[name] = self._kept[name] = rate
            write_atomically(self.path, json.dumps(self._kept, indent=1).encode())
        return rate


def measure(batches: Batches, clock: Callable[[], float], most: float = math.inf) -> tuple[float, bool]:
    """Seconds a unit: of twice as many batches again and again, until they take long enough, or `most` units are done.

    The first call does not count, because it compiles. The second value is whether they took long enough.
    """
    n, done = 0, 0
    while True:
        begin = clock()
        units = batches(n or 1)
        took, done = clock() - begin, done + units
        steady = took >= SLOW or (n > 0 and took >= LONG_ENOUGH)
        if steady or done >= most:
            return took / units, steady
        n = 2 * n or 1


def recorded(results: Path, tasks: dict, method: dict, workers: int) -> float | None:
    """Seconds of a task, by `times.jsonl` of runs that differ from these settings in seed, weights and scale at most.

    The median of the calls that made ten tasks or more on this processor with as many workers; None without any.
    """
    found, ours = [], _alike(tasks, method)
    runs = f"{tasks['experiment']}/*/{tasks['target']['name']}/*/{method['method']}-*/times.jsonl"
    for folder in (path.parent for path in Path(results).glob(runs)):
        with suppress(Invalid, KeyError, TypeError):
            if _alike(read_setting(folder.parent)["setting"], read_setting(folder)["setting"]) == ours:
                calls = [c for c in read_times(folder) if (c["cpu"], c["workers"]) == (cpu_model(), workers)]
                found += [c["seconds"] / c["tasks"] for c in calls if c["tasks"] >= TASKS_ENOUGH]
    return median(found) if found else None


def _alike(tasks: dict, method: dict) -> list:
    shared = [tasks[key] for key in ("experiment", "task", "target", "engine")]
    shared += [tasks["source"][key] for key in ("model", "preprocessing")]
    shared += [{key: value for key, value in method.items() if key not in ("scale", "weights_sha256")}]
    return json.loads(json.dumps(shared))  # as it is read from a file
