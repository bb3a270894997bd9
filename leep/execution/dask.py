"""Runs items on the workers of a Dask cluster, as `run_in_processes` does on those of this machine."""

from __future__ import annotations

import pickle
import shutil
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import closing, contextmanager, suppress
from queue import Empty, SimpleQueue

import dask
from distributed import Client, Future, KilledWorker, LocalCluster
from distributed.client import ClosedClientError

from leep.execution.dask_worker import Opening, end, serve, versions
from leep.execution.processes import Failed, WorkerError, without_interruptions
from leep.progress import say

POLL = 0.5  # seconds until a worker that has come or gone is seen
PATIENCE = 30  # seconds for a result to come
CONNECT = 10  # seconds for a scheduler to answer
GONE = (OSError, ClosedClientError)  # what a client raises whose scheduler is gone


@contextmanager
def connect(address: str) -> Iterator[Client]:
    """A client of the scheduler at an address, `tcp://host:port`.

    Raises
    ------
    WorkerError
        If none answers there.
    """
    try:
        client = Client(address, timeout=CONNECT, set_as_default=False)
    except OSError as error:
        raise WorkerError(
            f"no Dask scheduler answers at executor.address={address} ({error}); start one, see docs/scaling.md"
        ) from error
    with client:
        yield client


@contextmanager
def local_cluster(workers: int) -> Iterator[Client]:
    """A client of a new cluster of worker processes on the loopback address."""
    options = {"threads_per_worker": 1, "processes": True, "memory_limit": None, "dashboard_address": None}
    with dask.config.set({"distributed.worker.multiprocessing-method": "spawn"}), without_interruptions():
        cluster = LocalCluster(workers, host="127.0.0.1", silence_logs="CRITICAL", **options)
    with cluster, Client(cluster, set_as_default=False) as client:
        yield client


@contextmanager
def slurm_cluster(jobs: int, options: Mapping) -> Iterator[Client]:
    """A client of a new cluster whose scheduler is in this process and whose workers are SLURM jobs.

    Parameters
    ----------
    jobs : int
    options : mapping
        Arguments of `dask_jobqueue.SLURMCluster`.
    """
    from dask_jobqueue import SLURMCluster

    if shutil.which("sbatch") is None:
        raise WorkerError("executor=slurm needs sbatch: start it on a login node of SLURM")
    with without_interruptions():
        cluster = SLURMCluster(**options)
    with cluster, Client(cluster, set_as_default=False) as client:
        cluster.scale(jobs=jobs)
        yield client


def run_on_cluster(
    client: Client,
    packages: tuple[str, ...],
    gpu: bool,
    make: Callable,
    args: tuple,
    items: Iterable,
    workers: int | None = None,
    threads: int = 1,
    on_progress: Callable[[float], None] = lambda amount: None,
    on_retry: Callable[[object, str], None] = lambda item, reason: None,
) -> Iterator[tuple[object, object]]:
    """`(item, result)` for every item, in the order in which they end.

    Each worker has one item at a time, sent to it alone: an item whose worker is gone is tried once more elsewhere.
    With its first item a worker gets `make` and `args`, once it is found to have the parent's versions. One that has
    others, or where `make` fails, is refused with a message; the others do the work. Workers that join later serve too.

    Parameters
    ----------
    client : distributed.Client
    packages : tuple of str
        Installed packages whose versions must be the parent's. The code of `leep` and of the package of `make` must
        be the parent's, too.
    gpu : bool
        Whether each worker takes a GPU of its own.
    make, args, items, threads, on_progress, on_retry
        As in `run_in_processes`.
    workers
        Not used: all workers of the cluster serve.

    Yields
    ------
    item, result
        `Failed` in place of a result that no attempt gave.

    Raises
    ------
    WorkerError
        If all workers are refused, or the scheduler is gone.
    """
    waiting = deque((item, 1) for item in items)
    if not waiting:
        return
    modules = tuple(sorted({"leep", make.__module__.partition(".")[0]}))
    opening = Opening(versions(packages, modules), packages, modules, pickle.dumps((make, args)), threads, gpu)
    with closing(_Crew(client, opening, on_progress)) as crew:
        while waiting or crew.busy:
            for worker in crew.free()[: len(waiting)]:
                crew.give(worker, *waiting.popleft())
            for item, attempt, kind, value in crew.ended():
                again = attempt == 1 and kind in ("died", "failed")
                if kind == "refused" or again:
                    waiting.appendleft((item, attempt + again))
                if again:
                    on_retry(item, value)
                elif kind != "refused":
                    yield item, value if kind == "done" else Failed(value, kind == "died")


