"""What runs forward passes and trainings: processes of this machine, or the workers of a Dask cluster."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from leep.execution.gpu import list_gpus
from leep.execution.processes import WorkerError, n_cores

EXECUTORS = sorted(p.stem for p in (Path(__file__).parent.parent / "conf" / "executor").glob("*.yaml"))
_OURS = ("name", "workers", "jobs")  # keys of executor=slurm that are no arguments of dask-jobqueue
_PACKAGES = ("mxnet", "gluoncv", "numpy", "scipy", "numba", "scikit-learn")


def packages(cfg: DictConfig) -> tuple[str, ...]:
    """Installed packages that the results depend on."""
    return (*_PACKAGES, "torch") if cfg.engine.name == "torch" else _PACKAGES


@contextmanager
def open_executor(cfg: DictConfig) -> Iterator[Callable | None]:
    """A function with the contract of `run_in_processes`, whose first call starts the cluster; or None.

    Parameters
    ----------
    cfg : DictConfig
        Of which `executor` and `engine` are read.
    """
    if cfg.executor.name not in ("dask", "slurm"):
        yield None
        return
    with ExitStack() as stack:

        @cache
        def client():
            try:
                return stack.enter_context(_connect(cfg))
            except (OSError, RuntimeError, ValueError) as error:
                if isinstance(error, WorkerError):
                    raise
                raise WorkerError(f"executor={cfg.executor.name} does not start: {error}") from error

        def run(*args):
            from leep.execution.dask import run_on_cluster

            return run_on_cluster(client(), packages(cfg), cfg.engine.device != "cpu", *args)

        yield run


def _connect(cfg: DictConfig):
    from leep.execution.dask import connect, local_cluster, slurm_cluster

    if cfg.executor.name == "slurm":
        return slurm_cluster(cfg.executor.jobs, slurm_options(cfg))
    return connect(cfg.executor.address) if cfg.executor.address else local_cluster(n_workers(cfg))


def slurm_options(cfg: DictConfig) -> dict:
    """Arguments of `dask_jobqueue.SLURMCluster`: the keys of executor=slurm, a worker of one Dask thread a process."""
    given = OmegaConf.to_container(cfg.executor)
    given = {k: v for k, v in given.items() if k not in _OURS and v is not None}
    given["job_script_prologue"] = [
        *given["job_script_prologue"],
        f"cd {shlex.quote(str(Path(__file__).parent.parent))}",
    ]
    processes = max(1, given["cores"] // (cfg.engine.threads or 1))
    return {**given, "job_cpu": given["cores"], "cores": processes, "processes": processes}


def n_workers(cfg: DictConfig) -> int | None:
    """Worker processes of this machine; None where a cluster is elsewhere and has as many as it has."""
    if cfg.executor.name == "slurm" or cfg.executor.address:
        return None
    if cfg.executor.workers:
        return cfg.executor.workers
    if cfg.engine.device == "cpu":
        return n_cores() // (cfg.engine.threads or 1) or 1
    return len(list_gpus()) or 1 if cfg.executor.name == "dask" else 1
