"""Runs Sections 5.1 to 5.3: draws target tasks, scores them, trains the transferred models, writes CSVs."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from experiments.check import UserError, check_config
from leep.data import DataError, DataMissing, DataSet, find_data, load_data
from leep.engines import create_engine
from leep.measures import score_class_tasks, score_task
from leep.parallel import run_in_order
from leep.progress import progress
from leep.results import ResultsError, Table, open_folder, setting_hash
from leep.sources.forward import ForwardPass, cache_key, forward_pass
from leep.sources.preprocess import Preprocessing
from leep.sources.weights import Weights, WeightsError, WeightsMissing, find_weights
from leep.statistics import metric_of, pearson
from leep.tasks import TRAINING, Task, draw_task, task_rng

SCORES = ["task", "n_classes", "n_examples", "measure", "score"]
TRANSFERS = ["task", "n_classes", "n_examples", "method", "test_accuracy", "test_f1", "test_f1_macro"]
_PROTOCOL_GROUPS = ("task", "task_of", "epochs", "method")  # overrides of these differ from the paper
_PACKAGES = ("mxnet", "gluoncv", "numpy", "scipy", "numba", "scikit-learn")


class NothingToRun(UserError):
    """Data or weights of every setting are missing."""


def run(cfg: DictConfig) -> None:
    """Run one experiment: every source × target whose data and weights are there, every method."""
    check_config(cfg)
    _say_scale(cfg)
    try:
        for pair in _available(cfg):
            _run_pair(cfg, pair)
    except (DataError, WeightsError, ResultsError) as error:
        raise UserError(str(error)) from error


@dataclass(frozen=True)
class Pair:
    """A source and a target whose weights and data were found, not yet read."""

    source_name: str
    source: DictConfig
    weights: Weights
    target_name: str
    target: DictConfig


def _say_scale(cfg: DictConfig) -> None:
    """One line on what the scale leaves out of the paper's protocol."""
    cuts = []
    if _n_tasks(cfg) < cfg.n_tasks:
        cuts.append(f"{_n_tasks(cfg)} of {cfg.n_tasks} tasks")
    cuts += [
        f"{_epochs(cfg, m)} of {cfg.epochs[m]} epochs of {m}" for m in cfg.method if _epochs(cfg, m) < cfg.epochs[m]
    ]
    left_out = ", ".join(cuts) + " (scale=paper: all)" if cuts else "nothing is left out"
    print(f"{cfg.experiment}, scale={cfg.scale.name}: {left_out}")


def _n_tasks(cfg: DictConfig) -> int:
    return min(cfg.n_tasks, cfg.scale.max_tasks or cfg.n_tasks)


def _epochs(cfg: DictConfig, method: str) -> int:
    return min(cfg.epochs[method], cfg.scale.max_epochs or cfg.epochs[method])


def _available(cfg: DictConfig) -> list[Pair]:
    """The settings that can run; what is missing is printed, or raised if `strict` or if nothing can run."""
    missing: dict[str, None] = {}
    weights, targets = {}, []
    for name, source in cfg.source.items():
        try:
            weights[name] = find_weights(name, source.model, source.weights)
        except WeightsMissing as error:
            missing[str(error)] = None
    for name, target in cfg.target.items():
        try:
            find_data(target.reader, cfg.data.root, target.path)
            targets.append((name, target))
        except DataMissing as error:
            missing[str(error)] = None
    pairs = [Pair(s, cfg.source[s], w, t, target) for s, w in weights.items() for t, target in targets]
    messages = "\n".join(f"  - {m}" for m in missing)
    if missing and (cfg.strict or not pairs):
        raise (UserError if pairs else NothingToRun)(f"{cfg.experiment} lacks:\n{messages}")
    if missing:
        print(f"Left out, because something is missing (strict=true makes it an error):\n{messages}")
    return pairs


