"""Runs items on the workers of a Dask cluster, as `run_in_processes` runs them on this machine.

A worker has one item at a time and hands it to a process of its own, by `run_in_processes`. That process starts with
the libraries of one run and without Dask's threads. A task that runs out of memory ends the process, not the worker.
"""

from __future__ import annotations

import hashlib
import importlib.util
import multiprocessing
import pickle
import platform
import shutil
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

import dask
from distributed import Client, Future, KilledWorker, LocalCluster, get_worker
from distributed.client import ClosedClientError
from distributed.deploy import Cluster

from leep import machine
from leep.execution.gpu import claim_gpu
from leep.execution.processes import Failed, WorkerError, ignore, run_in_processes, without_interruptions
from leep.progress import say

POLL = 0.5  # seconds between two looks at who is there, and between two messages of a worker
PATIENCE = 60  # seconds for a finished result to arrive
SCHEDULER_LOST = (OSError, ClosedClientError)


def connect(scheduler: str | Cluster) -> Client:
    """A client of a cluster, or of the scheduler at an address `tcp://host:port`; `WorkerError` if none answers."""
    try:
        return Client(scheduler, set_as_default=False)
    except OSError as error:
        raise WorkerError(
            f"no Dask scheduler answers at executor.address={scheduler} ({error}); start one, see docs/scaling.md"
        ) from error


def local_cluster(workers: int) -> Cluster:
    """A new cluster of worker processes on the loopback address."""
    config = {"distributed.worker.multiprocessing-method": "spawn", "distributed.worker.daemon": False}
    options = {"threads_per_worker": 1, "memory_limit": None, "dashboard_address": None, "silence_logs": "CRITICAL"}
    with dask.config.set(config), without_interruptions():
        return LocalCluster(workers, host="127.0.0.1", **options)


def slurm_cluster(jobs: int, options: Mapping) -> Cluster:
    """A new cluster whose workers are SLURM jobs; `options` are those of `dask_jobqueue.SLURMCluster`."""
    from dask_jobqueue import SLURMCluster

    if shutil.which("sbatch") is None:
        raise WorkerError("executor=slurm needs sbatch: start it on a login node of SLURM")
    with without_interruptions():
        cluster = SLURMCluster(**options)
    cluster.scale(jobs=jobs)
    return cluster


# The parent


@dataclass(frozen=True)
class RunSpec:
    """What a worker needs to serve a run: a few kB, sent with every item."""

    id: str
    packages: tuple[str, ...]
    modules: tuple[str, ...]
    versions: dict[str, str]  # of the packages and the modules in the parent
    call: bytes  # `make, args`, pickled, because a worker with other code could not read them
    threads: int
    gpu: bool


def run_on_cluster(
    client: Client,
    packages: tuple[str, ...],
    gpu: bool,
    make: Callable[..., Callable],
    args: tuple,
    items: Iterable,
    workers: int | None = None,
    threads: int = 1,
    on_progress: Callable[[float], None] = ignore,
    on_retry: Callable[[object, str], None] = ignore,
) -> Iterator[tuple[object, object]]:
    """Run every item on a worker of the cluster and yield `(item, result)` in the order in which they end.

    An item whose worker dies is tried once more on another. An item that fails is tried once more by its worker. A
    worker that has other versions than the parent, or where `make` fails, is refused with a message, and the others do
    the work. Workers that join later serve too.

    Parameters
    ----------
    client : distributed.Client
    packages : tuple of str
        Installed packages whose versions must be the parent's. The code of `leep` and of the package of `make` must
        be the parent's, too.
    gpu : bool
        Whether each worker claims a GPU.
    make, args, items, threads, on_progress, on_retry
        As in `run_in_processes`.
    workers
        Not used, because all workers of the cluster serve.

    Yields
    ------
    item, result
        `Failed` in place of a result that no attempt gave.

    Raises
    ------
    WorkerError
        If all workers are refused, or the scheduler is lost.
    """
    items = list(items)
    if not items:
        return
    modules = tuple(sorted({"leep", make.__module__.partition(".")[0]}))
    call, run = pickle.dumps((make, args)), f"leep-{uuid.uuid4().hex}"
    spec = RunSpec(run, packages, modules, versions(packages, modules), call, threads, gpu)
    with closing(_WorkerPool(client, spec, items, on_progress, on_retry)) as pool:
        while pool.waiting or pool.busy:
            pool.submit()
            yield from pool.completed()


