"""The errors that this library raises on purpose: `except LeepError` catches all of them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable


class LeepError(Exception):
    """What a user can mend. The message says what is wrong and how to mend it."""


class Missing(LeepError, FileNotFoundError):
    """Data or weights are not there. The message says where they were looked for and how to get them."""


class Invalid(LeepError, ValueError):
    """A file is not what it should be. The message names the file and says what is wrong with it."""


def suggest(given: object, choices: Iterable, most: int = 3, form: Callable[[str], str] = str) -> str:
    """The end of a message about a name that is not among the choices: those that are spelt most alike, if any are.

    Examples
    --------
    >>> suggest("rsnet18", ["resnet18", "resnet34", "vgg11"])
    '; did you mean resnet18, resnet34?'
    """
    alike = difflib.get_close_matches(str(given), map(str, choices), most)
    return f"; did you mean {', '.join(map(form, alike))}?" if alike else ""


def did_you_mean(given: object, choices: Iterable) -> str:
    """The one choice that is spelt most alike, in quotes, as `suggest` says it.

    Examples
    --------
    >>> did_you_mean("lepe", ["leep", "nce"])
    "; did you mean 'leep'?"
    """
    return suggest(given, choices, 1, repr)


def not_among(what: str, choices: Iterable, given: object, otherwise: str = "") -> str:
    """The message about a value that is not among the choices.

    Examples
    --------
    >>> not_among("engine", ["gluon", "torch"], "gluo")
    "engine must be among gluon, torch, got 'gluo'; did you mean 'gluon'?"
    """
    choices = [str(choice) for choice in choices]
    return f"{what} must be among {', '.join(choices)}{otherwise}, got {given!r}{did_you_mean(given, choices)}"
