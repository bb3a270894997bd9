"""How fast this machine is: measured once and kept, or told by earlier runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median

from leep.errors import Invalid
from leep.files import write_atomically
from leep.machine import cpu_model, versions
from leep.results import read_setting, read_times

LONG_ENOUGH = 0.3  # seconds of a measurement: all of it takes at most about four times as long
SLOW = 5.0  # seconds of a first call that is not repeated
TASKS_ENOUGH = 10  # tasks of an earlier run, to tell how long one takes

Batches = Callable[[int], int]  # does n batches of work, and returns how many units they hold


class Rates:
    """Seconds a unit of work, kept in `rates.json` of a folder; with `again`, all are measured anew, once.

    `clock` returns seconds.
    """

    def __init__(self, folder: Path, clock: Callable[[], float], again: bool = False):
        self.path, self._clock, self._kept = Path(folder) / "rates.json", clock, {}
        with suppress(OSError, ValueError, TypeError):
            self._kept = dict(json.loads(self.path.read_text()))
        self._known = {} if again else dict(self._kept)

    def seconds(self, key: list, make: Callable[[], Batches]) -> float:
        """Seconds a unit, as kept for a JSON-able key, or else as measured of what `make` gives."""
        name = json.dumps([*key, cpu_model(), versions(("mxnet", "torch"))])
        if name not in self._known:
            print("measuring:", *key[:3], file=sys.stderr)
            self._known[name] = self._kept[name] = measure(make(), self._clock)
            text = json.dumps(self._kept, indent=1).encode()
            write_atomically(self.path, lambda f: f.write(text))
        return self._known[name]


def measure(batches: Batches, clock: Callable[[], float]) -> float:
    """Seconds a unit: of twice as many batches again and again, until they take long enough.

    The first call does not count, because it compiles.
    """
    n = 0
    while True:
        begin = clock()
        units = batches(n or 1)
        took = clock() - begin
        if took >= SLOW or (n and took >= LONG_ENOUGH):
            return took / units
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
