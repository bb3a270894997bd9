"""Runs one experiment of the paper: python run.py experiment=small_imbalanced; python run.py --help."""

import re
import signal
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from experiments.terminal import print_in_any_locale

NOTHING_COULD_RUN = 3  # exit status: data or weights of everything are missing
INTERRUPTED = 130  # exit status: Ctrl-C
CONF = Path(__file__).parent / "conf"
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
    from experiments.quality.runner import QualityConfig, run
    from experiments.reporting.ranking_quality import write
    from leep.errors import Invalid

    if cfg.plan:
        raise Invalid("plan is not for experiment=ranking_quality; scale=smoke shows in seconds what it does")
    config = QualityConfig.of(cfg)
    folder = run(config)
    print(write(config.results, folder))


def check_names(arguments: list[str]) -> None:
    """Top-level keys, and names in `source=[a,b]` and its like: Hydra's own message does not list the choices."""
    files = [CONF / "config.yaml", *(CONF / "experiment").glob("*.yaml")]
    known = {key for file in files for key in OmegaConf.load(file)} | {p.name for p in CONF.iterdir() if p.is_dir()}
    known -= {"defaults", "hydra"}
    for argument in arguments:
        group, equals, names = argument.partition("=")
        key = group.lstrip("+~").split(".")[0].split("@")[0]
        if equals and not key.startswith(("-", "hydra")) and key not in known:
            sys.exit(f"run.py: unknown key {key!r}; the keys are {', '.join(sorted(known))}")
        if group not in ("source", "target", "method"):
            continue
        choices = sorted(p.stem for p in (CONF / group).glob("*.yaml"))
        for name in re.findall(r"[^\[\],\s'\"]+", names):
            if name not in choices:
                sys.exit(f"run.py: {group} must be among {', '.join(choices)}, got {name!r}")


def quoted(argument: str) -> str:
    """`key=value` with the value in quotes where Hydra's grammar wants them, as for `~` and letters with accents."""
    key, equals, value = argument.partition("=")
    if not equals or key.startswith("-") or re.fullmatch(r"[\w/+.$%*@?|: =-]*", value, re.ASCII):
        return argument
    return argument if re.search(r"[][{}(),'\"\\]", value) else f'{key}="{value}"'


if __name__ == "__main__":
    print_in_any_locale()
    sys.argv[1:] = map(quoted, sys.argv[1:])
    if not any(a.startswith(("--config-dir", "-cd")) for a in sys.argv):
        check_names(sys.argv[1:])
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(2 if 2 in statuses else max(statuses))
