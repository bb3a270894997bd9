"""N-LEEP: LEEP with a mixture of Gaussians on the features in place of the source classes (Li et al., 2021)."""

from __future__ import annotations

import numpy as np

from leep.measures._classes import add_rows_by_class, encode
from leep.measures._features import centre, check_features
from leep.measures._softmax import rotate
from leep.measures._span import few_threads
from leep.measures.leep import leep_score

MAX_EXAMPLES = 5000
FLOOR = 1e-6  # added to the variances, over their mean
TOLERANCE = 1e-3  # of the mean log-likelihood, nats
MAX_STEPS = 100
AT_ONCE = 1 << 24  # entries of a block: 0.1 GB


def nleep_score(
    features: np.ndarray,
    target_labels: np.ndarray,
    *,
    gaussians_per_class: int = 5,
    kept_variance: float = 0.8,
    max_examples: int = MAX_EXAMPLES,
    seed: int = 0,
) -> float:
    """Return the LEEP of the examples' probabilities under a mixture of Gaussians.

    The principal components of all examples that hold 80 % of the variance are kept. A mixture of 5 · n_classes
    Gaussians with full covariances is fitted to them, without labels, by EM from a k-means clustering. The probability
    of each Gaussian given an example takes the place of the source model's prediction.

    Parameters
    ----------
    features : float array `(n, n_features)`
        Finite. The score does not change under a rotation, a shift or a scale.
    target_labels : int array `(n,)`
        Non-negative; gaps are allowed.
    gaussians_per_class : int, at least 1
        No more Gaussians than examples are fitted.
    kept_variance : float in (0, 1]
    max_examples : int
        More examples are subsampled at random: 50,000 examples and 500 Gaussians would take minutes.
    seed : int
        Of the start of k-means and of the subsample.

    Returns
    -------
    float
        Nats, −H(Y) ≤ N-LEEP ≤ 0; higher is more transferable; 0 for a single class.

    Raises
    ------
    ValueError
        If a shape, dtype or value is not as above, or there are no examples.

    Notes
    -----
    EM finds a local optimum that depends on its start. On 250 examples of 5 classes, normal in 512 dimensions with
    means that differ by 0.4 in each, the standard deviation of the score over seeds is 0.08 nats, about a mean of
    −0.18. The same examples and seed give the same score, in any order if there are not more than `max_examples`.

    Where a class has ten examples in more than ten dimensions, each Gaussian's covariance is singular but for a floor
    of 1e-6 of the mean variance, and the probabilities are 0 and 1: the score is that of the clustering.

    A public implementation of the measure leaves out the logarithm.

    References
    ----------
    Li et al., "Ranking Neural Checkpoints", 2021, Section 3.3.

    Examples
    --------
    >>> features = np.array([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]])
    >>> nleep_score(features, [0, 0, 0, 1, 1, 1], gaussians_per_class=1)
    0.0
    >>> round(nleep_score(features, [0, 1, 0, 1, 0, 1], gaussians_per_class=1), 6)
    -0.636514
    """
    features, labels = check_features(features, target_labels)
    for name, value in (("gaussians_per_class", gaussians_per_class), ("max_examples", max_examples)):
        if not 1 <= value < np.inf:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not 0 < kept_variance <= 1:
        raise ValueError(f"kept_variance must lie in (0, 1], got {kept_variance}")
    rng = np.random.default_rng(seed)
    if len(labels) > max_examples:
        rows = np.sort(rng.choice(len(labels), max_examples, replace=False))
        features, labels = features[rows], labels[rows]
    n_classes = len(encode(labels)[0])
    if n_classes == 1:
        return 0.0
    with few_threads(features):
        x, _ = centre(features)
        z = principal_components(x, kept_variance)
        order = np.lexsort(z.T)  # so that the examples' order does not matter
        probs = mixture_probs(z[order], min(gaussians_per_class * n_classes, len(z)), rng)
    return leep_score(probs, labels[order])


def principal_components(x: np.ndarray, kept_variance: float) -> np.ndarray:
    """The fewest principal components that hold a share of the variance, largest last, with a mean variance of 1.

    Their signs are those of a positive skewness. x is centred. Where it does not vary there is one component, 0.
    """
    z, _, squares = rotate(x)
    if len(squares) == 0:
        return np.zeros((len(x), 1))
    shares = np.cumsum(squares[::-1]) / squares.sum()
    n_kept = min(int(np.searchsorted(shares, kept_variance * (1 - 1e-12))) + 1, len(squares))
    z = z[:, -n_kept:]
    z = z / np.sqrt(np.square(z).sum() / z.size)
    return np.ascontiguousarray(z * np.where((z**3).sum(axis=0) < 0, -1.0, 1.0))


