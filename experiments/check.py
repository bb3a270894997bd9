"""Checks a composed configuration before any work: what Hydra's own checks of keys and group names leave open."""

from __future__ import annotations

import importlib.util
import inspect
import math
import re
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf

from experiments.executor import EXECUTORS, n_workers
from leep.data import READERS
from leep.engines import ENGINES, PRECISIONS, check_engine
from leep.measures import MEASURES
from leep.sources.variants import VARIANTS
from leep.tasks import DRAW
from leep.transfer import METHODS, UNTRAINED
from leep.transfer.retrain_head import IMPLEMENTATIONS

_NETWORKS = ("fine_tune", "from_scratch")  # methods that train one, image by image
_TARGETS = sorted(p.stem for p in (Path(__file__).parent.parent / "conf" / "target").glob("*.yaml"))


class UserError(Exception):
    """What the user can mend; shown without a traceback."""


def check_config(cfg: DictConfig) -> None:
    """Raise `UserError` for an unknown name or an impossible value, naming the choices."""
    missing = ", ".join(sorted(OmegaConf.missing_keys(cfg)))
    _require(not missing, f"{missing} must be given, e.g. {missing}=…")
    _integer("seed", cfg.seed, 0)
    if cfg.experiment == "source_selection":
        _require(cfg.n_tasks == 1, f"n_tasks must be 1, the task is the whole data set, got {cfg.n_tasks!r}")
    else:
        _integer("n_tasks", cfg.n_tasks, 3)  # a correlation needs three tasks
    known = cfg.plan is True or cfg.plan is False or cfg.plan == "remeasure"
    _require(known, f"plan must be true, false or remeasure, got {cfg.plan!r}")
    _require(isinstance(cfg.strict, bool), f"strict must be true or false, got {cfg.strict!r}")
    for group, example in (("source", "cifar10_resnet20"), ("target", "cifar100"), ("method", "retrain_head")):
        _require(group in cfg and len(cfg[group]) > 0, f"{group} must name at least one, e.g. '{group}=[{example}]'")
    is_list = isinstance(cfg.measures, ListConfig)
    _require(is_list and len(cfg.measures) > 0, f"measures must be a list, e.g. 'measures=[leep]', got {cfg.measures}")
    _require(len(set(cfg.measures)) == len(cfg.measures), f"measures must be different ones, got {cfg.measures}")
    for measure in cfg.measures:
        _choice("measures", measure, MEASURES)
    for key, least in (("executor.workers", 1), ("engine.threads", 1)):
        if OmegaConf.select(cfg, key) is not None:
            _integer(key, OmegaConf.select(cfg, key), least, "null or an integer")
    _check_executor(cfg.executor, cfg.engine.device)
    _choice("engine", cfg.engine.name, ENGINES)
    _choice("engine.precision", cfg.engine.precision, PRECISIONS)
    try:
        check_engine(cfg.engine.name, cfg.engine.precision, cfg.engine.device)
    except ValueError as error:
        raise UserError(str(error)) from error
    for name, folder in cfg.paths.items():
        _require(isinstance(folder, str) and folder, f"paths.{name} must name a folder, got {folder!r}")
    here = n_workers(cfg) and (cfg.executor.name in ("local", "serial") or cfg.engine.device == "cpu")
    _require(not cfg.plan or here, "plan=true is measured by this machine's own processes; give executor=local")
    root = cfg.data.root
    _require(root is None or Path(root).expanduser().is_dir(), f"data.root={root} is not a folder")
    for name, source in cfg.source.items():
        _check_source(f"source.{name}", source)
    for name, target in cfg.target.items():
        _check_target(f"target.{name}", target)
    for name in cfg.method:
        _choice("method", name, METHODS)
        _check_method(cfg, name)
    for name in cfg.task_of:
        _choice("task_of", name, sorted({*_TARGETS, *cfg.target}))
    for name, counts in _mapping("epochs_of", cfg.epochs_of):
        _choice("epochs_of", name, sorted({*_TARGETS, *cfg.target}))
        for method, count in _mapping(f"epochs_of.{name}", counts):
            _choice(f"epochs_of.{name}", method, METHODS)
            _integer(f"epochs_of.{name}.{method}", count, 1)
    for method, every in _mapping("eval_every", cfg.eval_every):
        _choice("eval_every", method, _NETWORKS)
        _integer(f"eval_every.{method}", every, 1)
    _check_scale("scale", cfg.scale)
    for key, task in [("task", cfg.task), *((f"task_of.{t}", v) for t, v in cfg.task_of.items())]:
        _check_task(cfg.experiment, key, task)


def check_keys(cfg: DictConfig, paper: DictConfig) -> None:
    """Raise `UserError` for a key that the project's own configuration lacks: added by +key=…, it would do nothing."""
    _compare_keys(OmegaConf.to_container(cfg), OmegaConf.to_container(paper), "")


def _compare_keys(ours: dict, known: dict, path: str) -> None:
    for key in ours if path not in ("task_of.", "epochs_of.", "eval_every.", "scale.") else ():
        _require(key in known, f"unknown key {path}{key}; the keys are {', '.join(map(str, known))}")
        if isinstance(ours[key], dict) and isinstance(known[key], dict):
            _compare_keys(ours[key], known[key], f"{path}{key}.")


def _require(condition: object, message: str) -> None:
    if not condition:
        raise UserError(message)


def _choice(key: str, value: object, choices) -> None:
    _require(value in choices, f"{key} must be among {', '.join(choices)}, got {value!r}")


def _integer(key: str, value: object, least: int, expected: str = "an integer") -> None:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    _require(is_integer and value >= least, f"{key} must be {expected} ≥ {least}, got {value!r}")


