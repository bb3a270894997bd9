"""Reads a pickle that holds only NumPy arrays and plain containers; anything else is refused, nothing is executed."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
from numpy.core.multiarray import _reconstruct, scalar

from leep.data.dataset import DataError


def _codecs_encode(text: str, encoding: str = "latin1") -> bytes:
    """What protocol 2 pickles of bytes call; restricted to the one encoding they use."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


_ADMITTED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _codecs_encode,
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _ADMITTED[_module, "_reconstruct"] = _reconstruct
    _ADMITTED[_module, "scalar"] = scalar


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"refused to load {module}.{name}") from None


def load_pickle(path: Path) -> object:
    """Load a pickle of arrays and plain containers, with Python 2's byte strings as `bytes`.

    Raises
    ------
    DataError
        If the file is not a pickle, is truncated, or holds anything else.
    """
    try:
        return _Unpickler(io.BytesIO(Path(path).read_bytes()), encoding="bytes").load()
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(f"{path}: not a pickle of arrays and plain containers: {error}") from error
