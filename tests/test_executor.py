"""executor=dask and executor=slurm: what is refused, and the jobs that are submitted."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
from conftest import ROOT, resolved
from helpers.processes import alive, make_mortal, wait_until

from experiments.executor import n_workers, open_executor, slurm_options
from leep.errors import Invalid

SLURM = "executor=slurm", "executor.interface=lo", "executor.memory=2GB"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("executor=dask", "executor.address=localhost:8786"),
            "address must be null or tcp://host:port, got 'l",
        ),
        (
            ("executor=dask", "executor.address=tcp://host"),
            "address must be null or tcp://host:port, got 'tcp",
        ),
        (("executor=dask", "executor.workers=0"), "executor.workers must be null or an integer ≥ 1, got 0"),
        (("executor=dask", "+executor.adress=1"), "unknown key executor.adress; the keys are name, address, workers"),
        (("executor=dask", "executor.name=spark"), "executor must be among dask, local, serial, slurm, got 'spark'"),
        pytest.param(
            ("executor=dask", "engine=torch", "engine.device=cuda:1"),
            "must be cpu or cuda with executor=dask, which",
            marks=pytest.mark.skipif(find_spec("torch") is None, reason="engine=torch needs it"),
        ),
        (("executor=slurm", "executor.jobs=0"), "executor.jobs must be an integer ≥ 1, got 0"),
        (("executor=slurm", "executor.cores=null"), "executor.cores must be an integer ≥ 1, got None"),
        (("executor=slurm", "executor.job_extra_directives=x"), r"must be a list, e.g. \['…'\], got 'x'"),
        (("executor=slurm", "+executor.nodes=3"), "unknown key executor.nodes; the keys are name, workers, jobs"),
    ],
)
def test_what_cannot_run_is_refused_before_any_work(overrides, message):
    pytest.importorskip("dask_jobqueue")
    with pytest.raises(Invalid, match=message):
        resolved("experiment=small_balanced", *overrides)


@pytest.mark.parametrize("executor", ["local", "serial", "dask", "slurm"])
def test_executors_that_are_possible(executor):
    pytest.importorskip("dask_jobqueue")
    assert resolved(f"executor={executor}").executor.name == executor


def test_worker_processes_of_this_machine():
    assert n_workers(resolved("executor=serial")) == 1
    assert n_workers(resolved("executor=dask", "executor.workers=3")) == 3
    assert n_workers(resolved("executor=dask", "engine.threads=1000")) == 1
    assert n_workers(resolved("executor=dask", "executor.address=tcp://host:1")) is None
    assert n_workers(resolved("executor=slurm")) is None


def test_nothing_else_imports_dask():
    script = "import sys, experiments.running.runner, experiments.comparison; print('distributed' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
    with open_executor(resolved("executor=local")) as run:
        assert run is None


def test_the_job_that_is_submitted():
    jobqueue = pytest.importorskip("dask_jobqueue")
    keys = "executor.queue=long", "executor.account=me", "executor.job_extra_directives=['--gres=gpu:4']"
    prologue = "executor.job_script_prologue=['module load gcc']"
    cfg = resolved(*SLURM, *keys, prologue, "engine.threads=2", "executor.cores=8")
    with jobqueue.SLURMCluster(**slurm_options(cfg), scheduler_options={"dashboard_address": ":0"}) as cluster:
        lines = cluster.job_script().splitlines()
    for line in ("-p long", "-A me", "--cpus-per-task=8", "--gres=gpu:4", "-t 12:00:00"):
        assert f"#SBATCH {line}" in lines
    assert lines[lines.index("module load gcc") + 1] == f"cd {ROOT}"
    assert "export DASK_DISTRIBUTED__WORKER__DAEMON=False" in lines
    assert "--nthreads 1 " in lines[-1] and "--nworkers 4 " in lines[-1] and "tcp://127.0.0.1:" in lines[-1]


SBATCH = """#!/bin/sh
setsid sh "$1" > /dev/null 2>&1 &
echo $! >> {folder}/jobs
echo Submitted batch job $!
"""
SCANCEL = """#!/bin/sh
kill -- -$1
"""


@pytest.mark.slow
def test_items_run_in_jobs_that_begin_and_end_with_the_run(tmp_path, monkeypatch):
    pytest.importorskip("dask_jobqueue")
    for name, script in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (tmp_path / name).write_text(script.format(folder=tmp_path))
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    with open_executor(resolved(*SLURM, "executor.jobs=2", "executor.cores=1")) as run:
        assert not (tmp_path / "jobs").exists(), "no job is submitted before there is something to do"
        found = dict(run(make_mortal, (None, tmp_path), [0, 1, 3]))
        jobs = [int(line) for line in (tmp_path / "jobs").read_text().split()]
    assert {item: result[0] for item, result in found.items()} == {0: 0, 1: 1, 3: 3}
    assert len(jobs) == 2 and wait_until(lambda: not any(map(alive, jobs)))
