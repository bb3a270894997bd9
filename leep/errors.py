"""The errors that this library raises on purpose: `except LeepError` catches all of them."""

from __future__ import annotations


class LeepError(Exception):
    """What a user can mend. The message says what is wrong and how to mend it."""


class Missing(LeepError, FileNotFoundError):
    """Data or weights are not there. The message says where they were looked for and how to get them."""


class Invalid(LeepError, ValueError):
    """A file is not what it should be. The message names the file and says what is wrong with it."""
