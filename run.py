"""Runs one experiment of the paper: python run.py experiment=small_imbalanced; python run.py --help."""

import re
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

NOTHING_COULD_RUN = 3  # exit status: data or weights of every setting are missing
CONF = Path(__file__).parent / "conf"
statuses = [0]  # of the runs of a sweep: one that cannot run does not stop the others


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Hand the composed configuration to the runner; what the user can mend is one message, no traceback."""
    from experiments.transfer import NothingToRun, UserError, run

    try:
        run(cfg)
    except UserError as error:
        print(f"run.py: {error}", file=sys.stderr)
        statuses.append(NOTHING_COULD_RUN if isinstance(error, NothingToRun) else 2)


def check_lists(arguments: list[str]) -> None:
    """Names in `source=[a,b]` and its like, for which Hydra's own message does not list the choices."""
    for argument in arguments:
        group, _, names = argument.partition("=")
        if group not in ("source", "target", "method"):
            continue
        choices = sorted(p.stem for p in (CONF / group).glob("*.yaml"))
        for name in re.findall(r"[^\[\],\s'\"]+", names):
            if name not in choices:
                sys.exit(f"run.py: {group} must be among {', '.join(choices)}, got {name!r}")


if __name__ == "__main__":
    if not any(a.startswith(("--config-dir", "-cd")) for a in sys.argv):
        check_lists(sys.argv[1:])
    main()
    sys.exit(2 if 2 in statuses else max(statuses))
