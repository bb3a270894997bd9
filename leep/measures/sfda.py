"""SFDA: Fisher's discriminant on features that are made harder to tell apart first (Shao et al., 2022)."""

from __future__ import annotations

import numpy as np

from leep.measures._classes import encode
from leep.measures._discriminant import log_posterior
from leep.measures._features import centre, check_features
from leep.measures._span import class_means, few_threads, in_span


def sfda_score(
    features: np.ndarray, target_labels: np.ndarray, *, shrinkage: float | None = None, log: bool = False
) -> float:
    """Return the mean probability of the own class, by self-challenging Fisher discriminant analysis.

    Parameters
    ----------
    features : float array `(n, n_features)`
        Finite. The score does not change under a rotation or a shift. It depends on their scale, through the shrinkage.
    target_labels : int array `(n,)`
        Non-negative; gaps are allowed.
    shrinkage : float in (0, 1], optional
        Of the covariance within classes towards a multiple of the identity. By default exp(−5 λ) with its largest
        eigenvalue λ, at least 1e-10.
    log : bool
        Return the mean log-probability, nats. The paper defines the score by it, the authors' code leaves it out.

    Returns
    -------
    float
        In (0, 1], or ≤ 0 with `log`; higher is more transferable; 1, or 0, for a single class.

    Raises
    ------
    ValueError
        If a shape, dtype or value is not as above, or there are no examples.

    Notes
    -----
    A first discriminant gives each example the probability of its own class. A softmax over the probabilities softens
    them to p. The example moves to p x + (1 − p) m, where m is the mean of the other classes' means: what is told apart
    with confidence stays where it is. A second discriminant, with the first one's shrinkage, scores the moved examples.

    SFDA assumes that the classes are Gaussian with a common covariance. It is tested on its own training examples:
    where n ≤ n_features and λ > 4.6 almost any features tell the classes apart, and the score is near 1.

    The authors find λ by three steps of a power iteration that starts at S · 1, which is 0 for features with the same
    sum in each row, probabilities for instance. Here λ is exact. No other step differs.

    References
    ----------
    Shao et al., "Not All Models Are Equal: Predicting Model Transferability in a Self-challenging Fisher Space", 2022.

    Examples
    --------
    >>> features = [[0.0], [2.0], [2.0], [4.0]]
    >>> round(sfda_score(features, [0, 0, 1, 1]), 6), round(sfda_score(features, [0, 1, 1, 0]), 6)
    (0.568647, 0.5)
    """
    features, labels = check_features(features, target_labels)
    if shrinkage is not None and not 0 < shrinkage <= 1:
        raise ValueError(f"shrinkage must be above 0 and at most 1, got {shrinkage}")
    (n, d), (classes, codes) = features.shape, encode(labels)
    n_classes, counts = len(classes), np.bincount(codes)
    if n_classes == 1:
        return 0.0 if log else 1.0
    own = np.arange(n), codes
    with few_threads(features):
        x, scale = centre(features)
        x = in_span(x)
        log_probs, shrinkage = log_posterior(x, codes, counts, shrinkage, d, scale)
        softened = np.exp(np.exp(log_probs))
        confidence = (softened[own] / softened.sum(axis=1))[:, None]
        means = class_means(x, codes, counts)
        others = (means.sum(axis=0) - means) / (n_classes - 1)
        x = confidence * x + (1 - confidence) * others[codes]
        log_probs, _ = log_posterior(x, codes, counts, shrinkage, d, scale)
    return float(log_probs[own].mean() if log else np.exp(log_probs[own]).mean())


score = sfda_score
