"""The bootstrap over images, stratified by class, and the measures on its resamples.

A resample is a row of weights: how often it holds each image. A measure with weights is exactly the measure on the
repeated rows, but takes products of matrices in place of a thousand copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from leep.measures import measure_arguments, score_task
from leep.measures._check import check_labels
from leep.measures._classes import Grouping, group_by_class
from leep.measures.h_score import _explained as explained
from leep.measures.h_score import _standardise as standardise
from leep.threads import map_in_threads

ENTRIES = 1 << 24  # of a matrix of weights or of a class's sums, 128 MB
ROWS_AT_ONCE = 4096
FEWEST = 100  # resamples from which an interval is read
H_WORK = 2.5e10  # products of an H score's resamples, about one second of a core; the fewest may cost H_MOST
H_MOST = 1e12
REPEATED_ENTRIES = 5_000_000  # of its arrays, at most: the copies take a second


class NoInterval(Exception):
    """A measure has no bootstrap interval; the message says why."""


def resamples(labels: np.ndarray, n_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Weights of stratified bootstrap resamples, float64 blocks `(≤ n_resamples, n)`.

    Each image is replaced by a random one of its own class. A resample depends on the seed, on its position and on
    which images share a class, but neither on the classes' names nor on the size of the blocks.

    Parameters
    ----------
    labels : int64 array `(n,)`
        Non-negative.
    n_resamples, seed : int
    """
    groups, n = group_by_class(labels), len(labels)
    codes, rng = groups.codes, np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))
    starts, counts = groups.starts[codes], groups.counts[codes]
    at_once = max(1, ENTRIES // n)
    for first in range(0, n_resamples, at_once):
        size = min(at_once, n_resamples - first)
        drawn = np.minimum((rng.random((size, n)) * counts).astype(np.int64), counts - 1)
        rows = groups.order[starts + drawn] + n * np.arange(size)[:, None]
        yield np.bincount(rows.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def resampled_scores(measure: str, arrays: Mapping[str, np.ndarray], n_resamples: int, seed: int) -> np.ndarray:
    """Scores of a measure on the resamples of `resamples`, float64 `(≤ n_resamples,)`: fewer where they are costly.

    Parameters
    ----------
    measure : str
        One of `leep.measures.MEASURES` or `module:function`.
    arrays : mapping of str to array
        As for `leep.measures.score_task`.
    n_resamples, seed : int

    Raises
    ------
    NoInterval
        If the resamples say nothing about the measure, or cost too much.
    """
    labels = check_labels("target_labels", arrays["target_labels"])
    picked = {name: arrays[name] for name in measure_arguments(measure)}
    weighted = WEIGHTED.get(measure)
    if measure == "h_score":
        n_resamples = _affordable_h(picked["features"], n_resamples)
    elif weighted is None:
        n_resamples = _affordable_repeats(picked, n_resamples)
    blocks = resamples(labels, n_resamples, seed)
    if weighted is not None:
        return np.concatenate([weighted(**picked, weights=weights) for weights in blocks])
    return np.array([_repeated(measure, picked, w) for weights in blocks for w in weights])


def leep_scores(source_probs: np.ndarray, target_labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`leep_score` with weights: P̂(y, z) = Σ wᵢ θ(xᵢ)_z [yᵢ = y] / Σ wᵢ, and the mean log-likelihood weighted alike.

    Parameters
    ----------
    source_probs : float array `(n, n_source_classes)`
        As for `leep_score`; not checked.
    target_labels : int64 array `(n,)`
    weights : float64 array `(n_resamples, n)`
        Non-negative, none of the rows all 0.

    Returns
    -------
    float64 array `(n_resamples,)`
    """
    groups = group_by_class(target_labels)
    n_classes, n_source_classes = len(groups.classes), source_probs.shape[1]
    if n_classes == 1:
        return np.zeros(len(weights))
    at_once = max(1, ENTRIES // max(n_classes * n_source_classes, len(target_labels)))
    blocks = [weights[i : i + at_once] for i in range(0, len(weights), at_once)]
    return np.concatenate([_leep_block(source_probs, groups, block) for block in blocks])


def _leep_block(probs: np.ndarray, groups: Grouping, weights: np.ndarray) -> np.ndarray:
    parts = [
        (k, rows[i : i + ROWS_AT_ONCE])
        for k, rows in enumerate(map(groups.rows, range(len(groups.classes))))
        for i in range(0, len(rows), ROWS_AT_ONCE)
    ]
    joint = np.zeros((len(groups.classes), len(weights), probs.shape[1]))
    for k, rows in parts:
        joint[k] += weights[:, rows] @ probs[rows].astype(np.float64, copy=False)
    totals = joint.sum(axis=0)
    n_held = joint.any(axis=2).sum(axis=0)
    given = np.divide(joint, totals, out=joint, where=totals > 0)  # where a total is 0 its parts are 0
    sums = np.zeros(len(weights))
    for k, rows in parts:
        expected = given[k] @ probs[rows].astype(np.float64, copy=False).T
        w = weights[:, rows]
        sums += (w * np.log(expected, out=np.zeros_like(expected), where=w > 0)).sum(axis=1)
    return np.where(n_held == 1, 0.0, sums / weights.sum(axis=1))


def nce_scores(source_labels: np.ndarray, target_labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`nce_score` with weights, float64 `(n_resamples,)`; arguments as for `leep_scores`."""
    from scipy import sparse

    z = np.unique(source_labels, return_inverse=True)[1]
    groups = group_by_class(target_labels)
    n_classes = len(groups.classes)
    pairs, pair = np.unique(z * n_classes + groups.codes, return_inverse=True)
    n, ones = len(target_labels), np.ones(len(target_labels))
    counts = sparse.csr_array((ones, (pair, np.arange(n))), (len(pairs), n)) @ weights.T  # (n_pairs, n_resamples)
    of_dummy = sparse.csr_array((np.ones(len(pairs)), (pairs // n_classes, np.arange(len(pairs)))))
    return (_x_log_x(counts).sum(axis=0) - _x_log_x(of_dummy @ counts).sum(axis=0)) / weights.sum(axis=1)


def h_scores(features: np.ndarray, target_labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`h_score` with weights: means and covariances weighted; float64 `(n_resamples,)`; arguments as for `leep_scores`.

    Raises
    ------
    NoInterval
        If a resample holds no more distinct images than features, for then its H score is n_classes − 1 whatever they
        are.
    """
    groups = group_by_class(target_labels)
    z = _whiten(features[groups.order])  # H is the same for any basis of the features
    rank, weights = z.shape[1], weights[:, groups.order]
    if len(groups.classes) == 1 or rank == 0:
        return np.zeros(len(weights))
    held = (weights > 0).sum(axis=1)
    if held.min() <= rank + 1:
        raise NoInterval(f"a resample holds {held.min()} distinct images, no more than the {rank} features and one")
    ordered = target_labels[groups.order]

    def score(w: np.ndarray) -> float:
        rows = np.flatnonzero(w)
        w, classes = w[rows], ordered[rows]
        firsts = np.flatnonzero(np.diff(classes, prepend=-1))
        x = z[rows]
        sums, counts = np.add.reduceat(x * w[:, None], firsts), np.add.reduceat(w, firsts)
        mean = sums.sum(axis=0) / counts.sum()
        x *= np.sqrt(w)[:, None]
        scatter = x.T @ x
        scatter -= np.outer(counts.sum() * mean, mean)
        return explained(scatter, sums / counts[:, None] - mean, counts) if len(firsts) > 1 else 0.0

    return np.array(map_in_threads(score, weights, 8 * (len(z) * rank + 3 * rank**2)))


def _whiten(features: np.ndarray) -> np.ndarray:
    """Principal axes of the standardised features, each with a squared norm of 1, float64 `(n, rank)`."""
    x = standardise(features)
    values, vectors = np.linalg.eigh(x.T @ x)
    kept = values > max(x.shape) * np.finfo(np.float64).eps * values.max(initial=0.0)
    return x @ (vectors[:, kept] / np.sqrt(values[kept]))


def _x_log_x(x: np.ndarray) -> np.ndarray:
    return x * np.log(x, out=np.zeros_like(x), where=x > 0)


def _affordable_h(features: np.ndarray, n_resamples: int) -> int:
    n, d = features.shape
    work = 0.632 * n * d**2 + d**3 / 3  # a resample holds 63 % of the images
    if n <= d + 1:
        raise NoInterval(f"{n} images, no more than the {d} features and one")
    if FEWEST * work > H_MOST:
        raise NoInterval(f"resamples of {n:,} images of {d:,} features cost too much")
    return min(n_resamples, max(FEWEST, int(H_WORK / work)))


def _affordable_repeats(picked: Mapping[str, np.ndarray], n_resamples: int) -> int:
    entries = sum(np.size(values) for values in picked.values())
    if entries > REPEATED_ENTRIES:
        raise NoInterval(f"the measure has no weighted form, and to repeat {entries:,} numbers costs too much")
    return min(n_resamples, FEWEST)


def _repeated(measure: str, picked: Mapping[str, np.ndarray], weights: np.ndarray) -> float:
    rows = np.repeat(np.arange(len(weights)), weights.astype(np.int64))
    try:
        return score_task(measure, {name: values[rows] for name, values in picked.items()})
    except ValueError as error:
        raise NoInterval(f"the measure rejects a resample: {error}") from error


WEIGHTED: dict[str, Callable[..., np.ndarray]] = {"leep": leep_scores, "nce": nce_scores, "h_score": h_scores}
