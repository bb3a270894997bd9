"""Which models are known, which can run here without a download, and what each of the others needs."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ModelInfo:
    """A model that `open_model` knows: whether it can run here now, and otherwise what it needs."""

    spec: str
    available: bool
    needs: str = ""


A_FILE = "a file"  # all that a kind of model needs
_PACKAGES = {"torchvision": ("torch", "torchvision"), "timm": ("torch", "timm"), "hf": ("torch", "transformers")}


def known_models(search: Iterable[str | Path] = ()) -> list[ModelInfo]:
    """All models of torchvision and timm, those of transformers and Gluon whose weights are here, and ONNX files.

    Whether a package is installed is seen without importing it; torchvision and timm are imported for their lists,
    because only they know them. No model is opened.

    Parameters
    ----------
    search : iterable of paths
        Folders in which `.onnx` files are looked for, with their sub-folders, and such files themselves.

    Returns
    -------
    list of ModelInfo
        By kind, those that can run first. A library that is not installed has one entry, such as `timm:NAME`.
    """
    found = []
    for kind, packages in _PACKAGES.items():
        lacking = [package for package in packages if importlib.util.find_spec(package) is None]
        if lacking:
            found.append(ModelInfo(f"{kind}:NAME", False, f"pip install {' '.join(lacking)}"))
            continue
        try:
            models = importlib.import_module(f"leep.models.{'huggingface' if kind == 'hf' else kind}").available()
        except Exception as error:  # an installation that is broken must not hide the others
            found.append(ModelInfo(f"{kind}:NAME", False, f"{packages[-1]} does not import: {error}"))
            continue
        found += [ModelInfo(f"{kind}:{name}", here, "" if here else f"--download, or {kind}:{name}=FILE")
                  for name, here in sorted(models.items(), key=lambda item: (not item[1], item[0]))]  # fmt: skip
    return found + _gluon(found) + _onnx(search)


def _gluon(others: list[ModelInfo]) -> list[ModelInfo]:
    """Weights in MXNet's folder: of Gluon's models, and of those that torchvision has, too."""
    from leep.models.gluon import available, for_torchvision, is_installed

    needs = (
        "" if is_installed() else "MXNet and GluonCV, on Python 3.11: pip install 'leep-transferability[experiments]'"
    )
    known = {info.spec for info in others}
    resnets = {f"torchvision:{name}": path for name, path in for_torchvision().items()}
    infos = [ModelInfo(f"{spec}={path}", True) for spec, path in resnets.items() if spec in known]
    models = available() or {"NAME": False}
    return infos + [ModelInfo(f"gluon:{name}", here, "" if here else needs or "gluon:NAME=FILE")
                    for name, here in models.items()]  # fmt: skip


def _onnx(search: Iterable[str | Path]) -> list[ModelInfo]:
    lacking = [package for package in ("onnx", "onnxruntime") if importlib.util.find_spec(package) is None]
    needs = f"pip install {' '.join(lacking)}" if lacking else ""
    paths = [Path(place).expanduser() for place in search]
    files = [f for p in paths for f in (sorted(p.rglob("*.onnx")) if p.is_dir() else [p])]
    infos = [ModelInfo(f"onnx:{file}", not needs, needs) for file in dict.fromkeys(files)]
    return infos or [ModelInfo("onnx:FILE", False, needs or A_FILE)]
