"""TransRate: the coding rate of the features that the target classes save."""

from __future__ import annotations

import numpy as np

from leep.measures._blas import one_thread
from leep.measures._classes import encode, group_by_class
from leep.measures._features import centre, check_features, smaller_gram

LARGE = 1e-6  # eigenvalues whose rounding is larger than this are cut where they are rounding


def transrate_score(
    features: np.ndarray, target_labels: np.ndarray, *, eps: float = 1e-4, unit_rows: bool = False
) -> float:
    """Return R(Z) − Σ n_y/n R(Z_y), with R(Z) = ½ log det(I + Zᵀ Z / (n eps)) of the centred features Z.

    Parameters
    ----------
    features : float array `(n, n_features)`
        Finite. They are centred by the mean of all examples, which Z_y keeps. The score does not change if they are
        shifted or rotated. It depends on their scale: to double them is to divide eps by 4.
    target_labels : int array `(n,)`
        Non-negative; gaps are allowed.
    eps : float
        The distortion, squared and per feature. Positive; 1e-4 in the paper's listing. The authors' experiments
        take values of 1e-5 to 0.1, another one for each set of models.
    unit_rows : bool
        Whether the centred rows are divided by their lengths, as in the authors' experiments with all features but not
        in the paper's listing. A row of length 0 stays.

    Returns
    -------
    float
        Nats, 0 ≤ TransRate ≤ R(Z), up to rounding; higher is more transferable; 0 for a single class.

    Raises
    ------
    ValueError
        If a shape, dtype or value is not as above, there are no examples, or the features are so large or eps is so
        small that squares divided by n eps are beyond float64.

    Notes
    -----
    The paper's listing and public code average the classes' rates with equal weights, unlike the paper's formula and
    the authors' own experiments. The two are the same for classes of one size. The listing gives NaN for labels that
    do not occur. The authors' experiments also divide by the rank of Z, and most of them project Z onto the directions
    between class means; the listing does neither.

    What it assumes: classes that are Gaussians about the origin of Z. Where n is below n_features it grows with the
    norms of the features, so that networks of different scales are hardly comparable without `unit_rows`.

    References
    ----------
    Huang et al., 2022, Frustratingly easy transferability estimation: the coding rate and the listing of TransRate.

    Examples
    --------
    R = ½ log 6. The first two classes have ½ log 10 and ½ log 2, the others ½ log 6 each, on either side of the mean.

    >>> round(transrate_score([[0.0], [2.0], [4.0], [6.0]], [0, 1, 1, 0], eps=1.0), 6)
    0.146947
    >>> round(transrate_score([[0.0], [2.0], [4.0], [6.0]], [0, 0, 1, 1], eps=1.0), 6)
    0.0
    """
    if not 0 < eps < np.inf:
        raise ValueError(f"eps must be positive and finite, got {eps!r}")
    features, labels = check_features(features, target_labels)
    classes, codes = encode(labels)
    if len(classes) == 1:
        return 0.0
    z, scale = centre(features)
    if unit_rows:
        lengths = np.sqrt(np.einsum("ij,ij->i", z, z))
        z /= np.where(lengths > 0, lengths, 1.0)[:, None]
        scale = 1.0
    inverse = scale * scale / eps
    if not np.isfinite(inverse * z.size):
        raise ValueError(f"features of this size, {scale:g}, need a larger eps, got {eps!r}")
    groups = group_by_class(codes)
    n, d = z.shape
    gram = smaller_gram(z) if n <= d else np.zeros((d, d))
    within = 0.0
    with one_thread():
        for k, count in enumerate(groups.counts):
            rows = groups.rows(k)
            if n <= d:
                own = gram[np.ix_(rows, rows)]
            else:
                part = z[rows]
                own = part.T @ part
                gram += own
                own = own if count > d else part @ part.T
            within += count * _rate(own, count, inverse)
        return float(_rate(gram, n, inverse) - within / n)


def _rate(gram: np.ndarray, n: int, inverse: float) -> float:
    """½ log det(I + gram · inverse / n), of Zᵀ Z or Z Zᵀ."""
    from scipy.linalg import lapack

    matrix = gram * (inverse / n)
    noise = len(matrix) * np.finfo(np.float64).eps * matrix.trace()  # of its eigenvalues
    if noise < LARGE:
        matrix.flat[:: len(matrix) + 1] += 1.0
        factor, failed = lapack.dpotrf(matrix, lower=1, clean=0)
        if not failed:
            return float(np.log(factor.diagonal()).sum())
    values = np.linalg.eigvalsh(gram * (inverse / n))
    return float(0.5 * np.log1p(values[values > noise]).sum())


score = transrate_score
