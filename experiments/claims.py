"""What the paper's Sections 5.1 to 5.7 claim, and what the numbers under a results folder say: by rule, not by eye."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from experiments import selection
from experiments.figures import FIGURES, figure_panels, panel_data
from experiments.table1_text import MEASURES, signed
from leep.plots import METHOD_STYLE
from leep.statistics import Correlation

VERDICTS = ("supported", "supported so far", "not supported", "not yet measured")


@dataclass(frozen=True)
class Evidence:
    """What a rule may look at; `table` is that of `experiments.table1.build_table`."""

    results: Path
    runs: pd.DataFrame
    seed: int
    table: pd.DataFrame

    def row(self, number: int) -> pd.DataFrame | None:
        """A row of Table 1 by measure; None if it is not computed."""
        lines = self.table[(self.table.row == number) & self.table.measure.isin(list(MEASURES))]
        return None if lines.n_tasks.isna().all() else lines.set_index("measure")


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


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, and the rule by which numbers speak for or against it."""

    section: str
    sentence: str
    rule: str
    judge: Callable[[Evidence], Finding]


def _r(row: pd.DataFrame, measures: tuple[str, ...] = ("leep",)) -> str:
    """Correlations as text, with * where p > 0.05."""
    said = []
    for measure in measures:
        line = row.loc[measure]
        star = "*" if line.p_value > 0.05 else ""
        said.append("undefined" if pd.isna(line.r) else signed(line.r) + star)
    return " / ".join(said)


def _share_of_rows(
    evidence: Evidence,
    rows: tuple[int, ...],
    holds: Callable[[pd.DataFrame], bool],
    share: float = 1.0,
    measures: tuple[str, ...] = ("leep",),
) -> Finding:
    """At least this share of the computed rows must satisfy a condition."""
    found = {n: row for n in rows if (row := evidence.row(n)) is not None}
    good = sum(bool(holds(row)) for row in found.values())
    return Finding(
        good >= share * len(found), len(found), len(rows), {f"row {n}": _r(row, measures) for n, row in found.items()}
    )


def _at_least(row: pd.DataFrame, other: str) -> bool:
    """Whether LEEP's correlation is not below another measure's, as printed; an undefined one is below all."""
    return pd.isna(row.r[other]) or round(row.r["leep"], 3) >= round(row.r[other], 3)


def _improvement(evidence: Evidence, rows: tuple[int, ...]) -> Finding:
    """The largest r(LEEP) / r(NCE) − 1 of the rows."""
    found = {n: row for n in rows if (row := evidence.row(n)) is not None and row.r["nce"] > 0}
    gains = {f"row {n}": row.r["leep"] / row.r["nce"] - 1 for n, row in found.items()}
    largest = max(gains.values(), default=0)
    return Finding(largest >= 0.3, len(found), len(rows), {n: f"{signed(100 * g, 1)} %" for n, g in gains.items()})


def _rising(evidence: Evidence, figure: str) -> Finding:
    """Mean accuracies by level, for each panel and method of a figure."""
    found, total = {}, 0
    for rows in figure_panels(FIGURES[figure]):
        total += len(rows)
        data, _ = panel_data(FIGURES[figure], rows, evidence.results, evidence.runs, evidence.seed)
        for method, group in data.groupby("method", sort=False) if len(data) else ():
            found[f"{_pair(rows)}, {METHOD_STYLE[method]['label'].lower()}"] = group.groupby("level").accuracy.mean()
    holds = all(m.iloc[-1] > m.iloc[0] and (np.diff(m) > 0).mean() >= 0.5 for m in found.values() if len(m) > 1)
    numbers = {name: ", ".join(f"{level}: {v:.3f}" for level, v in means.items()) for name, means in found.items()}
    return Finding(holds, len(found), total, numbers)


def _pair(rows: pd.DataFrame) -> str:
    return f"{rows.source_data.iloc[0]} → {rows.target_data.iloc[0]}"


def _zero(curve: pd.Series) -> float:
    """The epoch at which a curve first reaches zero, between two epochs by linear interpolation; inf if never."""
    above = np.flatnonzero(curve.to_numpy() >= 0)
    if not len(above):
        return np.inf
    first = above[0]
    if first == 0:
        return float(curve.index[0])
    (e0, e1), (d0, d1) = curve.index[first - 1 : first + 1], curve.iloc[first - 1 : first + 1]
    return float(e0 - d0 * (e1 - e0) / (d1 - d0))


