"""Episodes of meta-training: tasks of random ways and shots, drawn as in Meta-Dataset (Triantafillou et al., 2020)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MIN_WAYS, MAX_WAYS = 5, 40
MAX_QUERIES, MAX_SUPPORT, MAX_OF_CLASS = 10, 400, 100


@dataclass(frozen=True, eq=False)
class Episode:
    """Rows of a data set, and their classes in the episode, 0 … ways − 1."""

    support_rows: np.ndarray
    support_labels: np.ndarray
    query_rows: np.ndarray
    query_labels: np.ndarray
    ways: int


def draw_episode(
    labels: np.ndarray, rng: np.random.Generator, max_support: int = MAX_SUPPORT, max_ways: int = MAX_WAYS
) -> Episode:
    """A task from a labelled data set.

    Parameters
    ----------
    labels : int array `(n,)`
        At least five classes of at least two examples.
    rng : numpy Generator
    max_support : int
        Support examples of all classes together, at least as many as ways.
    max_ways : int
        Classes of an episode, at least five.

    Raises
    ------
    ValueError
        If there are fewer than five classes, or a class has a single example.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < MIN_WAYS or counts.min() < 2:
        raise ValueError(
            f"episodes need at least {MIN_WAYS} classes of at least 2 examples, "
            f"got {len(classes)} classes of {sorted(counts.tolist())[:MIN_WAYS]} … examples"
        )
    ways = int(rng.integers(MIN_WAYS, min(max_ways, len(classes)) + 1))
    chosen = rng.choice(len(classes), ways, replace=False)
    queries = min(MAX_QUERIES, int(counts[chosen].min()) // 2)
    shots = draw_shots(counts[chosen], queries, rng, max_support)
    support, query = [], []
    for position, shot in zip(chosen, shots):
        rows = rng.choice(np.flatnonzero(labels == classes[position]), shot + queries, replace=False)
        support.append(rows[:shot])
        query.append(rows[shot:])
    return Episode(
        np.concatenate(support),
        np.repeat(np.arange(ways), shots),
        np.concatenate(query),
        np.repeat(np.arange(ways), queries),
        ways,
    )


def draw_shots(
    counts: np.ndarray, queries: int, rng: np.random.Generator, max_support: int = MAX_SUPPORT
) -> np.ndarray:
    """Support examples of each class: a random total, divided unevenly, at least one each.

    Parameters
    ----------
    counts : int array `(ways,)`
        Examples of each class.
    queries : int
        How many of each class are queries, less than each of `counts`.
    rng : numpy Generator
    max_support : int
        Of all classes together; with more ways than that it is one each.
    """
    remaining, beta = counts - queries, 1 - rng.random()  # β in (0, 1]
    total = min(max_support, int(np.ceil(beta * np.minimum(MAX_OF_CLASS, remaining)).sum()))
    weights = counts * np.exp(rng.uniform(-np.log(2), np.log(2), len(counts)))
    spare = max(total - len(counts), 0)
    return np.minimum((spare * weights / weights.sum()).astype(int) + 1, remaining)
