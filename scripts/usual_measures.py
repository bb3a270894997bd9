"""Measures with the operations of public code, in NumPy, SciPy and scikit-learn: what the package is compared with.

Each takes probabilities or features, and labels 0 … n_classes − 1. They are written for `bench.py`, not for use: where
the formulas divide by zero they do.
"""

from __future__ import annotations

import numpy as np
from scipy import linalg, optimize, special, stats


def leep(probs: np.ndarray, labels: np.ndarray) -> float:
    """TLlib's `ranking` package: a loop over classes, and one over examples."""
    joint = np.zeros((labels.max() + 1, probs.shape[1]))
    for y in range(len(joint)):
        joint[y] = (probs / len(probs))[labels == y].sum(0)
    predicted = probs @ (joint / joint.sum(0)).T
    return float(np.log(np.array([p[y] for p, y in zip(predicted, labels)])).mean())


def nce(dummies: np.ndarray, labels: np.ndarray) -> float:
    """TLlib's: a loop over examples."""
    joint = np.zeros((labels.max() + 1, dummies.max() + 1))
    for z, y in zip(dummies, labels):
        joint[int(y), int(z)] += 1 / len(labels)
    of_dummy = joint.sum(0)
    given = (joint[:, of_dummy > 0] / of_dummy[of_dummy > 0]).T + 1e-20
    return float(((given * np.log(given)).sum(1) * of_dummy[of_dummy > 0]).sum())


