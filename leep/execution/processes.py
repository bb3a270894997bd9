"""Runs items in parallel on this machine: in threads for compiled loops, in processes for networks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from typing import Protocol

from leep.errors import LeepError


def n_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def run_in_order(function: Callable, items: Iterable, workers: int | None = 1) -> Iterator:
    """Apply `function` to every item in threads and yield the results in the order of the items.

    Parameters
    ----------
    function : callable
        It should spend its time in compiled code that releases Python's lock, because the workers are threads.
    items : iterable
    workers : int or None
        Number of threads; all cores if None. With 1 no thread is started.

    Examples
    --------
    >>> list(run_in_order(abs, [-3, 1, -2], workers=2))
    [3, 1, 2]
    """
    workers = workers or n_cores()
    if workers == 1:
        yield from map(function, items)
        return
    threads = ThreadPoolExecutor(workers)
    try:
        yield from threads.map(function, items)
    finally:
        threads.shutdown(cancel_futures=True)


class WorkerError(LeepError, RuntimeError):
    """A worker cannot serve; the message says why and how to mend it."""


@dataclass(frozen=True)
class Failed:
    """Stands in place of the result of an item that has none.

    Attributes
    ----------
    reason : str
    died : bool
        Whether its process or worker died. Another run may then succeed.
    """

    reason: str
    died: bool = False


class ItemRunner(Protocol):
    """Runs items in other processes: `run_in_processes` on this machine, `run_on_cluster` on a Dask cluster."""

    def __call__(
        self,
        make: Callable[..., Callable],
        args: tuple,
        items: Iterable,
        workers: int | None = None,
        threads: int = 1,
        on_progress: Callable[[float], None] = ...,
        on_retry: Callable[[object, str], None] = ...,
    ) -> Iterator[tuple[object, object]]: ...


def ignore(*args) -> None:
    """Do nothing: the default of `on_progress` and `on_retry`."""


def run_in_processes(
    make: Callable[..., Callable],
    args: tuple,
    items: Iterable,
    workers: int | None = None,
    threads: int = 1,
    on_progress: Callable[[float], None] = ignore,
    on_retry: Callable[[object, str], None] = ignore,
) -> Iterator[tuple[object, object]]:
    """Run every item in a pool of worker processes and yield `(item, result)` in the order in which they end.

    An item that fails is tried once more, in a new process. A `FloatingPointError` is final, because it would come
    again. Every process has a pipe of its own, because one death must cost one item: with the executors of
    `concurrent.futures` and loky it fails every item that is under way. A process whose item raised an exception is
    replaced, because its libraries may be in any state.

    Parameters
    ----------
    make : callable
        `make(*args)` is called once in each process. It returns `function(item, report)`, which gives the result of
        an item; `report(amount)` calls `on_progress(amount)` in this process.
    args : tuple
        Pickled once a process.
    items : iterable
        Read as processes become free.
    workers : int or None
        Number of processes; all cores if None. They are started when there is an item for them.
    threads : int
        OpenMP threads of a process.
    on_progress, on_retry : callable
        `on_retry(item, reason)` is called when the first attempt at an item has failed.

    Yields
    ------
    item, result
        `Failed` in place of a result that no attempt gave.

    Raises
    ------
    WorkerError
        If `make` fails.
    """
    new, again = ((item, 1) for item in items), deque()
    idle: list[_Process] = []
    busy: dict[connection.Connection, tuple[_Process, object, int]] = {}
    try:
        while True:
            while len(busy) < (workers or n_cores()) and (job := again.popleft() if again else next(new, None)):
                process = idle.pop() if idle else _Process(make, args, threads)
                process.send(job[0])
                busy[process.pipe] = process, *job
            if not busy:
                return
            for pipe in connection.wait(list(busy)):
                process, item, attempt = busy[pipe]
                kind, value = process.receive()
                if kind == "progress":
                    on_progress(value)
                    continue
                if kind == "cannot start":
                    raise WorkerError(value)
                del busy[pipe]
                if kind == "done":
                    idle.append(process)
                    yield item, value
                    continue
                process.kill()
                if attempt == 1 and kind != "final":
                    on_retry(item, value)
                    again.append((item, 2))
                else:
                    yield item, Failed(value, died=kind == "died")
    finally:
        for process in [*idle, *(process for process, *_ in busy.values())]:
            process.kill()


class _Process:
    """A worker process, and the pipe through which it receives items."""

    def __init__(self, make: Callable, args: tuple, threads: int):
        context = multiprocessing.get_context("spawn")  # MXNet must not be imported before a fork
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, args, threads), daemon=True)
        with without_interruptions():
            self._process.start()
        theirs.close()

    def send(self, item: object) -> None:
        with suppress(BrokenPipeError):  # it has died; `receive` says so
            self.pipe.send(item)

    def receive(self) -> tuple[str, object]:
        """What the process says, `progress`, `done`, `failed`, `final`, `cannot start` or `died`, and a value."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):  # an OSError if it died in the middle of a message
            self._process.join()
            return "died", f"its process ended with exit code {self._process.exitcode} (−9: killed, or out of memory)"

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self.pipe.close()


@contextmanager
def without_interruptions() -> Iterator[None]:
    """Start threads and processes that ignore Ctrl-C; one that comes meanwhile is raised afterwards.

    They inherit the blocked signal, and the parent ends them. To block it here is not enough, because another thread
    of this process, a progress bar's, may take it: the interruption would leave a process half started.
    """
    resource_tracker.ensure_running()  # its start would unblock the signal here
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    interrupted = threading.Event()
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda *_: interrupted.set()) if in_main else None
    try:
        yield
    finally:
        if in_main:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if interrupted.is_set():
        signal.raise_signal(signal.SIGINT)


def _serve(pipe: connection.Connection, make: Callable, args: tuple, threads: int) -> None:
    """Serve items in a worker process until it is killed or its parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        function = make(*args)
    except Exception as error:
        pipe.send(("cannot start", f"{type(error).__name__}: {error}"))
        return
    with suppress(EOFError, ConnectionError):  # the parent has ended
        while True:
            item = pipe.recv()
            try:
                result = function(item, lambda amount: pipe.send(("progress", amount)))
            except Exception as error:
                kind = "final" if isinstance(error, FloatingPointError) else "failed"
                pipe.send((kind, f"{type(error).__name__}: {error}"))
                return
            pipe.send(("done", result))


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
