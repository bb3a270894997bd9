"""What is correlated with accuracies, and how it is called: measures are those that were run, whatever their names."""

from __future__ import annotations

from collections.abc import Iterable

from leep.measures import MEASURES
from leep.plugins import is_outside

PAPER_MEASURES = ("leep", "nce", "h_score")
TRIVIAL = ("minus_log_n_classes", "n_examples")  # look at no image
_LABELS = {
    "leep": "LEEP",
    "nce": "NCE",
    "h_score": "H score",
    "logme": "LogME",
    "h_score_shrunk": "Shrunk H score",
    "transrate": "TransRate",
    "lfc": "LFC",
    "gbc": "GBC",
    "parc": "PARC",
    "nleep": "N-LEEP",
    "sfda": "SFDA",
    "etran": "ETran",
    "pactran": "PACTran-Gaussian",
    "pactran_dirichlet": "PACTran-Dirichlet",
    "pactran_gamma": "PACTran-Gamma",
    "negative_cross_entropy_probe": "Probe (log-likelihood)",
    "minus_log_n_classes": "−log(classes)",
    "n_examples": "Examples",
    "imagenet_top1": "ImageNet top-1",
}


def label(predictor: str) -> str:
    """How a predictor is called in tables and figures: by its own name if it is not one of the paper's."""
    return _LABELS.get(predictor, predictor)


def of_table1(measures: Iterable[str]) -> list[str]:
    """Those of Table 1: the paper's measures, and those from outside the package; all stand in the extended table."""
    return ordered(measure for measure in measures if is_outside(measure) or measure not in MEASURES)


def ordered(measures: Iterable[str]) -> list[str]:
    """The paper's measures, then what else there is among `measures`, by name."""
    return [*PAPER_MEASURES, *sorted({*measures} - {*PAPER_MEASURES})]
