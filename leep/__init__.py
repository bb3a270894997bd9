"""Transferability of pre-trained classifiers: LEEP, NCE and H score, and the experiments that compare them."""

from leep.measures.h_score import h_score
from leep.measures.leep import leep_score
from leep.measures.nce import nce_score

__version__ = "0.1.0"
__all__ = ["h_score", "leep_score", "nce_score"]
