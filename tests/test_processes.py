"""Worker processes: whatever becomes of one of them, every item has its result, and none of them is left over."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers.processes import alive, be_killed, children, make_mortal, make_nothing, raise_error, wait_until

from leep.execution.processes import Failed, WorkerError, n_cores, run_in_order, run_in_processes, without_interruptions

# What the workers do: at module level, so that they can import it


def make_square(*args):
    def square(item, report):
        report(item)
        report(0.5)
        return item**2, os.getpid(), args, os.environ["OMP_NUM_THREADS"]

    return square


def make_meeting(folder, count):
    """The first items end only when as many are under way at once."""

    def meet(item, report):
        (folder / str(item)).touch()
        return wait_until(lambda: len(list(folder.iterdir())) >= count)

    return meet


def make_slow_first(folder):
    """Item 0 ends when the parent has the result of item 1."""
    return lambda item, report: item == 1 or wait_until((folder / "received").exists)


def be_killed_in_a_message(report):
    """Eight bytes of a hundred are sent."""
    (pipe,) = (cell.cell_contents for cell in report.__closure__)
    os.write(pipe.fileno(), (100).to_bytes(4, "big") + b"some")
    be_killed(report)


def be_interrupted(report):
    os.kill(os.getpid(), signal.SIGINT)


def make_sleeper():
    def sleep(item, report):
        report(os.getpid())
        if item == 0:
            return os.getpid()
        while True:  # until it is killed
            time.sleep(1)

    return sleep


# Results


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_item_has_its_result(workers):
    amounts = []
    found = dict(run_in_processes(make_square, ("a", 1), range(7), workers, 3, amounts.append))
    assert {item: result[0] for item, result in found.items()} == {i: i**2 for i in range(7)}
    assert sum(amounts) == 21 + 7 * 0.5 and len(amounts) == 14
    assert {result[2:] for result in found.values()} == {(("a", 1), "3")}
    processes = {result[1] for result in found.values()}
    assert os.getpid() not in processes and 1 <= len(processes) <= workers
    assert not any(map(alive, processes))


def test_no_items_start_nothing():
    assert list(run_in_processes(make_nothing, ("never called",), [], 2)) == []


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_work_at_the_same_time(tmp_path, workers):
    assert dict(run_in_processes(make_meeting, (tmp_path, workers), range(4), workers)) == dict.fromkeys(range(4), True)


def test_results_come_as_they_end(tmp_path):
    runs = run_in_processes(make_slow_first, (tmp_path,), range(2), 2)
    assert next(runs) == (1, True)
    (tmp_path / "received").touch()
    assert list(runs) == [(0, True)]


@pytest.mark.parametrize("workers", [1, 2, 5, None])
def test_results_of_threads_come_in_the_order_of_the_items(workers):
    assert list(run_in_order(lambda item: item**2, iter(range(7)), workers)) == [0, 1, 4, 9, 16, 25, 36]
    threads = {*run_in_order(lambda item: threading.get_ident(), range(20), workers)}
    assert len(threads) <= (workers or n_cores())
    assert (threads == {threading.get_ident()}) == (workers == 1 or (n_cores() == 1 and workers is None))


def test_threads_work_at_the_same_time():
    meeting = threading.Barrier(2)
    assert sorted(run_in_order(lambda item: meeting.wait(timeout=600), range(2), 2)) == [0, 1]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_a_thread_is_the_callers(workers):
    results = run_in_order(lambda item: 6 // (3 - item), range(5), workers)
    assert [next(results) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)


# Failures


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (be_killed, r"its process ended with exit code -9 "),
        (be_killed_in_a_message, r"its process ended with exit code -9 "),
        (raise_error, "^ValueError: no such item$"),
    ],
)
def test_an_item_that_fails_once_is_tried_once_more(tmp_path, how, reason, workers):
    retries = []
    runs = run_in_processes(
        make_mortal, (how, tmp_path), range(5), workers, on_retry=lambda item, why: retries.append((item, why))
    )
    found = dict(runs)
    assert {item: result[0] for item, result in found.items()} == {i: i for i in range(5)}
    ((item, why),) = retries
    assert item == 2 and re.search(reason, why)
    assert len({result[1] for result in found.values()}) >= 2, "the process of the failure is not used again"


@pytest.mark.parametrize(
    ("how", "reason"), [(be_killed, r"exit code -9 \(−9: killed, or out of memory\)"), (raise_error, "no such item")]
)
def test_an_item_that_fails_twice_is_failed_and_the_others_are_not(how, reason):
    retries = []
    runs = run_in_processes(make_mortal, (how, None), range(5), 2, on_retry=lambda *r: retries.append(r))
    found = dict(runs)
    failed = found.pop(2)
    assert isinstance(failed, Failed) and re.search(reason, failed.reason)
    assert {item: result[0] for item, result in found.items()} == {0: 0, 1: 1, 3: 3, 4: 4}
    assert [item for item, _ in retries] == [2]


def test_a_failure_at_the_end_is_tried_again_too(tmp_path):
    assert dict(run_in_processes(make_mortal, (be_killed, tmp_path), [2], 1))[2][0] == 2
    assert isinstance(dict(run_in_processes(make_mortal, (be_killed, None), [2], 3))[2], Failed)


def test_death_while_there_is_nothing_to_do():
    retries, found = [], {}
    for item, (square, pid, *_) in run_in_processes(
        make_square, (), range(3), 1, on_retry=lambda *r: retries.append(r)
    ):
        found[item] = square
        if item == 0:  # it waits for the next item
            os.kill(pid, signal.SIGKILL)
            assert wait_until(lambda pid=pid: not alive(pid))
    assert found == {0: 0, 1: 1, 2: 4}
    ((item, reason),) = retries
    assert item == 1 and "exit code -9" in reason


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_that_cannot_start_are_an_error(workers):
    with pytest.raises(WorkerError, match=r"^OSError: no weights$"):
        list(run_in_processes(make_nothing, ("no weights",), range(3), workers))


# Nothing is left over


def test_workers_end_with_the_generator():
    runs = run_in_processes(make_sleeper, (), range(3), 2)
    assert next(runs)[0] == 0
    pids = children(os.getpid())
    assert len(pids) == 2 and all(map(alive, pids))
    runs.close()
    assert not any(map(alive, pids))


def test_workers_end_when_the_parent_is_interrupted():
    pids = []

    def interrupt(pid):
        pids.append(pid)
        if len(pids) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run_in_processes(make_sleeper, (), [1, 2], 2, on_progress=interrupt))
    assert len(set(pids)) == 2 and not any(map(alive, pids))


def test_workers_leave_interruptions_to_the_parent():
    found = dict(run_in_processes(make_mortal, (be_interrupted, None), range(4), 1))
    assert [found[i][0] for i in range(4)] == [0, 1, 2, 3] and len({pid for _, pid in found.values()}) == 1


@pytest.mark.parametrize("threads", [0, 1])
def test_an_interruption_waits_until_a_process_has_started(threads):
    """Though a thread that is not blocked takes the signal."""
    end, started = threading.Event(), []
    others = [threading.Thread(target=end.wait) for _ in range(threads)]
    [other.start() for other in others]
    taken, wakeup = socket.socketpair()
    wakeup.setblocking(False)
    before = signal.set_wakeup_fd(wakeup.fileno())
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` has it ignored

    def start():
        with without_interruptions():
            os.kill(os.getpid(), signal.SIGINT)
            assert not threads or taken.recv(1)
            started.append(True)

    try:
        with pytest.raises(KeyboardInterrupt):
            start()
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.set_wakeup_fd(before)
        end.set()
        [s.close() for s in (taken, wakeup)]
    assert started


SCRIPT = """
import sys
sys.path[:0] = {path!r}
from leep.execution.processes import run_in_processes
from test_processes import make_sleeper

if __name__ == "__main__":
    list(run_in_processes(make_sleeper, (), [1, 2], 2, on_progress=lambda pid: print(pid, flush=True)))
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT.format(path=[str(Path(__file__).parent), *sys.path]))
    parent = subprocess.Popen([sys.executable, tmp_path / "script.py"], stdout=subprocess.PIPE, text=True)
    try:
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        assert all(map(alive, pids))
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    assert wait_until(lambda: not any(map(alive, pids)))
