"""BLAS on one thread.

Threads cost more than they save where a product takes a millisecond, and a second busy process makes them ten times as
slow. The rounding of a Cholesky factor depends on their number.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

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
