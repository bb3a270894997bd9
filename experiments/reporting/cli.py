"""What the commands of this package have in common: their arguments, and errors as one message."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from experiments.terminal import print_in_any_locale
from leep.errors import Invalid
from leep.results import read_runs


def results_arguments(description: str) -> tuple[Path, pd.DataFrame, int]:
    """The results folder given on the command line, its runs, and the seed: by default the smallest that was run."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "results", type=Path, nargs="?", default=Path("results"), help="results folder (default: results)"
    )
    parser.add_argument(
        "--seed", type=int, help="seed of the runs to show; seeds are never mixed (default: the smallest)"
    )
    arguments = parser.parse_args()
    if not arguments.results.is_dir():
        parser.error(f"{arguments.results} is not a folder; run an experiment first: python run.py")
    runs = read_runs(arguments.results)
    if arguments.seed is None:
        arguments.seed = 0 if runs.empty else int(runs.seed.min())
    return arguments.results, runs, arguments.seed


def run_main(main: Callable[[], None]) -> None:
    """Call the `main` of a command that reads results."""
    print_in_any_locale()
    try:
        main()
    except (Invalid, OSError) as error:
        sys.exit(f"{Path(sys.argv[0]).stem}: {error}")
