"""A source and a target: what all their tasks share, where it comes from, and what names it in the results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from experiments.check import UserError
from experiments.cnaps import find_cnaps
from experiments.executor import n_workers
from experiments.protocol import epochs, max_examples, task_parameters
from leep.data import DataError, DataMissing, DataSet, find_data, load_data
from leep.data.dataset import only_test
from leep.parallel import WorkerError
from leep.results import setting_hash
from leep.sources.forward import ForwardPass, batch_size, cache_key, forward_pass, make_predictor
from leep.sources.preprocess import Preprocessing
from leep.sources.weights import Weights, WeightsError, WeightsMissing, find_weights
from leep.tasks import TRAINING, Task, check_data, draw_task, task_rng
from leep.transfer.cnaps.adaptation import Adaptation


class NothingToRun(UserError):
    """Data or weights of every setting are missing."""


@dataclass(frozen=True)
class Work:
    """A source and a target, and what all their tasks share."""

    cfg: DictConfig
    paper: DictConfig
    source_name: str
    weights: Weights
    target_name: str
    data: DataSet
    adaptation: Adaptation | None = None  # the networks of method cnaps
    run: Callable | None = None  # what runs items on a cluster, in place of `run_in_processes`

    @property
    def source(self) -> DictConfig:
        """Configuration of the source model."""
        return self.cfg.source[self.source_name]

    @property
    def prepare(self) -> Preprocessing:
        """From images of the target to input of the source."""
        return Preprocessing(self.source.size, tuple(self.source.mean), tuple(self.source.std))

    @property
    def methods(self) -> list[str]:
        """Transfer methods that can run."""
        return [method for method in self.cfg.method if method != "cnaps" or self.adaptation]

    @cached_property
    def parameters(self) -> dict:
        """Parameters of the target tasks; kept, for an error within `OmegaConf.get` keeps its callers' arrays alive."""
        return task_parameters(self.cfg, self.target_name)

    def task(self, index: int) -> Task:
        """Target task number `index`."""
        labels = self.data.train_labels, self.data.test_labels
        return draw_task(self.cfg.experiment, self.target_name, index, self.cfg.seed, *labels, **self.parameters)

    def training_rng(self, index: int) -> np.random.Generator:
        """The generator of a task's training: the new head, then the orders of the examples."""
        return task_rng(self.cfg.seed, self.cfg.experiment, self.target_name, index, TRAINING)

    @property
    def cache(self) -> Path:
        """Folder of the forward passes, of which workers elsewhere read the images."""
        return Path(self.cfg.paths.cache).expanduser().absolute()

    @property
    def threads(self) -> int:
        """Threads of a worker process: the same on any number of workers, for the same digits."""
        return self.cfg.engine.threads or 1

    @property
    def workers(self) -> int | None:
        """Worker processes; None on a cluster."""
        return n_workers(self.cfg)

    @property
    def engine(self) -> dict:
        """Arguments of `create_engine` in a worker process."""
        return {**self.cfg.engine, "threads": self.threads}

    @property
    def pass_key(self) -> str:
        """Name of the forward pass in the cache."""
        return cache_key(self.weights.sha256, self.source.model, self.prepare, self.data.sha256, self.engine)

    @property
    def batch(self) -> int:
        """Images of a batch of the forward pass."""
        return batch_size(self.source.size, self.cfg.engine.device)

    @cached_property
    def passed(self) -> ForwardPass:
        """The source model's one pass over the target data set, made when first needed."""
        predictor = partial(make_predictor, self.engine, self.source.model, self.source.n_classes, self.weights)
        sizes = self.workers, self.threads, self.batch
        try:
            passed = forward_pass(self.cache, self.pass_key, predictor, self.prepare, self.data, *sizes, self.run)
        except (ValueError, NotImplementedError, WorkerError) as error:
            raise UserError(f"source {self.source_name}: {error}") from error
        if (found := passed.train_probs.shape[1]) != self.source.n_classes:
            raise UserError(
                f"source.{self.source_name}.n_classes must be {found} for its weights, got {self.source.n_classes}"
            )
        return passed


def results_folder(cfg: DictConfig) -> Path:
    """Folder of the results."""
    return Path(cfg.paths.results).expanduser()


