"""A source and a target: what all their tasks share, where it comes from, and what names it in the results."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from experiments.config.values import RunConfig, Source, Target
from experiments.executor import n_workers
from leep.data import DataSet, find_data, load_data
from leep.data.dataset import only_rows, only_test
from leep.data.known import FULL, SAMPLE
from leep.engines import create_engine
from leep.errors import Invalid, LeepError, Missing
from leep.execution.processes import ItemRunner
from leep.results import setting_hash
from leep.sources.forward import (
    SourceOutputs,
    batch_size,
    cache_key,
    forward_pass,
    images_to_pass,
    make_predictor,
    spread,
)
from leep.sources.preprocess import Preprocessing
from leep.sources.weight_file import read_weight_file
from leep.sources.weights import Weights, find_weights
from leep.tasks import TRAINING, Task, draw_task, task_rng
from leep.transfer.method import Budget, Method, find_methods

FILE = "{} a weight file of your own"
FEW = 0.25  # of the images of a target: tasks that use less have only these passed


@dataclass(frozen=True)
class SourceTarget:
    """A source model and a target data set that are both there, and the methods that can run on them."""

    config: RunConfig
    source: Source
    weights: Weights
    target: Target
    data: DataSet
    methods: tuple[Method, ...] = ()
    map_items: ItemRunner | None = None  # runs items on a cluster, in place of the processes of this machine

    @property
    def preprocessing(self) -> Preprocessing:
        """From images of the target to input of the source."""
        return self.source.preprocessing

    @property
    def engine(self) -> dict:
        """Arguments of `create_engine` in a worker process."""
        return self.config.engine.arguments()

    def task(self, index: int) -> Task:
        """Target task number `index`."""
        labels = self.data.train_labels, self.data.test_labels
        return draw_task(self.config.experiment, self.target.name, index, self.config.seed, *labels, **self.target.task)

    def training_rng(self, index: int) -> np.random.Generator:
        """The generator of a task's training: the new head, then the orders of the examples."""
        return task_rng(self.config.seed, self.config.experiment.name, self.target.name, index, TRAINING)

    def budget(self, method: Method) -> Budget:
        """What a method may do on a task of the target."""
        return self.config.budgets[method.name, self.target.name]

    @cached_property
    def used_rows(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The rows of training and test images that the tasks use, where these are few; None: all images are passed.

        Methods from outside the package may read the outputs of any image. Where all outputs are cached they are read.
        """
        train, test = (np.zeros(len(labels), bool) for labels in (self.data.train_labels, self.data.test_labels))
        if not {*self.config.n_tasks} <= {*find_methods()}:
            return None
        for index in range(max(self.config.n_tasks.values())):
            task = self.task(index)
            train[task.train_rows], test[task.test_rows] = True, True
            if task.whole_classes or train.sum() + test.sum() > FEW * (len(train) + len(test)):
                return None
        if images_to_pass(self.config.cache, self._key(self.data), self.data) == 0:
            return None
        return np.flatnonzero(train), np.flatnonzero(test)

    @cached_property
    def passed(self) -> DataSet:
        """The images that are passed."""
        return only_rows(self.data, *self.used_rows) if self.used_rows else self.data

    def _key(self, data: DataSet) -> str:
        key = self.weights.sha256, self.source.model, self.preprocessing, data.sha256
        return cache_key(*key, self.config.engine.identity())

    @property
    def outputs_key(self) -> str:
        """Names the forward pass in the cache."""
        return self._key(self.passed)

    def outputs(self) -> SourceOutputs:
        """The source model's outputs on the target data set: one pass, made when first needed. It can take minutes."""
        return self._outputs

    @cached_property
    def _outputs(self) -> SourceOutputs:
        config, source = self.config, self.source
        predictor = partial(make_predictor, self.engine, source.model, source.n_classes, self.weights)
        batch = batch_size(source.size, config.engine.device)
        how = n_workers(config), config.engine.threads, batch, self.map_items
        try:
            outputs = forward_pass(config.cache, self.outputs_key, predictor, self.preprocessing, self.passed, *how)
        except (ValueError, NotImplementedError, LeepError) as error:
            raise Invalid(f"source {source.name}: {error}") from error
        if (found := outputs.train_probs.shape[1]) != source.n_classes:
            raise Invalid(f"source.{source.name}.n_classes must be {found} for its weights, got {source.n_classes}")
        return spread(outputs, self.data, *self.used_rows) if self.used_rows else outputs

    @cached_property
    def source_labels(self) -> np.ndarray:
        """The source model's most probable class of every training example."""
        return self.outputs().train_probs.argmax(1)

    def identity(self) -> dict:
        """All that determines the tasks and their scores."""
        config, source, data = self.config, self.source, self.data
        return {
            "experiment": config.experiment.name,
            "seed": config.seed,
            "stream": f"{config.experiment.name}/{self.target.name}",  # with seed and index it names a task's generator
            "task": self.target.task,
            "source": {
                "name": source.name,
                "model": source.model,
                "trained_on": source.trained_on,
                "weights": self.weights.origin,
                "weights_sha256": self.weights.sha256,
                "preprocessing": self.preprocessing.describe(),
            },
            "target": {"name": self.target.name, "variant": data.variant, "sha256": data.sha256},
            "engine": config.engine.identity(),
        }

    def folder(self) -> Path:
        """Where the tasks and their scores stand."""
        config = self.config
        name = f"seed{config.seed}-{setting_hash(self.identity())}"
        return config.results / config.experiment.name / self.source.name / self.target.name / name

    def method_identity(self, method: Method) -> dict:
        """All else that determines the transferred models."""
        return {"method": method.name, "scale": self.config.scale, **method.identity(self, self.budget(method))}

    def method_folder(self, method: Method) -> Path:
        """Where the transferred models of a method stand."""
        name = f"{method.name}-{self.config.scale}-{setting_hash(self.method_identity(method))}"
        return self.folder() / name

    def deviations(self) -> list[str]:
        """Where tasks, data, source model or engine differ from the paper's."""
        variant, title = self.data.variant, self.target.title
        found = [] if variant == FULL else [f"{variant} of {title}" if variant == SAMPLE else f"{variant} for {title}"]
        if self.weights.origin != "gluon":
            found.append(f"{self.weights.origin} weights of {self.source.name}")
        if self.source.trained_on == self.target.title:
            found.append("the source was trained on the target's images")
        return found + self.config.pair_deviations[self.source.name, self.target.name]

    def method_deviations(self, method: Method) -> list[str]:
        """Where the training of a method, or the number of tasks, differs from the paper's."""
        return self.config.method_deviations[method.name, self.target.name] + method.deviations(self)


def describe(source: Source, weights: Weights, changed: frozenset[str]) -> Source:
    """The source as its weights are: what a file of `conf/source` says of its own weights does not hold for others.

    What others were trained on is unknown, unless the user has changed the title, the training data or the accuracy.
    """
    if weights.known or "weights" not in changed or changed & {"title", "trained_on", "imagenet_top1"}:
        return source
    title = f"{source.title} ({weights.origin})"
    return replace(source, title=title, trained_on="unknown data", imagenet_top1=None)


def find_pairs(config: RunConfig, loaded: dict | None = None) -> list[SourceTarget]:
    """The pairs that can run. What is missing or damaged is printed, or raised if `strict` or if nothing can run.

    Data sets that several configurations share are read once where `loaded` keeps them.

    Raises
    ------
    Missing
        If nothing can run.
    Invalid
        If something is missing and `strict` is true, or the tasks cannot be drawn from a target.
    """
    lacks = Lacks()
    weights = _find_weights(config, lacks)
    loaded = {} if loaded is None else loaded
    data = _find_data(config, lacks, loaded) if weights else _miss_data(config, lacks)  # reads nothing
    pairs, misfits = [], False
    for source in _described(config, weights):
        targets = [target for target in config.targets if target.name in data]
        of_source = [
            SourceTarget(config, source, weights[source.name], target, data[target.name]) for target in targets
        ]
        if wrong := _check_weights(of_source):
            lacks.other.append(wrong)
            misfits = True
            continue
        for pair in of_source:
            methods = []
            for method in config.methods:
                try:
                    methods.append(method.bind(pair))
                except LeepError as error:
                    lacks.other.append(str(error))
            if methods:
                pairs.append(replace(pair, methods=tuple(methods)))
    if lacks and (config.strict or not pairs):
        text = lacks.text(every=config.strict or config.verbose)
        raise (Invalid if pairs or misfits else Missing)(f"{config.experiment.name} cannot run:{text}")
    if lacks:
        print(f"Left out:{lacks.text(every=config.verbose)}")
    return pairs


def _described(config: RunConfig, weights: dict[str, Weights]) -> Iterator[Source]:
    """The sources whose weights are there, as these are."""
    for source in (s for s in config.sources if s.name in weights):
        described = describe(source, weights[source.name], config.changed.get(source.name, frozenset()))
        if described is not source:
            key, origin = f"source.{source.name}", weights[source.name].origin
            said = f"{key}.title, trained_on and imagenet_top1"
            print(f"{key}.weights: what {origin} was trained on is not known; say it by {said}")
        yield described


def _check_weights(pairs: list[SourceTarget]) -> str:
    """What is wrong with a source's weights, if they or their settings are the user's own; empty if nothing is.

    Weights whose passes are in the cache were loaded for them. Without MXNet here, only the workers can load them.
    """
    if not pairs or not importlib.util.find_spec("mxnet"):
        return ""
    pair, source = pairs[0], pairs[0].source
    changed = pair.config.changed.get(source.name, frozenset())
    if "n_classes" not in changed:  # what the pass does not depend on
        if pair.weights.known and "model" not in changed:
            return ""
        if not any(images_to_pass(p.config.cache, p.outputs_key, p.passed) for p in pairs):
            return ""
    try:
        file = read_weight_file(pair.weights.path)
        create_engine(**pair.engine)  # sets MXNet's threads, before its import
        from leep.sources.zoo import load_weights

        note = load_weights(source.model, source.n_classes, file)[1]
    except (ValueError, LeepError) as error:
        return f"source {source.name}: {error}"
    if note:
        print(f"source.{source.name}.weights: {note}")
    return ""


@dataclass
class Lacks:
    """What is missing or damaged: what `make data` and `make imagenet` get, by name, and all else as it was said."""

    by_remedy: dict[str, dict[str, str]] = field(default_factory=dict)  # remedy → what lacks it → message
    other: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.by_remedy or self.other)

    def add(self, what: str, error: LeepError, remedy: str) -> None:
        """Take note of an error; `remedy` is empty where the error itself says what to do."""
        if remedy and isinstance(error, Missing):
            self.by_remedy.setdefault(remedy, {})[what] = str(error)
        else:
            self.other.append(str(error))

    def text(self, every: bool) -> str:
        """Every message on a line of its own, or one line: a phrase for each remedy, and all else in full."""
        if every:
            messages = [*(message for of in self.by_remedy.values() for message in of.values()), *self.other]
            return "".join(f"\n  - {message}" for message in messages)
        phrases, several = [], False
        for remedy, of in self.by_remedy.items():
            names, several = [*of], several or len(of) > 1
            named = f"{len(of)} sources need" if len(of) > 1 else f"{names[0]} needs"
            phrases.append(of[names[0]] if remedy == FILE and len(of) == 1 else remedy.replace("{}", named))
        return " " + "; ".join(phrases + self.other) + (" (-v lists them)" if several else "")