def _number(key: str, value: object, bounds: str, within) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    _require(is_number and within(value), f"{key} must be a number {bounds}, got {value!r}")


def _mapping(key: str, value: object):
    """The items of a mapping."""
    _require(isinstance(value, DictConfig), f"{key} must map names to values, e.g. {key}.fine_tune=50, got {value!r}")
    return value.items()


def _check_executor(executor: DictConfig, device: str) -> None:
    _choice("executor", executor.get("name"), EXECUTORS)
    if executor.name not in ("dask", "slurm"):
        return
    for module in ("distributed", *(["dask_jobqueue"] if executor.name == "slurm" else [])):
        there = importlib.util.find_spec(module)
        _require(
            there, f"executor={executor.name} needs {module}: make env, or pip install 'leep-transferability[dask]'"
        )
    _require(
        device in ("cpu", "cuda"),
        f"engine.device must be cpu or cuda with executor={executor.name}, which gives each worker a GPU, got {device}",
    )
    if executor.name == "slurm":
        for key in ("jobs", "cores"):
            _integer(f"executor.{key}", executor[key], 1)
        for key in ("job_extra_directives", "job_script_prologue"):
            is_list = isinstance(executor[key], ListConfig)
            _require(is_list, f"executor.{key} must be a list, e.g. ['…'], got {executor[key]!r}")
    elif executor.address is not None:
        is_address = re.fullmatch(r"tcp://[^:/\s]+:\d+", str(executor.address))
        _require(is_address, f"executor.address must be null or tcp://host:port, got {executor.address!r}")
        _require(executor.workers is None, "executor.workers must be null with executor.address, whose workers serve")


def _check_source(key: str, source: DictConfig) -> None:
    places = [source.weights] if isinstance(source.weights, str) else source.weights
    named = isinstance(places, (list, ListConfig)) and len(places) > 0 and all(isinstance(p, str) for p in places)
    _require(named, f"{key}.weights must be bundled, gluon, pip:<package> or a file, or a list, got {source.weights!r}")
    if source.imagenet_top1 is not None:
        _number(f"{key}.imagenet_top1", source.imagenet_top1, "from 0 to 100", lambda v: 0 <= v <= 100)
    _integer(f"{key}.size", source.size, 1)
    if source.model in VARIANTS:
        size = VARIANTS[source.model].size
        _require(source.size == size, f"{key}.size must be {size}, for which {source.model} is padded")
    _integer(f"{key}.n_classes", source.n_classes, 1)
    for name, bounds, within in (("mean", "", lambda v: True), ("std", "> 0", lambda v: v > 0)):
        values = source[name]
        three = isinstance(values, ListConfig) and len(values) == 3
        _require(three, f"{key}.{name} must be three numbers, red, green and blue, got {values}")
        for value in values:
            _number(f"{key}.{name}", value, bounds, within)


def _check_target(key: str, target: DictConfig) -> None:
    _choice(f"{key}.reader", target.reader, READERS)
    if target.reader == "folder":
        _require(target.path, f"{key}.path must name the folder of images")
        _integer(f"{key}.size", target.size, 1)
    else:
        for name in ("path", "size"):
            _require(target[name] is None, f"{key}.{name} is only for reader: folder, got {target[name]!r}")


def _check_method(cfg: DictConfig, name: str) -> None:
    key, method = f"method.{name}", cfg.method[name]
    if name == "cnaps":
        _require(isinstance(method.weights, str), f"{key}.weights must be bundled or a file, got {method.weights!r}")
        small = ("meta_transfer", "small_balanced", "small_imbalanced")  # a task is one batch
        _require(cfg.experiment in small, f"method cnaps is for {', '.join(small)}, got {cfg.experiment}")
    if name in UNTRAINED:
        return
    _integer(f"epochs.{name}", cfg.epochs.get(name), 1)
    _integer(f"{key}.batch_size", method.batch_size, 1)
    _number(f"{key}.learning_rate", method.learning_rate, "> 0", lambda v: v > 0)
    _number(f"{key}.momentum", method.momentum, "≥ 0 and < 1", lambda v: 0 <= v < 1)
    _number(f"{key}.weight_decay", method.weight_decay, "≥ 0", lambda v: v >= 0)
    if name == "retrain_head":
        _choice(f"{key}.implementation", method.implementation, IMPLEMENTATIONS)
    if name == "fine_tune":
        frozen = method.freeze_extractor
        _require(isinstance(frozen, bool), f"{key}.freeze_extractor must be true or false, got {frozen!r}")


def _check_scale(key: str, scale: DictConfig) -> None:
    """The caps of a scale, and those that a setting has of its own."""
    for name, value in _mapping(key, scale):
        if name in DRAW and key == "scale":
            _check_scale(f"{key}.{name}", value)
        elif name in ("max_tasks", "max_epochs", "max_examples"):
            for method, cap in _mapping(f"{key}.{name}", value):
                _choice(f"{key}.{name}", method, _NETWORKS if name == "max_examples" else METHODS)
                if cap is not None:
                    least = 3 if name == "max_tasks" else 1
                    _integer(f"{key}.{name}.{method}", cap, least, "null or an integer")
        else:
            _choice(key, name, ("name", "max_tasks", "max_epochs", "max_examples", *DRAW))


def _check_task(experiment: str, key: str, task: DictConfig) -> None:
    known = [p.name for p in inspect.signature(DRAW[experiment]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    _require(sorted(task) == sorted(known), f"{key} must have the keys {', '.join(known)}, got {', '.join(task)}")
    for name, value in task.items():
        _integer(f"{key}.{name}", value, 1)
        if name.startswith("min_"):
            most = task[f"max_{name[4:]}"]
            _require(value <= most, f"{key}.{name} must be ≤ {key}.max_{name[4:]}, {most}, got {value}")
