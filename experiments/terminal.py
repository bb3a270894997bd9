"""What the commands have in common: output in any locale, what the user can mend as one message."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path


def print_in_any_locale() -> None:
    """Have output show `?` for what the locale's encoding lacks, such as `→`, instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")


def run_main(main: Callable[[], None]) -> None:
    """Call the `main` of a command that reads results."""
    from leep.results import Invalid  # imports pandas, for which `run.py --help` does not wait

    print_in_any_locale()
    try:
        main()
    except (Invalid, OSError) as error:
        sys.exit(f"{Path(sys.argv[0]).stem}: {error}")