def _curves(evidence: Evidence, holds: Callable[[list[pd.Series]], bool], value: Callable) -> Finding:
    """A condition on the mean curves of a panel of Figures 4 and 8, from the lowest level to the highest."""
    found, total, good = {}, 0, True
    for figure in (FIGURES["figure4"], FIGURES["figure8"]):
        for rows in figure_panels(figure):
            total += 1
            data, _ = panel_data(figure, rows, evidence.results, evidence.runs, evidence.seed)
            if data.empty or data.level.nunique() < 2:
                continue
            curves = {level: group.groupby("epoch").difference.mean() for level, group in data.groupby("level")}
            good &= bool(holds(list(curves.values())))
            found[_pair(rows)] = ", ".join(f"{level}: {value(curve)}" for level, curve in curves.items())
    return Finding(good, len(found), total, found)


def _candidates(evidence: Evidence, method: str, holds: Callable[[dict], bool]) -> Finding:
    """A condition on the predictors' correlations over the candidates for CIFAR100."""
    table = selection.candidates(evidence.results, evidence.runs, "cifar100", method, evidence.seed)
    if len(table) < 3:
        return Finding(False, 0, 1, {})
    found = {p: c for p, c in selection.correlate(table).items() if isinstance(c, Correlation)}
    said = {
        selection.PREDICTORS[p]: f"{'undefined' if c.r is None else signed(c.r)} over {c.n}" for p, c in found.items()
    }
    return Finding("leep" in found and holds(found), 1, 1, said)


def _r_or_least(correlation) -> float:
    return -1.0 if correlation is None or correlation.r is None else correlation.r


LARGE, ALL = (1, 2, 11, 12), tuple(range(1, 22))
SMALL, IMBALANCED = (3, 4, 5, 6, 13, 14, 15, 16), (7, 8, 9, 10, 17, 18, 19, 20)
STARRED = (4, 6, 8, 10, 14, 16, 18, 20, 21)  # the paper's asterisks
LEVELS_RISE = (
    "For each panel and method: the mean of the highest level exceeds that of the lowest, and at least half of the "
    "steps between neighbouring levels go up."
)

