"""Runs one experiment of the paper: python run.py experiment=small_imbalanced; python run.py --help."""

import sys

import hydra
from omegaconf import DictConfig

NOTHING_COULD_RUN = 3  # exit status: data or weights of every setting are missing


@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(cfg: DictConfig) -> None:
    """Hand the composed configuration to the runner; what the user can mend is one message, no traceback."""
    from experiments.transfer import NothingToRun, UserError, run

    try:
        run(cfg)
    except NothingToRun as error:
        print(f"run.py: {error}", file=sys.stderr)
        sys.exit(NOTHING_COULD_RUN)
    except UserError as error:
        print(f"run.py: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
