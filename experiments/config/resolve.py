"""Turns a composed configuration into typed values, and refuses what is unknown or impossible before any work."""

from __future__ import annotations

import importlib.util
import math
import re
from pathlib import Path

from hydra import compose
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from experiments.config.arguments import unknown_key
from experiments.config.deviations import with_deviations
from experiments.config.values import Engine, Executor, RunConfig, Source, Target
from experiments.executor import EXECUTORS, n_workers
from leep.array_files import TABLES
from leep.data import READERS
from leep.data.folder import ON_DAMAGED
from leep.engines import ENGINES, PRECISIONS, check_engine
from leep.errors import Invalid, not_among
from leep.measures import check_measure
from leep.plugins import is_outside
from leep.sources.variants import VARIANTS
from leep.tasks import EXPERIMENTS, Experiment, find_experiment
from leep.transfer.method import Budget, Method, check_integer, check_number, create_method, find_methods

_TARGETS = sorted(p.stem for p in (Path(__file__).parents[2] / "conf" / "target").glob("*.yaml"))
_BY_METHOD = ("max_tasks", "max_epochs", "max_examples")  # caps that a scale has
_CHECKED_ELSEWHERE = (
    "task.",
    "task_of.",
    "epochs_of.",
    "eval_every.",
    "epochs.",
    "scale.",
    "method.",
)  # their keys are names, which are checked with the values


def resolve(cfg: DictConfig) -> RunConfig:
    """Check a configuration that Hydra has composed, and return its typed values.

    Raises
    ------
    Invalid
        For an unknown name or key and for an impossible value; names the choices.
    """
    try:
        _check_present(cfg)
        paper = _paper_protocol(cfg)
        _check_keys(OmegaConf.to_container(cfg), OmegaConf.to_container(paper), "")
        ours = _values(cfg)
        with open_dict(paper):
            paper.target = cfg.target  # its files and sizes are the user's own
        return with_deviations(ours, _values(paper))
    except ValueError as error:
        raise Invalid(str(error).split("\n    full_key:")[0]) from error  # OmegaConf goes on with its types


def _paper_protocol(cfg: DictConfig) -> DictConfig:
    """The same experiment, sources, targets and methods as the paper has them: without the user's changes."""
    if is_outside(cfg.experiment):
        return cfg  # it has no protocol but its own
    groups = [f"{group}=[{','.join(cfg[group])}]" for group in ("source", "target", "method")]
    return compose("config", [f"experiment={cfg.experiment}", "scale=paper", f"executor={cfg.executor.name}", *groups])


def _check_present(cfg: DictConfig) -> None:
    missing = ", ".join(sorted(OmegaConf.missing_keys(cfg)))
    _require(not missing, f"{missing} must be given, e.g. {missing}=…")
    for group, example in (("source", "cifar10_resnet20"), ("target", "cifar100"), ("method", "retrain_head")):
        _require(group in cfg and len(cfg[group]) > 0, f"{group} must name at least one, e.g. '{group}=[{example}]'")
    _choice("executor", cfg.executor.get("name"), EXECUTORS)


