"""Builds the networks of GluonCV's model zoo."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

import mxnet as mx
import numpy as np


def _model_zoo():
    """GluonCV's `model_zoo`. GluonCV refuses to import beside torch ≥ 2, so torch is hidden while it does."""
    hidden = sys.modules.pop("torch", None)
    sys.modules["torch"] = None
    try:
        from gluoncv import model_zoo
    finally:
        del sys.modules["torch"]
        if hidden is not None:
            sys.modules["torch"] = hidden
    return model_zoo


def seed_mxnet(seed: np.random.SeedSequence) -> None:
    """Set MXNet's and NumPy's global seeds: called just before a network is initialised or trained, nowhere else."""
    first, second = seed.generate_state(2)
    mx.random.seed(int(first) % 2**31)
    np.random.seed(second)  # noqa: NPY002  MXNet's initialisers draw from it


def build(model: str, n_classes: int, seed: np.random.SeedSequence | None = None) -> mx.gluon.HybridBlock:
    """A network of GluonCV's zoo; with `seed` its weights are drawn (Xavier), else they are to be loaded.

    Raises
    ------
    ValueError
        If the zoo has no model of that name.
    """
    zoo = _model_zoo()
    if model.lower() not in (names := zoo.get_model_list()):
        near = difflib.get_close_matches(model, list(names), 3)
        raise ValueError(
            f"GluonCV's zoo has no model {model!r}" + (f"; did you mean {', '.join(near)}?" if near else "")
        )
    net = zoo.get_model(model, classes=n_classes, pretrained=False)
    if seed is not None:
        seed_mxnet(seed)
        net.initialize(mx.init.Xavier())
        net(mx.nd.zeros((1, 3, 64, 64)))  # completes the shapes that the zoo leaves open
    return net


def load(model: str, n_classes: int, path: Path) -> mx.gluon.HybridBlock:
    """A network of GluonCV's zoo with the weights of a `.params` file.

    Raises
    ------
    ValueError
        If the zoo has no such model, or the file does not hold its weights.
    """
    net = build(model, n_classes)
    try:
        net.load_parameters(str(path))
    except (AssertionError, ValueError, KeyError, mx.base.MXNetError) as error:
        reason = "not a .params file" if isinstance(error, mx.base.MXNetError) else error
        raise ValueError(f"{path} does not hold the weights of {model} with {n_classes} classes: {reason}") from error
    return net
