"""Reference models: the source model's architecture, trained on the target task alone (Section 5.5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from leep.transfer.method import Pair
from leep.transfer.network import NetworkMethod


@dataclass(frozen=True)
class FromScratch(NetworkMethod):
    """Train from scratch (Section 5.5): the source model's architecture from fresh weights."""

    name: ClassVar[str] = "from_scratch"
    label: ClassVar[str] = "From scratch"
    style: ClassVar[dict[str, str]] = {"color": "#999999", "marker": "v", "hatch": "xx"}

    def start_weights(self, pair: Pair) -> Callable:
        """Fresh weights for each task."""
        return lambda graph, rng: initial_weights(pair.source.model, graph.n_classes, rng)


def initial_weights(model: str, n_classes: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Fresh weights of a network of the zoo, Xavier uniform, float32 by structural name; `rng` gives the seed."""
    from leep.engines.graph import get_weights
    from leep.sources.zoo import build

    return get_weights(build(model, n_classes, np.random.SeedSequence(int(rng.integers(2**63)))))
