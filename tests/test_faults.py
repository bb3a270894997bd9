"""Faults of the machine and of its user: a clear message or a run that goes on, and nothing finished is lost.

Kills, interruptions and failing tasks of networks are in test_networks.py and test_processes.py, those of heads in
test_experiments.py too; damaged passes in test_forward.py, data in test_data.py, downloads in test_fetch.py.
"""

import errno
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, write_cifar100
from helpers.processes import PATIENCE, alive, children, wait_until
from helpers.results import COLUMNS, csvs, fill, table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leep.data.dataset import DataSet
from leep.data.shared import load_shared, share
from leep.errors import Invalid
from leep.results import read_rows, read_runs, read_times
from leep.transfer import retrain_head, training

TASKS = ("task={n_classes:3,per_class:20}", "measures=[leep,nce]")


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    """In place of the usual one: six classes, 40 training and 10 test images each."""
    root = tmp_path_factory.mktemp("few")
    write_cifar100(root / "cifar100", 6, 40, 10)
    return root


@pytest.fixture
def here(run_here):
    """Runs small tasks in this process; returns what it says to the user where it cannot, else None."""
    return partial(run_here, "small_balanced", *TASKS)


@pytest.fixture
def whole(here, shared_cache):
    """Results of heads that nothing disturbed."""
    results = shared_cache / "whole"
    if not results.exists():
        assert here(results=results) is None
    return results


def lines(results: Path) -> set:
    """All whole lines of all CSVs."""
    return {(name, line) for name, text in csvs(results).items() for line in text.splitlines(True) if b"\n" in line}


# Killed


MOMENTS = st.tuples(
    st.sampled_from(["parent", "parent", "worker"]),
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 20), st.floats(0, 1)),
        st.tuples(st.sampled_from(["replace", "replaced"]), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("moment"), st.floats(0.5, 5), st.just(0)),
    ),
)


def kill_again_and_again(arguments, folder: Path, moments, *extra) -> int:
    """Start with no cache; kill at each moment in turn, then let the run end; how often it was killed."""
    overrides = arguments("small_balanced", *TASKS, *extra, results=folder / "results")
    overrides = [o for o in overrides if not o.startswith("paths.cache")] + [f"paths.cache={folder / 'cache'}"]
    command, before, killed = [sys.executable, "run.py", *overrides], set(), 0
    for number, (role, (how, count, part)) in enumerate(moments):
        once = folder / f"killed{number}"
        folder.mkdir(parents=True, exist_ok=True)
        at = json.dumps([role, how, count, part, str(once)])
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "killing"), "KILL_AT": at}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE)
        killed += once.exists()
        expected = -signal.SIGKILL if once.exists() and role == "parent" else 0
        assert done.returncode == expected, done.stdout + done.stderr
        assert before <= (before := lines(folder / "results")), "a finished row was lost"
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    return killed


def test_killed_while_it_writes_gives_the_same_bytes(arguments, whole, tmp_path):
    moments = [("write", 5, 0.5), ("replaced", 0, 0), ("write", 3, 0.9)]  # a score, a setting, a model
    assert kill_again_and_again(arguments, tmp_path, [("parent", m) for m in moments]) == 3
    assert csvs(tmp_path / "results") == csvs(whole)


@pytest.mark.slow
def test_killed_at_any_of_50_moments_gives_the_same_bytes(arguments, run_experiment, tmp_path_factory):
    folder, counts = tmp_path_factory.mktemp("killed"), []
    networks = ("method=[retrain_head,fine_tune]", "executor.workers=2", "scale.max_epochs.fine_tune=1")
    run_experiment("small_balanced", *TASKS, *networks, results=folder / "undisturbed")

    @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(st.lists(MOMENTS, min_size=5, max_size=5))
    def any_moments(moments):
        results = folder / str(len(counts))
        counts.append(kill_again_and_again(arguments, results, moments, *networks))
        assert csvs(results / "results") == csvs(folder / "undisturbed")

    any_moments()
    assert sum(counts) >= 20, "too few moments came before the end"


# The disk


@contextmanager
def full_disk(monkeypatch, after: int, part: float):
    """Of the flushes to the disk that come `after`, only a part of the last line gets there."""
    fsync, done = os.fsync, []

    def failing(descriptor):
        done.append(descriptor)
        if len(done) > after:
            content = Path(f"/proc/self/fd/{descriptor}").read_bytes()
            start = content[:-1].rfind(b"\n") + 1
            os.truncate(f"/proc/self/fd/{descriptor}", start + int(part * (len(content) - start)))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        yield


