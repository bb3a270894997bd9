"""A tiny CIFAR-100 in its binary layout, random source weights, and a way to run experiments on them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test workers, one thread each


def composed(*overrides: str):
    """What Hydra composes."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", list(overrides))


def resolved(*overrides: str):
    """The typed configuration of a run."""
    from hydra import compose, initialize_config_dir

    from experiments.config.resolve import resolve

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return resolve(compose("config", list(overrides)))


def write_cifar100(folder: Path, n_classes: int, n_train: int, n_test: int, seed: int = 0) -> None:
    """Images of noise around a colour of their class, `n_train` and `n_test` a class."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    colours = rng.integers(40, 216, (n_classes, 3, 1))
    for split, count in (("train", n_train), ("test", n_test)):
        labels = rng.permutation(np.repeat(np.arange(n_classes), count)).astype(np.uint8)
        pixels = colours[labels] + rng.normal(0, 60, (len(labels), 3, 1024))
        pixels = pixels.clip(0, 255).astype(np.uint8).reshape(len(labels), -1)
        np.concatenate([np.zeros((len(labels), 1), np.uint8), labels[:, None], pixels], 1).tofile(
            folder / f"{split}.bin"
        )
    (folder / "fine_label_names.txt").write_text("\n".join(f"class{i}" for i in range(100)) + "\n")


@pytest.fixture(scope="session")
def data_root(tmp_path_factory) -> Path:
    """A data root that holds only a `cifar100` of six classes, 320 training and 10 test images each."""
    root = tmp_path_factory.mktemp("data")
    write_cifar100(root / "cifar100", 6, 320, 10)
    return root


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory) -> Path:
    """A `.params` file of `cifar_resnet20_v1` with random weights."""
    from leep.sources.zoo import build

    path = tmp_path_factory.mktemp("weights") / "random.params"
    build("cifar_resnet20_v1", 10, np.random.SeedSequence(7)).save_parameters(str(path))
    return path


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory) -> Path:
    """One cache of forward passes for all tests of a worker."""
    return tmp_path_factory.mktemp("passes")


@pytest.fixture
def arguments(data_root, random_weights, shared_cache, tmp_path):
    """Overrides that point `run.py` at the tiny data, the random weights and a fresh results folder; heads only."""

    def make(experiment: str, *extra: str, results: Path | None = None) -> list[str]:
        method = [e for e in extra if e.startswith("method=")]
        return [
            f"experiment={experiment}",
            "scale=smoke",
            "source=[cifar10_resnet20]",
            "target=[cifar100]",
            f"source.cifar10_resnet20.weights={random_weights}",
            "source.cifar10_resnet20.title=Random",  # without it, what they were trained on would be unknown
            f"data.root={data_root}",
            f"paths.results={results or tmp_path / 'results'}",
            f"paths.cache={shared_cache}",
            *(["task.max_classes=6"] if experiment == "large_balanced" else []),
            *(["task.per_class=5"] if experiment == "meta_transfer" else []),
            *(["method=[retrain_head]"] if experiment != "convergence" and not method else []),
            *extra,
        ]

    return make


@pytest.fixture
def run_here(arguments):
    """Runs an experiment in this process; returns what it says to the user where it cannot, else None."""
    from experiments.running.runner import run
    from leep.errors import LeepError

    def run_here(experiment: str, *extra: str, results: Path | None = None) -> str | None:
        try:
            run(resolved(*arguments(experiment, *extra, results=results)))
        except LeepError as error:
            return str(error)
        return None

    return run_here


@pytest.fixture
def run_experiment(arguments):
    """Runs `run.py` as a user would; returns the finished process."""

    def run(experiment: str, *extra: str, results: Path | None = None, check: bool = True):
        flags = [e for e in extra if e.startswith("-")]
        overrides = arguments(experiment, *(e for e in extra if e not in flags), results=results)
        command = [sys.executable, "run.py", *flags, *overrides]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=1800
        )  # a limit for a hang, however busy the machine is
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def start(arguments):
    """Starts `run.py` in a process group of its own, as a terminal does; the test ends it."""
    started = []

    def start(experiment, *extra, results):
        command = [sys.executable, "run.py", *arguments(experiment, *extra, results=results)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        restore = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's `&` has it ignored
        started.append(subprocess.Popen(command, cwd=ROOT, start_new_session=True, preexec_fn=restore, **pipes))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
