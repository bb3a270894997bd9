"""Fine-tuning: a new head for the target classes, then the whole network is trained (Section 2)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from leep.engines.graph import Graph
from leep.transfer.retrain_head import initial_head
from leep.transfer.training import train_network


def fine_tune(
    trainer,
    source: Mapping[str, np.ndarray],
    images: np.ndarray,
    rows: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
    **options,
) -> list[tuple[int, float]]:
    """Fine-tune a source model on a target task; the trainer holds the trained weights afterwards.

    Parameters
    ----------
    trainer : GluonTrainer or TorchTrainer
        Of a network of the source's architecture with the target's number of classes.
    source : mapping of str to float32 array
        Weights and running statistics of the source model by structural name.
    images, rows, labels, **options
        As `train_network`.
    rng : numpy.random.Generator
        Source of the new head, then of the orders.

    Returns
    -------
    curve : list of (epoch, test accuracy)

    Raises
    ------
    ValueError, FloatingPointError
        As `train_network`.

    References
    ----------
    Nguyen et al., ICML 2020, Sections 2 and 5.1.
    """
    start = initial_weights(source, trainer.graph, trainer.graph.n_classes, rng)
    return train_network(trainer, start, images, rows, labels, rng, **options)


def initial_weights(
    source: Mapping[str, np.ndarray], graph: Graph, n_classes: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The source model's weights with a new head, the same that head re-training starts from.

    Parameters
    ----------
    source : mapping of str to float32 array
        Weights and running statistics of the source model by structural name.
    graph : Graph
        Of the network; tells which parameters are the head's.
    n_classes : int
        Number of classes of the target task.
    rng : numpy.random.Generator
        Source of the head's weights.

    Returns
    -------
    dict of str to float32 array
    """
    weight, *bias = graph.head
    head = initial_head(n_classes, source[weight].shape[1], rng)
    return {**source, weight: head.weight, **dict.fromkeys(bias, head.bias)}
