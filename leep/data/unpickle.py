"""Reads a pickle that holds only NumPy arrays and plain containers; anything else is refused, nothing is executed."""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from pathlib import Path

import numpy as np

from leep.data.dataset import DataError

_STEPS = 2_000_000  # a batch of CIFAR takes 100,000
_DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")


def _codecs_encode(text: str, encoding: str = "latin1") -> bytes:
    """What protocol 2 pickles of bytes call; restricted to the one encoding they use."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


class _DType:
    """Stands for a dtype of plain numbers while the pickle is read."""

    def __init__(self, code, *_):
        self.code = code.decode() if isinstance(code, bytes) else code
        if self.code not in _DTYPES:
            raise pickle.UnpicklingError(f"an array of type {str(self.code)[:100]!r}")

    def __setstate__(self, state):
        self.order = state[1] if isinstance(state[1], str) else state[1].decode()

    def numpy(self) -> np.dtype:
        return np.dtype(self.code).newbyteorder({"<": "<", ">": ">", "|": "|"}[self.order])


class _Array:
    """Stands for an array while the pickle is read; its values are as many as its shape says."""

    values: np.ndarray

    def __setstate__(self, state):
        _, shape, dtype, fortran, raw = state
        if not all(type(n) is int and n >= 0 for n in shape) or not isinstance(raw, bytes):
            raise pickle.UnpicklingError("an array without a shape or without bytes")
        dtype = dtype.numpy()
        if math.prod(shape) * dtype.itemsize != len(raw):
            raise pickle.UnpicklingError(f"an array of shape {shape} and {len(raw)} bytes")
        self.values = np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C").copy()


def _new_array(*_) -> _Array:
    return _Array()


def _scalar(dtype: _DType, raw: bytes) -> np.generic:
    (value,) = np.frombuffer(raw, dtype.numpy())
    return value


class _NotCalled:
    """A name that occurs as an argument only."""


_ADMITTED = {
    ("numpy", "ndarray"): _NotCalled(),
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _codecs_encode,
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _ADMITTED[_module, "_reconstruct"] = _new_array
    _ADMITTED[_module, "scalar"] = _scalar


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"refused to load {module}.{name}") from None


def load_pickle(path: Path) -> object:
    """Load a pickle of arrays and plain containers, with Python 2's byte strings as `bytes`.

    Memory stays within a small multiple of the file's size, whatever the file says.

    Returns
    -------
    object
        Arrays are those that are values of a dictionary, as in a batch of CIFAR.

    Raises
    ------
    DataError
        If the file is not a pickle, is truncated, or holds anything else.
    """
    try:
        content = Path(path).read_bytes()
        _check_steps(content)
        loaded = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        if isinstance(loaded, dict):
            loaded = {k: v.values if isinstance(v, _Array) else v for k, v in loaded.items()}
        return loaded
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(f"{path}: not a pickle of arrays and plain containers: {error}") from error


def _check_steps(content: bytes) -> None:
    """Refuse a memo of more places than the pickle has steps: it would be allocated."""
    for step, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if step > _STEPS or ("PUT" in opcode.name and argument > step):
            raise pickle.UnpicklingError(f"{opcode.name} of {argument} at step {step}")
