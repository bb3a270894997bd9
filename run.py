"""Runs one experiment of the paper: python run.py experiment=small_imbalanced; python run.py --help."""

import os
import signal
import sys

try:
    import hydra
except ModuleNotFoundError:
    sys.exit("run.py: this Python has no Hydra; make env builds an environment, then .venv/bin/python run.py")
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from experiments.config.arguments import explain, prepare
from experiments.terminal import print_in_any_locale

NOTHING_COULD_RUN = 3  # exit status: data or weights of everything are missing
INTERRUPTED = 130  # exit status: Ctrl-C
statuses = [0]  # of the runs of a sweep: one that cannot run does not stop the others


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Hand the composed configuration to the runner; what the user can mend is one message, no traceback."""
    from leep.errors import LeepError, Missing

    try:
        _run(cfg)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one
        said = f"what is finished is in {cfg.paths.results}, the same command goes on from there"
        print(f"\nrun.py: interrupted; {said}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except (HydraException, OmegaConfBaseException) as error:  # of an experiment that this one composes
        print(f"run.py: {explain(error)}", file=sys.stderr)
        statuses.append(2)
    except (LeepError, OSError) as error:
        print(f"run.py: {error}", file=sys.stderr)
        statuses.append(NOTHING_COULD_RUN if isinstance(error, Missing) else 2)


def _run(cfg: DictConfig) -> None:
    """Run, or plan, the experiment of a configuration, or all of Section 5.6."""
    from experiments.config.resolve import resolve

    if cfg.experiment == "ranking_quality":
        _run_ranking_quality(cfg)
        return
    whole = cfg.experiment == "measure_comparison"
    if whole:
        from experiments.comparison import compare, compose_all

        configs = compose_all(cfg, list(HydraConfig.get().overrides.task))
    else:
        configs = [resolve(cfg)]
    if cfg.plan:
        from experiments.estimating.plan import print_plan

        print_plan(configs)
    elif whole:
        compare(configs)
    else:
        from experiments.running.runner import run

        run(configs[0])
        if configs[0].experiment.whole_data_set:
            from experiments.reporting.selection import write

            print("\n" + write(configs[0].results, configs[0].seed))
        else:
            print(f"Table 1 of all runs so far: make table1 RESULTS={configs[0].results}")


def _run_ranking_quality(cfg: DictConfig) -> None:
    from experiments.quality.config import QualityConfig
    from experiments.quality.runner import run
    from experiments.reporting.ranking_quality import write
    from leep.errors import Invalid

    if cfg.plan:
        raise Invalid("plan is not for experiment=ranking_quality; scale=smoke shows in seconds what it does")
    config = QualityConfig.of(cfg)
    folder = run(config)
    print(write(config.results, folder))


if __name__ == "__main__":
    print_in_any_locale()
    sys.argv[1:] = prepare(sys.argv[1:])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors, in place of printing them with advice
    try:
        main()
    except (HydraException, OmegaConfBaseException) as error:
        print(f"run.py: {explain(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(2 if 2 in statuses else max(statuses))
