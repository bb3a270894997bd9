"""Examples whose target class is drawn given a source class, and that from θ(x): what PACTran's bounds share."""

from __future__ import annotations

import numpy as np

from leep.measures._blas import one_thread
from leep.measures._classes import Grouping, group_by_class
from leep.measures.leep import empirical_joint

SMALL = 1e-200  # a sum of products that may have lost some by underflow


class SourceMixture:
    """Source probabilities, grouped by target class.

    Attributes
    ----------
    sums : float64 array `(n_classes, n_source_classes)`
        Of the probabilities of each class's examples.
    shares : float64 array `(n_classes, 1)`
        Of the examples.

    Raises
    ------
    ValueError
        As `leep_score`.
    """

    def __init__(self, source_probs: np.ndarray, target_labels: np.ndarray) -> None:
        probs, classes, codes, self.sums = empirical_joint(source_probs, target_labels)
        groups: Grouping = group_by_class(codes)
        self.blocks = [probs[groups.rows(k)].astype(np.float64) for k in range(len(classes))]
        self.shares = groups.counts[:, None] / len(codes)

    def __len__(self) -> int:
        return sum(map(len, self.blocks))

    def respond(self, log_weights: np.ndarray) -> tuple[np.ndarray, float]:
        """Σ q and Σ KL(q ‖ θ(x)) of q(z|x, y) ∝ θ(x)_z exp(log_weights[y, z]).

        Returns
        -------
        sums : float64 array `(n_classes, n_source_classes)`
            Of q over the examples of each class.
        divergence : float
            Nats, of all examples.
        """
        sums, divergence = np.empty_like(log_weights), 0.0
        with one_thread():
            for k, probs in enumerate(self.blocks):
                top = log_weights[k].max()
                weights = np.exp(log_weights[k] - top)
                totals = probs @ weights
                usual = totals > SMALL
                if usual.all():
                    sums[k] = weights * ((1 / totals) @ probs)
                    log_totals = np.log(totals) + top
                else:
                    sums[k], log_totals = _respond_in_logarithms(probs, log_weights[k])
                divergence += float(sums[k] @ log_weights[k] - log_totals.sum())
        return sums, divergence

    def dot(self, values: np.ndarray) -> np.ndarray:
        """Σ_z θ(x)_z values[z] of each example, float64 `(n,)`, class by class."""
        with one_thread():
            return np.concatenate([probs @ values for probs in self.blocks])


def _respond_in_logarithms(probs: np.ndarray, log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(divide="ignore"):
        logits = np.log(probs) + log_weights
    top = logits.max(axis=1, keepdims=True)
    q = np.exp(logits - top)
    totals = q.sum(axis=1, keepdims=True)
    return (q / totals).sum(axis=0), (np.log(totals) + top)[:, 0]


def check_prior(mass: float, steps: int) -> None:
    """Reject a prior's mass that is not positive and finite, and a number of steps below 1."""
    if not 0 < mass < np.inf:
        raise ValueError(f"prior must be positive and finite, got {mass!r}")
    if not isinstance(steps, (int, np.integer)) or steps < 1:
        raise ValueError(f"steps must be an integer of at least 1, got {steps!r}")
