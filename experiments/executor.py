"""Chooses what runs forward passes and trainings: processes of this machine, or the workers of a Dask cluster."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from leep.execution.gpu import list_gpus
from leep.execution.processes import ItemRunner, WorkerError, n_cores

_ROOT = Path(__file__).parent.parent
EXECUTORS = sorted(p.stem for p in (_ROOT / "conf" / "executor").glob("*.yaml"))
_PACKAGES = ("mxnet", "gluoncv", "numpy", "scipy", "numba", "scikit-learn")


def packages(cfg) -> tuple[str, ...]:
    """Installed packages that the results depend on; reads `cfg.engine.name`."""
    return (*_PACKAGES, "torch") if cfg.engine.name == "torch" else _PACKAGES


def n_workers(cfg) -> int | None:
    """Number of worker processes of this machine; None if a cluster elsewhere has as many as it has.

    Reads `cfg.executor` and `cfg.engine`, as all functions here.
    """
    if cfg.executor.name == "slurm" or cfg.executor.address:
        return None
    if cfg.executor.workers:
        return cfg.executor.workers
    if cfg.engine.device == "cpu":
        return n_cores() // (cfg.engine.threads or 1) or 1
    return len(list_gpus()) or 1 if cfg.executor.name == "dask" else 1


@contextmanager
def open_executor(cfg) -> Iterator[ItemRunner | None]:
    """What runs items on the cluster that `cfg.executor` names, or None if they run on this machine.

    The cluster starts with the first call, because a run may have nothing to do, and ends with the context.
    """
    if cfg.executor.name not in ("dask", "slurm"):
        yield None
        return
    with ExitStack() as stack:

        @cache
        def client():
            try:
                return _connect(cfg, stack)
            except (OSError, RuntimeError, ValueError) as error:
                raise WorkerError(f"executor={cfg.executor.name} does not start: {error}") from error

        def map_items(*args, **options):
            from leep.execution.dask import run_on_cluster

            return run_on_cluster(client(), packages(cfg), cfg.engine.device != "cpu", *args, **options)

        yield map_items


def _connect(cfg, stack: ExitStack):
    """A client; it and its cluster end with the stack."""
    from leep.execution import dask

    if cfg.executor.name == "slurm":
        cluster = stack.enter_context(dask.slurm_cluster(cfg.executor.options["jobs"], slurm_options(cfg)))
    else:
        cluster = cfg.executor.address or stack.enter_context(dask.local_cluster(n_workers(cfg)))
    return stack.enter_context(dask.connect(cluster))


def slurm_options(cfg) -> dict:
    """Arguments of `dask_jobqueue.SLURMCluster`: the keys of executor=slurm, and workers of one thread of Dask."""
    given = {k: v for k, v in cfg.executor.options.items() if k != "jobs" and v is not None}
    processes = max(1, given["cores"] // (cfg.engine.threads or 1))
    given |= {"job_cpu": given["cores"], "cores": processes, "processes": processes}
    here = f"cd {shlex.quote(str(_ROOT))}"
    prologue = [*given["job_script_prologue"], here, "export DASK_DISTRIBUTED__WORKER__DAEMON=False"]
    return {**given, "job_script_prologue": prologue}