def test_a_disk_full_at_any_write_loses_no_finished_row(here, whole, tmp_path_factory, monkeypatch):
    @settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(st.lists(st.tuples(st.integers(0, 16), st.floats(0, 1)), min_size=1, max_size=2))
    def any_write(moments):
        results, before = tmp_path_factory.mktemp("full"), set()
        for after, part in moments:
            with full_disk(monkeypatch, after, part):
                said = here(results=results)
            if said is not None:  # it may have had no more to write
                assert "No space left on device; is there room in" in said and str(results) in said
            assert before <= (before := lines(results)), "a finished row was lost"
        assert here(results=results) is None
        assert csvs(results) == csvs(whole)

    any_write()


@contextmanager
def mounted(path: Path, options: str):
    """A small file system of its own; where this user may not mount one, the test is skipped."""
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", path], capture_output=True).returncode:
        pytest.skip("may not mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def remount(path: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", path], check=True)


@pytest.mark.parametrize(("place", "size"), [("paths.cache", "48k"), ("results", "12k")])
def test_a_full_disk(run_experiment, whole, tmp_path, place, size):
    disk = tmp_path / "disk"
    with mounted(disk, f"size={size}"):
        places = {"results": disk} if place == "results" else {"results": tmp_path / "results"}
        extra = () if place == "results" else (f"{place}={disk}",)
        done = run_experiment("small_balanced", *TASKS, *extra, **places, check=False)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "No space left on device; is there room in" in done.stderr and "Traceback" not in done.stderr
        before = lines(places["results"])
        remount(disk, "size=64m")
        run_experiment("small_balanced", *TASKS, *extra, **places)
        assert before <= lines(places["results"]) and csvs(places["results"]) == csvs(whole)


def test_results_that_may_not_be_written(here, whole, tmp_path):
    disk = tmp_path / "disk"
    with mounted(disk, "size=1m"):
        shutil.copytree(whole, disk, dirs_exist_ok=True)
        remount(disk, "ro")
        assert "Read-only file system" in (said := here(results=disk)) and f"is there room in {disk}" in said
        command = [sys.executable, "-m", "experiments.reporting.table1", str(disk)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1 and done.stderr.startswith("table1: [Errno 30] Read-only file system")
        assert csvs(disk) == csvs(whole)


def test_a_file_in_place_of_the_results_folder(here, tmp_path):
    (tmp_path / "results").write_text("mine")
    assert "Not a directory" in here(results=tmp_path / "results")
    assert (tmp_path / "results").read_text() == "mine"


# Two runs, interruptions


def test_of_two_runs_at_once_one_goes_on(start, here, tmp_path):
    more = ("method=[fine_tune]", "scale.max_epochs.fine_tune=1", "executor.workers=2")
    run = start("small_balanced", *TASKS, *more, results=tmp_path)
    assert wait_until(lambda: children(run.pid) or run.poll() is not None)  # it trains
    os.kill(run.pid, signal.SIGSTOP)
    said = here(*more, results=tmp_path)
    os.kill(run.pid, signal.SIGCONT)
    assert "is being written by another run" in said and "another results folder" in said
    output, _ = run.communicate()
    assert run.returncode == 0, output
    (transfers,) = tmp_path.rglob("transfers.csv")
    assert read_rows(transfers, ["task"], []).task.tolist() == [0, 1, 2, 3]


def test_ctrl_c_several_times(start, tmp_path):
    more = ("method=[fine_tune]", "scale.max_epochs.fine_tune=500", "executor.workers=2")
    run = start("small_balanced", *TASKS, *more, results=tmp_path)
    assert wait_until(lambda: len(children(run.pid)) == 2 or run.poll() is not None)
    workers = children(run.pid)
    for _ in range(5):
        os.killpg(run.pid, signal.SIGINT)
        time.sleep(0.02)
    output, _ = run.communicate()
    assert run.returncode == 130 and "the same command goes on from there" in output and "Traceback" not in output
    assert len(workers) == 2 and wait_until(lambda: not any(map(alive, workers)))
    assert read_runs(tmp_path).empty


# Files of results


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("3,leep,0.5", r"line 7: task 3, measure leep has another row before, \['3', 'leep', '-2.2.*got .*delete both"),
        ("5,leep,nan", "line 7: expected a value for each of .*'nan'.*; delete the line"),
        ("5,leep,inf", "line 7: expected a value"),
        ("5,leep,high", "line 7: expected a value"),
        ("5,leep,", "line 7: expected a value"),
        ("5,leep", "line 7: expected a value"),
        ("5,leep,0.5,1", "line 7: expected a value"),
        ("five,leep,0.5", "line 7: expected a value"),
        ("05,leep,0.5", "line 7: expected a value"),
        ('5,"leep,0.5', "is damaged"),
        (b"5,\xff,0.5", "is damaged .*utf-8.*; move it away"),
        (b"\0\0\0\0", "line 7: expected a value"),
    ],
)
def test_a_damaged_row_is_named(tmp_path, line, message):
    path = tmp_path / "a.csv"
    content = fill(path) + (line if isinstance(line, bytes) else line.encode()) + b"\n"
    path.write_bytes(content)
    for read in (table, lambda p: read_rows(p, COLUMNS[:2], COLUMNS[2:])):
        with pytest.raises(Invalid, match=rf"a\.csv.*{message}"):
            read(path)
    assert path.read_bytes() == content


