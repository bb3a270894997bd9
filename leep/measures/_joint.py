"""The two passes of LEEP over the source probabilities, in the rows' order and with float64 sums.

NumPy and SciPy read an array in blocks that stay in the processor's cache. A large array is read by compiled loops,
which are three times as fast and take half a second to compile. It is cut into a fixed number of parts with sums of
their own, so that the result does not depend on the number of threads. The parts run in Python threads, because an
OpenMP pool would meet MXNet's after a fork.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from leep.measures._check import ROW_SUM_TOLERANCE
from leep.measures._classes import add_rows_by_class

MIN_ENTRIES_TO_COMPILE = 1 << 20  # NumPy takes a millisecond for fewer
MIN_ENTRIES_FOR_PARTS = 1 << 21  # a pass over fewer takes less than a thread's start
PARTS = 4
BLOCK = 1 << 16  # entries: half a megabyte in float64
DOT = 1 << 13  # columns of a dot product: BLAS would start threads for more than 10,000


def sum_by_class(probs: np.ndarray, codes: np.ndarray, n_classes: int) -> tuple[np.ndarray, int]:
    """First pass: the sums of Eq. 1.

    Parameters
    ----------
    probs : float32 or float64 array `(n, n_source_classes)`, C order
    codes : int64 array `(n,)`
        Labels in 0 … n_classes − 1.
    n_classes : int

    Returns
    -------
    sums : float64 array `(n_classes, n_source_classes)`
        n · P̂(y, z).
    bad : int
        The first row that is not a distribution, or −1.
    """
    add = _passes(probs)[0]

    def run(start: int, stop: int) -> tuple[np.ndarray, int]:
        sums = np.zeros((n_classes, probs.shape[1]))
        return sums, add(probs, codes, start, stop, ROW_SUM_TOLERANCE, sums)

    sums, bad = zip(*_in_parts(run, probs))
    return sum(sums[1:], sums[0]), next((row for row in bad if row >= 0), -1)


def log_likelihood(probs: np.ndarray, codes: np.ndarray, conditional: np.ndarray) -> float:
    """Second pass: Σ log p(yᵢ|xᵢ) of Eq. 2, given P̂(y|z), float64 `(n_classes, n_source_classes)`."""
    add = _passes(probs)[1]
    return sum(_in_parts(lambda start, stop: add(probs, codes, start, stop, conditional), probs))


def add_rows(probs: np.ndarray, codes: np.ndarray, start: int, stop: int, tolerance: float, sums: np.ndarray) -> int:
    """Add rows start … stop − 1 to the sums of their classes; return the first that is not a distribution, or −1."""
    bad = -1
    with np.errstate(all="ignore"):  # a bad row is reported, not warned of
        for rows, block in _blocks(probs, start, stop):
            errors = np.abs(np.einsum("ij->i", block) - 1.0)
            if bad < 0 and not (errors.max() <= tolerance and block.min() >= 0):  # NaN neither
                bad = rows.start + int(np.argmin((errors <= tolerance) & (block >= 0).all(axis=1)))
            add_rows_by_class(block, codes[rows], sums)
    return bad


def sum_logs(probs: np.ndarray, codes: np.ndarray, start: int, stop: int, conditional: np.ndarray) -> float:
    """Sum the log-likelihoods of the expected empirical predictor over rows start … stop − 1."""
    total, buffer = 0.0, None
    for rows, block in _blocks(probs, start, stop):
        buffer = np.empty(block.shape) if buffer is None else buffer[: len(block)]
        given = conditional.take(codes[rows], axis=0, out=buffer, mode="clip")  # the other modes copy
        columns = (slice(i, i + DOT) for i in range(0, probs.shape[1], DOT))
        likelihoods = sum(np.matmul(block[:, None, c], given[:, c, None])[:, 0, 0] for c in columns)
        total += float(np.log(likelihoods).sum())
    return total


def _passes(probs: np.ndarray) -> tuple[Callable, Callable]:
    if probs.size < MIN_ENTRIES_TO_COMPILE:
        return add_rows, sum_logs
    from leep.measures import _compiled  # compiles, or reads what it compiled before

    return _compiled.add_rows, _compiled.sum_logs


def _blocks(probs: np.ndarray, start: int, stop: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the rows start … stop − 1 in blocks: a slice and its values in float64, which the next block overwrites."""
    size = min(max(1, BLOCK // probs.shape[1]), stop - start)
    buffer = np.empty((size, probs.shape[1])) if probs.dtype != np.float64 else None
    for first in range(start, stop, size):
        rows = slice(first, min(first + size, stop))
        if buffer is None:
            yield rows, probs[rows]
        else:
            block = buffer[: rows.stop - first]
            block[...] = probs[rows]
            yield rows, block


def _in_parts(run: Callable, probs: np.ndarray) -> list:
    """`run(start, stop)` of each part of the rows, in threads where there is more than one."""
    n = len(probs)
    if probs.size < MIN_ENTRIES_FOR_PARTS or n < PARTS:
        return [run(0, n)]
    cuts = [n * part // PARTS for part in range(PARTS + 1)]
    with ThreadPoolExecutor(min(PARTS, os.cpu_count() or 1)) as pool:
        return list(pool.map(run, cuts[:-1], cuts[1:]))