class _WorkerPool:
    """The workers of a cluster during one run: which are there, which are refused, and what each one does."""

    def __init__(self, client: Client, spec: RunSpec, items: list, on_progress: Callable, on_retry: Callable):
        self.waiting = deque((item, 1) for item in items)
        self.busy: dict[str, tuple[Future, object, int]] = {}  # future, item and attempt, by address of the worker
        self._client, self._spec, self._on_progress, self._on_retry = client, spec, on_progress, on_retry
        self._present: set[str] = set()
        self._refused: dict[str, str] = {}
        self._refreshed, self._awaits = -POLL, False
        self._events = SimpleQueue()  # address of a worker, and its message or the future that is done
        client.subscribe_topic(spec.id, lambda event: self._events.put((event[1]["worker"], event[1])))

    def submit(self) -> None:
        """Send an item to each idle worker, for that worker alone."""
        try:
            self._refresh()
            for worker in self._idle()[: len(self.waiting)]:
                item, attempt = self.waiting.popleft()
                future = self._client.submit(run_item, self._spec, item, workers=[worker], pure=False)
                self.busy[worker] = future, item, attempt
                future.add_done_callback(lambda future, worker=worker: self._events.put((worker, future)))
        except SCHEDULER_LOST as error:
            raise WorkerError(f"the Dask scheduler is gone ({error}); the same command goes on from here") from error
        if not self.busy:
            self._raise_if_unusable()

    def completed(self) -> Iterator[tuple[object, object]]:
        """Wait a moment for news; yield `(item, result)` of an item that has ended."""
        try:
            worker, news = self._events.get(timeout=POLL)
        except Empty:
            return
        future, item, attempt = self.busy.get(worker, (None, None, 0))
        if future is not None and isinstance(news, dict):
            self._on_progress(news["amount"]) if "amount" in news else self._on_retry(item, news["retry"])
        elif future is not None and news is future:
            del self.busy[worker]
            try:
                result = future.result(timeout=PATIENCE)
            except (CancelledError, KilledWorker, TimeoutError):
                result = Failed(f"its worker {worker} is gone: killed, out of memory, or cut off", died=True)
                if attempt == 1:
                    self._on_retry(item, result.reason)
                    self.waiting.appendleft((item, 2))
                    return
            except Exception as error:
                self._refuse(worker, error)
                self.waiting.appendleft((item, attempt))
                return
            yield item, result

    def close(self) -> None:
        """End what the workers have of this run: the idle ones now, the busy ones at their next report."""
        with suppress(*SCHEDULER_LOST):
            self._client.unsubscribe_topic(self._spec.id)
            if self._client.status == "running" and (idle := self._idle()):
                self._client.run(end_run, self._spec.id, workers=idle, on_error="ignore")
        for future, *_ in self.busy.values():
            future.release()

    def _refresh(self) -> None:
        """Look, now and then, which workers are there; cancel the items of those that are gone."""
        if self._client.status == "closed":  # which it is after it has tried to connect again
            raise ClosedClientError("it does not answer")
        if time.monotonic() - self._refreshed > POLL:
            self._present = {*self._client.nthreads()}
            self._refreshed = time.monotonic()
            for worker in self.busy.keys() - self._present:
                self.busy[worker][0].cancel()

    def _idle(self) -> list[str]:
        return sorted(self._present - self.busy.keys() - self._refused.keys())

    def _refuse(self, worker: str, error: Exception) -> None:
        reason = str(error)
        if not isinstance(error, WorkerError):  # nor is it the item's, which `run_in_processes` would have caught
            reason = f"{type(error).__name__}: {error}; start it in the parent's checkout"
        self._refused[worker] = reason
        say(f"worker {worker} is refused: {reason}")

    def _raise_if_unusable(self) -> None:
        """Raise `WorkerError` if all workers are refused; if there are none, say once that one is awaited."""
        if self._present:
            reasons = "; ".join(sorted({*self._refused.values()}))
            raise WorkerError(f"all {len(self._present)} workers of the cluster are refused: {reasons}")
        if not self._awaits:
            say(f"waiting for a worker of {self._client.scheduler.address}")
        self._awaits = True


