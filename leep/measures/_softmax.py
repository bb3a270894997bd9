"""Multinomial logistic regression with L2, for PACTran and the probe."""

from __future__ import annotations

import numpy as np


def rotate(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centred rows in their principal axes.

    Returns
    -------
    z : float64 array `(n, rank)`
        Its columns are orthogonal.
    axes : float64 array `(n_features, rank)`
        z = x axes.
    squares : float64 array `(rank,)`
        The columns' squared norms, ascending.
    """
    n, d = x.shape
    squares, vectors = np.linalg.eigh(x.T @ x if n > d else x @ x.T)
    kept = squares > max(n, d) * np.finfo(np.float64).eps * squares.max(initial=0.0)
    squares, vectors = squares[kept], vectors[:, kept]
    if n > d:
        return x @ vectors, vectors, squares
    return vectors * np.sqrt(squares), x.T @ (vectors / np.sqrt(squares)), squares


def fit(
    z: np.ndarray, squares: np.ndarray, codes: np.ndarray, n_classes: int, penalty: float, tolerance: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """The minimum of Σᵢ −log softmax(zᵢ W + b)_yᵢ + penalty / 2 · ‖W‖², by L-BFGS.

    Parameters
    ----------
    z, squares
        As `rotate` gives them.
    codes : int64 array `(n,)`
        yᵢ, 0 … n_classes − 1, all of which occur.
    n_classes : int
    penalty : float above 0
    tolerance : float above 0
        Of the scaled gradient, per √n.

    Returns
    -------
    W, b : float64 arrays `(rank, n_classes)` and `(n_classes,)`
    minimum : float

    Notes
    -----
    Each axis is scaled by the curvature there when each p (1 − p) is 1 / (4 n_classes): fewer steps are needed.
    """
    small = tolerance * np.sqrt(len(z))
    weight, bias, minimum, steepest = descend(z, squares, codes, n_classes, penalty, small)
    if not steepest <= 1000 * small:
        raise RuntimeError(f"the regression must converge, got a gradient of {steepest:g}")
    return weight, bias, minimum


def descend(
    z: np.ndarray,
    squares: np.ndarray,
    codes: np.ndarray,
    n_classes: int,
    penalty: float,
    small: float,
    start: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """L-BFGS for the minimum of `fit`, until the largest entry of the scaled gradient is at most `small`.

    `start` is W and b to begin with, zeros if None.

    Returns
    -------
    W, b, minimum
        As `fit`.
    steepest : float
        The largest entry of the scaled gradient there; the caller says what it accepts.
    """
    from scipy.optimize import minimize  # slow to import

    n, rank = z.shape
    curvature = 1 / (4 * n_classes)
    scale = 1 / np.sqrt(np.append(curvature * squares + penalty, curvature * n))[:, None]
    shrink = np.append(np.full(rank, penalty), 0.0)[:, None]
    own = np.arange(n), codes

    def objective(scaled: np.ndarray) -> tuple[float, np.ndarray]:
        head = scaled.reshape(rank + 1, n_classes) * scale
        logits = z @ head[:-1]
        logits += head[-1]
        logits -= logits.max(axis=1, keepdims=True)
        likelihood = logits[own].sum()
        probs = np.exp(logits, out=logits)
        totals = probs.sum(axis=1)
        likelihood -= np.log(totals).sum()
        probs /= totals[:, None]
        probs[own] -= 1
        gradient = shrink * head
        value = 0.5 * float((gradient * head).sum()) - likelihood
        gradient[:-1] += z.T @ probs
        gradient[-1] += probs.sum(axis=0)
        gradient *= scale
        return value, gradient.ravel()

    first = np.zeros((rank + 1, n_classes)) if start is None else np.vstack(start) / scale
    options = {"gtol": small, "ftol": 0.0, "maxiter": 20_000, "maxfun": 40_000}
    found = minimize(objective, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    head = found.x.reshape(rank + 1, n_classes) * scale
    return head[:-1], head[-1], float(found.fun), float(np.abs(found.jac).max())
