"""What a configuration runs, and where that differs from the paper's protocol."""

from __future__ import annotations

from hydra import compose
from omegaconf import DictConfig, OmegaConf

from leep.transfer import UNTRAINED

NOT_PROTOCOL = ("weights", "implementation")  # how, not what: named elsewhere in the results


def n_tasks(cfg: DictConfig, method: str) -> int:
    """Tasks of a method at the configured scale."""
    return _capped(cfg, "max_tasks", method, cfg.n_tasks)


def epochs(cfg: DictConfig, method: str, target: str) -> int | None:
    """Epochs of a method on tasks of a target at the configured scale; None for one that takes no steps."""
    if method in UNTRAINED:
        return None
    given = (cfg.epochs_of.get(target) or {}).get(method, cfg.epochs[method])
    return _capped(cfg, "max_epochs", method, given)


def _capped(cfg: DictConfig, key: str, method: str, value: int) -> int:
    """The value, or the scale's cap where that is less."""
    cap = _cap(cfg, key, method)
    return value if cap is None else min(value, cap)


def max_examples(cfg: DictConfig, method: str) -> int | None:
    """Examples of a task that a method trains and tests on at the configured scale; None if all."""
    return _cap(cfg, "max_examples", method)


def _cap(cfg: DictConfig, key: str, method: str) -> int | None:
    """The scale's cap, which an experiment may have of its own."""
    own = (cfg.scale.get(cfg.experiment) or {}).get(key) or {}
    return own.get(method, cfg.scale[key].get(method))


def task_parameters(cfg: DictConfig, target: str) -> dict:
    """What the tasks of a target data set are drawn with."""
    return OmegaConf.to_container(cfg.task_of.get(target) or cfg.task)


def paper_protocol(cfg: DictConfig) -> DictConfig:
    """The same experiment, sources, targets and methods as the paper has them: without the user's changes."""
    groups = [f"{group}=[{','.join(cfg[group])}]" for group in ("source", "target", "method")]
    return compose("config", [f"experiment={cfg.experiment}", "scale=paper", f"executor={cfg.executor.name}", *groups])


def scale_line(cfg: DictConfig, paper: DictConfig) -> str:
    """One line on what the run leaves out of the paper's protocol."""
    left_out = []
    for method in cfg.method:
        tasks, all_tasks = n_tasks(cfg, method), n_tasks(paper, method)
        parts = [f"{tasks} of {all_tasks} tasks"] if tasks < all_tasks else []
        counts = {t: (epochs(cfg, method, t) or 0, epochs(paper, method, t) or 0) for t in cfg.target}
        fewer = {t: f"{n} of {n_all}" for t, (n, n_all) in counts.items() if n < n_all}
        if len(set(fewer.values())) == 1 and len(fewer) == len(counts):
            parts.append(f"{next(iter(fewer.values()))} epochs")
        else:
            parts += [f"{count} epochs on {t}" for t, count in fewer.items()]
        if max_examples(cfg, method):
            parts.append(f"about {max_examples(cfg, method)} examples of a task")
        left_out += [f"{method}: {', '.join(parts)}"] if parts else []
    return f"{cfg.experiment}, scale={cfg.scale.name}: " + (
        "; ".join(left_out) + (" (scale=paper: all)" if cfg.scale.name != "paper" else "")
        if left_out
        else "nothing of the paper's protocol is left out"
    )


def task_stand_ins(cfg: DictConfig, paper: DictConfig, source: str, target: str) -> list[str]:
    """Where tasks, source model or engine differ from the paper's."""
    found = _differences(task_parameters(cfg, target), task_parameters(paper, target))
    found += _differences(cfg.source[source], paper.source[source])
    if cfg.source[source].trained_on == cfg.target[target].title:
        found.append("the source was trained on the target's images")
    if (cfg.engine.name, cfg.engine.precision) != ("gluon", "float32"):
        found.append(f"{cfg.engine.name} {cfg.engine.precision}")
    return found


def method_stand_ins(cfg: DictConfig, paper: DictConfig, method: str, target: str) -> list[str]:
    """Where the training of a transfer method, or the number of tasks, differs from the paper's."""
    found = _differences(cfg.method[method], paper.method[method])
    ours, papers = epochs(cfg, method, target), epochs(paper, method, target)
    if ours != papers:
        found.append(f"{ours} of {papers} epochs")
    if n_tasks(cfg, method) != n_tasks(paper, method):
        found.append(f"{n_tasks(cfg, method)} of {n_tasks(paper, method)} tasks")
    if max_examples(cfg, method):
        found.append(f"about {max_examples(cfg, method)} examples of a task")
    return found


def _differences(ours, papers) -> list[str]:
    return [f"{k}={v} for {papers.get(k)}" for k, v in ours.items() if k not in NOT_PROTOCOL and v != papers.get(k)]