def _values(cfg: DictConfig) -> RunConfig:
    check_integer("seed", cfg.seed, 0)
    experiment = find_experiment(cfg.experiment)
    if experiment.whole_data_set:
        _require(cfg.n_tasks == 1, f"n_tasks must be 1, the task is the whole data set, got {cfg.n_tasks!r}")
    else:
        check_integer("n_tasks", cfg.n_tasks, 3)  # a correlation needs three tasks
    known = cfg.plan is True or cfg.plan is False or cfg.plan == "remeasure"
    _require(known, f"plan must be true, false or remeasure, got {cfg.plan!r}")
    for switch in ("strict", "verbose"):
        _require(isinstance(cfg[switch], bool), f"{switch} must be true or false, got {cfg[switch]!r}")
    for name, folder in cfg.paths.items():
        _require(isinstance(folder, str) and folder, f"paths.{name} must name a folder, got {folder!r}")
    root = cfg.data.root
    _require(root is None or Path(root).expanduser().is_dir(), f"data.root={root} is not a folder")
    measures = _measures(cfg.measures)
    engine = _engine(cfg.engine)
    methods = tuple(create_method(name, OmegaConf.to_container(options)) for name, options in cfg.method.items())
    method_names = [*find_methods(), *(m.name for m in methods if m.name not in find_methods())]
    _check_by_name(cfg, method_names)
    for method in methods:
        allowed = not method.experiments or experiment.name in method.experiments
        _require(allowed, f"method {method.name} is for {', '.join(method.experiments)}, got {experiment.name}")
        if method.takes_epochs:
            check_integer(f"epochs.{method.name}", cfg.epochs.get(method.name), 1)
    targets = tuple(_target(cfg, experiment, name) for name in cfg.target)
    names = [target.name for target in targets]
    _require(len({*names}) == len(names), f"targets must have different names in the results, got {', '.join(names)}")
    config = RunConfig(
        experiment=experiment,
        seed=cfg.seed,
        scale=cfg.scale.name,
        measures=measures,
        sources=tuple(_source(name, source) for name, source in cfg.source.items()),
        targets=targets,
        methods=methods,
        n_tasks={method.name: _capped(cfg, "max_tasks", method, cfg.n_tasks) for method in methods},
        budgets={(m.name, t.name): _budget(cfg, m, t.key) for m in methods for t in targets},
        engine=engine,
        executor=_executor(cfg.executor, engine),
        results=Path(cfg.paths.results).expanduser(),
        cache=Path(cfg.paths.cache).expanduser().absolute(),
        data_root=root,
        strict=cfg.strict,
        plan=cfg.plan,
        verbose=cfg.verbose,
    )
    runs_locally = n_workers(config) and (config.executor.name in ("local", "serial") or engine.device == "cpu")
    _require(not cfg.plan or runs_locally, "plan=true is measured by this machine's own processes; give executor=local")
    return config


def _measures(given: object) -> tuple[str, ...]:
    is_list = isinstance(given, ListConfig)
    _require(is_list and len(given) > 0, f"measures must be a list, e.g. 'measures=[leep]', got {given}")
    _require(len(set(given)) == len(given), f"measures must be different ones, got {given}")
    for name in map(str, given):
        check_measure(name)
    return tuple(given)


def _engine(engine: DictConfig) -> Engine:
    _choice("engine", engine.name, ENGINES)
    _choice("engine.precision", engine.precision, PRECISIONS)
    check_engine(engine.name, engine.precision, engine.device)
    if engine.threads is not None:
        check_integer("engine.threads", engine.threads, 1, "null or an integer")
    return Engine(engine.name, engine.precision, engine.device, engine.threads or 1)


def _executor(executor: DictConfig, engine: Engine) -> Executor:
    if executor.workers is not None:
        check_integer("executor.workers", executor.workers, 1, "null or an integer")
    address = executor.get("address")
    options = {k: v for k, v in OmegaConf.to_container(executor).items() if k not in ("name", "workers", "address")}
    if executor.name in ("dask", "slurm"):
        for module in ("distributed", *(["dask_jobqueue"] if executor.name == "slurm" else [])):
            there = importlib.util.find_spec(module)
            remedy = "make env, or pip install 'leep-transferability[dask]'"
            _require(there, f"executor={executor.name} needs {module}: {remedy}")
        _require(
            engine.device in ("cpu", "cuda"),
            f"engine.device must be cpu or cuda with executor={executor.name}, which gives each worker a GPU, "
            f"got {engine.device}",
        )
    if executor.name == "slurm":
        for key in ("jobs", "cores"):
            check_integer(f"executor.{key}", executor[key], 1)
        for key in ("job_extra_directives", "job_script_prologue"):
            is_list = isinstance(executor[key], ListConfig)
            _require(is_list, f"executor.{key} must be a list, e.g. ['…'], got {executor[key]!r}")
    if address is not None:
        is_address = re.fullmatch(r"tcp://[^:/\s]+:\d+", str(address))
        _require(is_address, f"executor.address must be null or tcp://host:port, got {address!r}")
        _require(executor.workers is None, "executor.workers must be null with executor.address, whose workers serve")
    return Executor(executor.name, executor.workers, address, options)


