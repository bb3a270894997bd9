"""Gives a process a GPU of its own."""

from __future__ import annotations

import fcntl
import os
import subprocess
import tempfile
from pathlib import Path

_taken: list = []  # the lock of this process's GPU: the system lets go of it when the process ends


class NoGPU(RuntimeError):
    """There is no GPU for this process; the message says how many there are."""


def list_gpus() -> list[str]:
    """UUIDs of the GPUs that this process may see, in the order of `CUDA_VISIBLE_DEVICES` where that is set."""
    query = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return found if visible is None else _select(found, visible)


def _select(gpus: list[str], visible: str) -> list[str]:
    """Those that a list of numbers or beginnings of UUIDs names, up to the first that there is not, as CUDA does."""
    chosen = []
    for name in map(str.strip, visible.split(",")):
        named = [gpu for i, gpu in enumerate(gpus) if name == str(i) or (name and gpu.startswith(name))]
        if len(named) != 1:
            break
        chosen += named
    return chosen


def take_gpu() -> str:
    """Make the first GPU that no other process has taken the only one that this process sees; before CUDA is begun.

    Returns
    -------
    str
        Its UUID; the same one at every call.

    Raises
    ------
    NoGPU
        If there is none, or others have taken all of them.
    """
    if _taken:
        return _taken[0]
    gpus = list_gpus()
    for gpu in gpus:
        path = Path(tempfile.gettempdir(), f"leep-{os.getuid()}-{gpu}.lock")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise NoGPU(f"the lock of its GPU cannot be had: {error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
        _taken.extend((gpu, descriptor))
        return gpu
    if not gpus:
        raise NoGPU(
            "engine.device=cuda needs a GPU, nvidia-smi names none that this process may see "
            f"(CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')}); start the worker where there is one, "
            "or use engine.device=cpu"
        )
    raise NoGPU(f"other workers have taken all GPUs of its machine, {len(gpus)}; start as many workers as GPUs")
