"""Reads a file of weights by its content, whatever its name: of MXNet, of PyTorch, or `.safetensors`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from leep.errors import Invalid, Missing
from leep.sources.checkpoint import read_checkpoint, widen
from leep.sources.params import MAGIC, read_params

# What people take for weights, by how it begins, and what to do.
_OTHERS = {
    b"<": "it is a web page; download it again",
    b"version https://git-lfs": "it is a pointer of Git LFS; get its content by git lfs pull",
    b"\x1f\x8b": "it is packed; unpack it by gunzip",
    b"\xfd7zXZ": "it is packed; unpack it by xz -d",
    b"\x89HDF": "it is of Keras or TensorFlow; convert it to ONNX, which leep rank reads",
    b"\x08": "it may be ONNX, which leep rank reads as onnx:FILE",
}
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2"}
_DTYPES |= {"I8": "|i1", "U8": "|u1", "BOOL": "|b1"}
_AVERAGED = {"ema", "model_ema", "ema_model", "teacher"}


@dataclass(frozen=True, eq=False)
class WeightFile:
    """The arrays of a file of weights.

    Attributes
    ----------
    path : Path
    of_torch : bool
        Whether they have PyTorch's names, else MXNet's.
    arrays : dict of str to ndarray
        In the file's order. Floating point is float32.
    taken_off : str
        What stood before all names: `state_dict.module.`, say; empty where nothing did.
    """

    path: Path
    of_torch: bool
    arrays: dict[str, np.ndarray]
    taken_off: str = ""

    def below(self, names: Collection[str]) -> WeightFile:
        """Those whose names are `names` below a prefix, by these names; of several prefixes the one with the most.

        Of equal ones averaged weights (`ema`, `teacher`) go before others, and the first in the file before the next.
        Nothing is taken off if less than half of `names` would be found.
        """
        names, found = set(names), Counter[str]()
        for given in self.arrays:
            parts = given.split(".")
            for i in range(len(parts)):
                if ".".join(parts[i:]) in names:
                    found["".join(f"{part}." for part in parts[:i])] += 1
        best = max(found, key=lambda p: (found[p], p == "", bool(_AVERAGED & set(p.split(".")))), default="")
        if not best or found[best] < len(names) / 2:
            return self
        arrays = {name.removeprefix(best): a for name, a in self.arrays.items() if name.startswith(best)}
        return replace(self, arrays=arrays, taken_off=self.taken_off + best)

    @property
    def note(self) -> str:
        """One line on what was taken off; empty where nothing was."""
        return f"the weights are those below {self.taken_off.rstrip('.')!r} in the file" if self.taken_off else ""

    @property
    def n_classes(self) -> int | None:
        """Rows of the classifier, by its usual names, else of the last matrix; None where there is none."""
        matrices = {name: a for name, a in self.arrays.items() if a.ndim in (2, 4)}
        named = [name for name in matrices if name.startswith(("output.", "fc."))]
        return len(matrices[(named or list(matrices))[-1]]) if matrices else None


def read_weight_file(path: Path) -> WeightFile:
    """Read `.params` of MXNet, what `torch.save` wrote of a state dict, or `.safetensors`. Nothing in it is executed.

    Raises
    ------
    OSError
        If the file cannot be read.
    Missing
        If it is `.safetensors`, and the library of that name is not installed.
    Invalid
        If it is damaged or of another kind; the message says of which, where that is seen.
    """
    with open(path, "rb") as file:
        head = file.read(32)
    if head.startswith(MAGIC):
        arrays = {name.removeprefix("arg:").removeprefix("aux:"): a for name, a in read_params(path).items()}
        return WeightFile(path, False, {name: _single(array) for name, array in arrays.items()})
    if head.startswith((b"PK\x03\x04", b"\x80")):
        tensors, key = read_checkpoint(path)
        return WeightFile(path, True, tensors, f"{key}." if key else "")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size - 8:
        return WeightFile(path, True, _read_safetensors(path))
    begins = f"it begins with {head[:8]!r}" if head else "it is empty"
    what = next((text for begin, text in _OTHERS.items() if head.startswith(begin)), begins)
    kinds = "MXNet's .params, a state dict of PyTorch or .safetensors"
    raise Invalid(f"{path} must be a file of weights ({kinds}), but {what}")


def _single(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype.kind == "f" else array.copy()


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        from safetensors import deserialize
    except ImportError:
        raise Missing(f"{path}: reading it needs safetensors: pip install safetensors") from None
    try:
        arrays = {}
        for name, entry in deserialize(path.read_bytes()):
            array = np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).reshape(entry["shape"])
            arrays[name] = widen(array) if entry["dtype"] == "BF16" else _single(array)
    except KeyError as error:
        raise Invalid(f"{path}: holds numbers of the type {error}, expected one of {', '.join(_DTYPES)}") from error
    except Exception as error:  # of Rust
        raise Invalid(f"{path}: not a .safetensors file, or damaged: {error}") from error
    return arrays


def differences(given: Mapping[str, tuple], own: Mapping[str, tuple]) -> str:
    """How the shapes of a file differ from a network's, by name, two of each kind; empty where they do not."""
    kinds: dict[str, list[str]] = {
        "missing": [name for name in own if name not in given],
        "left over": [name for name in given if name not in own],
        "of another shape": [f"{n} {given[n]} for {own[n]}" for n in own if n in given and given[n] != own[n]],
    }
    return "; ".join(
        f"{len(entries)} {kind}: {', '.join(entries[:2])}{', …' if len(entries) > 2 else ''}"
        for kind, entries in kinds.items()
        if entries
    )
