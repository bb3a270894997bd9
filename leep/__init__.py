"""Transferability of pre-trained classifiers: LEEP, NCE and H score, and the experiments that compare them."""

from leep.measures.h_score import h_score
from leep.measures.leep import leep_score
from leep.measures.nce import nce_score

__version__ = "0.1.0"
__all__ = ["explain", "h_score", "leep_score", "nce_score", "rank"]


def __getattr__(name: str) -> object:
    """`rank` and `explain` on first use: pandas takes longer to import than all the rest."""
    from importlib import import_module

    modules = {"explain": "leep.explanation", "rank": "leep.ranking"}
    if name not in modules:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(modules[name]), name)
