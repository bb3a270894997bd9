"""BLAS on one thread, and a Cholesky factor without Python's lock.

Threads cost more than they save where a product takes a millisecond, and a second busy process makes them ten times as
slow. The rounding of a Cholesky factor depends on their number.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock

import numpy as np

_LOCK = Lock()
_active = 0  # calls within `one_thread`, of all Python threads: BLAS's number of threads is the whole process's
_before: list[int] = []


@contextmanager
def one_thread() -> Iterator[int]:
    """Run the BLAS libraries of NumPy and SciPy on one thread; yield the number of threads they had before.

    Calls may overlap: the last one to end gives the libraries their threads back.
    """
    global _active, _before
    libraries = _libraries()
    with _LOCK:
        if _active == 0:
            _before = [library.num_threads for library in libraries]
            _set_threads(libraries, [1] * len(libraries))
        _active += 1
    try:
        yield max(_before, default=1)
    finally:
        with _LOCK:
            _active -= 1
            if _active == 0:
                _set_threads(libraries, _before)


def _set_threads(libraries: list, numbers: list[int]) -> None:
    for library, number in zip(libraries, numbers):
        library.set_num_threads(number)


@functools.cache  # finding them takes milliseconds
def _libraries() -> list:
    import scipy.linalg  # noqa: F401  loads SciPy's BLAS, so that it is found
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas").lib_controllers


def factor_in_place(matrix: np.ndarray) -> bool:
    """Replace the lower triangle of a symmetric matrix by its Cholesky factor, or return False.

    Parameters
    ----------
    matrix : float64 array `(d, d)` in Fortran's order
        Only its lower triangle is read and written. If it is not positive definite, what is written has no meaning.

    Notes
    -----
    This is LAPACK's dpotrf. SciPy's own wrapper keeps Python's lock, so that threads wait for each other. NumPy's
    copies the matrix twice, which takes as long as the factor.
    """
    if not (matrix.flags.f_contiguous and matrix.flags.writeable and matrix.dtype == np.float64):
        raise ValueError(f"matrix must be float64 in Fortran's order, got {matrix.dtype}, strides {matrix.strides}")
    d, failed = ctypes.c_int(len(matrix)), ctypes.c_int()
    _dpotrf()(b"L", ctypes.byref(d), matrix.ctypes.data, ctypes.byref(d), ctypes.byref(failed))
    return failed.value == 0


@functools.cache
def _dpotrf() -> Callable:
    from scipy.linalg import cython_lapack

    capsule, python = cython_lapack.__pyx_capi__["dpotrf"], ctypes.pythonapi
    name_of = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", python))
    address_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", python))
    integer = ctypes.POINTER(ctypes.c_int)
    function = ctypes.CFUNCTYPE(None, ctypes.c_char_p, integer, ctypes.c_void_p, integer, integer)
    return function(address_of(capsule, name_of(capsule)))
