"""What a transfer method is: an object that turns a source model into a model of a target task (Section 2)."""

from __future__ import annotations

import importlib
import math
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from leep.errors import did_you_mean, not_among
from leep.plugins import is_outside, load_object

if TYPE_CHECKING:
    from leep.data import DataSet
    from leep.sources.forward import SourceOutputs
    from leep.sources.preprocess import Preprocessing
    from leep.sources.weights import Weights
    from leep.tasks import Task

# task number, report(number of images trained on) → metrics, curve of (epoch, test accuracy)
Transfer = Callable[[int, Callable[[int], None]], tuple[dict, list]]
# where the tasks run: in threads (compiled loops), in processes (networks), or one after the other in this process
THREADS, PROCESSES, HERE = "threads", "processes", "here"


class SourceModel(Protocol):
    """The source model of a pair, as its configuration describes it."""

    name: str
    model: str
    n_classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Pair(Protocol):
    """A source and a target: what a method is given."""

    source: SourceModel
    weights: Weights
    data: DataSet
    preprocessing: Preprocessing
    engine: Mapping[str, Any]
    """Arguments of `leep.engines.create_engine`."""

    def task(self, index: int) -> Task:
        """Target task number `index`."""

    def training_rng(self, index: int) -> np.random.Generator:
        """The generator of a task's training."""

    def outputs(self) -> SourceOutputs:
        """Features and probabilities of all examples of the target."""


@dataclass(frozen=True)
class Budget:
    """How much a method may do on the tasks of one target.

    Attributes
    ----------
    epochs : int or None
        None for a method that takes no gradient steps.
    eval_every : int or None
        Keep a curve of test accuracy, measured after the first ten and every `eval_every`-th epoch.
    max_examples : int or None
        About so many examples of a task, for training and for the test; all if None.
    """

    epochs: int | None = None
    eval_every: int | None = None
    max_examples: int | None = None


class Method(ABC):
    """A transfer method: a dataclass whose fields are its options.

    Attributes
    ----------
    name : str
        In configurations and results.
    label : str
        In tables and figures.
    style : dict
        How figures draw it: `color`, `marker`, `hatch`.
    takes_epochs : bool
        It takes gradient steps on the task, for a number of epochs.
    reads_features : bool
        It reads the features of the one pass, not the images.
    place : {"threads", "processes", "here"}
        Where its tasks run.
    experiments : tuple of str
        The experiments that it is for; empty: all.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    style: ClassVar[dict[str, str]] = {"color": "#CC79A7", "marker": "P", "hatch": "++"}
    takes_epochs: ClassVar[bool] = True
    reads_features: ClassVar[bool] = True
    place: ClassVar[str] = THREADS
    experiments: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def prepare(self, pair: Pair, budget: Budget, checkpoints: Path) -> Transfer:
        """Build, once in each worker, the function that transfers the source to a task.

        It may raise `FloatingPointError` where a training diverges: that task is left out and named.
        """

    def bind(self, pair: Pair) -> Method:
        """Load further files that the method needs for a pair, as CNAPs' adaptation networks.

        Raises `Missing` or `Invalid` if there is no such file or it does not fit. The method is then left out.
        """
        return self

    def identity(self, pair: Pair, budget: Budget) -> dict:
        """What determines the transferred models: it names their folder in the results."""
        return {"epochs": budget.epochs, **asdict(self)}

    def deviations(self, pair: Pair) -> list[str]:
        """What else differs from the paper, to be said beside every number."""
        return []


@dataclass(frozen=True)
class SGD(Method):
    """Options of the methods that train by stochastic gradient descent (Section 5.1: rate 0.01, batches of 10)."""

    batch_size: int = 10
    learning_rate: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self):
        check_integer("batch_size", self.batch_size, 1)
        check_number("learning_rate", self.learning_rate, "> 0", lambda v: v > 0)
        check_number("momentum", self.momentum, "≥ 0 and < 1", lambda v: 0 <= v < 1)
        check_number("weight_decay", self.weight_decay, "≥ 0", lambda v: v >= 0)


def check_integer(name: str, value: object, least: int, expected: str = "an integer") -> None:
    """Raise `ValueError` unless a value is an integer of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be {expected} ≥ {least}, got {value!r}")


def check_number(name: str, value: object, bounds: str, within: Callable[[float], bool]) -> None:
    """Raise `ValueError` unless a value is a finite number within its bounds."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not within(value):
        raise ValueError(f"{name} must be a number {bounds}, got {value!r}")


@cache
def find_methods() -> dict[str, type[Method]]:
    """The package's transfer methods by name: every class in `leep.transfer` and its sub-packages that has a name."""
    import leep.transfer

    for module in pkgutil.iter_modules(leep.transfer.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"leep.transfer.{module.name}")
    found, waiting = {}, [Method]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if "name" in vars(kind) and kind.__module__.startswith("leep.transfer."):
            found[kind.name] = kind
    return dict(sorted(found.items()))


def create_method(name: str, options: Mapping[str, object]) -> Method:
    """A transfer method with its options.

    Parameters
    ----------
    name : str
        One of `find_methods()`, or any other where `options` has `class`, as `module:name`, of a method from outside.
    options : mapping
        Fields of the method's class; the others keep their defaults.

    Raises
    ------
    ValueError
        If there is no such method or option, or a value is impossible; names the choices.

    Examples
    --------
    >>> create_method("retrain_head", {"learning_rate": 0.1}).learning_rate
    0.1
    """
    options = dict(options)
    place = options.pop("class", None)
    if place is not None:
        kind = load_object(place) if is_outside(place) else None
        if not (isinstance(kind, type) and issubclass(kind, Method) and kind.name == name):
            raise ValueError(f"method.{name}.class must be module:name of a leep Method named {name!r}, got {place!r}")
    elif name in find_methods():
        kind = find_methods()[name]
    else:
        raise ValueError(not_among("method", find_methods(), name))
    known = [field.name for field in fields(kind)]
    if unknown := sorted({*options} - {*known}):
        raise ValueError(
            f"unknown key method.{name}.{unknown[0]}; the keys are {', '.join(known)}{did_you_mean(unknown[0], known)}"
        )
    try:
        return kind(**options)
    except ValueError as error:
        raise ValueError(f"method.{name}.{error}") from error
