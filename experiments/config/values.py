"""The typed values of a resolved configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from leep.execution.processes import n_cores
from leep.sources.preprocess import Preprocessing
from leep.tasks import Experiment
from leep.transfer.method import Budget, Method


@dataclass(frozen=True)
class Source:
    """A source model: a file of `conf/source`."""

    name: str
    model: str
    title: str
    n_classes: int
    trained_on: str
    imagenet_top1: float | None
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    weights: tuple[str, ...]

    @property
    def preprocessing(self) -> Preprocessing:
        """From images of a target to input of the model."""
        return Preprocessing(self.size, self.mean, self.std)


@dataclass(frozen=True)
class Target:
    """A target data set: a file of `conf/target`, and the parameters of the tasks that are drawn from it."""

    key: str  # in the configuration
    name: str  # in the results
    reader: str
    title: str
    path: str | None
    size: int | None
    on_damaged: str
    task: dict[str, int]


@dataclass(frozen=True)
class Engine:
    """What executes the networks: a file of `conf/engine`."""

    name: str
    precision: str
    device: str
    threads: int  # of a worker process

    def arguments(self) -> dict:
        """Arguments of `leep.engines.create_engine`."""
        return {"name": self.name, "precision": self.precision, "device": self.device, "threads": self.threads}

    def identity(self) -> dict[str, str]:
        """What of the engine determines results."""
        return {"name": self.name, "precision": self.precision, "device": self.device}


@dataclass(frozen=True)
class Executor:
    """What runs the tasks: a file of `conf/executor`."""

    name: str
    workers: int | None
    address: str | None = None
    options: Mapping[str, object] = field(default_factory=dict)  # of executor=slurm


@dataclass(frozen=True)
class RunConfig:
    """All that one experiment runs with.

    Attributes
    ----------
    experiment : Experiment
    seed : int
    scale : str
    measures : tuple of str
    sources, targets : tuples of Source and Target
    methods : tuple of Method
    n_tasks : dict of str to int
        Tasks by the name of a method.
    budgets : dict of (str, str) to Budget
        By the names of a method and a target.
    changed : dict of str to frozenset of str
        By the name of a source: the fields of `Source` that the user has changed.
    summary : str
        One line on what the run leaves out of the paper's protocol.
    pair_deviations : dict of (str, str) to list of str
        By the names of a source and a target: where tasks, source model or engine differ from the paper's.
    method_deviations : dict of (str, str) to list of str
        By the names of a method and a target: where the training, or the number of tasks, differs from the paper's.
    """

    experiment: Experiment
    seed: int
    scale: str
    measures: tuple[str, ...]
    sources: tuple[Source, ...]
    targets: tuple[Target, ...]
    methods: tuple[Method, ...]
    n_tasks: Mapping[str, int]
    budgets: Mapping[tuple[str, str], Budget]
    engine: Engine
    executor: Executor
    results: Path
    cache: Path
    data_root: str | None
    strict: bool
    plan: bool | str
    verbose: bool
    changed: Mapping[str, frozenset[str]] = field(default_factory=dict)
    summary: str = ""
    pair_deviations: Mapping[tuple[str, str], list[str]] = field(default_factory=dict)
    method_deviations: Mapping[tuple[str, str], list[str]] = field(default_factory=dict)

    @property
    def threads_for_heads(self) -> int:
        """Threads that heads are trained in."""
        return self.executor.workers or n_cores()