def _source(name: str, source: DictConfig) -> Source:
    key = f"source.{name}"
    places = [source.weights] if isinstance(source.weights, str) else source.weights
    named = isinstance(places, (list, ListConfig)) and len(places) > 0 and all(isinstance(p, str) for p in places)
    _require(named, f"{key}.weights must be bundled, gluon, pip:<package> or a file, or a list, got {source.weights!r}")
    if source.imagenet_top1 is not None:
        check_number(f"{key}.imagenet_top1", source.imagenet_top1, "from 0 to 100", lambda v: 0 <= v <= 100)
    check_integer(f"{key}.size", source.size, 1)
    if source.model in VARIANTS:
        size = VARIANTS[source.model].size
        _require(source.size == size, f"{key}.size must be {size}, for which {source.model} is padded")
    check_integer(f"{key}.n_classes", source.n_classes, 1)
    for field, bounds, within in (("mean", "", math.isfinite), ("std", "> 0", lambda v: v > 0)):
        values = source[field]
        three = isinstance(values, ListConfig) and len(values) == 3
        _require(three, f"{key}.{field} must be three numbers, red, green and blue, got {values}")
        for value in values:
            check_number(f"{key}.{field}", value, bounds, within)
    rest = {k: v for k, v in source.items() if k not in ("mean", "std", "weights")}
    return Source(name, mean=tuple(source.mean), std=tuple(source.std), weights=tuple(places), **rest)


def _target(cfg: DictConfig, experiment: Experiment, name: str) -> Target:
    key, target = f"target.{name}", cfg.target[name]
    own_name, on_damaged = name, "error"
    _choice(f"{key}.reader", target.reader, READERS)
    if target.reader == "folder":
        _require(target.path, f"{key}.path must name the folder of images")
        check_integer(f"{key}.size", target.size, 1)
        own_name, on_damaged = _own_name(key, name, target), target.get("on_damaged", "error")
        _choice(f"{key}.on_damaged", on_damaged, ON_DAMAGED)
    else:
        for field in ("path", "size"):
            _require(target[field] is None, f"{key}.{field} is only for reader: folder, got {target[field]!r}")
    own_task = cfg.task_of.get(name)
    for where, task in [("task", cfg.task), *((f"task_of.{t}", v) for t, v in cfg.task_of.items())]:
        _check_task(experiment, where, task)
    return Target(
        key=name,
        name=own_name,
        reader=target.reader,
        title=target.title or own_name,
        path=None if target.path is None else str(target.path),
        size=target.size,
        on_damaged=on_damaged,
        task=OmegaConf.to_container(own_task or cfg.task),
    )


def _own_name(key: str, name: str, target: DictConfig) -> str:
    """What a folder of images is called in the results."""
    path = Path(str(target.path)).expanduser().resolve()
    default = (path.parent if path.suffix.lower() in TABLES else path).name if name == "folder" else name
    own = target.get("name") or default
    _require(
        isinstance(own, str) and re.fullmatch(r"[^/\\.][^/\\]*", own), f"{key}.name must name a folder, got {own!r}"
    )
    taken = own != name and own in _TARGETS
    _require(
        not taken, f"{key}.name must be another name, {own} is that of a published data set; e.g. {key}.name=my_{own}"
    )
    return own