def _find_weights(config: RunConfig, lacks: Lacks) -> dict[str, Weights]:
    """Weights by source."""
    found = {}
    for source in config.sources:
        try:
            found[source.name] = find_weights(source.name, source.model, source.weights)
        except LeepError as error:
            from_package = any(place.startswith("pip:") for place in source.weights)
            remedy = "{} a package: make imagenet" if from_package else FILE
            lacks.add(source.name, error, "{} Gluon's weights: make data" if "gluon" in source.weights else remedy)
    return found


def _find_data(config: RunConfig, lacks: Lacks, loaded: dict) -> dict[str, DataSet]:
    """Data sets by target."""
    found = {}
    for target in config.targets:
        place = target.reader, target.path, target.size, target.on_damaged
        try:
            data = loaded.get(place) or load_data(
                target.reader, config.data_root, target.path, target.size, on_damaged=target.on_damaged
            )
            loaded[place] = data
        except LeepError as error:
            lacks.add(target.name, error, _data_remedy(target))
            continue
        for note in data.notes:
            print(f"note on {target.name}: {note}")
        found[target.name] = only_test(data) if config.experiment.from_test_split else data
        try:
            config.experiment.check(found[target.name].train_labels, **target.task)
        except ValueError as error:
            keys = ", ".join(f"{k}: …" for k in target.task)
            raise Invalid(
                f"{config.experiment.name} cannot be drawn from {target.name}: {error}; "
                f"give it tasks of its own: '+task_of.{target.key}={{{keys}}}'"
            ) from error
    return found


def _miss_data(config: RunConfig, lacks: Lacks) -> dict[str, DataSet]:
    """No data set; what is missing is noted."""
    for target in config.targets:
        try:
            find_data(target.reader, config.data_root, target.path)
        except LeepError as error:
            lacks.add(target.name, error, _data_remedy(target))
    return {}


def _data_remedy(target: Target) -> str:
    return "" if target.path else f"{target.title} is not here: make data"
