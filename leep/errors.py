"""The errors that this library raises on purpose: `except LeepError` catches all of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LeepError(Exception):
    """What a user can mend. The message says what is wrong and how to mend it."""


class Missing(LeepError, FileNotFoundError):
    """Data or weights are not there. The message says where they were looked for and how to get them."""


class Invalid(LeepError, ValueError):
    """A file is not what it should be. The message names the file and says what is wrong with it."""


def did_you_mean(given: object, choices: Iterable) -> str:
    """The end of a message about a name that is not among the choices: the one that is spelt most alike, if any is.

    Examples
    --------
    >>> did_you_mean("lepe", ["leep", "nce"])
    "; did you mean 'leep'?"
    """
    alike = difflib.get_close_matches(str(given), map(str, choices), 1)
    return f"; did you mean {alike[0]!r}?" if alike else ""


def not_among(what: str, choices: Iterable, given: object, otherwise: str = "") -> str:
    """The message about a value that is not among the choices.

    Examples
    --------
    >>> not_among("engine", ["gluon", "torch"], "gluo")
    "engine must be among gluon, torch, got 'gluo'; did you mean 'gluon'?"
    """
    choices = [str(choice) for choice in choices]
    return f"{what} must be among {', '.join(choices)}{otherwise}, got {given!r}{did_you_mean(given, choices)}"
