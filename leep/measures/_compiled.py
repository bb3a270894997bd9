"""The two passes of LEEP over a part of a large array, compiled: each reads every entry once and copies none.

The first call compiles for half a second. `_joint` therefore calls these for large arrays only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numba import float64, njit


def compiled(function: Callable) -> Callable:
    """Compile a function that releases the lock, on its first call; keep the result on the disk where that is allowed.

    `reassoc` lets the compiler vectorise sums. NaN and infinity keep their meaning, because the checks need it.
    """
    options = {"nogil": True, "fastmath": {"reassoc", "contract", "nsz"}}
    try:
        loop = njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's can be written
        loop = njit(**options)(function)

    @functools.wraps(function)
    def call(probs, codes, *arguments):
        return loop(_read_only(probs), _read_only(codes), *arguments)  # else it is compiled for both kinds of arrays

    return call


def _read_only(array: np.ndarray) -> np.ndarray:
    array = array.view()
    array.flags.writeable = False
    return array


@compiled
def add_rows(probs, codes, start, stop, tolerance, sums):
    """As `_joint.add_rows`."""
    bad = -1
    for i in range(start, stop):
        row, class_sums = probs[i], sums[codes[i]]
        total = negative = 0.0
        for z in range(row.shape[0]):
            p = float64(row[z])
            total += p
            negative += p if p < 0.0 else 0.0
            class_sums[z] += p
        if bad < 0 and (negative < 0.0 or not abs(total - 1.0) <= tolerance):
            bad = i
    return bad


@compiled
def sum_logs(probs, codes, start, stop, conditional):
    """As `_joint.sum_logs`."""
    log_likelihood = 0.0
    for i in range(start, stop):
        row, given = probs[i], conditional[codes[i]]
        p = 0.0
        for z in range(row.shape[0]):
            p += float64(row[z]) * given[z]
        log_likelihood += np.log(p)
    return log_likelihood
