"""Engines execute a Gluon model. Models and weights are defined in Gluon only; results name engine and precision."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from leep.errors import not_among
from leep.execution.processes import n_cores

if TYPE_CHECKING:
    from leep.engines.gluon import GluonEngine
    from leep.engines.torch import TorchEngine

    Engine = GluonEngine | TorchEngine

# images (n, 3, h, w) float32 → features (n, d), logits (n, c), float32
Predictor = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

ENGINES = ("gluon", "torch")
META_INPUTS = ("context", "classes", "query")  # of a network that adapts to a task
ADAM = (0.9, 0.999, 1e-8)  # β1, β2, ε of meta-training
PRECISIONS = ("float32", "bfloat16")


def create_engine(
    name: str = "gluon", precision: str = "float32", device: str = "cpu", threads: int | None = None
) -> Engine:
    """The engine of that name; imported only now, so that nothing else pays for MXNet or PyTorch.

    Parameters
    ----------
    name : {"gluon", "torch"}
    precision : {"float32", "bfloat16"}
        `gluon` knows float32 only.
    device : str
        `cpu`, or for `torch` a CUDA device (`cuda`, `cuda:1`).

    threads : int, optional
        Threads of one operation; all cores if None. MXNet reads it once, when it is first imported.

    Raises
    ------
    ValueError
        If the name, the precision or the device is not to be had.
    """
    check_engine(name, precision, device)
    threads = threads or n_cores()
    if name == "gluon":
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
        if threads == 1:  # MXNet's queue would be a second thread
            os.environ.setdefault("MXNET_ENGINE_TYPE", "NaiveEngine")
        from leep.engines.gluon import GluonEngine

        return GluonEngine()
    from leep.engines.torch import TorchEngine

    return TorchEngine(precision, device, threads)


def check_engine(name: str, precision: str, device: str) -> None:
    """Raise `ValueError` if there is no such engine, or it cannot run here in that precision on that kind of device."""
    if name not in ENGINES:
        raise ValueError(not_among("engine", ENGINES, name))
    if precision not in PRECISIONS:
        raise ValueError(not_among("engine.precision", PRECISIONS, precision))
    if name == "gluon" and (precision != "float32" or device != "cpu"):
        raise ValueError(
            f"engine=gluon runs in float32 on the cpu, got {precision} on {device}; "
            "use engine=torch for bfloat16 or CUDA"
        )
    if name == "gluon" and importlib.util.find_spec("mxnet") is None:
        raise ValueError(
            "engine=gluon needs MXNet: make env, or in Python 3.11 pip install 'leep-transferability[experiments]'"
        )
    if name == "torch" and importlib.util.find_spec("torch") is None:
        raise ValueError(
            "engine=torch needs PyTorch: make env EXTRA=torch, or pip install 'leep-transferability[torch]'"
        )