CLAIMS = [
    Claim(
        "5.1",
        "LEEP scores clearly correlate with test accuracies, with correlation coefficients higher than 0.94 and "
        "p < 0.001 in all cases.",
        "Rows 1, 2, 11 and 12: LEEP's r > 0.94 and p < 0.001 in each.",
        partial(_share_of_rows, rows=LARGE, holds=lambda row: row.r["leep"] > 0.94 and row.p_value["leep"] < 0.001),
    ),
    Claim(
        "5.2",
        "The results indicate a reasonably positive correlations with coefficients greater than 0.5 in most cases …",
        "Rows 3 to 6 and 13 to 16: LEEP's r > 0.5 in more than half of those computed.",
        partial(_share_of_rows, rows=SMALL, holds=lambda row: row.r["leep"] > 0.5, share=0.501),
    ),
    Claim(
        "5.2",
        "… with the exception of fine-tuning from the CIFAR10 pre-trained model.",
        "Rows 13 and 15: LEEP's r ≤ 0.5 in each.",
        partial(_share_of_rows, rows=(13, 15), holds=lambda row: row.r["leep"] <= 0.5),
    ),
    Claim(
        "5.2",
        "Higher transferability levels generally imply better accuracies for both transfer methods. (Figure 6)",
        LEVELS_RISE,
        partial(_rising, figure="figure6"),
    ),
    Claim(
        "5.3",
        "The results also indicate a reasonably positive correlations with coefficients greater than 0.5 in all cases.",
        "Rows 7 to 10 and 17 to 20: LEEP's r with the F1 score > 0.5 in each.",
        partial(_share_of_rows, rows=IMBALANCED, holds=lambda row: row.r["leep"] > 0.5),
    ),
    Claim(
        "5.3",
        "Higher transferability levels imply better F1 scores for both transfer methods. (Figure 7)",
        LEVELS_RISE,
        partial(_rising, figure="figure7"),
    ),
    Claim(
        "5.4",
        "The coefficient is 0.591 with p < 0.001, indicating that LEEP scores are a good measure of "
        "meta-transferability.",
        "Row 21: LEEP's r > 0.5 and p < 0.001.",
        partial(_share_of_rows, rows=(21,), holds=lambda row: row.r["leep"] > 0.5 and row.p_value["leep"] < 0.001),
    ),
    Claim(
        "5.4",
        "Higher transferability levels correspond to better test accuracies for CNAPs. (Figure 3)",
        LEVELS_RISE,
        partial(_rising, figure="figure3"),
    ),
    Claim(
        "5.5",
        "On average, fine-tuned models on tasks in higher transferability levels have better convergence speeds "
        "(i.e., their curves reach zero faster).",
        "Each panel of Figures 4 and 8: the mean curve of the highest level reaches zero at least a tenth earlier than "
        "that of the lowest (between epochs by linear interpolation).",
        partial(
            _curves, holds=lambda c: _zero(c[-1]) <= 0.9 * _zero(c[0]), value=lambda curve: f"epoch {_zero(curve):.2f}"
        ),
    ),
    Claim(
        "5.5",
        "These models can outperform the reference models by larger margins (i.e., their curves reach higher values).",
        "Each panel of Figures 4 and 8: the mean curve of the highest level ends higher than that of the lowest, to "
        "three digits.",
        partial(
            _curves,
            holds=lambda c: round(c[-1].iloc[-1], 3) > round(c[0].iloc[-1], 3),
            value=lambda curve: signed(curve.iloc[-1]),
        ),
    ),
    Claim(
        "5.5",
        "In all cases, the fine-tuned models match the performance of the reference models using far fewer training "
        "epochs.",
        "Each panel of Figures 4 and 8: the mean curve of every level reaches zero within half of the epochs.",
        partial(
            _curves,
            holds=lambda c: all(_zero(curve) <= curve.index[-1] / 2 for curve in c),
            value=lambda curve: f"epoch {_zero(curve):.2f} of {curve.index[-1]}",
        ),
    ),
    Claim(
        "5.6",
        "When compared with NCE, LEEP scores have equal or better correlations with transfer performance in all "
        "except for two cases of the fine-tuning method.",
        "LEEP's r ≥ NCE's, to three digits, in at least 19 of 21 of the rows computed.",
        partial(
            _share_of_rows,
            rows=ALL,
            holds=lambda row: _at_least(row, "nce"),
            share=19 / 21,
            measures=("leep", "nce"),
        ),
    ),
    Claim(
        "5.6",
        "… with up to 30% improvement in terms of correlation coefficients.",
        "Rows 1 to 20: the largest r(LEEP) / r(NCE) − 1 is at least 30 %.",
        partial(_improvement, rows=ALL[:-1]),
    ),
    Claim(
        "5.6",
        "When compared with H scores, LEEP scores give better correlations in 14/21 cases.",
        "LEEP's r ≥ H's, to three digits, in at least 14 of 21 of the rows computed.",
        partial(
            _share_of_rows,
            rows=ALL,
            holds=lambda row: _at_least(row, "h_score"),
            share=14 / 21,
            measures=("leep", "h_score"),
        ),
    ),
    Claim(
        "5.6",
        "[H] completely fails to capture the transferability in 9 cases (those marked with asterisks).",
        "Rows 4, 6, 8, 10, 14, 16, 18, 20 and 21: H's r is undefined or its p > 0.05 in each.",
        partial(
            _share_of_rows,
            rows=STARRED,
            holds=lambda row: pd.isna(row.r["h_score"]) or row.p_value["h_score"] > 0.05,
            measures=("h_score",),
        ),
    ),
    Claim(
        "5.6",
        "Even when [H] successfully captures transferability, it performs worse than LEEP on large target data sets.",
        "Rows 1, 2, 11 and 12: LEEP's r > H's in each.",
        partial(
            _share_of_rows,
            rows=LARGE,
            holds=lambda row: pd.isna(row.r["h_score"]) or row.r["leep"] > row.r["h_score"],
            measures=("leep", "h_score"),
        ),
    ),
    Claim(
        "5.6",
        "By comparison, our LEEP scores capture the transferability in all cases.",
        "All rows: LEEP's r > 0 with p ≤ 0.05.",
        partial(_share_of_rows, rows=ALL, holds=lambda row: row.r["leep"] > 0 and row.p_value["leep"] <= 0.05),
    ),
    Claim(
        "5.7",
        "LEEP scores can predict well the test accuracy of models whose head classifiers are re-trained. (Figure 5)",
        "Over the candidates for CIFAR100: LEEP's r > 0.5 with p ≤ 0.05.",
        partial(
            _candidates,
            method="retrain_head",
            holds=lambda c: _r_or_least(c["leep"]) > 0.5 and c["leep"].p_value <= 0.05,
        ),
    ),
    Claim(
        "5.7",
        "In comparison, the other baselines all perform worse than LEEP. (Figure 5)",
        "Over the candidates for CIFAR100: LEEP's r exceeds that of NCE, H and the ImageNet accuracy.",
        partial(
            _candidates,
            method="retrain_head",
            holds=lambda c: all(_r_or_least(c["leep"]) > _r_or_least(c[p]) for p in c if p != "leep"),
        ),
    ),
    Claim(
        "5.7",
        "Generally, all the considered measures do not predict well the test accuracy of fine-tuned models. (Figure 9)",
        "Over the candidates for CIFAR100: no predictor has r > 0.5 with p ≤ 0.05.",
        partial(
            _candidates,
            method="fine_tune",
            holds=lambda c: not any(_r_or_least(v) > 0.5 and v.p_value <= 0.05 for v in c.values()),
        ),
    ),
]