def find_all(cfg: DictConfig) -> tuple[dict[str, Weights], dict[str, DataSet], dict[str, str]]:
    """Weights by source, data by target, and by the name of either what is missing or damaged.

    Data are not read where no source has weights, unless for a plan.
    """
    weights, data, lacks = {}, {}, {}
    for name, source in cfg.source.items():
        try:
            weights[name] = find_weights(name, source.model, source.weights)
        except (WeightsMissing, WeightsError) as error:
            lacks[name] = str(error)
    for name, target in cfg.target.items():
        try:
            find_data(target.reader, cfg.data.root, target.path)
            if weights or cfg.plan:
                data[name] = load_data(target.reader, root=cfg.data.root, path=target.path, size=target.size)
                if cfg.experiment == "meta_transfer":
                    data[name] = only_test(data[name])
                check_data(cfg.experiment, data[name].train_labels, **task_parameters(cfg, name))
        except (DataMissing, DataError) as error:
            lacks[name] = str(error)
        except ValueError as error:
            keys = ", ".join(f"{k}: …" for k in cfg.task)
            remedy = f"give it tasks of its own: '+task_of.{name}={{{keys}}}'"
            raise UserError(f"{cfg.experiment} cannot be drawn from {name}: {error}; {remedy}") from error
    return weights, data, lacks


def find_work(cfg: DictConfig, paper: DictConfig) -> list[Work]:
    """The settings that can run; what is missing or damaged is printed, or raised if `strict` or if nothing can run."""
    weights, data, found = find_all(cfg)
    work, lacks = [], [*found.values()]
    for pair in (Work(cfg, paper, s, w, t, d) for s, w in weights.items() for t, d in data.items()):
        if "cnaps" in cfg.method:
            try:
                pair = replace(pair, adaptation=find_cnaps(pair))
            except (WeightsMissing, WeightsError) as error:
                lacks.append(str(error))
        if pair.methods:
            work.append(pair)
    messages = "".join(f"\n  - {m}" for m in lacks)
    if lacks and (cfg.strict or not work):
        raise (UserError if work else NothingToRun)(f"{cfg.experiment} lacks:{messages}")
    if lacks:
        print(f"Left out, because something is missing (strict=true makes it an error):{messages}")
    return work


def task_setting(work: Work) -> dict:
    """All that determines the tasks of a source and a target and their scores."""
    cfg, source, data = work.cfg, work.source, work.data
    return {
        "experiment": cfg.experiment,
        "seed": cfg.seed,
        "stream": f"{cfg.experiment}/{work.target_name}",  # with seed and index it names the random numbers of a task
        "task": work.parameters,
        "source": {
            "name": work.source_name,
            "model": source.model,
            "trained_on": source.trained_on,
            "weights": work.weights.origin,
            "weights_sha256": work.weights.sha256,
            "preprocessing": work.prepare.describe(),
        },
        "target": {"name": work.target_name, "variant": data.variant, "sha256": data.sha256},
        "engine": {k: cfg.engine[k] for k in ("name", "precision", "device")},
    }


def tasks_folder(work: Work, setting: dict) -> Path:
    """Where the tasks of a source and a target and their scores stand."""
    name = f"seed{work.cfg.seed}-{setting_hash(setting)}"
    return Path(results_folder(work.cfg), work.cfg.experiment, work.source_name, work.target_name, name)


def method_setting(work: Work, method: str) -> dict:
    """All else that determines the transferred models."""
    cfg = work.cfg
    if method == "cnaps":
        return {"method": method, "scale": cfg.scale.name, "weights_sha256": work.adaptation.sha256}
    n_epochs = epochs(cfg, method, work.target_name)
    setting = {"method": method, "scale": cfg.scale.name, "epochs": n_epochs, **cfg.method[method]}
    if method in ("fine_tune", "from_scratch"):
        setting["eval_every"] = cfg.eval_every.get(method)
        if max_examples(cfg, method):
            setting["max_examples"] = max_examples(cfg, method)
        if work.threads > 1:
            setting["threads"] = work.threads  # the order of sums, so the last digits
    return setting


def method_folder(setting: dict) -> str:
    """Name of the folder of transferred models, in that of their tasks."""
    return f"{setting['method']}-{setting['scale']}-{setting_hash(setting)}"
