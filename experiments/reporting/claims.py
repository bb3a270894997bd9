"""What the paper's Sections 5.1 to 5.7 claim, and what the numbers under a results folder say: by rule, not by eye.

`claims.csv` holds a line a claim: the paper's sentence, the rule in words, and its `predicate` with what it needs:
`of` (rows of Table 1, figures, or a method), `threshold`, `p` (a limit), `share` (of the rows that must satisfy it) and
the `other` measure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.reporting import selection
from experiments.reporting.figures import FIGURES, figure_panels, panel_data
from experiments.reporting.predictors import PAPER_MEASURES, label
from experiments.reporting.render import correlated, interval, signed, starred
from leep.plots import method_style

RESAMPLES = 1000  # of the tasks of a transferability level
VERDICTS = ("supported", "supported so far", "not supported", "not yet measured")


@dataclass(frozen=True)
class Evidence:
    """What a rule may look at; `table` is that of `experiments.reporting.table1.build_table`."""

    results: Path
    runs: pd.DataFrame
    seed: int
    table: pd.DataFrame


@dataclass(frozen=True)
class Finding:
    """Whether a rule holds for the `measured` of its `total` cases, and the numbers that say so, by case."""

    holds: bool
    measured: int
    total: int
    numbers: dict[str, str]

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`."""
        if not self.measured:
            return "not yet measured"
        if not self.holds:
            return "not supported"
        return "supported" if self.measured == self.total else "supported so far"


def read_claims() -> list[dict]:
    """The claims, with `of` as a list, `threshold`, `p` and `share` as numbers, and the `rule` in words."""
    claims = pd.read_csv(Path(__file__).with_name("claims.csv"), encoding="utf-8", dtype=str, keep_default_na=False)
    read = []
    for claim in claims.to_dict("records"):
        numbers = {key: float(Fraction(claim[key] or 1)) for key in ("threshold", "p", "share")}
        parts = claim["of"].split()
        rule = claim["rule"].format(**claim | {"of": ", ".join(part.replace("-", " to ") for part in parts)})
        read.append(claim | numbers | {"rule": rule, "of": [name for part in parts for name in _expanded(part)]})
    return read


def _expanded(part: str) -> list[str]:
    """Every number of a range such as 3-6; anything else as it is."""
    first, dash, last = part.partition("-")
    return [str(number) for number in range(int(first), int(last) + 1)] if dash else [part]


def judge(claim: dict, evidence: Evidence) -> Finding:
    """What the evidence says of a claim."""
    predicate = claim["predicate"]
    if predicate in ROWS:
        return _judge_rows(claim, evidence, ROWS[predicate])
    if predicate in CURVES:
        return _judge_curves(claim, evidence, *CURVES[predicate])
    if predicate in CANDIDATES:
        return _judge_candidates(claim, evidence, CANDIDATES[predicate])
    return {"gain": _judge_gain, "levels rise": _judge_levels}[predicate](claim, evidence)


# Rows of Table 1: `row` holds r and p_value by measure; where r is undefined it is −2 here, below all others.
ROWS: dict[str, Callable[[pd.DataFrame, dict], bool]] = {
    "above": lambda row, claim: row.r["leep"] > claim["threshold"] and row.p_value["leep"] < claim["p"],
    "at most": lambda row, claim: row.r["leep"] <= claim["threshold"],
    "not below": lambda row, claim: round(row.r["leep"], 3) >= round(row.r[claim["other"]], 3),
    "exceeds": lambda row, claim: row.r["leep"] > row.r[claim["other"]],
    "not significant": lambda row, claim: not row.p_value[claim["other"]] <= claim["p"],
}


def _rows(claim: dict, evidence: Evidence) -> dict[str, pd.DataFrame]:
    """The rows of a claim that are computed, by measure."""
    lines = correlated(evidence.table[evidence.table.row.astype(str).isin(claim["of"])])
    return {f"row {number}": row.set_index("measure") for number, row in lines.groupby("row")}


def _judge_rows(claim: dict, evidence: Evidence, holds: Callable) -> Finding:
    """At least this share of the computed rows must satisfy a condition."""
    rows = _rows(claim, evidence)
    good = sum(bool(holds(row.assign(r=row.r.fillna(-2)), claim)) for row in rows.values())
    shown = [claim["other"]] if claim["predicate"] == "not significant" else ["leep", claim["other"]]
    numbers = {
        name: " / ".join(starred(row.r[m], row.p_value[m], "undefined") for m in shown if m)
        for name, row in rows.items()
    }
    return Finding(good >= claim["share"] * len(rows), len(rows), len(claim["of"]), numbers)


def _judge_gain(claim: dict, evidence: Evidence) -> Finding:
    """The largest r(LEEP) / r(other) − 1 of the rows must reach the threshold."""
    rows = {name: row.r for name, row in _rows(claim, evidence).items() if row.r[claim["other"]] > 0}
    gains = {name: r["leep"] / r[claim["other"]] - 1 for name, r in rows.items()}
    numbers = {name: f"{signed(100 * gain, 1)} %" for name, gain in gains.items()}
    return Finding(max(gains.values(), default=0) >= claim["threshold"], len(gains), len(claim["of"]), numbers)


def _panels(claim: dict, evidence: Evidence) -> list[tuple[str, int, pd.DataFrame]]:
    """Of every panel of a claim's figures its name, how many rows of Table 1 it shows, and its data."""
    return [
        (
            f"{rows.source_data.iloc[0]} → {rows.target_data.iloc[0]}",
            len(rows),
            panel_data(FIGURES[name], rows, evidence.results, evidence.runs, evidence.seed)[0],
        )
        for name in claim["of"]
        for rows in figure_panels(FIGURES[name])
    ]