def _run_pair(cfg: DictConfig, pair: Pair) -> None:
    target = pair.target
    data = load_data(target.reader, root=cfg.data.root, path=target.path, size=target.size)
    prepare = Preprocessing(pair.source.size, tuple(pair.source.mean), tuple(pair.source.std))
    setting = _setting(cfg, pair, data, prepare)
    folder = Path(
        cfg.paths.results, cfg.experiment, pair.source_name, pair.target_name, f"seed{cfg.seed}-{setting_hash(setting)}"
    )
    open_folder(folder, setting, _provenance())
    used = data.variant if data.variant == "full" else f"{data.variant}, a stand-in"
    print(f"{pair.source_name} ({pair.weights.origin} weights) → {pair.target_name} ({used}): {folder}")
    with Table(folder / "scores.csv", SCORES, ["task", "measure"]) as scores:
        work = Work(cfg, pair, data, prepare, setting["task"])
        _score(work, scores)
        for method in cfg.method:
            _transfer(work, method, folder)


def _setting(cfg: DictConfig, pair: Pair, data: DataSet, prepare: Preprocessing) -> dict:
    """All that determines the tasks of a source and a target and their scores."""
    target = pair.target
    stand_in = [] if data.variant == "full" else [f"{data.variant} of {target.title}"]
    if pair.weights.origin != "gluon":
        stand_in.append(f"{pair.weights.origin} weights of {pair.source_name}")
    task = OmegaConf.to_container(cfg.task_of.get(pair.target_name) or cfg.task)
    return {
        "experiment": cfg.experiment,
        "seed": cfg.seed,
        "task": task,
        "source": {
            "name": pair.source_name,
            "model": pair.source.model,
            "trained_on": pair.source.trained_on,
            "weights": pair.weights.origin,
            "weights_sha256": pair.weights.sha256,
            "preprocessing": prepare.describe(),
        },
        "target": {"name": pair.target_name, "title": target.title, "variant": data.variant, "sha256": data.sha256},
        "engine": {k: cfg.engine[k] for k in ("name", "precision", "device")},
        "stand_in": stand_in,
    }


def _provenance() -> dict:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "packages": {p: importlib.metadata.version(p) for p in _PACKAGES},
    }


class Work:
    """What the tasks of one source and target share, each made when it is first needed."""

    def __init__(self, cfg, pair: Pair, data: DataSet, prepare: Preprocessing, task_parameters: dict):
        self.cfg, self.pair, self.data, self._prepare = cfg, pair, data, prepare
        self._task_parameters = task_parameters
        self._pass: ForwardPass | None = None

    def task(self, index: int) -> Task:
        """Target task number `index`."""
        try:
            labels = self.data.train_labels, self.data.test_labels
            return draw_task(self.cfg.experiment, index, self.cfg.seed, *labels, **self._task_parameters)
        except ValueError as error:
            raise UserError(f"{self.cfg.experiment} cannot be drawn from {self.pair.target_name}: {error}") from error

    @property
    def passed(self) -> ForwardPass:
        """The source model's one pass over the target data set."""
        if self._pass is None:
            engine = OmegaConf.to_container(self.cfg.engine)
            source, weights = self.pair.source, self.pair.weights
            key = cache_key(weights.sha256, source.model, self._prepare, self.data.sha256, engine)

            def predictor():
                try:
                    engine_ = create_engine(**engine)
                except ValueError as error:
                    raise UserError(str(error)) from error
                from leep.sources.zoo import load

                return engine_.predictor(load(source.model, source.n_classes, weights.path))

            self._pass = forward_pass(Path(self.cfg.paths.cache), key, predictor, self._prepare, self.data)
        return self._pass


def _score(work: Work, table: Table) -> None:
    """Every measure of every task that `scores.csv` does not hold yet, from the same rows of the same pass."""
    measures = list(work.cfg.measures)
    missing = [i for i in range(_n_tasks(work.cfg)) if any((str(i), m) not in table.done for m in measures)]
    if not missing:
        return
    tasks = {i: work.task(i) for i in missing}
    probs, features = work.passed.train_probs, work.passed.train_features
    whole = {
        "source_probs": probs,
        "source_labels": probs.argmax(1),
        "features": features,
        "target_labels": work.data.train_labels,
    }
    batched = {}
    if all(t.whole_classes for t in tasks.values()):
        classes = [t.classes for t in tasks.values()]
        batched = {m: dict(zip(tasks, score_class_tasks(m, whole, classes))) for m in measures}
    for i, task in progress(tasks.items(), desc="scores", unit=" tasks", leave=False):
        rows = None if batched else _rows(whole, task)
        values = ((m, batched[m][i] if batched else score_task(m, rows)) for m in measures)
        table.append(*(_row(i, task, measure=m, score=float(v)) for m, v in values if (str(i), m) not in table.done))


