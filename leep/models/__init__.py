"""A model is a function from images to features and probabilities, whatever library it comes from.

| spec | what |
| --- | --- |
| `torchvision:NAME[=FILE]` | a classifier of torchvision |
| `timm:NAME[=FILE]` | a model of timm |
| `hf:NAME` | a model of transformers: a folder, or a name in its cache |
| `onnx:FILE` | a classifier as an ONNX graph |
| `gluon:NAME[=FILE]` | a model of GluonCV, where MXNet is installed |
| `python:MODULE:FUNCTION` | what Python code makes |
| `arrays:FILE.npz` | features and probabilities that were computed elsewhere |
"""

from __future__ import annotations

import difflib
import glob
import importlib
import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path

from leep.data.listing import ImageFolder, find_images
from leep.data.picture import Resize
from leep.errors import Invalid, LeepError, Missing, suggest
from leep.models.arrays import StoredOutputs
from leep.models.images import ArrayImages, FolderImages, default_cache, read_images
from leep.models.known import ModelInfo, known_models
from leep.models.model import Model, imagenet_classes
from leep.models.outputs import Outputs, images_to_pass, measure_speed, model_outputs, speed_before

__all__ = [
    "ArrayImages",
    "FolderImages",
    "ImageFolder",
    "Model",
    "ModelInfo",
    "Outputs",
    "Resize",
    "StoredOutputs",
    "default_cache",
    "expand_specs",
    "find_images",
    "imagenet_classes",
    "images_to_pass",
    "known_models",
    "measure_speed",
    "model_outputs",
    "open_model",
    "read_images",
    "speed_before",
]

# The module and the packages of each kind of spec.
_ADAPTERS = {
    "torchvision": ("leep.models.torchvision", ("torch", "torchvision")),
    "timm": ("leep.models.timm", ("torch", "timm")),
    "hf": ("leep.models.huggingface", ("torch", "transformers")),
    "onnx": ("leep.models.onnx", ("onnx", "onnxruntime")),
    "gluon": ("leep.models.gluon", ()),
    "python": ("leep.models.python", ()),
    "arrays": ("leep.models.arrays", ()),
}
_SUFFIXES = {".onnx": "onnx", ".npz": "arrays"}  # of files that need no kind


def open_model(
    spec: str,
    *,
    device: str = "cpu",
    download: bool = False,
    threads: int | None = None,
    options: Mapping | None = None,
) -> Model | StoredOutputs:
    """Open a model and try it on two pictures of noise.

    Parameters
    ----------
    spec : str
        `KIND:NAME[=FILE]`, as in the table of `leep.models`; a file that ends in `.onnx` or `.npz` needs no kind.
    device : {"cpu", "cuda", "cuda:1", …}
    download : bool
        Whether torchvision, timm and transformers may download weights.
    threads : int, optional
        On the processor; all cores if None.
    options : mapping, optional
        What the model itself does not say: `mean`, `std`, `size`, … (`leep.models.settings.KEYS`). They go before
        those of a JSON file beside the model's file (`model.json` for `model.onnx`).

    Raises
    ------
    Missing
        If a package, a file or weights are not here; says how to get them.
    Invalid
        If the spec, the file or what the model gives is not what it must be. Both begin with the spec.

    Examples
    --------
    >>> open_model("torchvison:resnet18")
    Traceback (most recent call last):
        ...
    leep.errors.Invalid: torchvison:resnet18: no kind of model 'torchvison'; did you mean torchvision?
    """
    try:
        kind, name, file = _parse(spec)
        module, packages = _ADAPTERS[kind]
        if lacking := [package for package in packages if importlib.util.find_spec(package) is None]:
            raise Missing(f"it needs {' and '.join(lacking)}: pip install {' '.join(lacking)}")
        adapter = importlib.import_module(module)
        return adapter.open_model(name, file, device=device, download=download, threads=threads, options=options)
    except LeepError as error:
        text = str(error)
        for place in (place for place in spec.replace("=", ":").split(":") if place):
            text = text.removeprefix(f"{place}: ")  # the spec says it
        raise type(error)(f"{spec}: {text}") from error
    except Exception as error:  # whatever a library or a user's code raises: one model must not cost the others
        text = " ".join(str(error).split())[:300]
        raise Invalid(f"{spec}: {type(error).__name__}: {text}") from error


def expand_specs(specs: Iterable[str]) -> list[str]:
    """Specs of files with patterns, such as `arrays:outputs/*.npz`, as one spec a file; none twice.

    Raises
    ------
    Missing
        If a pattern has no file.
    """
    expanded = []
    for spec in specs:
        kind, colon, place = spec.partition(":")
        path = place if colon and kind in ("arrays", "onnx") else spec if Path(spec).suffix in _SUFFIXES else ""
        if not glob.has_magic(path) or Path(path).exists():
            expanded.append(spec)
            continue
        found = sorted(glob.glob(str(Path(path).expanduser()), recursive=True))
        if not found:
            raise Missing(f"{spec}: no file of that name")
        expanded += [f"{kind}:{f}" if path is not spec else f for f in found]
    return list(dict.fromkeys(expanded))


def _hint(kind: str, spec: str) -> str:
    """What a spec of no known kind may mean."""
    if near := suggest(kind, _ADAPTERS):
        return near
    for suffix in difflib.get_close_matches(Path(spec).suffix, _SUFFIXES, 1):
        return f"; did you mean {Path(spec).with_suffix(suffix)}?"
    such = f", such as torchvision:{spec} or timm:{spec}," if spec.isidentifier() else ","
    return f"; expected KIND:NAME{such} where KIND is one of {', '.join(_ADAPTERS)}"


def _parse(spec: str) -> tuple[str, str, Path | None]:
    """Kind, name and file of a spec."""
    kind, _, rest = spec.partition(":")
    if Path(spec).suffix in _SUFFIXES and kind not in _ADAPTERS:
        return _SUFFIXES[Path(spec).suffix], spec, None
    if kind not in _ADAPTERS:
        raise Invalid(f"no kind of model {kind!r}{_hint(kind, spec)}")
    if not rest:
        raise Invalid("expected a name after the colon")
    if kind in ("onnx", "arrays", "python"):
        return kind, rest, None
    name, equals, file = rest.partition("=")
    return kind, name, Path(file).expanduser() if equals else None