def class_means(x: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of each class."""
    return np.stack([x[labels == y].mean(0) for y in range(labels.max() + 1)])


def h_score(x: np.ndarray, labels: np.ndarray) -> float:
    """TLlib's: two covariances and a pseudo-inverse."""
    between = np.cov(class_means(x, labels)[labels], rowvar=False)
    return float(np.trace(np.linalg.pinv(np.cov(x, rowvar=False), rcond=1e-15) @ between))


def h_score_shrunk(x: np.ndarray, labels: np.ndarray) -> float:
    """The authors': scikit-learn's Ledoit-Wolf covariance and a pseudo-inverse."""
    from sklearn.covariance import LedoitWolf

    x = x - x.mean(0)
    fitted = LedoitWolf().fit(x)
    between = (1 - fitted.shrinkage_) * np.cov(class_means(x, labels)[labels], rowvar=False)
    return float(np.trace(np.linalg.pinv(fitted.covariance_, rcond=1e-15) @ between))


def lfc(x: np.ndarray, labels: np.ndarray) -> float:
    """The n × n matrices, centred, and their spectral norms."""
    products, same = x @ x.T, np.where(labels[:, None] == labels, 1.0, -1.0)
    products, same = products - products.mean(), same - same.mean()
    return float((products * same).sum() / np.linalg.norm(products, 2) / np.linalg.norm(same, 2))


def transrate(x: np.ndarray, labels: np.ndarray) -> float:
    """The paper's listing: a determinant of d × d for each class."""

    def rate(z: np.ndarray) -> float:
        return 0.5 * np.linalg.slogdet(np.eye(z.shape[1]) + z.T @ z / (len(z) * 1e-4))[1]

    x = x - x.mean(0)
    return float(rate(x) - sum(rate(x[labels == y]) for y in range(labels.max() + 1)) / (labels.max() + 1))


def gbc(x: np.ndarray, labels: np.ndarray) -> float:
    """scikit-learn's exact principal components and a loop over pairs of classes."""
    from sklearn.decomposition import PCA

    x = PCA(64, svd_solver="full").fit_transform(x)
    means = class_means(x, labels)
    variances = [np.maximum(x[labels == y].var(0), 1e-4).mean() for y in range(len(means))]
    total = 0.0
    for a, b in ((a, b) for a in range(len(means)) for b in range(len(means)) if a != b):
        average = (variances[a] + variances[b]) / 2
        distance = ((means[a] - means[b]) ** 2 / average).sum() / 8
        total -= np.exp(-distance - 0.5 * np.log(average / np.sqrt(variances[a] * variances[b])))
    return float(total)


def parc(x: np.ndarray, labels: np.ndarray) -> float:
    """The authors': two matrices of correlations and SciPy's `spearmanr`."""
    from sklearn.preprocessing import StandardScaler

    upper = np.triu_indices(len(x), 1)
    of_features = 1 - np.corrcoef(StandardScaler().fit_transform(x))
    return float(stats.spearmanr(of_features[upper], (1 - np.corrcoef(np.eye(labels.max() + 1)[labels]))[upper])[0])


def logme(x: np.ndarray, labels: np.ndarray) -> float:
    """The authors' fixed point of 2022 on a singular value decomposition."""
    n, d = x.shape
    u, s, _ = np.linalg.svd(x, full_matrices=False)
    sigma, evidences = s**2, []
    for y in range(labels.max() + 1):
        own = (labels == y).astype(float)
        squares = (u.T @ own) ** 2
        rest, alpha, beta = own @ own - squares.sum(), 1.0, 1.0
        for _ in range(11):
            t = alpha / beta
            gamma = (sigma / (sigma + t)).sum()
            weights = (sigma * squares / (t + sigma) ** 2).sum()
            residual = (squares / (1 + sigma / t) ** 2).sum() + rest
            alpha, beta = gamma / (weights + 1e-5), (n - gamma) / (residual + 1e-5)
            if abs(alpha / beta - t) / t <= 1e-3:
                break
        evidence = d / 2 * np.log(alpha) + n / 2 * np.log(beta) - 0.5 * np.log(alpha + beta * sigma).sum()
        evidences.append((evidence - beta / 2 * residual - alpha / 2 * weights) / n - 0.5 * np.log(2 * np.pi))
    return float(np.mean(evidences))


def nleep(x: np.ndarray, labels: np.ndarray) -> float:
    """scikit-learn's principal components and mixture of Gaussians."""
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture

    x = PCA(0.8, svd_solver="full").fit_transform(x)
    return leep(GaussianMixture(5 * (labels.max() + 1), random_state=0).fit(x).predict_proba(x), labels)


def _fisher(x: np.ndarray, labels: np.ndarray, shrinkage: float | None) -> tuple[np.ndarray, float]:
    """Probabilities of classes by all generalised eigenvectors of d × d covariances."""
    means, shares = class_means(x, labels), np.bincount(labels) / len(labels)
    within = sum(share * np.cov(x[labels == y].T, bias=True) for y, share in enumerate(shares))
    if shrinkage is None:
        vector = within.sum(1)
        for _ in range(6):
            vector = within @ vector
            vector /= np.linalg.norm(vector)
        shrinkage = max(float(np.exp(-5 * vector @ within @ vector)), 1e-10)

    def shrunk(covariance: np.ndarray) -> np.ndarray:
        return (1 - shrinkage) * covariance + shrinkage * np.trace(covariance) / len(covariance) * np.eye(x.shape[1])

    within, total = shrunk(within), shrunk(np.cov(x.T, bias=True))
    vectors = linalg.eigh(total - within, within)[1]
    weights = means @ vectors @ vectors.T
    return special.softmax(x @ weights.T - 0.5 * np.diag(means @ weights.T) + np.log(shares), axis=1), shrinkage


def sfda(x: np.ndarray, labels: np.ndarray) -> float:
    """The authors': two discriminants of d × d."""
    own = np.arange(len(x)), labels
    first, shrinkage = _fisher(x, labels, None)
    confidence = special.softmax(first, axis=1)[own][:, None]
    means = class_means(x, labels)
    others = ((means.sum(0) - means) / (len(means) - 1))[labels]
    return float(_fisher(confidence * x + (1 - confidence) * others, labels, shrinkage)[0][own].mean())


def etran(x: np.ndarray, labels: np.ndarray) -> float:
    """A discriminant of d × d, and the energy."""
    energy = np.sort(special.logsumexp(x, axis=1))[: max(1, len(x) // 200)].mean()
    return float(0.85 * _fisher(x, labels, None)[0][np.arange(len(x)), labels].mean() + 0.15 * energy)


def pactran(x: np.ndarray, labels: np.ndarray) -> float:
    """The authors': 100 steps of SciPy's L-BFGS in all features from a random start."""
    x, truth = x - x.mean(0), np.eye(labels.max() + 1)[labels]
    (n, d), n_classes = x.shape, truth.shape[1]

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        head = theta.reshape(d + 1, n_classes)
        logits = x @ head[:-1] + head[-1]
        value = (special.logsumexp(logits, axis=1) - logits[np.arange(n), labels]).mean()
        residual = (special.softmax(logits, axis=1) - truth) / n
        gradient = np.vstack([x.T @ residual + head[:-1] / n, residual.sum(0)])
        return value + 0.5 * (head[:-1] ** 2).sum() / n, gradient.ravel()

    start = np.append(0.03 * np.random.default_rng(0).normal(size=d * n_classes), np.zeros(n_classes))
    found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", tol=1e-6, options={"maxiter": 100})
    head = found.x.reshape(d + 1, n_classes)
    probs = special.softmax(x @ head[:-1] + head[-1], axis=1)
    spread = probs - probs**2
    hessian = ((x**2).T @ spread + 1 / n).sum() + spread.sum()
    return float(-found.fun - 0.5 * n_classes * 100 / n * np.log(hessian * n / (d * n_classes)))


def _pactran_of_probs(probs: np.ndarray, labels: np.ndarray, dirichlet: bool) -> float:
    """The authors': ten steps, an array of examples × classes × source classes in each."""
    truth = np.eye(labels.max() + 1)[labels]
    before, log_probs, q = truth.mean(0)[:, None] + 1e-10, np.log(probs + 1e-10), probs
    for _ in range(10):
        after = before + np.einsum("BY,BZ->BYZ", truth, q).sum(0)
        logits = log_probs + truth @ special.digamma(after) - dirichlet * special.digamma(after.sum(0))
        log_q = logits - special.logsumexp(logits, axis=1, keepdims=True)
        q = np.exp(log_q)
    bound = (special.gammaln(after) - special.gammaln(before)).sum() - (q * (log_q - log_probs)).sum()
    rest = special.gammaln(after.sum(0)).sum() if dirichlet else np.log(probs @ after.sum(0)).sum()
    return float(bound - rest) / len(probs)


def pactran_dirichlet(probs: np.ndarray, labels: np.ndarray) -> float:
    """The authors'."""
    return _pactran_of_probs(probs, labels, dirichlet=True)


def pactran_gamma(probs: np.ndarray, labels: np.ndarray) -> float:
    """The authors'."""
    return _pactran_of_probs(probs, labels, dirichlet=False)


def negative_cross_entropy_probe(x: np.ndarray, labels: np.ndarray) -> float:
    """scikit-learn's logistic regression, cross-validated."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probs = cross_val_predict(model, x, labels, cv=5, method="predict_proba")
    return float(np.log(probs[np.arange(len(x)), labels]).mean())
