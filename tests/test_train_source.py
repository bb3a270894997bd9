"""The source model's training: resumed after a kill it gives the same weights, another configuration is refused."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT

from leep.sources.zoo import load


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A CIFAR-10 of 5 × 40 training and 20 test images."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    (root / "cifar10").mkdir()
    for name, n in (*((f"data_batch_{k}", 40) for k in range(1, 6)), ("test_batch", 20)):
        records = rng.integers(0, 256, (n, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        records.tofile(root / "cifar10" / f"{name}.bin")
    return root


def command(root, out, *extra):
    options = [f"data.root={root}", f"out={out}", "epochs=4", "batch_size=50", "engine.threads=1", *extra]
    return [sys.executable, "scripts/train_source.py", *options]


def run(*args):
    return subprocess.run(command(*args), cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_killed_training_goes_on_to_the_same_weights(root, tmp_path):
    whole = run(root, tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    assert "in the gluon engine" in whole.stdout
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        command(root, killed), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while process.poll() is None and not (killed / "checkpoint.npz").exists():
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "weights.params").exists()
    resumed = run(root, killed)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on after epoch" in resumed.stdout
    a, b = (load("cifar_resnet20_v1", 10, tmp_path / d / "weights.params") for d in ("whole", "killed"))
    b = b._collect_params_with_prefix()
    for name, p in a._collect_params_with_prefix().items():
        np.testing.assert_array_equal(p.data().asnumpy(), b[name].data().asnumpy(), err_msg=name)
    other = run(root, killed, "seed=1")
    assert other.returncode != 0
    assert "another configuration" in other.stderr
