"""Checks a composed configuration before any work: what Hydra's own checks of keys and group names leave open."""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from leep.engines import ENGINES, PRECISIONS
from leep.measures import MEASURES
from leep.transfer import METHODS
from leep.transfer.retrain_head import IMPLEMENTATIONS


class UserError(Exception):
    """What the user can mend; shown without a traceback."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _is_int(value, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_config(cfg: DictConfig) -> None:
    """Raise `UserError` for an unknown name or an impossible value, naming the choices."""
    missing = sorted(OmegaConf.missing_keys(cfg))
    _require(not missing, f"{', '.join(missing)} must be given, e.g. {', '.join(missing)}=…")
    _require(_is_int(cfg.seed, 0), f"seed must be an integer ≥ 0, got {cfg.seed!r}")
    _require(
        _is_int(cfg.n_tasks, 3), f"n_tasks must be an integer ≥ 3, got {cfg.n_tasks!r}: a correlation needs three tasks"
    )
    for group in ("source", "target", "method"):
        _require(
            group in cfg and len(cfg[group]) > 0,
            f"{group} must name at least one choice, e.g. '{group}=[{_example(group)}]'",
        )
    _require(len(cfg.measures) > 0, f"measures must name at least one of {', '.join(MEASURES)}")
    for measure in cfg.measures:
        _require(measure in MEASURES, f"measures must be among {', '.join(MEASURES)}, got {measure!r}")
    _require(cfg.engine.name in ENGINES, f"engine must be one of {', '.join(ENGINES)}, got {cfg.engine.name!r}")
    _require(
        cfg.engine.precision in PRECISIONS,
        f"engine.precision must be one of {', '.join(PRECISIONS)}, got {cfg.engine.precision!r}",
    )
    for key in ("executor.workers", "scale.max_tasks", "scale.max_epochs", "engine.threads"):
        group, name = key.split(".")
        value = cfg[group][name]
        _require(value is None or _is_int(value, 1), f"{key} must be null or an integer ≥ 1, got {value!r}")
    for name, method in cfg.method.items():
        _require(name in METHODS, f"method must be among {', '.join(METHODS)}, got {name!r}")
        _check_method(cfg, name, method)
    for target, task in [("task", cfg.task), *((f"task_of.{t}", v) for t, v in cfg.task_of.items())]:
        for key, value in task.items():
            _require(_is_int(value, 1), f"{target}.{key} must be an integer ≥ 1, got {value!r}")
            if key.startswith("min_"):
                largest = task.get("max_" + key[4:])
                _require(
                    largest is None or value <= largest,
                    f"{target}.{key} must be ≤ {target}.max_{key[4:]}, {largest}, got {value}",
                )


def _check_method(cfg: DictConfig, name: str, method: DictConfig) -> None:
    epochs = cfg.epochs.get(name)
    _require(_is_int(epochs, 1), f"epochs.{name} must be an integer ≥ 1, got {epochs!r}")
    _require(
        _is_int(method.batch_size, 1), f"method.{name}.batch_size must be an integer ≥ 1, got {method.batch_size!r}"
    )
    for key, least, most in (("learning_rate", 0, None), ("momentum", 0, 1), ("weight_decay", 0, None)):
        value = method[key]
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        in_range = (
            number and value >= least and (most is None or value < most) and (key != "learning_rate" or value > 0)
        )
        bounds = "> 0" if key == "learning_rate" else "≥ 0" + (f" and < {most}" if most else "")
        _require(in_range, f"method.{name}.{key} must be a number {bounds}, got {value!r}")
    found, choices = method.get("implementation", "compiled"), ", ".join(IMPLEMENTATIONS)
    _require(found in IMPLEMENTATIONS, f"method.{name}.implementation must be one of {choices}, got {found!r}")


def _example(group: str) -> str:
    return {"source": "cifar10_resnet20", "target": "cifar100", "method": "retrain_head"}[group]