class _Crew:
    """The workers of a cluster in one run: who is there, who knows the run, who is refused, and what each one does."""

    def __init__(self, client: Client, opening: Opening, on_progress: Callable[[float], None]):
        self.busy: dict[str, tuple[Future, object, int]] = {}  # by worker
        self._client, self._opening, self._on_progress = client, opening, on_progress
        self._run, self._events = f"leep-{uuid.uuid4().hex}", SimpleQueue()
        self._present: dict[str, int] = {}  # threads, by worker
        self._ready: set[str] = set()
        self._refused: dict[str, str] = {}
        self._amounts: dict[str, float] = {}  # reported, by the key of a future
        self._looked, self._waits = -POLL, False
        self._check_scheduler()
        client.subscribe_topic(self._run, lambda event: self._events.put(event[1]))

    def free(self) -> list[str]:
        """Workers that an item can be given to."""
        self._look()
        free = sorted(self._present.keys() - self.busy.keys() - self._refused.keys())
        if not free and not self.busy:
            self._check_hope()
        return free

    def give(self, worker: str, item: object, attempt: int) -> None:
        """Send an item to a worker, with what opens the run where it does not know it."""
        self._check_scheduler()
        opening = None if worker in self._ready else self._opening
        future = self._client.submit(serve, self._run, item, opening, workers=[worker], pure=False)
        self.busy[worker] = future, item, attempt
        future.add_done_callback(lambda future: self._events.put((worker, future)))

    def ended(self) -> Iterator[tuple[object, int, str, object]]:
        """`item, attempt, kind, value` of the items that ended in the last moment; what is reported is passed on."""
        for worker in self.busy.keys() - self._present.keys():
            yield self._take(worker, "died", f"its worker {worker} is gone: killed, out of memory, or cut off")
        try:
            source, what = self._events.get(timeout=POLL)
        except Empty:
            return
        if not isinstance(what, Future):
            self._count(source, what)
        elif source in self.busy and self.busy[source][0] is what:
            yield from self._receive(source, what)

    def close(self) -> None:
        """Let go of what is under way: a worker ends it at its next report."""
        if self._client.status == "running":
            with suppress(*GONE):
                self._client.unsubscribe_topic(self._run)
                idle = sorted(self._ready - self.busy.keys())
                if idle:
                    self._client.run(end, self._run, workers=idle, on_error="ignore")
        for future, *_ in self.busy.values():
            future.release()

    def _receive(self, worker: str, future: Future) -> Iterator[tuple[object, int, str, object]]:
        try:
            kind, value, amount = future.result(timeout=PATIENCE)
        except TimeoutError:  # it died with the result, which is seen when it is gone; or it is slow
            self._events.put((worker, future))
            return
        except (KilledWorker, CancelledError, *GONE) as error:
            yield self._take(worker, "died", f"its worker {worker} is gone: {error}")
            return
        except Exception as error:  # not of the item, which never raises: the worker cannot read what it is sent
            kind, value, amount = "refused", f"{type(error).__name__}: {error}; start it in the parent's checkout", 0
        self._count(future.key, amount)
        if kind == "closed":
            self._ready.discard(worker)
            self.give(worker, *self.busy[worker][1:])
            return
        if kind == "refused":
            self._refuse(worker, value)
        (self._ready.add if kind == "done" else self._ready.discard)(worker)
        yield self._take(worker, kind, value)

    def _take(self, worker: str, kind: str, value: object) -> tuple[object, int, str, object]:
        future, item, attempt = self.busy.pop(worker)
        self._amounts.pop(future.key, None)
        future.release()
        return item, attempt, kind, value

    def _count(self, key: str, amount: float) -> None:
        """Pass on what an item has reported since it was last heard of."""
        if key in (future.key for future, *_ in self.busy.values()) and amount > self._amounts.get(key, 0):
            self._on_progress(amount - self._amounts.get(key, 0))
            self._amounts[key] = amount

    def _look(self) -> None:
        """Who is there now."""
        if time.monotonic() - self._looked < POLL:
            return
        self._check_scheduler()
        try:
            self._present = self._client.nthreads()
        except GONE as error:
            raise WorkerError(f"the Dask scheduler is gone ({error}); the same command goes on from here") from error
        self._looked = time.monotonic()
        self._ready &= self._present.keys()
        for worker, threads in self._present.items():
            if threads != 1 and worker not in self._refused:
                self._refuse(worker, f"it must have one thread, has {threads}; start it with --nthreads 1 --nworkers N")

    def _check_scheduler(self) -> None:
        if self._client.status == "closed":  # after it has tried to connect anew
            raise WorkerError("the Dask scheduler is gone; the same command goes on from here")

    def _refuse(self, worker: str, reason: str) -> None:
        self._refused[worker] = reason
        say(f"worker {worker} is refused: {reason}")

    def _check_hope(self) -> None:
        """With no worker to wait for: an error if all are refused, else a line, once, that one is awaited."""
        if self._present:
            reasons = "; ".join(sorted(set(self._refused.values())))
            raise WorkerError(f"all {len(self._present)} workers of the cluster are refused: {reasons}")
        if not self._waits:
            say(f"waiting for a worker of {self._client.scheduler.address}")
        self._waits = True
