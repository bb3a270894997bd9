"""Reference models: the source model's architecture, trained on the target task alone (Section 5.5)."""

from __future__ import annotations

import numpy as np

from leep.engines.graph import get_weights
from leep.sources.zoo import build
from leep.transfer.training import train_network


def train_from_scratch(
    trainer,
    model: str,
    images: np.ndarray,
    rows: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
    **options,
) -> list[tuple[int, float]]:
    """Train a reference model on a target task; the trainer holds the trained weights afterwards.

    Parameters
    ----------
    trainer : GluonTrainer or TorchTrainer
        Of a network `model` with the target's number of classes.
    model : str
        Name in GluonCV's zoo.
    images, rows, labels, **options
        As `train_network`.
    rng : numpy.random.Generator
        Source of the fresh weights, then of the orders.

    Returns
    -------
    curve : list of (epoch, test accuracy)

    Raises
    ------
    ValueError, FloatingPointError
        As `train_network`; `ValueError` too if the zoo has no such model.

    References
    ----------
    Nguyen et al., ICML 2020, Section 5.5.
    """
    start = initial_weights(model, trainer.graph.n_classes, rng)
    return train_network(trainer, start, images, rows, labels, rng, **options)


def initial_weights(model: str, n_classes: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Fresh weights of a network of the zoo, Xavier uniform, float32 by structural name; `rng` gives the seed."""
    return get_weights(build(model, n_classes, np.random.SeedSequence(int(rng.integers(2**63)))))