def _check_task(experiment: Experiment, key: str, task: DictConfig) -> None:
    known = experiment.parameters
    _require(sorted(task) == sorted(known), f"{key} must have the keys {', '.join(known)}, got {', '.join(task)}")
    for name, value in task.items():
        check_integer(f"{key}.{name}", value, 1)
        if name.startswith("min_"):
            most = task[f"max_{name[4:]}"]
            _require(value <= most, f"{key}.{name} must be ≤ {key}.max_{name[4:]}, {most}, got {value}")


def _check_by_name(cfg: DictConfig, methods: list[str]) -> None:
    """Everything that is given by the name of a method or of a target."""
    targets = sorted({*_TARGETS, *cfg.target})
    for name in cfg.task_of:
        _choice("task_of", name, targets)
    for name, counts in _mapping("epochs_of", cfg.epochs_of):
        _choice("epochs_of", name, targets)
        for method, count in _mapping(f"epochs_of.{name}", counts):
            _choice(f"epochs_of.{name}", method, methods)
            check_integer(f"epochs_of.{name}.{method}", count, 1)
    for method, every in _mapping("eval_every", cfg.eval_every):
        _choice("eval_every", method, [m for m in methods if _trains_networks(m)])
        check_integer(f"eval_every.{method}", every, 1)
    _check_scale("scale", cfg.scale, methods)


def _trains_networks(method: str) -> bool:
    kind = find_methods().get(method, Method)
    return kind.takes_epochs and not kind.reads_features


def _check_scale(key: str, scale: DictConfig, methods: list[str]) -> None:
    """The caps of a scale, and those that an experiment has of its own."""
    for name, value in _mapping(key, scale):
        if name in EXPERIMENTS and key == "scale":
            _check_scale(f"{key}.{name}", value, methods)
        elif name in _BY_METHOD:
            for method, cap in _mapping(f"{key}.{name}", value):
                _choice(f"{key}.{name}", method, methods)
                if cap is not None:
                    least = 3 if name == "max_tasks" else 1
                    check_integer(f"{key}.{name}.{method}", cap, least, "null or an integer")
        else:
            _choice(key, name, ("name", *_BY_METHOD, *EXPERIMENTS))


def _budget(cfg: DictConfig, method: Method, target: str) -> Budget:
    """What a method may do on the tasks of a target at the configured scale."""
    epochs = None
    if method.takes_epochs:
        given = (cfg.epochs_of.get(target) or {}).get(method.name, cfg.epochs[method.name])
        epochs = _capped(cfg, "max_epochs", method, given)
    return Budget(epochs, cfg.eval_every.get(method.name), _cap(cfg, "max_examples", method))


def _capped(cfg: DictConfig, key: str, method: Method, value: int) -> int:
    """The value, or the scale's cap where that is less."""
    cap = _cap(cfg, key, method)
    return value if cap is None else min(value, cap)


def _cap(cfg: DictConfig, key: str, method: Method) -> int | None:
    """The scale's cap, which an experiment may have of its own."""
    own = (cfg.scale.get(cfg.experiment) or {}).get(key) or {}
    return own.get(method.name, cfg.scale[key].get(method.name))


def _check_keys(ours: dict, known: dict, path: str) -> None:
    """Refuse a key that the project's own configuration lacks: added by +key=…, it would do nothing; or lacks of it."""
    if path in _CHECKED_ELSEWHERE:
        return
    for key in ours:
        _require(key in known, unknown_key(f"{path}{key}", known))
    for key, value in known.items():
        _require(key in ours, f"{path}{key} must be given, e.g. {path}{key}={value}")
        if isinstance(value, dict):
            _require(isinstance(ours[key], dict), f"{path}{key} must map names to values, got {ours[key]!r}")
            _check_keys(ours[key], value, f"{path}{key}.")


def _require(condition: object, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _choice(key: str, value: object, choices) -> None:
    _require(value in choices, not_among(key, choices, value))


def _mapping(key: str, value: object):
    """The items of a mapping."""
    _require(isinstance(value, DictConfig), f"{key} must map names to values, e.g. {key}.fine_tune=50, got {value!r}")
    return value.items()