def mixture_probs(x: np.ndarray, n_gaussians: int, rng: np.random.Generator) -> np.ndarray:
    """p(Gaussian | example) of a mixture fitted to the examples, float64 `(n, n_gaussians)`."""
    n, d = x.shape
    probs = np.zeros((n, n_gaussians))
    probs[np.arange(n), cluster(x, n_gaussians, rng)] = 1.0
    upper = np.triu_indices(d)
    size = max(1, AT_ONCE // (len(upper[0]) + d + 1))
    blocks = [slice(start, start + size) for start in range(0, n, size)]

    def products(rows: slice) -> np.ndarray:
        part = x[rows]
        return np.concatenate([part[:, upper[0]] * part[:, upper[1]], part, np.ones((len(part), 1))], axis=1)

    moments = sum(probs[rows].T @ products(rows) for rows in blocks)
    last = -np.inf
    for _ in range(MAX_STEPS):
        moments = moments[moments[:, -1] > 1e-10]  # a Gaussian may lose its examples
        coefficients = _coefficients(moments, d, upper, n)
        probs, moments, likelihood = np.empty((n, len(moments))), np.zeros_like(moments), 0.0
        for rows in blocks:
            terms = products(rows)
            log_joint = terms @ coefficients.T
            peak = log_joint.max(axis=1, keepdims=True)
            own = np.exp(log_joint - peak)
            totals = own.sum(axis=1, keepdims=True)
            probs[rows] = own / totals
            moments += probs[rows].T @ terms
            likelihood += float((peak + np.log(totals)).sum()) / n
        if abs(likelihood - last) < TOLERANCE:
            break
        last = likelihood
    return probs / probs.sum(axis=1, keepdims=True)


def _coefficients(moments: np.ndarray, d: int, upper: tuple[np.ndarray, np.ndarray], n: int) -> np.ndarray:
    """log πₖ N(x; μₖ, Σₖ) as a linear function of `products`, from the sums of these weighted by probabilities."""
    together = max(1, AT_ONCE // d**2)
    if len(moments) > together:
        parts = [moments[k : k + together] for k in range(0, len(moments), together)]
        return np.concatenate([_coefficients(part, d, upper, n) for part in parts])
    masses = moments[:, -1]
    means = moments[:, -1 - d : -1] / masses[:, None]
    covariances = np.empty((len(masses), d, d))
    covariances[:, upper[0], upper[1]] = covariances[:, upper[1], upper[0]] = moments[:, : -1 - d] / masses[:, None]
    covariances -= means[:, :, None] * means[:, None, :]
    covariances[:, np.arange(d), np.arange(d)] += FLOOR
    values, vectors = np.linalg.eigh(covariances)
    values = np.maximum(values, FLOOR)  # rounding may lower them
    precisions = (vectors / values[:, None, :]) @ vectors.transpose(0, 2, 1)
    linear = (precisions @ means[:, :, None])[:, :, 0]
    constant = np.log(masses / n) - 0.5 * (np.log(values).sum(axis=1) + (linear * means).sum(axis=1))
    quadratic = precisions[:, upper[0], upper[1]] * np.where(upper[0] == upper[1], -0.5, -1.0)
    return np.concatenate([quadratic, linear, constant[:, None]], axis=1)


def cluster(x: np.ndarray, n_clusters: int, rng: np.random.Generator) -> np.ndarray:
    """The cluster of each example by k-means from a k-means++ start, int64 `(n,)`; some clusters may be empty."""
    n = len(x)
    chosen = [int(rng.integers(n))]
    nearest = np.square(x - x[chosen[0]]).sum(axis=1)
    for _ in range(1, n_clusters):
        total = nearest.cumsum()
        if not total[-1] > 0:  # no more distinct examples
            break
        chosen.append(min(int(np.searchsorted(total, rng.random() * total[-1], side="right")), n - 1))
        np.minimum(nearest, np.square(x - x[chosen[-1]]).sum(axis=1), out=nearest)
    centres, labels = x[chosen], np.full(n, -1)
    for _ in range(MAX_STEPS):
        new = (0.5 * np.square(centres).sum(axis=1) - x @ centres.T).argmin(axis=1)
        if np.array_equal(new, labels):
            break
        labels = new
        counts, sums = np.bincount(labels, minlength=len(centres)), np.zeros_like(centres)
        add_rows_by_class(x, labels, sums)
        kept = counts > 0
        centres = sums[kept] / counts[kept, None]
        labels = (np.cumsum(kept) - 1)[labels]
    return labels


score = nleep_score
