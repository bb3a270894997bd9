"""Many small computations at once: each is one thread's, so that a result does not depend on the number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from leep.measures._blas import one_thread

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], bytes_each: int = 0, memory: int = 2 << 30
) -> list[Result]:
    """`function` of each item, in order, on as many threads as BLAS has; BLAS itself has one meanwhile.

    `function` must spend its time where NumPy and SciPy release Python's lock: in products, in functions of arrays.
    No more threads run than take `memory` bytes together, at `bytes_each`.
    """
    with one_thread() as threads:
        threads = max(1, min(threads, memory // max(bytes_each, 1)))
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(function, items))
