"""A Dask cluster of processes, started as a user does."""

import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from conftest import ROOT

from helpers.processes import PATIENCE, wait_until
from leep.execution.dask import connect


class Cluster:
    """A scheduler and workers, each a process started from the shell's point of view."""

    def __init__(self, folder: Path):
        self.processes = []
        file = folder / "scheduler.json"
        self._start("scheduler", "--port", "0", "--scheduler-file", str(file))
        assert wait_until(lambda: file.exists() and file.stat().st_size > 0)
        self.address = re.search(r"tcp://[\d.:]+", file.read_text())[0]

    def _start(self, program, *arguments, cwd=ROOT, **environment):
        command = [sys.executable, "-m", f"distributed.cli.dask_{program}", "--host", "127.0.0.1", "--no-dashboard"]
        path = os.pathsep.join([environment.pop("PYTHONPATH", str(cwd)), str(ROOT / "tests")])
        options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": cwd}
        environment = {**os.environ, "PYTHONPATH": path, **environment}
        self.processes.append(subprocess.Popen([*command, *arguments], env=environment, **options))
        return self.processes[-1]

    def worker(self, *arguments, threads=1, nanny="--no-nanny", **options):
        threads = "--nthreads", str(threads)
        return self._start("worker", self.address, nanny, *threads, *arguments, **options)


@contextmanager
def dask_cluster(folder: Path, workers: int = 0):
    """A cluster with that many workers, with its client."""
    cluster = Cluster(folder)
    try:
        for _ in range(workers):
            cluster.worker()
        with connect(cluster.address) as client:
            client.wait_for_workers(workers, timeout=PATIENCE) if workers else None
            cluster.client = client
            yield cluster
    finally:
        for process in reversed(cluster.processes):
            process.kill()
            process.wait()
