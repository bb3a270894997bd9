"""Progress of long work on the terminal; in a log file a line every half minute."""

from __future__ import annotations

import sys

from tqdm import tqdm


def progress(*args, **options) -> tqdm:
    """A tqdm bar: what is done, the rate, the time left."""
    return tqdm(*args, mininterval=0.1 if sys.stderr.isatty() else 30, **options)


def advance(bar: tqdm, amount: float) -> None:
    """Move a bar on, never past its total: a second attempt counts some things again."""
    bar.update(min(amount, bar.total - bar.n))


def say(text: str) -> None:
    """A line on the terminal, above the bars."""
    tqdm.write(text, file=sys.stderr)
