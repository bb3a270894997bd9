"""What a Dask worker does: it is checked once a run, and has items done by a process of its own.

That process is as `run_in_processes` starts them: nothing of Dask runs in it, its libraries are set up for the run, and
its death is not the worker's.
"""

from __future__ import annotations

import hashlib
import importlib.util
import multiprocessing
import pickle
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from distributed import Worker, get_worker

from leep import machine
from leep.execution.gpu import NoGPU, take_gpu
from leep.execution.processes import end_process, receive, start_process

INTERVAL = 0.5  # seconds between two messages on the progress of an item
_processes: dict[str, tuple] = {}  # the last run's process and its pipe, by the run's name


class Refused(Exception):
    """This worker cannot serve; the message says what was expected, what it has, and how to mend it."""


@dataclass(frozen=True)
class Opening:
    """What a worker needs before its first item: sent to each worker once.

    Attributes
    ----------
    versions : what `versions(packages, modules)` gives in the parent
    packages, modules : tuples of str
    package : `make, args`, pickled
    threads : OpenMP threads of the process
    gpu : whether it takes a GPU of its own
    """

    versions: dict[str, str]
    packages: tuple[str, ...]
    modules: tuple[str, ...]
    package: bytes
    threads: int
    gpu: bool


def versions(packages: tuple[str, ...], modules: tuple[str, ...]) -> dict[str, str]:
    """Of Python, of installed packages, and of this project's own code: a hash of its files."""
    code = {f"the code of {name}": _code_digest(name) for name in modules}
    return {"python": platform.python_version(), **machine.versions(packages), **code}


def _code_digest(module: str) -> str:
    spec = importlib.util.find_spec(module)
    if spec is None:
        return "none"
    folders = [Path(p) for p in spec.submodule_search_locations or ()]
    files = sorted((p.relative_to(f).as_posix(), p) for f in folders for p in f.rglob("*.py"))
    digest = hashlib.sha256()
    for name, path in files or [("", Path(spec.origin))]:
        digest.update(f"{name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def serve(run: str, item: object, opening: Opening | None) -> tuple[str, object, float]:
    """Do an item; the first one of a run comes with what opens it.

    Returns
    -------
    kind, value, amount
        `done` and the result; `failed`, `died`, or `final` where it would come again, and why; `refused` and why;
        `closed` where this worker does not know the run. And the sum of what was reported.
    """
    if run not in _processes:
        if opening is None:
            return "closed", None, 0
        try:
            _open(run, opening)
        except (Refused, NoGPU) as error:
            return "refused", str(error), 0
    kind, value, amount = _do(run, item, get_worker())
    if kind != "done":
        _close()
    return kind, value, amount


def end(run: str) -> None:
    """End the process that does the items of a run, with its memory and its GPU's."""
    if run in _processes:
        _close()


def _open(run: str, opening: Opening) -> None:
    _close()
    _check_versions(opening)
    if opening.gpu:
        take_gpu()
    with _not_a_daemon():
        _processes[run] = start_process(*pickle.loads(opening.package), opening.threads)


def _close() -> None:
    while _processes:
        end_process(*_processes.popitem()[1])


@contextmanager
def _not_a_daemon() -> Iterator[None]:
    """Dask's nanny has its worker be a daemon, which may have no children; ours end with their parent all the same."""
    config = multiprocessing.current_process()._config
    daemon = config.get("daemon")
    config["daemon"] = False
    try:
        yield
    finally:
        config["daemon"] = daemon


def _check_versions(opening: Opening) -> None:
    found = versions(opening.packages, opening.modules)
    wrong = [
        f"{name} must be {version} as in the parent, it has {found[name]}"
        for name, version in opening.versions.items()
        if found[name] != version
    ]
    if wrong:
        remedy = "start it from the parent's checkout and environment (requirements.lock)"
        raise Refused(f"{'; '.join(wrong)}; {remedy}")


def _do(run: str, item: object, worker: Worker) -> tuple[str, object, float]:
    """Have the process do an item, and tell the parent now and then how far it is."""
    (process, pipe), key = _processes[run], worker.get_current_task()
    amount, sent = 0.0, time.monotonic()
    while True:
        if pipe.poll(INTERVAL):
            kind, value = receive(process, pipe)
            if kind == "ready":
                with suppress(BrokenPipeError):  # where it has died since, it is what comes next
                    pipe.send(item)
            elif kind == "progress":
                amount += value
            else:
                return "refused" if kind == "cannot start" else kind, value, amount
        if time.monotonic() - sent > INTERVAL:
            sent = time.monotonic()
            task = worker.state.tasks.get(key)
            if task is None or task.state != "executing":  # the parent is gone, or has been interrupted
                return "abandoned", None, amount
            worker.log_event(run, [key, amount])