def _rows(whole: dict, task: Task) -> dict:
    return {name: a[task.train_rows] for name, a in whole.items()} | {"target_labels": task.train_labels}


def _row(index: int, task: Task, **values) -> dict:
    return {"task": index, "n_classes": len(task.classes), "n_examples": len(task.train_rows), **values}


def _transfer(work: Work, method: str, folder: Path) -> None:
    """Transfer to every task that `transfers.csv` does not hold yet."""
    cfg = work.cfg
    setting = {
        "method": method,
        "scale": cfg.scale.name,
        "epochs": _epochs(cfg, method),
        **OmegaConf.to_container(cfg.method[method]),
        "stand_in": _overrides(),
    }
    inner = folder / f"{method}-{cfg.scale.name}-{setting_hash(setting)}"
    open_folder(inner, setting, _provenance())
    with Table(inner / "transfers.csv", TRANSFERS, ["task"]) as table:
        missing = [i for i in range(_n_tasks(cfg)) if (str(i),) not in table.done]
        if not missing:
            print(f"  {method}: all {_n_tasks(cfg)} tasks were done before: {inner}")
            return
        one = partial(_transfer_one, work, method, setting)
        work.passed  # noqa: B018  made once, before the workers start
        results = run_in_order(one, missing, cfg.executor.workers, threads=True)
        for row in progress(results, total=len(missing), desc=f"  {method}", unit=" tasks"):
            table.append(row)
    print(f"  {method}: {_n_tasks(cfg)} tasks: {inner / 'transfers.csv'}")
    _say_correlations(folder / "scores.csv", inner / "transfers.csv", cfg)


def _overrides() -> list[str]:
    """The user's changes of the paper's protocol, as given on the command line."""
    given = HydraConfig.get().overrides.task
    return sorted(
        o for o in given if o.lstrip("+~").split(".")[0].split("=")[0] in _PROTOCOL_GROUPS and "." in o.split("=")[0]
    )


def _transfer_one(work: Work, method: str, setting: dict, index: int) -> dict:
    from leep.transfer.metrics import evaluate
    from leep.transfer.retrain_head import train_head

    task, passed = work.task(index), work.passed
    options = {
        k: setting[k] for k in ("epochs", "batch_size", "learning_rate", "momentum", "weight_decay", "implementation")
    }
    features = passed.train_features[task.train_rows]
    rng = task_rng(work.cfg.seed, index, TRAINING)
    try:
        head = train_head(features, task.train_labels, len(task.classes), rng, **options)
    except FloatingPointError as error:
        raise UserError(f"task {index} of {work.cfg.experiment}: {error}") from error
    predicted = head.predict(passed.test_features[task.test_rows])
    metrics = evaluate(predicted, task.test_labels, len(task.classes), task.smaller_class)
    return _row(index, task, method=method, test_f1=None) | metrics


def _say_correlations(scores: Path, transfers: Path, cfg: DictConfig) -> None:
    """One line a measure: its correlation with what the models reach, over the tasks of this run."""
    import pandas as pd

    joined = pd.read_csv(transfers).merge(pd.read_csv(scores), on=["task", "n_classes", "n_examples"])
    metric = metric_of(cfg.experiment)
    for measure in cfg.measures:
        rows = joined[(joined.measure == measure) & (joined.task < _n_tasks(cfg))]
        found = pearson(rows.score.to_numpy(), rows[metric].to_numpy())
        r = "undefined: constant" if found.r is None else f"{found.r:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
        print(f"    {measure}: r with {metric} {r} over {found.n} tasks")
