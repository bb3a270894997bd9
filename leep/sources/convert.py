"""Renames the weights of a PyTorch network to those of the same network in GluonCV's zoo."""

from __future__ import annotations

import re

import numpy as np

from leep.errors import Invalid

Shapes = dict[str, tuple[int, ...]]


def from_torch(model: str, arrays: dict[str, np.ndarray], shapes: Shapes) -> dict[str, np.ndarray]:
    """The weights of a network of GluonCV's zoo, from the state dict of its PyTorch counterpart.

    Parameters
    ----------
    model : str
        Of GluonCV's zoo, e.g. `resnet50_v1b`.
    arrays : dict of str to ndarray
        By PyTorch's names, in the order of the state dict; `num_batches_tracked` is dropped.
    shapes : dict of str to tuple of int
        By the structural names of the Gluon network, in their order, complete: a network that was not run yet leaves
        zeros in them.

    Returns
    -------
    dict of str to ndarray
        By the Gluon network's names, in their order.

    Raises
    ------
    Invalid
        If the model cannot be converted, or names or shapes do not fit; all that do not are listed.
    """
    model = model.lower()
    for models, rename in FAMILIES:
        if model in models:
            return _convert(model, rename(arrays, shapes), arrays, shapes)
    known = ", ".join(name for models, _ in FAMILIES for name in models)
    raise Invalid(f"model must be one of {known} to be converted from PyTorch, got {model!r}")


def torch_names(model: str, shapes: Shapes) -> list[str]:
    """PyTorch's names of a network's weights, where they are known without a file; else none."""
    return list(_resnet({}, shapes).values()) if model.lower() in FAMILIES[0][0] else []


def _convert(model: str, names: dict[str, str], arrays: dict[str, np.ndarray], shapes: Shapes) -> dict[str, np.ndarray]:
    """The arrays by Gluon's names; `names` gives PyTorch's name for each of them."""
    missing = [f"{names.get(name, 'a layer')} for {name} {shape}" for name, shape in shapes.items()
               if names.get(name) not in arrays]  # fmt: skip
    left = [f"{name} {array.shape}" for name, array in arrays.items()
            if name not in names.values() and not name.endswith("num_batches_tracked")]  # fmt: skip
    wrong = []
    converted = {}
    for name, shape in shapes.items():
        if (array := arrays.get(names.get(name))) is None:
            continue
        if array.shape not in ([shape, (*shape, 1, 1)] if len(shape) == 2 else [shape]):  # a 1×1 convolution is dense
            wrong.append(f"{names[name]} {array.shape} for {name} {shape}")
            continue
        converted[name] = array.reshape(shape)
    found = {"missing": missing, "left over": left, "of a wrong shape": wrong}
    if any(found.values()):
        text = "; ".join(f"{kind}: {', '.join(entries)}" for kind, entries in found.items() if entries)
        raise Invalid(f"the checkpoint must hold the weights of {model} and nothing else; {text}")
    return converted


def _batch_norm(name: str) -> str:
    """PyTorch's name of a Gluon parameter whose layer has the same name."""
    return re.sub(r"\bbeta$", "bias", re.sub(r"\bgamma$", "weight", name))


def _resnet(arrays: dict[str, np.ndarray], shapes: Shapes) -> dict[str, str]:
    """torchvision's `resnet18` to `resnet152` are GluonCV's v1b, down to the names of the layers."""
    return {name: _batch_norm(name) for name in shapes}


def _chain(arrays: dict[str, np.ndarray], shapes: Shapes) -> dict[str, str]:
    """A chain whose branches have no weights: the layers correspond in their order, whatever their names."""
    theirs = dict(zip(_layers(shapes), _layers(arrays)))
    names = {}
    for name in shapes:
        layer, _, parameter = _batch_norm(name).rpartition(".")
        if layer in theirs:
            names[name] = ".".join(filter(None, (theirs[layer], parameter)))
    return names


def _layers(names: dict) -> list[str]:
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))


# (models, function from arrays and shapes to PyTorch's name of each of the network's parameters)
FAMILIES = (
    (tuple(f"resnet{depth}_v1b" for depth in (18, 34, 50)), _resnet),
    (tuple(f"mobilenet{width}" for width in ("1.0", "0.75", "0.5", "0.25")), _chain),
    (tuple(f"efficientnet_lite{number}" for number in range(3)), _chain),
)
