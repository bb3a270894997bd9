"""PACTran-Gaussian: a PAC-Bayesian bound of the loss of a linear head (Ding et al., 2022)."""

from __future__ import annotations

import numpy as np

from leep.measures._classes import encode
from leep.measures._features import centre, check_features
from leep.measures._softmax import fit, rotate
from leep.measures._span import few_threads

MAX_EXAMPLES = 8000
LARGEST = 1e100  # squares must not overflow
TOLERANCE = 1e-8  # of the gradient: the Hessian errs by as much


def pactran_score(
    features: np.ndarray,
    target_labels: np.ndarray,
    *,
    strength: float = 1.0,
    variance: float = 100.0,
    mean_hessian: bool = False,
    max_examples: int = MAX_EXAMPLES,
    seed: int = 0,
) -> float:
    """Return minus the PAC-Bayesian bound, with Gaussian prior and posterior, of the cross-entropy of a linear head.

    Parameters
    ----------
    features : float array `(n, n_features)`
        Finite. The score does not change under a rotation or a shift. It depends on their scale, through the prior.
    target_labels : int array `(n,)`
        Non-negative; gaps are allowed.
    strength : float above 0
        λ σ² / n, with the prior's variance σ² and the bound's λ. The authors try 10, 1 and 0.1.
    variance : float above 0
        σ² n_features. The authors try 10 and 100 with a strength of 1.
    mean_hessian : bool
        Take the Hessian of the mean loss, which the bound bounds, rather than of the sum, as the authors' code does.
    max_examples : int
        More examples are subsampled at random, as by the authors.
    seed : int
        Of the subsample.

    Returns
    -------
    float
        Nats, higher is more transferable.

    Raises
    ------
    ValueError
        If a shape, dtype or value is not as above, or there are no examples.
    RuntimeError
        If the head does not converge.

    Notes
    -----
    The bound is min [mean cross-entropy + c ‖W‖²] + c · n_classes · variance · log h. c is 1 / (2 · strength · n), and
    h = strength · n · tr(H) / (n_features · n_classes). H is the Hessian's diagonal for W, the prior's included,
    and for the biases. The minimum is computed to convergence. The authors stop L-BFGS after 100 steps from a random
    start, which moves the score by up to 0.03 %.

    The bound has three forms. The Dirichlet and the Gamma form take source probabilities, not features: they are
    measures of their own, `pactran_dirichlet` and `pactran_gamma`.

    References
    ----------
    Ding et al., "PACTran: PAC-Bayesian Metrics for Estimating the Transferability of Pretrained Models to
    Classification Tasks", 2022.

    Examples
    --------
    >>> features = [[0.0], [1.0], [4.0], [5.0]]
    >>> pactran_score(features, [0, 0, 1, 1]) > pactran_score(features, [0, 1, 1, 0])
    True
    """
    features, labels = check_features(features, target_labels)
    for name, value in (("strength", strength), ("variance", variance), ("max_examples", max_examples)):
        if not 0 < value < np.inf:
            raise ValueError(f"{name} must be above 0, got {value}")
    if len(labels) > max_examples:
        rows = np.sort(np.random.default_rng(seed).choice(len(labels), max_examples, replace=False))
        features, labels = features[rows], labels[rows]
    (n, d), (classes, codes) = features.shape, encode(labels)
    n_classes = len(classes)
    with few_threads(features):
        x, scale = centre(features)
        if scale > LARGEST:
            raise ValueError(f"features must differ by at most {LARGEST:g}, got {scale:g}")
        z, _, squares = rotate(x)
        z, squares = z * scale, squares * scale**2
        weights, bias, minimum = fit(z, squares, codes, n_classes, 1 / strength, TOLERANCE)
        logits = z @ weights + bias
        logits -= logits.max(axis=1, keepdims=True)
        probs = np.exp(logits)
        probs /= probs.sum(axis=1, keepdims=True)
        curvature = (probs * (1 - probs)).sum(axis=1)
    hessian = float(curvature @ (1 + np.square(z).sum(axis=1))) / (n if mean_hessian else 1)
    excess = np.log(strength * n * hessian / (d * n_classes) + 1)  # 1 is the prior's
    return -(minimum / n + n_classes * variance / (2 * strength * n) * float(excess))


score = pactran_score