# The worker

_runs: dict[str, _Run] = {}  # the one run that this worker serves, by its id


def run_item(spec: RunSpec, item: object) -> object:
    """Give the result of an item, or `Failed`; raise `WorkerError` if this worker cannot serve the run."""
    if spec.id not in _runs:
        for run in [*_runs]:
            end_run(run)
        _check_worker(spec)
        _runs[spec.id] = _Run(spec)
    try:
        return _runs[spec.id].do(item)
    except BaseException:
        end_run(spec.id)
        raise


def end_run(run: str) -> None:
    """End this worker's process of a run, if it has one."""
    if run in _runs:
        _runs.pop(run).results.close()


class _Run:
    """The process that does the items of a run on this worker, and what is told to the parent meanwhile."""

    def __init__(self, spec: RunSpec):
        self._spec, self._worker, self._items = spec, get_worker(), SimpleQueue()
        self._amount, self._told = 0.0, time.monotonic()
        items = iter(self._items.get, None)  # `do` puts an item before it asks for a result, so this never waits
        call = pickle.loads(spec.call)
        self.results = run_in_processes(*call, items, 1, spec.threads, self._count, self._retry)

    def do(self, item: object) -> object:
        self._items.put(item)
        _, result = next(self.results)
        self._tell(amount=self._amount)
        self._amount = 0.0
        return result

    def _count(self, amount: float) -> None:
        self._amount += amount
        if time.monotonic() - self._told > POLL:
            self._tell(amount=self._amount)
            self._amount, self._told = 0.0, time.monotonic()
            task = self._worker.state.tasks.get(self._worker.get_current_task())
            if task is None or task.state != "executing":
                raise CancelledError("the parent is gone, or has been interrupted")

    def _retry(self, item: object, reason: str) -> None:
        self._tell(retry=reason)

    def _tell(self, **message) -> None:
        self._worker.log_event(self._spec.id, message)  # to which Dask adds the worker's address


def versions(packages: tuple[str, ...], modules: tuple[str, ...]) -> dict[str, str]:
    """Versions of Python and of installed packages, and hashes of the code of modules."""
    code = {f"the code of {name}": _code_digest(name) for name in modules}
    return {"python": platform.python_version(), **machine.versions(packages), **code}


def _code_digest(module: str) -> str:
    found = importlib.util.find_spec(module)
    if found is None:
        return "none"
    path = Path(found.origin)
    files = sorted(path.parent.rglob("*.py")) if found.submodule_search_locations else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(path.parent)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _check_worker(spec: RunSpec) -> None:
    """Raise `WorkerError` if this worker differs from the parent or was started in another way; claim a GPU."""
    found, threads = versions(spec.packages, spec.modules), get_worker().state.nthreads
    wrong = [f"{k} must be {v} as in the parent, it has {found[k]}" for k, v in spec.versions.items() if found[k] != v]
    if wrong:
        remedy = "start it from the parent's checkout and environment (requirements.lock)"
        raise WorkerError(f"{'; '.join(wrong)}; {remedy}")
    if threads != 1:
        raise WorkerError(f"it must have one thread, has {threads}; start it with --nthreads 1 --nworkers N")
    if multiprocessing.current_process().daemon:
        raise WorkerError("it may not start processes; start it with DASK_DISTRIBUTED__WORKER__DAEMON=False")
    if spec.gpu:
        claim_gpu()