def test_a_row_that_stands_twice_counts_once(tmp_path):
    path = tmp_path / "a.csv"
    once = fill(path)
    path.write_bytes(once + once.splitlines(True)[2])
    assert len(table(path).done) == 5
    assert read_rows(path, COLUMNS[:2], []).task.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("header", ["task,score", "task,measure,measure,score", "measure,score,Task"])
def test_foreign_columns_are_named(tmp_path, header):
    (tmp_path / "a.csv").write_text(f"{header}\n")
    for read in (table, lambda p: read_rows(p, COLUMNS[:2], COLUMNS[2:])):
        with pytest.raises(Invalid, match=r"must have the columns .*, found .*; move it away"):
            read(tmp_path / "a.csv")


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "setting.json").write_text("[" * 100_000),
        lambda folder: (folder / "setting.json").write_bytes(b'{"setting": "\xff"}'),
        lambda folder: (folder / "setting.json").write_text('{"setting": 1, "notes": {}, "provenance": {}}'),
        lambda folder: (folder / "setting.json").write_text('{"setting": {}, "notes": {}, "provenance": {}}'),
        lambda folder: (folder / "setting.json").unlink(),
        lambda folder: (folder / "scores.csv").write_text("task,measure\n0,leep\n"),
    ],
)
def test_a_damaged_folder_is_named_by_the_table(whole, tmp_path, damage):
    shutil.copytree(whole, tmp_path / "results")
    (scores,) = (tmp_path / "results").rglob("scores.csv")
    damage(scores.parent)
    with pytest.raises(Invalid, match=r"(scores|setting)\.(csv|json).*move (it|its folder) away"):
        read_runs(tmp_path / "results")


def test_a_torn_line_of_times_is_passed_over(here, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "results")
    (times,) = (tmp_path / "results").rglob("retrain_head-*/times.jsonl")
    times.write_bytes(times.read_bytes()[:-9])
    assert read_times(times.parent) == []
    assert here("scale.max_tasks.retrain_head=6", results=tmp_path / "results") is None
    assert [call["tasks"] for call in read_times(times.parent)] == [2]


# Caches


@pytest.mark.parametrize("damage", [b"", b"cut", b"flip", b"other"])
def test_damaged_shared_images_are_written_again(tmp_path, damage):
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 9, shape).astype(np.uint8) for shape in ((5, 8, 8, 3), 5, (4, 8, 8, 3), 4)]
    data = DataSet("d", *arrays, tuple("abcdefghi"))
    _, path = share(data, tmp_path)
    before = {p: p.stat().st_ino for p in path.iterdir()}
    assert {p: p.stat().st_ino for p in share(data, tmp_path)[1].iterdir()} == before, "written twice"
    raw = (path / "test_images.npy").read_bytes()
    damaged = {b"cut": raw[:-20], b"flip": raw[:-3] + bytes([raw[-3] ^ 1]) + raw[-2:], b"other": b"PK\3\4" + raw}
    (path / "test_images.npy").write_bytes(damaged.get(damage, b""))
    light, path = share(data, tmp_path)
    assert light.test_images is None
    np.testing.assert_array_equal(load_shared(light, path).test_images, data.test_images)


