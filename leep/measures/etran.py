"""ETran: how a discriminant tells the classes apart, and the energy of the features (Gholami et al., 2023)."""

from __future__ import annotations

import numpy as np

from leep.measures._classes import encode
from leep.measures._discriminant import log_posterior
from leep.measures._features import centre, check_features
from leep.measures._span import few_threads, in_span

ENERGY_WEIGHT = 0.15
ENERGY_SHARE = 0.005
ROWS_AT_ONCE = 4096


def etran_score(
    features: np.ndarray,
    target_labels: np.ndarray,
    *,
    energy_weight: float = ENERGY_WEIGHT,
    energy_share: float = ENERGY_SHARE,
) -> float:
    """Return the weighted mean of `classification_score` and `energy_score`.

    Parameters
    ----------
    features : float array `(n, n_features)`
        Finite, as the source model gives them: their scale, sign and offset are the energy.
    target_labels : int array `(n,)`
        Non-negative; gaps are allowed.
    energy_weight : float in [0, 1]
        Of the energy, which has no bounds. The rest is that of the classification, which is at most 1.
    energy_share : float in (0, 1]
        Share of the examples, those of the least log-sum-exp, whose mean the energy is.

    Returns
    -------
    float
        Higher is more transferable. Comparable among tasks of one source model.

    Raises
    ------
    ValueError
        If a shape, dtype or value is not as above, or there are no examples.

    Notes
    -----
    The authors rank source models. They scale either score to 0 … 1 over the models before they weight them, with the
    weights above: `rank_models` does so. One task of one model has nothing to be scaled over, so that the scores here
    are weighted as they are. The energy alone, `energy_weight=1`, uses no labels.

    References
    ----------
    Gholami et al., "ETran: Energy-Based Transferability Estimation", 2023, without the regression score, which is for
    bounding boxes.

    Examples
    --------
    >>> features = [[0.0, 1.0], [0.0, 3.0], [4.0, 1.0], [4.0, 3.0]]
    >>> round(etran_score(features, [0, 0, 1, 1]), 6)
    1.046989
    >>> round(energy_score(features), 6), round(classification_score(features, [0, 0, 1, 1]), 6)
    (1.313262, 1.0)
    """
    if not 0 <= energy_weight <= 1:
        raise ValueError(f"energy_weight must lie in [0, 1], got {energy_weight}")
    classification = classification_score(features, target_labels)
    energy = energy_score(features, energy_share=energy_share)
    return (1 - energy_weight) * classification + energy_weight * energy


def classification_score(features: np.ndarray, target_labels: np.ndarray) -> float:
    """Return the mean probability of the own class by Fisher's linear discriminant, in (0, 1]; 1 for a single class.

    The covariance within classes is shrunk as that of `leep.measures.sfda`, which makes n ≤ n_features possible. The
    score does not change under a rotation or a shift.

    Notes
    -----
    The authors' code asks for the eigenvectors of S⁻¹ B from a function for symmetric matrices. What it gets is a
    rotation, so that S drops out: their score is that of the nearest class mean in the raw features.
    """
    features, labels = check_features(features, target_labels)
    (n, d), (classes, codes) = features.shape, encode(labels)
    if len(classes) == 1:
        return 1.0
    with few_threads(features):
        x, scale = centre(features)
        log_probs, _ = log_posterior(in_span(x), codes, np.bincount(codes), None, d, scale)
    return float(np.exp(log_probs[np.arange(n), codes]).mean())


def energy_score(features: np.ndarray, *, energy_share: float = ENERGY_SHARE) -> float:
    """Return the mean of log Σ_j exp(f_j) over a share of the examples, rounded down, those where it is least.

    At least one example is taken. The authors' code takes none of fewer than 200, and returns NaN.

    Raises
    ------
    ValueError
        If `features` are not a finite matrix, or `energy_share` does not lie in (0, 1].
    """
    features, _ = check_features(features, np.zeros(len(np.atleast_1d(features)), np.int64))
    if not 0 < energy_share <= 1:
        raise ValueError(f"energy_share must lie in (0, 1], got {energy_share}")
    n = len(features)
    energies = np.empty(n)
    for start in range(0, n, ROWS_AT_ONCE):
        x = features[start : start + ROWS_AT_ONCE].astype(np.float64)
        peaks = x.max(axis=1)
        x -= peaks[:, None]
        energies[start : start + ROWS_AT_ONCE] = peaks + np.log(np.exp(x, out=x).sum(axis=1))
    taken = max(1, int(np.floor(np.round(energy_share * n, 9))))
    return float((np.sort(energies)[:taken] / taken).sum())


def rank_models(
    classifications: np.ndarray, energies: np.ndarray, *, energy_weight: float = ENERGY_WEIGHT
) -> np.ndarray:
    """Return ETran of source models for one target task, each score scaled to 0 … 1 over the models as the authors do.

    Parameters
    ----------
    classifications, energies : float arrays `(n_models,)`
        `classification_score` and `energy_score` of each model's features.
    energy_weight : float in [0, 1]

    Returns
    -------
    float64 array `(n_models,)`
        In [0, 1]. A score that is the same for all models counts 0.

    Examples
    --------
    >>> rank_models([0.5, 0.7, 0.9], [3.0, 1.0, 2.0]).round(3).tolist()
    [0.15, 0.425, 0.925]
    """
    if not 0 <= energy_weight <= 1:
        raise ValueError(f"energy_weight must lie in [0, 1], got {energy_weight}")
    scaled = []
    for name, scores in (("classifications", classifications), ("energies", energies)):
        values = np.asarray(scores, np.float64)
        if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
            raise ValueError(f"{name} must be finite, of shape (n_models,), got {values}")
        spread = values.max() - values.min()
        scaled.append((values - values.min()) / spread if spread > 0 else np.zeros(len(values)))
    if len(scaled[0]) != len(scaled[1]):
        raise ValueError(f"classifications and energies must be as many, got {[len(values) for values in scaled]}")
    return (1 - energy_weight) * scaled[0] + energy_weight * scaled[1]


score = etran_score
