"""Loads what a user has written outside the package: `module:name`."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def is_outside(name: str) -> bool:
    """Whether a name is `module:name`, of an object outside the package."""
    return ":" in name


def load_object(name: str) -> Any:
    """The object `module:name`, for example `my_package.measures:my_score`.

    Raises
    ------
    ValueError
        If the module cannot be imported or has no such object.

    Examples
    --------
    >>> load_object("math:sqrt")(9)
    3.0
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{name} must name an object as module:name that Python can import: {error}") from error
