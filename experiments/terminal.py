"""Output in any locale."""

from __future__ import annotations

import sys


def print_in_any_locale() -> None:
    """Have output show `?` for what the locale's encoding lacks, such as `→`, instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")
