"""Chooses what runs forward passes and trainings: processes of this machine, or the workers of a Dask cluster."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from leep.execution.gpu import list_gpus
from leep.execution.processes import ItemRunner, WorkerError, n_cores

if TYPE_CHECKING:
    from distributed import Client

    from experiments.config.values import RunConfig

_ROOT = Path(__file__).parent.parent
EXECUTORS = sorted(p.stem for p in (_ROOT / "conf" / "executor").glob("*.yaml"))
_PACKAGES = ("mxnet", "gluoncv", "numpy", "scipy", "numba", "scikit-learn")


def packages(config: RunConfig) -> tuple[str, ...]:
    """Installed packages that the results depend on."""
    return (*_PACKAGES, "torch") if config.engine.name == "torch" else _PACKAGES


def n_workers(config: RunConfig) -> int | None:
    """Number of worker processes of this machine; None if a cluster elsewhere has as many as it has."""
    if config.executor.name == "slurm" or config.executor.address:
        return None
    if config.executor.workers:
        return config.executor.workers
    if config.engine.device == "cpu":
        return n_cores() // config.engine.threads or 1
    return len(list_gpus()) or 1 if config.executor.name == "dask" else 1


@contextmanager
def open_executor(config: RunConfig) -> Iterator[ItemRunner | None]:
    """What runs items on the cluster that `config.executor` names, or None if they run on this machine.

    The cluster starts with the first call, because a run may have nothing to do, and ends with the context.
    """
    if config.executor.name not in ("dask", "slurm"):
        yield None
        return
    with ExitStack() as stack:

        @cache
        def client() -> Client:
            try:
                return _connect(config, stack)
            except (OSError, RuntimeError, ValueError) as error:
                raise WorkerError(f"executor={config.executor.name} does not start: {error}") from error

        def map_items(*args, **options) -> Iterator[tuple[object, object]]:
            from leep.execution.dask import run_on_cluster

            return run_on_cluster(client(), packages(config), config.engine.device != "cpu", *args, **options)

        yield map_items


def _connect(config: RunConfig, stack: ExitStack) -> Client:
    """A client; it and its cluster end with the stack."""
    from leep.execution import dask

    if config.executor.name == "slurm":
        cluster = stack.enter_context(dask.slurm_cluster(config.executor.options["jobs"], slurm_options(config)))
    else:
        cluster = config.executor.address or stack.enter_context(dask.local_cluster(n_workers(config)))
    return stack.enter_context(dask.connect(cluster))


def slurm_options(config: RunConfig) -> dict:
    """Arguments of `dask_jobqueue.SLURMCluster`: the keys of executor=slurm, and workers of one thread of Dask."""
    given = {k: v for k, v in config.executor.options.items() if k != "jobs" and v is not None}
    processes = max(1, given["cores"] // config.engine.threads)
    given |= {"job_cpu": given["cores"], "cores": processes, "processes": processes}
    here = f"cd {shlex.quote(str(_ROOT))}"
    prologue = [*given["job_script_prologue"], here, "export DASK_DISTRIBUTED__WORKER__DAEMON=False"]
    return {**given, "job_script_prologue": prologue}
