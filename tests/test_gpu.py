"""Each process takes a GPU of its own: with a stand-in for nvidia-smi, as there need not be one here."""

import os
import time

import pytest

from leep.execution.gpu import claim_gpu, list_gpus
from leep.execution.processes import WorkerError, run_in_processes


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    script = tmp_path / "nvidia-smi"
    script.write_text("#!/bin/sh\necho GPU-aa11\necho GPU-bb22\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ["GPU-aa11", "GPU-bb22"]),
        ("1,0", ["GPU-bb22", "GPU-aa11"]),
        ("GPU-b", ["GPU-bb22"]),
        ("1,7,0", ["GPU-bb22"]),  # CUDA stops at the first that there is not
        ("", []),
        ("-1", []),
    ],
)
def test_gpus_that_a_process_may_see(two_gpus, monkeypatch, visible, expected):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert list_gpus() == expected


def make_taker(folder, count):
    """Processes that hold their GPU until all of them have tried to take one."""

    def take(item, report):
        try:
            taken = claim_gpu()
            assert os.environ["CUDA_VISIBLE_DEVICES"] == taken == claim_gpu()
        except WorkerError as error:
            taken = str(error)
        (folder / f"tried{item}").touch()
        while len(list(folder.glob("tried*"))) < count:
            time.sleep(0.01)
        return taken

    return take


def test_no_two_processes_take_the_same_gpu_and_it_is_free_again_when_they_end(two_gpus, tmp_path):
    taken = dict(run_in_processes(make_taker, (tmp_path, 3), range(3), 3)).values()
    assert {"GPU-aa11", "GPU-bb22"} < set(taken)
    assert "other workers have claimed all 2 GPUs of its machine; start a worker a GPU" in taken
    assert dict(run_in_processes(make_taker, (tmp_path, 3), [4], 1)) == {4: "GPU-aa11"}


def test_without_a_gpu_the_message_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(WorkerError, match=r"none that this process may see \(CUDA_VISIBLE_DEVICES=0\); start"):
        claim_gpu()
