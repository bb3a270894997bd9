"""PACTran-Dirichlet: a PAC-Bayesian bound of LEEP's predictor, with a Dirichlet prior of P(y|z) (Ding et al., 2022)."""

from __future__ import annotations

import numpy as np

from leep.measures._source_mixture import SourceMixture, check_prior


def pactran_dirichlet_score(
    source_probs: np.ndarray, target_labels: np.ndarray, *, prior: float = 1.0, steps: int = 10
) -> float:
    """Return a lower bound of the log evidence of the labels, per example.

    An example x has the source class z with probability θ(x)_z, and then the label y with probability P(y|z), as in
    LEEP. LEEP takes P(y|z) from the examples. Here it has a Dirichlet prior and posterior, so that a P(y|z) that many
    source classes and few examples leave uncertain costs something.

    Parameters
    ----------
    source_probs : float array `(n, n_source_classes)`
        θ(x), as in `leep_score`.
    target_labels : int array `(n,)`
        Non-negative; gaps are allowed.
    prior : float above 0
        Mass of the prior of each P(·|z), which is divided among the classes as the labels are. The authors' is 1.
    steps : int, at least 1
        Of the alternation between the posterior of P(y|z) and that of z. It starts at θ(x). The authors take 10.

    Returns
    -------
    float
        Nats, PACTran-Dirichlet ≤ 0, up to the rounding of the rows; higher is more transferable; 0 for a single class.

    Raises
    ------
    ValueError
        If a shape, dtype, value or option is not as above, or there are no examples.

    Notes
    -----
    With q(z|x, y) and the Dirichlet posteriors a = a₀ + Σ q the bound is Σ_z [log B(a_z) − log B(a₀)] − Σ KL(q ‖ θ(x)),
    divided by n. The authors' code divides by n · n_classes, which makes tasks with different numbers of classes
    incomparable. It takes a from the step before q: the two agree once the steps converge. It adds 1e-10 to θ and a₀.

    References
    ----------
    Ding et al., "PACTran: PAC-Bayesian Metrics for Estimating the Transferability of Pretrained Models to
    Classification Tasks", 2022.

    Examples
    --------
    The source class is known, so that the evidence is exact: 1/2 · (1 + 1/2)/2 for each source class's two labels.

    >>> source_probs = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    >>> round(pactran_dirichlet_score(source_probs, [0, 0, 1, 1]), 6), round(2 * np.log(3 / 8) / 4, 6)
    (-0.490415, -0.490415)
    """
    from scipy.special import digamma

    check_prior(prior, steps)
    mixture = SourceMixture(source_probs, target_labels)
    before, sums = prior * mixture.shares, mixture.sums
    for _ in range(steps):
        after = before + sums
        sums, divergence = mixture.respond(digamma(after) - digamma(after.sum(axis=0)))
    n_source_classes = sums.shape[1]
    evidence = (_log_beta(before + sums) - _log_beta(np.repeat(before, n_source_classes, axis=1))).sum()
    return float(evidence - divergence) / len(mixture)


def _log_beta(a: np.ndarray) -> np.ndarray:
    from scipy.special import gammaln

    return gammaln(a).sum(axis=0) - gammaln(a.sum(axis=0))


score = pactran_dirichlet_score
