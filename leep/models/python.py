"""`python:MODULE:FUNCTION`: a model that Python code makes."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path

from leep.errors import Invalid, Missing, suggest
from leep.files import file_digest
from leep.models.model import Model, check_is_file, digest
from leep.models.settings import preprocessing, read_settings

_ATTRIBUTES = ("parameters", "weight_bytes", "notes", "outputs")  # of a callable, handed on to `Model`


def open_model(name: str, file: Path | None, *, device: str, download: bool, threads, options) -> Model:
    """What `FUNCTION()` of a module, or of a file `PATH.py`, returns.

    That is a `Model`; a `torch.nn.Module` that gives logits; or a callable, float32 `(n, 3, size, size)` →
    `(features, logits)`, whose attributes `size`, `mean`, `std`, `class_names`, `outputs`, … are those of `Model`.
    """
    module_name, _, function_name = name.rpartition(":")
    if not module_name:
        raise Invalid("expected python:MODULE:FUNCTION, or python:FILE.py:FUNCTION")
    module = _import(module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        names = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise Invalid(f"{module_name} has no function {function_name!r}{suggest(function_name, names)}")
    made = function()
    if isinstance(made, Model):
        made.name = made.name or f"python:{name}"
        made.sha256 = made.sha256 or _hash_code(module)
        return made
    settings = read_settings(None, options)
    defaults = {"size": getattr(made, "size", 224)}
    keys = ("shorter_side", "interpolation", "mean", "std", "channels", "class_names")
    defaults |= {key: getattr(made, key) for key in keys if getattr(made, key, None) is not None}
    code, notes, measures, run = _hash_code(module), [], {}, made
    arguments, flip = preprocessing(settings, defaults)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(made, torch.nn.Module):
        from leep.models import torch_network

        head = torch_network.find_head(made, arguments["resize"].size)[1]
        run = torch_network.TorchNetwork(made, head, device, threads, flip)
        measures, weights = run.measures(), torch_network.hash_weights(made)
    elif not callable(made):
        raise Invalid(f"it returns a {type(made).__name__}, expected a Model, a torch.nn.Module or a callable")
    else:
        weights = getattr(made, "sha256", None)
        measures = {key: getattr(made, key) for key in _ATTRIBUTES if getattr(made, key, None) is not None}
        if weights is None:
            notes.append(f"its weights are not known: the cache goes by the code of {module_name} alone, set sha256")
    notes = [*measures.pop("notes", ()), *notes]
    sha256 = digest("python", code, function_name, weights)
    return Model(f"python:{name}", run, **arguments, **measures, sha256=sha256, notes=notes, device=device)


def _import(name: str):
    """A module by its name, looked for in the working folder, too; or a file."""
    if not name.endswith(".py"):
        if "" not in sys.path:
            sys.path.insert(0, "")
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and name.startswith(error.name):
                raise Missing(f"there is no module {name!r} here: give a module, or a file that ends in .py") from error
            raise
    path = Path(name).expanduser()
    check_is_file(path)
    spec = importlib.util.spec_from_file_location(f"leep_model_{path.stem}", path)  # a file may be called torch.py
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _hash_code(module) -> str:
    source = inspect.getsourcefile(module)
    return file_digest(Path(source)) if source else module.__name__
