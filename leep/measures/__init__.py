"""Measures of transferability, a file each. The file's name is the measure's name in a configuration.

A measure is a file whose `score` takes some of the arrays `source_probs`, `source_labels`, `features`, `target_labels`
and returns a float. Its options have defaults. It may have a `score_class_tasks` that takes the same arrays and
`tasks`, for many tasks at once.
"""

from __future__ import annotations

import functools
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module

import numpy as np

from leep.errors import not_among
from leep.measures._check import as_array, check_labels
from leep.measures._classes import memberships
from leep.plugins import is_outside, load_object

VOCABULARY = ("source_probs", "source_labels", "features", "target_labels")
MEASURES = tuple(sorted(file.name for file in pkgutil.iter_modules(__path__) if not file.name.startswith("_")))


def get_measure(name: str) -> Callable[..., float]:
    """Return the function of a measure, or one from outside the package as `module:function`.

    Raises
    ------
    ValueError
        If there is no such measure. The message names the choices.

    Examples
    --------
    >>> get_measure("nce").__name__
    'nce_score'
    """
    return load_object(name) if is_outside(name) else _module(name).score


def check_measure(name: str) -> None:
    """Raise `ValueError` if there is no such measure, or it takes arguments that are not in the vocabulary."""
    measure_arguments(name)


def measure_arguments(name: str) -> tuple[str, ...]:
    """Return the names of the arrays that a measure takes, from its signature. Parameters with a default are options.

    Raises
    ------
    ValueError
        If there is no such measure, or it takes an array that is not in `VOCABULARY`.

    Examples
    --------
    >>> measure_arguments("leep")
    ('source_probs', 'target_labels')
    """
    arguments = _parameters(get_measure(name))
    unknown = sorted(set(arguments) - set(VOCABULARY))
    if unknown:
        raise ValueError(f"measure {name} must take arguments among {', '.join(VOCABULARY)}, got {', '.join(unknown)}")
    return arguments


def score_task(name: str, arrays: Mapping[str, np.ndarray]) -> float:
    """Score a target task by a measure.

    Parameters
    ----------
    name : str
        One of `MEASURES`.
    arrays : mapping of str to array `(n, …)`
        The task's arrays by their names in `VOCABULARY`. Those that the measure does not take are ignored. Tensors of
        PyTorch, MXNet, JAX and TensorFlow and columns of tables are arrays, too.

    Returns
    -------
    float
        The measure's score.

    Raises
    ------
    ValueError
        If the measure is unknown, an array that it takes is missing, or the measure rejects one.

    Examples
    --------
    >>> round(score_task("nce", {"source_labels": [0, 0, 0, 1], "target_labels": [0, 0, 1, 1]}), 6)
    -0.477386
    """
    return get_measure(name)(**_pick(name, arrays))


def score_class_tasks(name: str, arrays: Mapping[str, np.ndarray], tasks: Sequence[np.ndarray]) -> np.ndarray:
    """Score target tasks that take all examples of some classes (Section 5.1).

    Parameters
    ----------
    name, arrays
        As in `score_task`; the arrays are those of the whole data set, `target_labels` among them.
    tasks : sequence of int arrays `(n_classes,)`
        The classes of each task, distinct, all in `target_labels`.

    Returns
    -------
    float64 array `(n_tasks,)`
        What `score_task` gives on each task's rows. All at once where the measure has a `score_class_tasks`.

    Raises
    ------
    ValueError
        As `score_task`, and if a task is empty, repeats a class or takes one that does not occur.

    Examples
    --------
    The dummy label tells the classes 0 and 1 apart, but not 1 and 2.

    >>> arrays = {"source_labels": [0, 0, 1, 1], "target_labels": [0, 0, 1, 2]}
    >>> score_class_tasks("nce", arrays, [[0, 1], [1, 2]]).round(6).tolist()
    [0.0, -0.693147]
    """
    picked = _pick(name, arrays)
    if is_batched(name):
        return _module(name).score_class_tasks(**picked, tasks=tasks)
    picked = {key: as_array(key, values) for key, values in picked.items()}
    labels = check_labels("target_labels", arrays["target_labels"])
    memberships(tasks, np.unique(labels))
    rows = (np.flatnonzero(np.isin(labels, task)) for task in tasks)
    return np.array([score_task(name, {key: values[r] for key, values in picked.items()}) for r in rows], float)


def is_batched(name: str) -> bool:
    """Whether a measure has a `score_class_tasks` of its own, which shares work between tasks."""
    return not is_outside(name) and hasattr(_module(name), "score_class_tasks")


@functools.cache  # as slow as the measure of a small task
def _parameters(function: Callable) -> tuple[str, ...]:
    parameters = inspect.signature(function).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.default is parameter.empty)


def _module(name: str):
    if name not in MEASURES:
        raise ValueError(not_among("measures", MEASURES, name, " or module:function"))
    return import_module(f"{__name__}.{name}")


def _pick(name: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    arguments = measure_arguments(name)
    missing = [argument for argument in arguments if argument not in arrays]
    if missing:
        raise ValueError(f"measure {name} needs {', '.join(missing)}, got {', '.join(arrays) or 'no arrays'}")
    return {argument: arrays[argument] for argument in arguments}
