"""Many small computations at once: each is one thread's, so that a result does not depend on the number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_BLAS = Lock()  # its number of threads is the whole process's


def map_in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], bytes_each: int = 0, memory: int = 2 << 30
) -> list[Result]:
    """`function` of each item, in order, on as many threads as BLAS has; BLAS itself has one meanwhile.

    `function` must spend its time where NumPy and SciPy release Python's lock: in products, in functions of arrays.
    No more threads run than take `memory` bytes together, at `bytes_each`.
    """
    from threadpoolctl import threadpool_info, threadpool_limits

    with _BLAS:
        threads = max((found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"), default=1)
        threads = max(1, min(threads, memory // max(bytes_each, 1)))
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
            return list(pool.map(function, items))
