"""Fine-tuning: a new head for the target classes, then the whole network is trained (Section 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from leep.transfer.method import Pair
from leep.transfer.network import NetworkMethod
from leep.transfer.retrain_head import initial_head

if TYPE_CHECKING:
    from leep.engines.graph import Graph


@dataclass(frozen=True)
class FineTune(NetworkMethod):
    """Fine-tune (Section 5.1): SGD on the cross-entropy over all weights, batch norm in training mode."""

    name: ClassVar[str] = "fine_tune"
    label: ClassVar[str] = "Fine-tune"
    style: ClassVar[dict[str, str]] = {"color": "#D55E00", "marker": "^", "hatch": "//"}

    freeze_extractor: bool = False

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.freeze_extractor, bool):
            raise ValueError(f"freeze_extractor must be true or false, got {self.freeze_extractor!r}")

    def trainer_options(self) -> dict:
        """Arguments of the engine's `trainer`."""
        return {**super().trainer_options(), "freeze_extractor": self.freeze_extractor}

    def start_weights(self, pair: Pair) -> Callable:
        """The source model's weights with a new head for each task."""
        from leep.engines.graph import get_weights
        from leep.sources.weights import check_weights
        from leep.sources.zoo import load

        source = get_weights(load(pair.source.model, pair.source.n_classes, check_weights(pair.weights)))
        return lambda graph, rng: initial_weights(source, graph, graph.n_classes, rng)


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