@pytest.mark.parametrize("damage", [lambda raw: raw[:-20], lambda raw: b"", lambda raw: raw[:99] + b"!" + raw[100:]])
def test_a_damaged_checkpoint_is_as_none(tmp_path, damage):
    path = tmp_path / "task0.npz"
    training._write(path, {"w": np.arange(3.0)}, [(0, 0.5)], 1, 2)
    state, *position = training._read(path)
    assert state["w"].tolist() == [0, 1, 2] and position == [[(0, 0.5)], 1, 2]
    path.write_bytes(damage(path.read_bytes()))
    assert training._read(path) is None


# Training that diverges


def test_heads_that_diverge_are_named_and_are_no_numbers(here, whole, tmp_path):
    more = ("method=[retrain_head,nearest_mean]", "+scale.max_tasks.nearest_mean=4")
    said = here(*more, "method.retrain_head.learning_rate=1e300", results=tmp_path)
    for task in range(4):
        assert f"cifar100, retrain_head, task {task}: " in said and "lower" in said
    texts = {path.parent.name.split("-")[0]: path.read_text() for path in tmp_path.rglob("transfers.csv")}
    assert texts["retrain_head"].count("\n") == 1 and texts["nearest_mean"].count("\n") == 5
    assert "nan" not in "".join(texts.values())


@pytest.mark.slow
def test_networks_that_diverge_are_named_and_are_no_numbers(run_experiment, tmp_path):
    more = (
        "method=[fine_tune]",
        "method.fine_tune.learning_rate=1e20",
        "scale.max_epochs.fine_tune=1",
    )
    done = run_experiment("small_balanced", *TASKS, *more, results=tmp_path, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    for task in range(4):
        assert f"fine_tune, task {task}: FloatingPointError: training diverged " in done.stderr
    (transfers,) = tmp_path.rglob("transfers.csv")
    assert transfers.read_text().count("\n") == 1


# Clock, paths, locale


def test_a_clock_that_runs_backwards(here, whole, monkeypatch, tmp_path):
    now = iter(range(2_000_000_000, 0, -3600))
    monkeypatch.setattr(time, "time", partial(next, now))
    monkeypatch.setattr("tqdm.std.time", time.time)
    assert here(results=tmp_path) is None
    for path in tmp_path.rglob("*"):
        os.utime(path, (3e9, 3e9))
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert here(results=tmp_path) is None
    assert csvs(tmp_path) == csvs(whole) and {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


@pytest.fixture
def without_utf8(monkeypatch):
    """The locale of processes that are started."""
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("PYTHONUTF8", "0")
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)


def test_spaces_accents_and_a_tilde_without_utf8(
    run_experiment, whole, data_root, random_weights, tmp_path, without_utf8, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(data_root, tmp_path / "données à moi")
    paths = {"data.root": "données à moi", "paths.cache": "~/Zwischen lager ü", "paths.results": "~/результаты 1"}
    paths["data.root"] = tmp_path / paths["data.root"]
    paths["source.cifar10_resnet20.weights"] = shutil.copy(random_weights, tmp_path / "données à moi" / "à moi.params")
    run_experiment("small_balanced", *TASKS, *(f"{key}={path}" for key, path in paths.items()))
    assert [*csvs(tmp_path / "результаты 1").values()] == [*csvs(whole).values()]
    command = [sys.executable, "-m", "experiments.reporting.table1", str(tmp_path / "результаты 1")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stderr
    assert "LEEP" in (tmp_path / "результаты 1" / "table1.md").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["figures", "report"])
def test_figures_and_report_without_utf8(whole, tmp_path, command, without_utf8):
    shutil.copytree(whole, tmp_path / "é")
    command = [sys.executable, "-m", f"experiments.reporting.{command}", str(tmp_path / "é")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stderr


def test_a_tasks_features_go_when_it_ends(here, tmp_path, monkeypatch):
    """Not when Python next looks for cycles: those of a large task are 250 MB."""
    kept, alive, train = [], [], retrain_head.train_head

    def watched(features, *args, **options):
        alive.append(sum(ref() is not None for ref in kept))
        kept.append(weakref.ref(features))
        return train(features, *args, **options)

    monkeypatch.setattr(retrain_head, "train_head", watched)
    gc.collect()
    gc.disable()
    try:
        assert here("executor=serial", results=tmp_path) is None
    finally:
        gc.enable()
    assert len(alive) > 3 and max(alive) == 0
