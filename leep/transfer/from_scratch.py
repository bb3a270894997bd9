"""Reference models: the source model's architecture, trained on the target task alone (Section 5.5)."""

from __future__ import annotations

import numpy as np

from leep.engines.graph import get_weights
from leep.sources.zoo import build


def initial_weights(model: str, n_classes: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Fresh weights of a network of the zoo, Xavier uniform, by structural name.

    References
    ----------
    Nguyen et al., ICML 2020, Section 5.5.
    """
    return get_weights(build(model, n_classes, np.random.SeedSequence(int(rng.integers(2**63)))))
