"""Builds the networks: GluonCV's model zoo, and EfficientNet-Lite."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from types import ModuleType

import mxnet as mx
import numpy as np
from PIL import ImageFile

from leep.engines.graph import set_weights
from leep.files import utf8
from leep.sources.checkpoint import read_checkpoint
from leep.sources.convert import from_torch
from leep.sources.efficientnet_lite import EfficientNetLite
from leep.sources.variants import VARIANTS
from leep.sources.weights import CHECKPOINTS

SHALLOW = "cifar_resnet8_v1"  # GluonCV builds it, but lists no model of less than 20 layers


def import_model_zoo() -> ModuleType:
    """Import GluonCV's `model_zoo` and undo what the import does to the process.

    Torch is hidden meanwhile, because GluonCV refuses to import beside torch ≥ 2. Pillow's flag is set back, because
    GluonCV sets it and damaged images would then be read as if they were whole.
    """
    hidden, truncated = sys.modules.pop("torch", None), ImageFile.LOAD_TRUNCATED_IMAGES
    sys.modules["torch"] = None
    try:
        from gluoncv import model_zoo
    finally:
        del sys.modules["torch"]
        if hidden is not None:
            sys.modules["torch"] = hidden
        ImageFile.LOAD_TRUNCATED_IMAGES = truncated
    return model_zoo


def seed_mxnet(seed: np.random.SeedSequence) -> None:
    """Set MXNet's and NumPy's global seeds: called just before a network is initialised or trained, nowhere else."""
    first, second = seed.generate_state(2)
    mx.random.seed(int(first) % 2**31)
    np.random.seed(second)  # noqa: NPY002  MXNet's initialisers draw from it


def initialize(parameters: list[mx.gluon.Parameter], seed: np.random.SeedSequence) -> None:
    """Draw parameters, each by its own initialiser, or Xavier's."""
    seed_mxnet(seed)
    for parameter in parameters:
        parameter.initialize(parameter.init or mx.init.Xavier())


def build(model: str, n_classes: int, seed: np.random.SeedSequence | None = None) -> mx.gluon.HybridBlock:
    """A network of GluonCV's zoo or an EfficientNet-Lite; with `seed` its weights are drawn (Xavier).

    Raises
    ------
    ValueError
        If there is no model of that name.
    """
    if model in VARIANTS:
        net = EfficientNetLite(VARIANTS[model], n_classes)
    else:
        zoo = import_model_zoo()
        names = [SHALLOW, *VARIANTS, *zoo.get_model_list()]
        if model.lower() not in names:
            near = difflib.get_close_matches(model, names, 3)
            raise ValueError(
                f"GluonCV's zoo has no model {model!r}" + (f"; did you mean {', '.join(near)}?" if near else "")
            )
        if model == SHALLOW:
            net = zoo.cifarresnet.get_cifar_resnet(1, 8, classes=n_classes)
        else:
            net = zoo.get_model(model, classes=n_classes, pretrained=False)
    if seed is not None:
        seed_mxnet(seed)
        net.initialize(mx.init.Xavier())
        net(mx.nd.zeros((1, 3, 64, 64)))  # completes the shapes that the zoo leaves open
    return net


def load(model: str, n_classes: int, path: Path) -> mx.gluon.HybridBlock:
    """A network with the weights of a `.params` file or of a PyTorch checkpoint (`.pth`, `.pt`, `.bin`).

    Raises
    ------
    ValueError
        If there is no such model, or the file does not hold its weights.
    """
    if path.suffix in CHECKPOINTS:
        net = build(model, n_classes, np.random.SeedSequence(0))  # so that every shape is known
        shapes = {name: p.shape for name, p in net._collect_params_with_prefix().items()}
        set_weights(net, from_torch(model, read_checkpoint(path), shapes))
        return net
    net = build(model, n_classes)
    try:
        net.load_parameters(utf8(path))
    except (AssertionError, ValueError, KeyError, mx.base.MXNetError) as error:
        reason = "not a .params file" if isinstance(error, mx.base.MXNetError) else error
        raise ValueError(f"{path} does not hold the weights of {model} with {n_classes} classes: {reason}") from error
    return net