def _judge_levels(claim: dict, evidence: Evidence) -> Finding:
    """Mean accuracies by level must rise, for each panel and method of a figure."""
    panels, means = _panels(claim, evidence), {}
    for panel, _, data in panels:
        for method, group in data.groupby("method", sort=False) if len(data) else ():
            means[f"{panel}, {method_style(method)['label'].lower()}"] = group.groupby("level").accuracy.mean()
    holds = all(m.iloc[-1] > m.iloc[0] and (np.diff(m) > 0).mean() >= 0.5 for m in means.values() if len(m) > 1)
    numbers = {name: ", ".join(f"{level}: {mean:.3f}" for level, mean in of.items()) for name, of in means.items()}
    return Finding(holds, len(means), sum(n_rows for _, n_rows, _ in panels), numbers)


def zero(curve: pd.Series) -> float:
    """The epoch at which a curve first reaches zero, between two epochs by linear interpolation; inf if never."""
    above = np.flatnonzero(curve.to_numpy() >= 0)
    if not len(above):
        return np.inf
    first = above[0]
    if first == 0:
        return float(curve.index[0])
    (e0, e1), (d0, d1) = curve.index[first - 1 : first + 1], curve.iloc[first - 1 : first + 1]
    return float(e0 - d0 * (e1 - e0) / (d1 - d0))


# A panel of Figures 4 and 8: mean curves from the lowest level to the highest, what is said of one, and the number by
# which the highest level is held against the lowest.
CURVES: dict[str, tuple[Callable, Callable[[pd.Series], str], Callable[[pd.Series], float] | None]] = {
    "zero earlier": (
        lambda curves, claim: zero(curves[-1]) <= claim["threshold"] * zero(curves[0]),
        lambda curve: f"epoch {zero(curve):.2f}",
        zero,
    ),
    "zero within": (
        lambda curves, claim: all(zero(curve) <= claim["threshold"] * curve.index[-1] for curve in curves),
        lambda curve: f"epoch {zero(curve):.2f} of {curve.index[-1]}",
        None,
    ),
    "ends higher": (
        lambda curves, claim: round(curves[-1].iloc[-1], 3) > round(curves[0].iloc[-1], 3),
        lambda curve: signed(curve.iloc[-1]),
        lambda curve: curve.iloc[-1],
    ),
}


def _judge_curves(claim: dict, evidence: Evidence, holds: Callable, words: Callable, value: Callable | None) -> Finding:
    """A condition on the mean curves of every panel."""
    panels, numbers, good = _panels(claim, evidence), {}, True
    for panel, _, data in panels:
        if data.empty or data.level.nunique() < 2:
            continue
        tasks = {
            level: group.pivot(index="task", columns="epoch", values="difference")
            for level, group in data.groupby("level")
        }
        curves = {level: table.mean() for level, table in tasks.items()}
        good &= bool(holds(list(curves.values()), claim))
        lowest, *_, highest = tasks.values()
        numbers[panel] = ", ".join(f"{level}: {words(curve)}" for level, curve in curves.items())
        if value:
            numbers[panel] += f"; highest less lowest {level_difference(highest, lowest, value)}"
    return Finding(good, len(numbers), len(panels), numbers)


def level_difference(highest: pd.DataFrame, lowest: pd.DataFrame, value: Callable) -> str:
    """A number of the mean curve of the highest level less that of the lowest, and its 95 % bootstrap interval.

    The tables hold a row a task and a column an epoch. The tasks of each level are drawn anew, RESAMPLES times.
    """
    rng = np.random.default_rng(0)

    def resampled(tasks: pd.DataFrame) -> np.ndarray:
        drawn = rng.integers(0, len(tasks), (RESAMPLES, len(tasks)))
        return np.array([value(pd.Series(curve, tasks.columns)) for curve in tasks.to_numpy()[drawn].mean(axis=1)])

    with np.errstate(invalid="ignore"):  # ∞ − ∞, where neither curve reaches zero
        found = value(highest.mean()) - value(lowest.mean())
        differences = resampled(highest) - resampled(lowest)
    if np.isnan(found) or np.isnan(differences).any():
        return "undefined"
    low, high = np.percentile(differences, (2.5, 97.5), method="nearest")  # no mean of numbers and ∞
    return f"{signed(found)} {interval(low, high, 3)}".replace("inf", "∞")


def _predicts(found, claim: dict) -> bool:
    return found.r is not None and found.r > claim["threshold"] and found.p_value < claim["p"]


# The paper's predictors of Section 5.7, those that enough candidates have, by name; LEEP is among them.
CANDIDATES: dict[str, Callable[[dict, dict], bool]] = {
    "predicts": lambda found, claim: _predicts(found["leep"], claim),
    "best predictor": lambda found, claim: all(
        found["leep"].r is not None and (c.r is None or found["leep"].r > c.r) for p, c in found.items() if p != "leep"
    ),
    "none predicts": lambda found, claim: not any(_predicts(c, claim) for c in found.values()),
}


def _judge_candidates(claim: dict, evidence: Evidence, holds: Callable) -> Finding:
    """A condition on the predictors' correlations over the candidates for CIFAR100."""
    table = selection.candidates(evidence.runs, "cifar100", claim["of"][0], evidence.seed)
    found = {p: selection.correlate(table, p) for p in (*PAPER_MEASURES, "imagenet_top1")}
    found = {p: c for p, c in found.items() if c.n >= selection.MIN_CANDIDATES}
    if not found:
        return Finding(False, 0, 1, {})
    numbers = {label(p): f"{'undefined' if c.r is None else signed(c.r)} over {c.n}" for p, c in found.items()}
    return Finding("leep" in found and holds(found, claim), 1, 1, numbers)
