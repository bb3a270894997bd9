"""PACTran-Gamma: a PAC-Bayesian bound of an unnormalised P(y|z) with a Gamma prior (Ding et al., 2022)."""

from __future__ import annotations

import numpy as np

from leep.measures._source_mixture import SourceMixture, check_prior


def pactran_gamma_score(
    source_probs: np.ndarray, target_labels: np.ndarray, *, prior: float = 1.0, steps: int = 10
) -> float:
    """Return a lower bound of the log evidence of the labels, per example.

    The label y has the probability Σ_z θ(x)_z w(y, z), divided by its sum over y. The weights w(y, z) have a Gamma
    prior, and a Gamma posterior of the same rate, 1.

    Parameters
    ----------
    source_probs : float array `(n, n_source_classes)`
        θ(x), as in `leep_score`.
    target_labels : int array `(n,)`
        Non-negative; gaps are allowed.
    prior : float above 0
        Sum of the prior's shapes over the classes, among which it is divided as the labels are. The authors' is 1.
    steps : int, at least 1
        Of the alternation between the posterior of w and that of z. It starts at θ(x). The authors take 10.

    Returns
    -------
    float
        Nats, PACTran-Gamma ≤ 0, up to the rounding of the rows; higher is more transferable.

    Raises
    ------
    ValueError
        If a shape, dtype, value or option is not as above, or there are no examples.

    Notes
    -----
    With q(z|x, y), the posteriors' shapes a = a₀ + Σ q and λ(x) = Σ_z θ(x)_z Σ_y a(y, z) the bound is
    Σ [log Γ(a) − log Γ(a₀)] − Σ KL(q ‖ θ(x)) − Σ log λ(x), divided by n. Unlike `pactran_dirichlet` it is below 0 for a
    single class too, and a step may lower it, because the posterior's rate stays the prior's, as in the authors' code.
    This code divides by n · n_classes and adds 1 − 1 / n_classes to the bound's negative, which makes tasks with
    different numbers of classes incomparable. It takes a from the step before q: the two agree once the steps converge.
    It adds 1e-10 to θ and a₀.

    References
    ----------
    Ding et al., "PACTran: PAC-Bayesian Metrics for Estimating the Transferability of Pretrained Models to
    Classification Tasks", 2022.

    Examples
    --------
    Shapes 1/2 for each weight before, 5/2 and 1/2 after, λ = 3: log(Γ(5/2) / Γ(1/2)) = log(3/4) for each source class.

    >>> source_probs = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    >>> round(pactran_gamma_score(source_probs, [0, 0, 1, 1]), 6), round(2 * np.log(3 / 4) / 4 - np.log(3), 6)
    (-1.242453, -1.242453)
    """
    from scipy.special import digamma, gammaln

    check_prior(prior, steps)
    mixture = SourceMixture(source_probs, target_labels)
    before, sums = prior * mixture.shares, mixture.sums
    for _ in range(steps):
        sums, divergence = mixture.respond(digamma(before + sums))
    after = before + sums
    evidence = (gammaln(after) - gammaln(before)).sum() - np.log(mixture.dot(after.sum(axis=0))).sum()
    return float(evidence - divergence) / len(mixture)


score = pactran_gamma_score
