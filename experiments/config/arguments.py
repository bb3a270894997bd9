"""The command line of run.py: paths are taken as they are, and a mistake is told in one line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from leep.errors import did_you_mean, not_among

_GROUPS = ("experiment", "source", "target", "method", "scale", "engine", "executor")
_PATH = re.compile(r"\+*(paths\.\w+|data\.root|target\.[^.]+\.path|(source|method)\.[^.]+\.weights)")


def prepare(arguments: list[str]) -> list[str]:
    """The arguments in Hydra's grammar: `-v` is verbose=true, and a value has quotes where the grammar needs them.

    A path may have any character. In a sweep (`-m`) a comma separates paths, and `[a,b]` is a list of weights.

    Examples
    --------
    >>> prepare(["data.root=images (1), 2019=new", "seed=1"])
    ["data.root='images (1), 2019=new'", 'seed=1']
    """
    sweep = bool({"-m", "--multirun"} & {*arguments})
    verbose = {"-v": "verbose=true", "--verbose": "verbose=true"}
    return [verbose.get(argument) or _prepare(argument, sweep) for argument in arguments]


def _prepare(argument: str, sweep: bool) -> str:
    key, equals, value = argument.partition("=")
    if not equals or key.startswith("-"):
        return argument
    if key in _GROUPS and re.fullmatch(r"[\w.-]+|\[[\w., -]*\]", value):
        return f"{key}={re.sub('[^][, ]+', lambda name: _quoted(name[0]), value)}"  # names, though like a number
    if not _PATH.fullmatch(key):
        plain = re.fullmatch(r"[\w/+.$%*@?|: =-]*", value, re.ASCII) or re.search(r"[][{}(),'\"\\]", value)
        return argument if plain else f"{key}={_quoted(value)}"
    is_list = key.endswith(".weights") and re.fullmatch(r"\[.*\]", value, re.DOTALL)
    if value == "null" or is_list or re.fullmatch(r"'[^']*'|\"[^\"]*\"", value):
        return argument
    return f"{key}={','.join(map(_quoted, value.split(',') if sweep else [value]))}"


def _quoted(text: str) -> str:
    """A text that neither Hydra nor OmegaConf, whose interpolations begin with `${`, changes."""
    escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    return QuotedString(escaped, Quote.single).with_quotes()


def explain(error: HydraException | OmegaConfBaseException) -> str:
    """What is wrong with the command line, in one line, without Hydra's advice: `+key` would be refused too."""
    cause = error.__cause__
    if isinstance(error, OverrideParseException):
        quotes = "; quote a value with signs of its own: \"key='a (b)'\", a list is 'key=[a,b]'"
        return f"expected key=value, got {error.override!r}{quotes if '=' in error.override else ''}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        choices = error.options or _choices(group, str(error))
        return not_among(group or "config", choices, name)
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) and isinstance(cause.parent_node, DictConfig):
        return unknown_key(str(cause.full_key), cause.parent_node)
    lines = [line for line in f"{error}\n{cause or ''}".splitlines() if line and not line.startswith("To append")]
    return "; ".join(line.strip().rstrip(".") for line in lines[:2])


def _choices(group: str, message: str) -> list[str]:
    """The choices of a group in the folders that a message of Hydra's lists; it names none for a list, `group=[a]`."""
    folders = [Path(folder) / group for folder in re.findall(r"path=file://(.*)", message)]
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})


def unknown_key(full_key: str, known: Iterable) -> str:
    """What is said of a key that a configuration does not have; `known` are those beside it."""
    keys, (group, _, key) = [str(key) for key in known if key != "hydra"], full_key.rpartition(".")
    named = f", as named by '{group}=[…]'" if group in _GROUPS else ""
    beside = f"; the keys are {', '.join(keys)}{named}" if keys else ""
    return f"unknown key {full_key}{beside}{did_you_mean(key, keys)}"
