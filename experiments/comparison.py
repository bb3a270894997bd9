"""Section 5.6: the experiments of the other sections one after the other, then Table 1."""

from __future__ import annotations

import sys

from hydra import compose
from omegaconf import DictConfig, ListConfig

from experiments.check import UserError, check_config
from experiments.executor import open_executor
from experiments.plan import print_plan
from experiments.reporting.table1 import write
from experiments.transfer import run
from experiments.work import NothingToRun, results_folder
from leep.results import read_runs
from leep.tasks import DRAW

SETTING = "measure_comparison"


def compare(cfg: DictConfig, overrides: list[str]) -> None:
    """Run every experiment of `cfg.experiments` and write Table 1; one that cannot run does not stop the others.

    With `plan`, print what all of it would cost.

    Parameters
    ----------
    cfg : DictConfig
    overrides : list of str
        What was given on the command line; all but `experiment` and `experiments` is given to each experiment.

    Raises
    ------
    UserError
        If a configuration is wrong, before any work; after all others have run, if one was stopped by an error.
    NothingToRun
        If data or weights of all of them are missing.
    """
    if not isinstance(cfg.experiments, ListConfig) or not cfg.experiments or not {*cfg.experiments} <= {*DRAW}:
        raise UserError(f"experiments must be a list of {', '.join(DRAW)}, got {cfg.experiments}")
    given = [o for o in overrides if o.partition("=")[0] not in ("experiment", "experiments")]
    composed = [compose("config", [f"experiment={name}", *given]) for name in cfg.experiments]
    for one in composed:
        check_config(one)
    if cfg.plan:
        print_plan(composed)
        return
    stopped = {}
    with open_executor(cfg) as executor:
        for one in composed:
            print(f"\n{one.experiment}")
            try:
                run(one, executor)
            except UserError as error:
                print(f"run.py: {error}", file=sys.stderr)
                stopped[one.experiment] = error
    results = results_folder(cfg)
    results.mkdir(parents=True, exist_ok=True)
    print()
    write(results, read_runs(results), cfg.seed)
    lacking = [name for name, error in stopped.items() if isinstance(error, NothingToRun)]
    if len(lacking) == len(composed):
        raise NothingToRun("data or weights of all experiments are missing, as said above")
    if failed := [name for name in stopped if name not in lacking]:
        raise UserError(f"{', '.join(failed)} stopped by an error, as said above; the others have run")
