"""What a configuration runs, and where that differs from the paper's protocol."""

from __future__ import annotations

from hydra import compose
from omegaconf import DictConfig, OmegaConf

NOT_PROTOCOL = ("weights", "implementation")  # how, not what: named elsewhere in the results


def n_tasks(cfg: DictConfig) -> int:
    """Tasks of a setting at the configured scale."""
    return min(cfg.n_tasks, cfg.scale.max_tasks or cfg.n_tasks)


def epochs(cfg: DictConfig, method: str) -> int:
    """Epochs of a method at the configured scale."""
    return min(cfg.epochs[method], cfg.scale.max_epochs or cfg.epochs[method])


def task_parameters(cfg: DictConfig, target: str) -> dict:
    """What the tasks of a target data set are drawn with."""
    return OmegaConf.to_container(cfg.task_of.get(target) or cfg.task)


def paper_protocol(cfg: DictConfig) -> DictConfig:
    """The same experiment, sources, targets and methods as the paper has them: without the user's changes."""
    groups = [f"{group}=[{','.join(cfg[group])}]" for group in ("source", "target", "method")]
    return compose("config", [f"experiment={cfg.experiment}", "scale=paper", *groups])


def scale_line(cfg: DictConfig, paper: DictConfig) -> str:
    """One line on what the run leaves out of the paper's protocol."""
    left_out = [f"{n_tasks(cfg)} of {n_tasks(paper)} tasks"] if n_tasks(cfg) < n_tasks(paper) else []
    left_out += [
        f"{epochs(cfg, m)} of {epochs(paper, m)} epochs of {m}" for m in cfg.method if epochs(cfg, m) < epochs(paper, m)
    ]
    return f"{cfg.experiment}, scale={cfg.scale.name}: " + (
        ", ".join(left_out) + (" (scale=paper: all)" if cfg.scale.name != "paper" else "")
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


def method_stand_ins(cfg: DictConfig, paper: DictConfig, method: str) -> list[str]:
    """Where the training of a transfer method, or the number of tasks, differs from the paper's."""
    found = _differences(cfg.method[method], paper.method[method])
    if epochs(cfg, method) != epochs(paper, method):
        found.append(f"{epochs(cfg, method)} of {epochs(paper, method)} epochs")
    if n_tasks(cfg) != n_tasks(paper):
        found.append(f"{n_tasks(cfg)} of {n_tasks(paper)} tasks")
    return found


def _differences(ours, papers) -> list[str]:
    return [f"{k}={v} for {papers.get(k)}" for k, v in ours.items() if k not in NOT_PROTOCOL and v != papers.get(k)]
