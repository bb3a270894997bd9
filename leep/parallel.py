"""Runs tasks on several workers; results come back in the order of the tasks, so that files do not depend on timing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from joblib import Parallel, delayed


def run_in_order(function: Callable, items: Iterable, workers: int | None = 1) -> Iterator:
    """`function(item)` for every item, results in the items' order, each as soon as it and all before it are done.

    Parameters
    ----------
    function : callable
        Spends its time in compiled code that lets go of Python's lock: the workers are threads.
    items : iterable
    workers : int or None
        All cores if None; with 1 nothing is started.
    """
    workers = workers or len(os.sched_getaffinity(0))
    if workers == 1:
        return map(function, items)
    parallel = Parallel(workers, backend="threading", return_as="generator", pre_dispatch="2*n_jobs")
    return parallel(delayed(function)(i) for i in items)
