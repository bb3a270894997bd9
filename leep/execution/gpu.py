"""Gives a process a GPU of its own."""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
from pathlib import Path

from leep.execution.processes import WorkerError

_claimed: list = []  # UUID and lock of this process's GPU; the system releases the lock when the process ends


def list_gpus() -> list[str]:
    """UUIDs of the GPUs that this process may see, in the order of `CUDA_VISIBLE_DEVICES` if that is set."""
    query = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        gpus = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return gpus if visible is None else _select(gpus, visible)


def _select(gpus: list[str], visible: str) -> list[str]:
    """Those that a list of numbers or beginnings of UUIDs names, up to the first that does not exist, as CUDA does."""
    chosen = []
    for name in map(str.strip, visible.split(",")):
        named = [gpu for i, gpu in enumerate(gpus) if name == str(i) or (name and gpu.startswith(name))]
        if len(named) != 1:
            break
        chosen += named
    return chosen


def claim_gpu() -> str:
    """Claim a free GPU by setting `CUDA_VISIBLE_DEVICES`, and return its UUID. Call before CUDA is initialised.

    Raises
    ------
    WorkerError
        If there is no GPU, or other processes have claimed all of them.
    """
    if _claimed:
        return _claimed[0]
    gpus = list_gpus()
    for gpu in gpus:
        path = Path(tempfile.gettempdir(), f"leep-{os.getuid()}-{gpu}.lock")
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise WorkerError(f"the lock of its GPU cannot be opened: {error}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
        _claimed.extend((gpu, lock))
        return gpu
    if gpus:
        raise WorkerError(f"other workers have claimed all {len(gpus)} GPUs of its machine; start a worker a GPU")
    raise WorkerError(
        "engine.device=cuda needs a GPU, nvidia-smi names none that this process may see (CUDA_VISIBLE_DEVICES="
        f"{os.environ.get('CUDA_VISIBLE_DEVICES')}); start the worker where there is one, or use engine.device=cpu"
    )
