"""Looks after processes, and functions that worker processes run: at module level, so that they can import them."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

PATIENCE = 600  # seconds: a limit for a hang, however busy the machine is


def alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and waited for by nobody does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> list[int]:
    """Processes that a process has started, less the interpreter's own."""
    found = [int(p) for t in Path(f"/proc/{pid}/task").iterdir() for p in (t / "children").read_text().split()]
    return [p for p in found if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]


def wait_until(condition: Callable[[], object]) -> bool:
    """Wait for a condition; whether it came."""
    end = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return bool(condition())


def make_mortal(how, folder):
    """Item 2 ends badly, at its first attempt or, without a folder, at every attempt."""

    def mortal(item, report):
        if item == 2 and not (folder and (folder / "tried").exists()):
            if folder:
                (folder / "tried").touch()
            how(report)
        return item, os.getpid()

    return mortal


def be_killed(report):
    os.kill(os.getpid(), signal.SIGKILL)


def raise_error(report):
    raise ValueError("no such item")


def make_nothing(reason):
    raise OSError(reason)
