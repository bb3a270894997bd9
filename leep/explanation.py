"""What LEEP says of each class: how well a source model sees it, through which source classes, where it fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from leep.measures._check import (
    ROW_SUM_TOLERANCE,
    as_array,
    check_labels,
    check_matrix,
    check_same_length,
    normalise_rounded,
)
from leep.measures._classes import group_by_class


@dataclass(frozen=True, eq=False)
class Explanation:
    """LEEP taken apart by class; the tables are sorted, the worst first.

    Attributes
    ----------
    leep : float
        Nats; the mean of `table.mean_log_probability`, weighted by `table.n_images`.
    table : DataFrame
        A row a class, the one that the model sees least first: `class`, `n_images`, `mean_log_probability` (of the
        expected empirical predictor, nats, ≤ 0), `sources` (the most likely source classes, as text).
    sources : DataFrame
        Up to five rows a class, the most likely source class first: `class`, `source`, `p_source_given_class` P(z|y),
        `p_class_given_source` P(y|z).
    hardest : DataFrame
        Up to five rows a class, the least likely image first: `class`, `row` (of the arrays), `log_probability`.
    """

    leep: float
    table: pd.DataFrame
    sources: pd.DataFrame
    hardest: pd.DataFrame

    def to_dict(self) -> dict:
        """The same as dictionaries, lists, strings and numbers, ready for JSON."""
        tables = {"classes": self.table, "sources": self.sources, "hardest": self.hardest}
        return {"leep": self.leep, **{name: plain_records(table) for name, table in tables.items()}}

    def __str__(self) -> str:
        rows = self.hardest.groupby("class", sort=False)["row"].agg(lambda rows: ", ".join(map(str, rows)))
        cells = [
            [str(c), f"{n:,}", f"{p:.3f}", sources, rows[c]]
            for c, n, p, sources in self.table[["class", "n_images", "mean_log_probability", "sources"]].to_numpy()
        ]
        header = ["class", "images", "mean log p", "most likely source classes", "hardest rows"]
        return f"LEEP {self.leep:.4f}\n\n{aligned(header, cells)}"


def explain(
    probs: np.ndarray,
    labels: Sequence[int] | Sequence[str] | np.ndarray,
    class_names: Sequence[str] | None = None,
    source_names: Sequence[str] | None = None,
) -> Explanation:
    """Which target classes a source model sees, through which source classes, and which images it finds hardest.

    Parameters
    ----------
    probs : float array `(n, n_source_classes)`
        θ(xᵢ), each row a distribution.
    labels : `(n,)`, integers ≥ 0 or strings
    class_names : sequence of str, optional
        The name of class y is `class_names[y]`; only with integer labels.
    source_names : sequence of `n_source_classes` str, optional
        Default: the source classes' numbers.

    Raises
    ------
    ValueError
        If a shape, dtype, value or number of names is not as above.

    References
    ----------
    Nguyen et al., 2020, Eq. 1 and 2.

    Examples
    --------
    >>> found = explain([[0.75, 0.25], [1.0, 0.0], [0.0, 1.0]], ["cat", "cat", "dog"], source_names=["tabby", "wolf"])
    >>> found.table["class"].tolist(), found.table["n_images"].tolist()
    (['dog', 'cat'], [1, 2])
    >>> found.sources["source"].tolist()
    ['wolf', 'tabby', 'wolf']
    """
    probs = check_probs("probs", probs)
    names, codes = name_classes("labels", labels, class_names)
    check_same_length(probs=probs, labels=codes)
    n, n_source_classes = probs.shape
    sources = list(range(n_source_classes)) if source_names is None else list(source_names)
    if len(sources) != n_source_classes:
        raise ValueError(f"source_names must hold {n_source_classes} names, got {len(sources)}")
    groups = group_by_class(codes)
    joint = np.stack([probs[groups.rows(k)].sum(axis=0, dtype=np.float64) for k in range(len(names))])  # n · P̂(y, z)
    totals = joint.sum(axis=0)
    of_class = np.divide(joint, totals, out=np.zeros_like(joint), where=totals > 0)  # P̂(y|z)
    log_probability = np.zeros(n)
    if len(names) > 1:
        for k, given in enumerate(of_class):
            log_probability[groups.rows(k)] = np.log(probs[groups.rows(k)] @ given)
    means = [log_probability[groups.rows(k)].mean() for k in range(len(names))]
    worst_first = np.argsort(means, kind="stable")
    return Explanation(
        float(log_probability.mean()),
        pd.DataFrame(
            {
                "class": [names[k] for k in worst_first],
                "n_images": groups.counts[worst_first],
                "mean_log_probability": np.array(means)[worst_first],
                "sources": [
                    ", ".join(f"{sources[z]} {joint[k, z] / joint[k].sum():.2f}" for z in _most_likely(joint[k])[:3])
                    for k in worst_first
                ],
            }
        ),
        pd.DataFrame(
            [
                (names[k], sources[z], joint[k, z] / joint[k].sum(), of_class[k, z])
                for k in worst_first
                for z in _most_likely(joint[k])
            ],
            columns=["class", "source", "p_source_given_class", "p_class_given_source"],
        ),
        pd.DataFrame(
            [
                (names[k], row, log_probability[row])
                for k in worst_first
                for row in groups.rows(k)[np.argsort(log_probability[groups.rows(k)], kind="stable")[:5]]
            ],
            columns=["class", "row", "log_probability"],
        ),
    )


def _most_likely(joint: np.ndarray) -> np.ndarray:
    """Up to five source classes of one target class, the most likely first; none without mass."""
    return np.array([z for z in np.argsort(-joint, kind="stable")[:5] if joint[z] > 0])


def name_classes(
    name: str, labels: Sequence[int] | Sequence[str] | np.ndarray, class_names: Sequence[str] | None = None
) -> tuple[list, np.ndarray]:
    """The classes that occur, ascending, by their names or numbers, and the labels as positions in them, int64 `(n,)`.

    Raises
    ------
    ValueError
        If the labels are neither integers ≥ 0 nor strings, or one has no name.
    """
    values = as_array(name, labels)
    values = values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
    values = values.astype(str) if values.dtype.kind == "S" else values
    if values.ndim == 1 and len(values) and all(isinstance(value, str) for value in values[:1]):
        other = next((value for value in values if not isinstance(value, str)), None)
        if other is not None:
            raise ValueError(f"{name} must be all strings or all integers, got {other!r} among strings")
        if class_names is not None:
            raise ValueError(f"class_names must not be given where {name} are strings")
        classes, codes = np.unique(values.astype(str), return_inverse=True)
        return classes.tolist(), codes.astype(np.int64, copy=False)
    classes, codes = np.unique(check_labels(name, values), return_inverse=True)
    if class_names is None:
        return classes.tolist(), codes.astype(np.int64, copy=False)
    if classes[-1] >= len(class_names):
        raise ValueError(f"class_names must hold a name for class {classes[-1]}, got {len(class_names)} names")
    return [class_names[k] for k in classes], codes.astype(np.int64, copy=False)


def check_probs(name: str, probs: np.ndarray) -> np.ndarray:
    """A matrix of distributions, float32 or float64 `(n, n_source_classes)`; rounded ones are divided by their sums."""
    probs = check_matrix(name, "n_source_classes", probs)
    sums_to_1 = np.abs(probs.sum(axis=1, dtype=np.float64) - 1) <= ROW_SUM_TOLERANCE
    return probs if (sums_to_1 & (probs.min(axis=1) >= 0)).all() else normalise_rounded(probs)


def plain_records(table: pd.DataFrame) -> list[dict]:
    """Rows as dictionaries of Python's own values; None where a value is absent."""
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return [{key: getattr(value, "item", lambda value=value: value)() for key, value in row.items()} for row in rows]


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as text: columns two spaces apart; those whose values all begin as numbers do are set to the right."""
    columns = list(zip(header, *rows))
    widths = [max(map(len, column)) for column in columns]
    right = [all(cell[:1] in "0123456789-−" for cell in column[1:]) for column in columns]
    lines = [
        "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right)).rstrip()
        for row in (header, *rows)
    ]
    return "\n".join(lines)
