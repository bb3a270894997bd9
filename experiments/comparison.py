"""Section 5.6: the experiments of the other sections one after the other, then Table 1."""

from __future__ import annotations

import sys

from hydra import compose
from omegaconf import DictConfig, ListConfig

from experiments.config.resolve import resolve
from experiments.config.values import RunConfig
from experiments.executor import open_executor
from experiments.reporting import table1
from experiments.running.runner import run
from leep.errors import Invalid, LeepError, Missing
from leep.results import read_runs
from leep.tasks import EXPERIMENTS


def compose_all(cfg: DictConfig, overrides: list[str]) -> list[RunConfig]:
    """The configurations of `cfg.experiments`, each checked before any work.

    Parameters
    ----------
    cfg : DictConfig
    overrides : list of str
        What was given on the command line; all but `experiment` and `experiments` is given to each experiment.

    Raises
    ------
    Invalid
        If a configuration is wrong.
    """
    is_list = isinstance(cfg.experiments, ListConfig) and cfg.experiments
    if not is_list or not {*cfg.experiments} <= {*EXPERIMENTS}:
        raise Invalid(f"experiments must be a list of {', '.join(EXPERIMENTS)}, got {cfg.experiments}")
    given = [o for o in overrides if o.partition("=")[0] not in ("experiment", "experiments")]
    return [resolve(compose("config", [f"experiment={name}", *given])) for name in cfg.experiments]


def compare(configs: list[RunConfig]) -> None:
    """Run experiments one after the other and write Table 1; one that cannot run does not stop the others.

    Raises
    ------
    Missing
        If data or weights of all of them are missing.
    Invalid
        After all others have run, if one was stopped by an error.
    """
    stopped: dict[str, LeepError] = {}
    with open_executor(configs[0]) as map_items:
        for config in configs:
            print(f"\n{config.experiment.name}")
            try:
                run(config, map_items)
            except LeepError as error:
                print(f"run.py: {error}", file=sys.stderr)
                stopped[config.experiment.name] = error
    results = configs[0].results
    results.mkdir(parents=True, exist_ok=True)
    print()
    table1.write(results, read_runs(results), configs[0].seed)
    lacking = [name for name, error in stopped.items() if isinstance(error, Missing)]
    if len(lacking) == len(configs):
        raise Missing("data or weights of all experiments are missing, as said above")
    if failed := [name for name in stopped if name not in lacking]:
        raise Invalid(f"{', '.join(failed)} stopped by an error, as said above; the others have run")
