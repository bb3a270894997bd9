"""Items on a real Dask scheduler and its worker processes: the contract of `run_in_processes`, and who is refused."""

import os
import re
import shutil
import signal
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from conftest import ROOT
from helpers.processes import PATIENCE, alive, be_killed, make_mortal, make_nothing, raise_error, wait_until

distributed = pytest.importorskip("distributed")

import dask  # noqa: E402
from helpers.cluster import dask_cluster  # noqa: E402

import leep.execution.dask as dask_module  # noqa: E402
from leep.data import DataSet  # noqa: E402
from leep.data.shared import load_shared, share  # noqa: E402
from leep.errors import Missing  # noqa: E402
from leep.execution.dask import connect, run_on_cluster  # noqa: E402
from leep.execution.processes import Failed, WorkerError  # noqa: E402
from leep.sources.forward import _make_runner, make_predictor  # noqa: E402
from leep.sources.preprocess import Preprocessing  # noqa: E402
from leep.sources.weights import Weights, check_weights  # noqa: E402


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Three workers for the tests that hurt none of them."""
    with dask_cluster(tmp_path_factory.mktemp("dask"), 3) as found:
        yield found


@pytest.fixture
def empty(tmp_path):
    """A scheduler without workers."""
    with dask_cluster(tmp_path) as found:
        yield found


def run(cluster, make, args, items, packages=(), gpu=False, **options):
    return run_on_cluster(cluster.client, packages, gpu, make, args, items, **options)


# What the workers do: at module level, so that they can import it


def make_square(folder, *args):
    (folder / f"made{os.getpid()}").touch()

    def square(item, report):
        report(item)
        report(0.5)
        return item**2, os.getpid(), args, os.environ["OMP_NUM_THREADS"]

    return square


def make_waiting(folder):
    """Items say which Dask worker does them, and end when they may."""

    def wait(item, report):
        with open(folder / f"item{item}", "a") as file:
            file.write(f"{os.getppid()} {os.getpid()}\n")
        while not (folder / "go").exists():
            report(1)
            time.sleep(0.05)
        return item

    return wait


def make_unless(name):
    if os.environ.get(name):
        raise OSError(f"{name} is set")
    return lambda item, report: item


def make_final():
    def final(item, report):
        raise FloatingPointError("the loss is no number")

    return final


def pids(folder, item):
    """Dask worker and its process, of each attempt at an item."""
    path = folder / f"item{item}"
    return [tuple(map(int, line.split())) for line in path.read_text().splitlines()] if path.exists() else []


# Results


def test_every_item_has_its_result_and_a_worker_is_set_up_once(cluster, tmp_path):
    amounts = []
    found = dict(run(cluster, make_square, (tmp_path, "a"), range(12), threads=3, on_progress=amounts.append))
    assert {item: result[0] for item, result in found.items()} == {i: i**2 for i in range(12)}
    assert sum(amounts) == 66 + 12 * 0.5
    assert {result[2:] for result in found.values()} == {(("a",), "3")}
    made = {path.name for path in tmp_path.iterdir()}
    assert made >= {f"made{result[1]}" for result in found.values()} and len(made) <= 3
    again = dict(run(cluster, make_square, (tmp_path,), range(3)))
    assert {result[2:] for result in again.values()} == {((), "1")}, "a second run has arguments and threads of its own"


def test_no_items_ask_nobody():
    assert list(run_on_cluster(None, (), False, make_nothing, ("never called",), [])) == []


def test_progress_comes_while_an_item_is_under_way(cluster, tmp_path):
    amounts = []

    def advance(amount):
        amounts.append(amount)
        (tmp_path / "go").touch()

    assert dict(run(cluster, make_waiting, (tmp_path,), [0], on_progress=advance)) == {0: 0}
    assert amounts[0] > 0


# Deaths and failures


def test_a_worker_that_is_killed_has_its_item_done_elsewhere(tmp_path):
    retries = []
    (tmp_path / "dask").mkdir()
    with dask_cluster(tmp_path / "dask", 3) as cluster:

        def strike(amount):
            begun = [pids(tmp_path, i) for i in range(3)]
            if all(begun) and not retries and not struck:
                struck.extend(begun[1][0])
                os.kill(struck[0], signal.SIGKILL)

        def retry(item, reason):
            retries.append((item, reason))
            (tmp_path / "go").touch()

        struck = []
        found = dict(run(cluster, make_waiting, (tmp_path,), range(5), on_progress=strike, on_retry=retry))
    assert found == {i: i for i in range(5)}
    ((item, reason),) = retries
    assert item == 1 and re.search(r"its worker tcp://127\.0\.0\.1:\d+ is gone", reason)
    first, second = pids(tmp_path, 1)
    assert first == tuple(struck) and second[0] != first[0]
    assert wait_until(lambda: not alive(struck[1])), "the process of a killed worker ends with it"


@pytest.mark.parametrize(("how", "reason"), [(be_killed, "exit code -9 "), (raise_error, "^ValueError: no such item$")])
def test_an_item_that_fails_is_tried_once_more_and_then_failed(cluster, tmp_path, how, reason):
    retries = []
    found = dict(run(cluster, make_mortal, (how, tmp_path), range(4), on_retry=lambda *r: retries.append(r)))
    assert {item: result[0] for item, result in found.items()} == {i: i for i in range(4)}
    ((item, why),) = retries
    assert item == 2 and re.search(reason, why)
    failed = dict(run(cluster, make_mortal, (how, None), range(4)))[2]
    assert isinstance(failed, Failed) and re.search(reason, failed.reason) and failed.died == (how is be_killed)


def test_what_would_come_again_is_final(cluster):
    ((_, failed),) = run(cluster, make_final, (), [0], on_retry=pytest.fail)
    assert failed == Failed("FloatingPointError: the loss is no number")


def test_an_item_that_nobody_waits_for_ends(cluster, tmp_path):
    runs = run(cluster, make_waiting, (tmp_path,), [0, 1], on_progress=lambda amount: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(runs)
    assert wait_until(lambda: not any(alive(process) for i in (0, 1) for _, process in pids(tmp_path, i)))


@pytest.mark.slow
def test_a_scheduler_that_is_gone_is_an_error(empty, tmp_path):
    empty.worker()
    runs = run(empty, make_waiting, (tmp_path,), [0], on_progress=lambda amount: empty.processes[0].kill())
    with pytest.raises(WorkerError, match=r"the Dask scheduler is gone .*the same command goes on"):
        next(runs)


def test_no_scheduler_is_an_error():
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(WorkerError, match=r"executor.address=tcp://127.0.0.1:9 "),
    ):
        connect("tcp://127.0.0.1:9")


# Who is refused


def test_where_make_fails_is_refused_and_the_others_do_the_work(empty, capfd):
    empty.worker(HOPELESS="1")
    runs = run(empty, make_unless, ("HOPELESS",), range(3))
    with pytest.raises(WorkerError, match="all 1 workers of the cluster are refused: OSError: HOPELESS is set"):
        next(runs)
    empty.worker()
    empty.client.wait_for_workers(2, timeout=PATIENCE)
    capfd.readouterr()
    assert dict(run(empty, make_unless, ("HOPELESS",), range(3))) == {0: 0, 1: 1, 2: 2}
    said = capfd.readouterr().err
    assert re.search(r"worker tcp://127\.0\.0\.1:\d+ is refused: OSError: HOPELESS is set", said)


def other_package(folder):
    (package := folder / "site" / "scipy-0.0.1.dist-info").mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: scipy\nVersion: 0.0.1\n")
    return {"PYTHONPATH": f"{folder / 'site'}{os.pathsep}{ROOT}"}


def other_code(folder):
    shutil.copytree(ROOT / "leep", folder / "leep", ignore=shutil.ignore_patterns("weights", "sample", "__pycache__"))
    with open(folder / "leep" / "tasks.py", "a") as file:
        file.write("\n")
    return {"cwd": folder}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (other_package, r"scipy must be 1\.\S+ as in the parent, it has 0\.0\.1; start it from the parent's checkout"),
        (other_code, r"the code of leep must be (\w{12}) as in the parent, it has (?!\1)\w{12}; start it"),
        (lambda folder: {"threads": 2}, "it must have one thread, has 2; .*--nthreads 1"),
        (lambda folder: {"nanny": "--nanny"}, "it may not start processes; .*DASK_DISTRIBUTED__WORKER__DAEMON=False"),
    ],
)
def test_a_worker_that_differs_is_refused_though_it_joins_later(empty, tmp_path, options, message, capfd):
    empty.worker()
    joined, end = [], time.monotonic() + 2 * PATIENCE

    def join(amount):
        assert time.monotonic() < end, "nobody was refused"
        if not joined:
            joined.append(empty.worker(**options(tmp_path)))
            empty.client.wait_for_workers(2, timeout=PATIENCE)
        if "is refused" in (said := capfd.readouterr().err):
            joined.append(said)
            (tmp_path / "go").touch()

    found = dict(run(empty, make_waiting, (tmp_path,), range(3), ("scipy",), on_progress=join))
    assert found == {0: 0, 1: 1, 2: 2}
    assert re.search(r"worker tcp://127\.0\.0\.1:\d+ is refused: " + message, joined[1])
    assert {worker for i in range(3) for worker, _ in pids(tmp_path, i)} == {empty.processes[1].pid}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("data", r"must hold images and labels with the SHA-256 of its name, has \w{64}"),
        ("weights", r"random\.params must have the SHA-256 0{64}, has \w{64}"),
    ],
)
def test_a_worker_that_reads_other_files_is_refused(cluster, random_weights, tmp_path, wrong, message):
    light, path = share(data := small_data(), tmp_path)
    if wrong == "data":
        _, other = share(replace(data, test_images=255 - data.test_images), tmp_path)
        shutil.rmtree(path)
        other.rename(path)
    weights = Weights(random_weights, "0" * 64, "a file")
    engine = {"name": "gluon", "precision": "float32", "device": "cpu", "threads": 1}
    predictor = partial(make_predictor, engine, "cifar_resnet20_v1", 10, weights)
    args = predictor, Preprocessing(32, (0.5,) * 3, (0.5,) * 3), light, 8, path
    with pytest.raises(WorkerError, match=message):
        next(run(cluster, _make_runner, args, [("train", 0, 4)]))


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="there is a GPU")
def test_a_worker_without_a_gpu_is_refused_where_it_needs_one(cluster):
    with pytest.raises(WorkerError, match=r"engine.device=cuda needs a GPU, nvidia-smi names none .*engine.device=cpu"):
        next(run(cluster, make_nothing, ("never called",), [0], gpu=True))


def small_data():
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (8, 32, 32, 3), np.uint8), np.arange(8) % 2
    return DataSet("small", images, labels, images[:4], labels[:4], ("a", "b"))


def test_files_that_a_worker_does_not_see(tmp_path):
    light, path = share(small_data(), tmp_path)
    shutil.rmtree(path)
    with pytest.raises(Missing, match=r"must hold the images of small: there is no such file on this worker's"):
        load_shared(light, path)
    with pytest.raises(Missing, match=r"none\.params must be the weights: there is no such file"):
        check_weights(Weights(tmp_path / "none.params", "0" * 64, "a file"))


def test_a_line_says_that_a_worker_is_awaited(empty, monkeypatch):
    lines = []
    monkeypatch.setattr(dask_module, "say", lambda line: lines.append(line) or empty.worker())
    assert list(run(empty, make_unless, ("nothing",), [0])) == [(0, 0)]
    assert lines == [f"waiting for a worker of {empty.address}"]
