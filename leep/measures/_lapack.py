"""Routines of the BLAS and LAPACK that SciPy brings, called without Python's lock: SciPy's own wrappers keep it.

Matrices are float64 and in Fortran's order; of symmetric ones the lower triangle counts.
"""

from __future__ import annotations

import ctypes

import numpy as np
from numba.extending import get_cython_function_address

_C_TYPES = {bytes: ctypes.c_char, int: ctypes.c_int, float: ctypes.c_double}
_ADDRESSES = {
    name: get_cython_function_address(f"scipy.linalg.cython_{library}", name)
    for library, names in {"blas": ("dsyrk", "dtrsm"), "lapack": ("dpotrf", "dpocon")}.items()
    for name in names
}


def _call(name: str, *arguments: bytes | int | float | np.ndarray | ctypes.c_int | ctypes.c_double) -> None:
    """Fortran takes the addresses of all arguments."""
    for a in arguments:
        if isinstance(a, np.ndarray) and not (a.flags.f_contiguous and a.dtype in (np.float64, np.intc)):
            raise ValueError(f"{name} needs float64 in Fortran's order, got {a.dtype} with strides {a.strides}")
    kept = [_C_TYPES[type(a)](a) if type(a) in _C_TYPES else a for a in arguments]
    addresses = [a.ctypes.data if isinstance(a, np.ndarray) else ctypes.addressof(a) for a in kept]
    ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(kept))(_ADDRESSES[name])(*addresses)


def gram(x: np.ndarray, out: np.ndarray) -> None:
    """The lower triangle of x xᵀ, `x` being `(d, n)`, into `out`, `(d, d)`."""
    d, n = x.shape
    _call("dsyrk", b"L", b"N", d, n, 1.0, x, d, 0.0, out, d)


def factor(matrix: np.ndarray, norm: float) -> float:
    """Cholesky's factor in place of `matrix`, `(d, d)`; its reciprocal condition number from its 1-norm, or 0."""
    d, info, condition = len(matrix), ctypes.c_int(), ctypes.c_double()
    _call("dpotrf", b"L", d, matrix, d, info)
    if info.value:
        return 0.0
    _call("dpocon", b"L", d, matrix, d, float(norm), condition, np.empty(3 * d), np.empty(d, np.intc), info)
    return condition.value


def solve(lower: np.ndarray, columns: np.ndarray) -> None:
    """L⁻¹ `columns` in place of `columns`, `(d, n)`."""
    d, n = columns.shape
    _call("dtrsm", b"L", b"L", b"N", b"N", d, n, 1.0, lower, d, columns, d)
