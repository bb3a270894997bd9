"""Finds and checks the weights of a source model."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path

from leep.files import short

BUNDLED = Path(__file__).parent / "weights"


class WeightsMissing(FileNotFoundError):
    """The weights of a source were not found; the message says how to get them."""


class WeightsError(ValueError):
    """A weight file is not the one it should be."""


@dataclass(frozen=True)
class Weights:
    """A checked `.params` file, its SHA-256 and where it comes from (`bundled`, `gluon`, or a path's name)."""

    path: Path
    sha256: str
    origin: str


def find_weights(name: str, model: str, weights: str) -> Weights:
    """The weight file of a source.

    Parameters
    ----------
    name : str
        Of the source, e.g. `cifar10_resnet20`.
    model : str
        Of GluonCV's zoo, e.g. `cifar_resnet20_v1`.
    weights : str
        `bundled` (comes with the package, SHA-256 checked), `gluon` (Gluon's store, SHA-1 checked), or the path of a
        `.params` file.

    Raises
    ------
    WeightsMissing
        If there is no such file.
    WeightsError
        If a checksum is wrong.
    """
    if weights == "bundled":
        return _find_bundled(name)
    if weights == "gluon":
        return _find_gluon(model)
    path = Path(weights).expanduser()
    if not path.is_file():
        raise WeightsMissing(
            f"weights of {name}: {path} does not exist; source.{name}.weights is bundled, gluon or a .params file"
        )
    return Weights(path, _digest(path, "sha256"), path.name)


def _find_bundled(name: str) -> Weights:
    path = BUNDLED / f"{name}.params"
    if not path.is_file():
        raise WeightsMissing(
            f"no weights of {name} are bundled; try source.{name}.weights=gluon after make data, or a .params file"
        )
    sums = dict(reversed(line.split()) for line in (BUNDLED / "SHA256SUMS").read_text().splitlines())
    found = _digest(path, "sha256")
    if found != sums[path.name]:
        raise WeightsError(
            f"{path} must have the SHA-256 {sums[path.name]}, has {found}; restore it, e.g. by git checkout"
        )
    return Weights(path, found, "bundled")


def _find_gluon(model: str) -> Weights:
    """Gluon's store names a file `<model>-<first eight digits of its SHA-1>.params`."""
    sha1 = gluon_sha1(model)
    folder = Path(os.environ.get("MXNET_HOME") or "~/.mxnet").expanduser() / "models"
    path = folder / f"{model}-{sha1[:8]}.params"
    if not path.is_file():
        raise WeightsMissing(
            f"Gluon's weights of {model} are not in {short(folder)}; get them: make data ARGS='--only gluon'"
        )
    found = _digest(path, "sha1")
    if found != sha1:
        raise WeightsError(f"{short(path)} must have the SHA-1 {sha1}, has {found}; delete it, then make data")
    return Weights(path, _digest(path, "sha256"), "gluon")


def gluon_sha1(model: str) -> str:
    """The checksum of a model's weights that GluonCV's model store states, read without importing GluonCV.

    Raises
    ------
    WeightsError
        If the store has no weights of that name.
    """
    store = Path(importlib.util.find_spec("gluoncv").origin).parent / "model_zoo" / "model_store.py"
    found = re.search(rf"\('([0-9a-f]{{40}})', '{re.escape(model)}'\)", store.read_text())
    if found is None:
        raise WeightsError(f"GluonCV has no weights of a model {model!r}")
    return found[1]


def _digest(path: Path, algorithm: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
