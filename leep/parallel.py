"""Runs tasks on several workers: threads for compiled loops, processes for networks."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait

from joblib import Parallel, delayed

from leep.errors import LeepError


def run_in_order(function: Callable, items: Iterable, workers: int | None = 1) -> Iterator:
    """`function(item)` for every item, results in the items' order, each as soon as it and all before it are done.

    Parameters
    ----------
    function : callable
        Spends its time in compiled code that lets go of Python's lock: the workers are threads.
    items : iterable
    workers : int or None
        All cores if None; with 1 nothing is started.
    """
    workers = workers or n_cores()
    if workers == 1:
        return map(function, items)
    parallel = Parallel(workers, backend="threading", return_as="generator", pre_dispatch="2*n_jobs")
    return parallel(delayed(function)(i) for i in items)


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


class WorkerError(LeepError, RuntimeError):
    """A worker process could not start."""


@dataclass(frozen=True)
class Failed:
    """An item that has no result, why, and whether its process died: then another attempt may end well."""

    reason: str
    died: bool = False


def run_in_processes(
    make: Callable,
    args: tuple,
    items: Iterable,
    workers: int | None = None,
    threads: int = 1,
    on_progress: Callable[[float], None] = lambda amount: None,
    on_retry: Callable[[object, str], None] = lambda item, reason: None,
) -> Iterator[tuple[object, object]]:
    """`(item, result)` for every item, in the order in which they end.

    Each worker has a pipe of its own, so that it is known which item a dead worker had: that item alone is lost, and is
    tried once more in a new process. (With loky's executor, a death fails every item that was handed out.)
    After an exception the process is given up too: its libraries may be in any state. A `FloatingPointError`
    would come again, and is final.

    Parameters
    ----------
    make : callable
        `make(*args)` is called once in each worker process and returns the function of an item:
        `function(item, report)`, where `report(amount)` calls `on_progress(amount)` in this process.
    args : tuple
        Pickled once a worker.
    items : iterable
    workers : int or None
        Processes, started afresh; all cores if None.
    threads : int
        OpenMP threads of a process.
    on_progress, on_retry : callable
        `on_retry(item, reason)` is called when the first attempt of an item has failed.

    Yields
    ------
    item, result
        `Failed` in place of a result that no attempt gave.

    Raises
    ------
    WorkerError
        If `make` fails.
    """
    waiting = deque((item, 1) for item in items)
    busy: dict[Connection, tuple] = {}
    idle: list[tuple] = []
    try:
        idle.extend(start_process(make, args, threads) for _ in range(min(workers or n_cores(), len(waiting))))
        while waiting or busy:
            while waiting and idle:
                process, pipe = idle.pop()
                busy[pipe] = (process, *waiting.popleft())
            for pipe in wait(list(busy)):
                process, item, attempt = busy[pipe]
                kind, value = receive(process, pipe)
                if kind == "ready":
                    with suppress(BrokenPipeError):  # where it has died since, it is what comes next
                        pipe.send(item)
                elif kind == "progress":
                    on_progress(value)
                elif kind == "done":
                    del busy[pipe]
                    idle.append((process, pipe))
                    yield item, value
                elif kind == "cannot start":
                    raise WorkerError(value)
                else:
                    del busy[pipe]
                    end_process(process, pipe)
                    again = attempt == 1 and kind != "final"
                    if again:
                        on_retry(item, value)
                        waiting.appendleft((item, 2))
                    if waiting:
                        idle.append(start_process(make, args, threads))
                    if not again:
                        yield item, Failed(value, kind == "died")
    finally:
        for process, pipe in [*((worker[0], pipe) for pipe, worker in busy.items()), *idle]:
            end_process(process, pipe)


@contextmanager
def without_interruptions() -> Iterator[None]:
    """Threads and processes started here leave Ctrl-C to the parent, which ends them: they inherit what is blocked."""
    resource_tracker.ensure_running()  # its start would unblock what is blocked here
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def start_process(make: Callable, args: tuple, threads: int) -> tuple[multiprocessing.Process, Connection]:
    """A worker process, and the pipe that it is given items through when it has said that it is ready."""
    context = multiprocessing.get_context("spawn")  # MXNet must not be imported before a fork
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, make, args, threads), daemon=True)
    with without_interruptions():  # until the child ignores them
        process.start()
    theirs.close()
    return process, ours


def end_process(process: multiprocessing.Process, pipe: Connection) -> None:
    """Kill a worker process."""
    process.kill()
    process.join()
    pipe.close()


def receive(process: multiprocessing.Process, pipe: Connection) -> tuple[str, object]:
    """What a worker process says, `ready`, `progress`, `done`, `failed`, `final`, `cannot start` or `died`; a value."""
    try:
        return pipe.recv()
    except (EOFError, OSError):  # the latter where it died in the middle of a message
        process.join()
        return "died", f"its process ended with exit code {process.exitcode} (−9: killed, or out of memory)"


def _serve(pipe: Connection, make: Callable, args: tuple, threads: int) -> None:
    """What a worker process does until it is killed or its parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends the workers
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_follow_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    _keep_freed_memory()
    try:
        function = make(*args)
    except Exception as error:
        pipe.send(("cannot start", f"{type(error).__name__}: {error}"))
        return
    while True:
        pipe.send(("ready", None))
        item = pipe.recv()
        try:
            result = function(item, lambda amount: pipe.send(("progress", amount)))
        except Exception as error:
            kind = "final" if isinstance(error, FloatingPointError) else "failed"
            pipe.send((kind, f"{type(error).__name__}: {error}"))
            return
        pipe.send(("done", result))


def _keep_freed_memory() -> None:
    """Have glibc keep what is freed: to give it back, and get it cleared again, took a fifth of a training step."""
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in ((-4, 0), (-1, 2**31 - 1)):  # M_MMAP_MAX, M_TRIM_THRESHOLD
            mallopt(parameter, value)


def _follow_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
